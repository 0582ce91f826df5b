//! What is written to `bench/record`: the machine, the versions, the command, the tables and, as
//! JSON, every row of every round.

use std::{
    env, fs,
    num::NonZero,
    path::{Path, PathBuf},
    process::Command,
    slice, thread,
};

use moexperts::cpu::Isa;
use serde_json::{Map, Value, json};

use crate::{
    args::{Args, PeerCell},
    pack::Pack,
    peer::OURS,
    programs::Program,
    samples::{self, Absence, ModelLines, Sample},
    table::{self, Base},
    targets,
    tools::{Context as _, Result, announce, commit, first_line},
};

/// With more than this many busy neighbours a program with a thread a core waits for them.
const MAX_LOAD: f64 = 0.5;

/// One run of the task.
#[derive(Debug)]
pub(crate) struct Record {
    path: PathBuf,
    name: String,
    /// What torch measures of it stands beside what our own program does.
    on_gpu: bool,
    model_lines: ModelLines,
    facts: Vec<(&'static str, String)>,
    versions: Vec<String>,
    samples: Vec<Sample>,
    absences: Vec<Absence>,
    rows: Vec<Value>,
}

impl Record {
    pub(crate) fn new(args: &Args, threads: NonZero<usize>) -> Result<Self> {
        let date = first_line(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
        let subject = format!("{:?}", args.subject).to_lowercase();
        let name = args.record.clone().unwrap_or_else(|| format!("{subject}-{date}"));
        let mut facts = machine(args)?;
        facts.push(("date", date));
        let (commit, rustc) = match &args.pack {
            Some(folder) => {
                let pack = Pack::open(folder)?;
                (pack.commit, pack.rustc)
            }
            None => (commit()?, first_line(Command::new("rustc").arg("-V"))?),
        };
        facts.push(("commit", commit));
        facts.push(("command", format!("`{}`", command())));
        facts.push(("threads", threads.to_string()));
        let path = args.record_folder.join(format!("{name}.md"));
        let versions = vec![rustc];
        let (samples, absences, rows) = Default::default();
        let model_lines = match args.generations.is_empty() {
            true => ModelLines::Prompts,
            false => ModelLines::Generations,
        };
        let on_gpu = args.on_gpu();
        Ok(Self { path, name, on_gpu, model_lines, facts, versions, samples, absences, rows })
    }

    /// A round begins; a run that is stopped has fewer of them than it was to have.
    pub(crate) fn begin(&mut self, round: usize, planned: NonZero<usize>) {
        let value = format!("{} of {planned}", round + 1);
        match self.facts.iter_mut().find(|(name, _)| *name == "rounds") {
            Some((_, begun)) => *begun = value,
            None => self.facts.push(("rounds", value)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn add_versions(&mut self, program: &Program, versions: &str) {
        self.versions.push(format!("{}: {versions}", program.name));
    }

    pub(crate) fn add_rows(
        &mut self,
        round: usize,
        program: &Program,
        cell: &PeerCell,
        rows: Vec<Value>,
    ) -> Result<()> {
        for mut row in rows {
            match samples::read(program.name, &cell.title, self.model_lines, &row)? {
                Ok(samples) => self.samples.extend(samples),
                Err(absence) => self.add_absence(absence),
            }
            // A peer without a package says its version in its rows.
            if let Some(version) = row.get("version").and_then(Value::as_str) {
                let version = format!("{}: {version}", program.name);
                if !self.versions.contains(&version) {
                    self.versions.push(version);
                }
            }
            if let Some(model) = row.get("model").and_then(Value::as_str) {
                row["model"] = json!(without_folders(model));
            }
            row["round"] = json!(round + 1);
            row["program"] = json!(program.name);
            self.rows.push(row);
        }
        Ok(())
    }

    /// Announces and keeps it, once.
    pub(crate) fn add_absence(&mut self, absence: Absence) {
        if !self.absences.contains(&absence) {
            let line = table::absences(slice::from_ref(&absence));
            announce(&format!("skipped: {}", line.trim_start_matches("- ").trim_end()));
            self.absences.push(absence);
        }
    }

    /// Whether the program has failed at this cell.
    pub(crate) fn is_absent(&self, program: &Program, cell: &PeerCell) -> bool {
        self.absences
            .iter()
            .any(|a| a.column == program.name && a.table.as_ref() == Some(&cell.title))
    }

    /// Whether the program has failed anywhere.
    pub(crate) fn lacks(&self, program: &str) -> bool {
        self.absences.iter().any(|absence| absence.column == program)
    }

    pub(crate) fn write(&self) -> Result<()> {
        let folder = self.path.parent().context(|| "the record has no folder".to_owned())?;
        fs::create_dir_all(folder).context(|| format!("cannot create {}", folder.display()))?;
        let write = |path: &Path, text: String| {
            fs::write(path, text).context(|| format!("cannot write {}", path.display()))
        };
        write(&self.path, self.markdown())?;
        let facts: Map<String, Value> =
            self.facts.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let all = json!({ "facts": facts, "versions": self.versions, "rows": self.rows });
        write(&self.path.with_extension("json"), serde_json::to_string_pretty(&all)? + "\n")
    }

    fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n| | |\n|---|---|\n", self.name);
        let limits = self.limits();
        for (name, value) in self.facts.iter().map(|(name, value)| (*name, value)).chain(
            // What the peers measured of the GPU.
            limits.iter().map(|(name, value)| (name.as_str(), value)),
        ) {
            text += &format!("| {name} | {value} |\n");
        }
        text += &format!("| versions | {} |\n", self.versions.join("<br>"));
        let (base, ours) = match self.on_gpu {
            true => (Base::Best, format!("the best of `{OURS}`")),
            false => (Base::First, format!("the first column, of `{OURS}`,")),
        };
        text += &format!(
            "\nFigures are medians over the rounds; T is the tokens of a call or of a prompt, or the \
             patches of an image. In brackets: how many times better {ours} is. A percentage: the \
             part reached of what this machine can do, measured in the same run.\n"
        );
        text += &table::tables(&self.against_same_limits(), base);
        if !self.absences.is_empty() {
            text += &format!("\n## Not measured\n\n{}", table::absences(&self.absences));
        }
        if self.on_gpu {
            text += &format!("\n## Targets\n\n{}", targets::list(&self.rows));
        }
        text
    }

    /// Of a GPU, what torch measured that it can do: the copy of a large tensor on it, and the product
    /// of large matrices.
    fn limits(&self) -> Vec<(String, String)> {
        let tables = table::distinct(self.samples.iter().map(|sample| sample.table.as_str()));
        let fact = |table: &str| {
            let [bandwidth, peak] = self.limits_of(table)?;
            let value = format!("{bandwidth:.0} GB/s, {:.0} TFLOP/s", peak / 1e3);
            Some((format!("copy and matrix product by torch, {table}"), value))
        };
        tables.into_iter().filter_map(fact).collect()
    }

    fn limits_of(&self, table: &str) -> Option<[f64; 2]> {
        let peers = self.samples.iter().filter(|s| s.table == table && !table::is_ours(&s.column));
        if self.on_gpu { samples::limits(peers) } else { None }
    }

    /// The samples, on a GPU ours too against the limits that torch measured.
    fn against_same_limits(&self) -> Vec<Sample> {
        let against = |sample: &Sample| {
            let mut sample = sample.clone();
            if let (Some(rates), Some(can)) = (sample.rates, self.limits_of(&sample.table)) {
                let [bytes, operations] = [0, 1].map(|index| rates.did[index] / can[index]);
                sample.of_limit = Some(bytes.max(operations));
            }
            sample
        };
        self.samples.iter().map(against).collect()
    }
}

fn machine(args: &Args) -> Result<Vec<(&'static str, String)>> {
    let cores = thread::available_parallelism()?;
    let processor = proc_value("/proc/cpuinfo", "model name");
    let processor = processor.unwrap_or_else(|| env::consts::ARCH.to_owned());
    let mut facts = vec![
        ("processor", format!("{processor}, {cores} cores")),
        ("instruction set", Isa::choose()?.name().to_owned()),
        ("kernel", first_line(Command::new("uname").args(["-s", "-r"]))?),
    ];
    let memory = proc_value("/proc/meminfo", "MemTotal");
    if let Some(kib) = memory.and_then(|text| text.strip_suffix(" kB")?.parse::<f64>().ok()) {
        facts.push(("memory", format!("{:.1} GB", kib * 1024.0 / 1e9)));
    }
    if let Ok(load) = fs::read_to_string("/proc/loadavg") {
        let minute: f64 = load.split(' ').next().unwrap_or_default().parse()?;
        facts.push(("load average at the start", minute.to_string()));
        if minute > MAX_LOAD {
            announce(&format!("warning: load average {minute}: the figures will be worthless"));
        }
    }
    if args.on_gpu() {
        facts.splice(0..0, gpu(&args.device));
    }
    Ok(facts)
}

/// What the driver says of a GPU.
fn gpu(device: &str) -> [(&'static str, String); 2] {
    let number = device.split_once(':').map_or("0", |(_, number)| number);
    let mut query = Command::new("nvidia-smi");
    query.args(["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader", "-i"]);
    let line = first_line(query.arg(number)).unwrap_or_default();
    let mut parts = line.split(", ").map(str::to_owned);
    let mut part = || parts.next().filter(|part| !part.is_empty());
    let unknown = || "unknown: nvidia-smi does not say".to_owned();
    let (name, memory) = (part().unwrap_or_else(unknown), part());
    let gpu = [Some(name), memory].into_iter().flatten().collect::<Vec<_>>().join(", ");
    [("GPU", gpu), ("driver", part().unwrap_or_else(unknown))]
}

/// The first value of a name in a file of `name : value` lines; none where there is no such file.
fn proc_value(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = pairs.into_iter().find(|(key, _)| key.trim() == name)?;
    Some(value.trim().to_owned())
}

/// The command as it was typed, without the folders of one machine.
fn command() -> String {
    let typed = env::args().skip(1).map(|argument| without_folders(&argument));
    ["cargo", "xtask", "bench-peers"]
        .map(str::to_owned)
        .into_iter()
        .chain(typed)
        .collect::<Vec<_>>()
        .join(" ")
}

fn without_folders(text: &str) -> String {
    match Path::new(text).file_name() {
        Some(name) if Path::new(text).is_absolute() => format!("…/{}", name.display()),
        _ => text.to_owned(),
    }
}
