//! `results.json`: what a sweep measured, run by run.

use std::{collections::BTreeSet, fmt, fs, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Value, to_string};

use crate::{ReportError, Result};

/// What the file calls itself.
const FORMAT: &str = "moexperts sweep";

/// The version that is written, and the only one that is read.
const VERSION: u64 = 1;

/// What a sweep measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Results {
    /// What measured.
    pub program: Program,
    /// The command line.
    pub command: String,
    /// When it ended, or was last interrupted: RFC 3339, UTC.
    pub date: String,
    /// The model's folder, id or description.
    pub model: String,
    /// What chose prompts and random weights.
    pub seed: u64,
    /// Generations a cell has when it is complete.
    pub repetitions: usize,
    /// Bytes that copies of weights might take in compiled models.
    #[serde(default)]
    pub compile_memory_bytes: usize,
    /// Combinations that were to be measured.
    pub planned: usize,
    /// The machine, as labels and values.
    pub machine: Vec<Fact>,
    /// Devices with the model in a dtype.
    pub targets: Vec<Target>,
    /// What was measured, a combination each.
    pub cells: Vec<Cell>,
    /// Combinations that could not run.
    pub skipped: Vec<Skipped>,
}

/// The program that measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Program {
    /// Its version: `0.1.0`.
    pub version: String,
    /// The commit it was built from, where that is known.
    pub commit: Option<String>,
}

/// A label and a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact(pub String, pub String);

/// A device with the model in a dtype, and what it can do at most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Target {
    /// `cpu`, `cuda`.
    pub device: String,
    /// The weights' element type.
    pub dtype: String,
    /// What the device is.
    pub hardware: String,
    /// Threads it computed with; none of a GPU.
    pub threads: Option<usize>,
    /// Seconds that loading took.
    pub load_s: f64,
    /// Bytes it read from memory a second, as often as that was measured.
    pub bytes_per_second: Vec<f64>,
    /// Multiplications and additions it did a second, as often as that was measured.
    pub flops_per_second: Vec<f64>,
    /// What those were done with: `bf16 on amxbf16`.
    pub operations: String,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

/// A combination.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// `cpu`, `cuda`.
    pub device: String,
    /// The weights' element type.
    pub dtype: String,
    /// Sequences generated together.
    pub batch: usize,
    /// Tokens of each prompt.
    pub sequence: usize,
    /// Tokens generated for each prompt; the first comes with the prompt.
    pub new_tokens: usize,
    /// `none`, or the mode.
    pub compile: String,
    /// The experts backend.
    pub implementation: String,
}

/// What was measured of a combination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cell {
    /// The combination.
    #[serde(flatten)]
    pub key: Key,
    /// The backend that decoded: another one where the device's rule switches.
    pub decode_implementation: String,
    /// Milliseconds of each generation, from the prompt to the last token.
    pub generation_ms: Vec<f64>,
    /// Milliseconds to the first token of each.
    pub prefill_ms: Vec<f64>,
    /// Milliseconds of all steps after it.
    pub decode_ms: Vec<f64>,
    /// What the prefill has to do.
    pub prefill: Work,
    /// What all decode steps together have to do.
    pub decode: Work,
    /// The most memory the process had, where the system tells it; of a GPU all that is in use on it at
    /// the end.
    pub peak_memory_bytes: Option<u64>,
}

/// What forwards have to do at least.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Forwards.
    pub forwards: usize,
    /// Multiplications and additions of the products with weights.
    pub flops: f64,
    /// Bytes of weights to be read: of experts those that were hit.
    pub bytes: f64,
}

/// Combinations that could not run. What is `None` says that it holds for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Skipped {
    /// As in [`Key`].
    pub device: Option<String>,
    /// As in [`Key`].
    pub dtype: Option<String>,
    /// As in [`Key`].
    pub batch: Option<usize>,
    /// As in [`Key`].
    pub sequence: Option<usize>,
    /// As in [`Key`].
    pub new_tokens: Option<usize>,
    /// As in [`Key`].
    pub compile: Option<String>,
    /// As in [`Key`].
    pub implementation: Option<String>,
    /// Why.
    pub reason: String,
}

impl Program {
    /// The program of this version.
    pub fn new(version: impl Into<String>, commit: Option<String>) -> Self {
        Self { version: version.into(), commit }
    }
}

impl Target {
    /// A target without measurements.
    pub fn new(device: String, dtype: String, hardware: String) -> Self {
        Self {
            device,
            dtype,
            hardware,
            threads: None,
            load_s: 0.0,
            bytes_per_second: Vec::new(),
            flops_per_second: Vec::new(),
            operations: String::new(),
            notes: Vec::new(),
        }
    }
}

impl Skipped {
    /// All combinations, until its fields say which.
    pub fn new(reason: String) -> Self {
        Self {
            device: None,
            dtype: None,
            batch: None,
            sequence: None,
            new_tokens: None,
            compile: None,
            implementation: None,
            reason,
        }
    }

    /// The combination: `cpu bf16 batch 2 eager`; nothing of what holds for all.
    pub fn combination(&self) -> String {
        let Self { device, dtype, batch, sequence, new_tokens, compile, implementation, .. } = self;
        let number =
            |name: &str, value: &Option<usize>| value.map(|value| format!("{name} {value}"));
        let parts = [
            device.clone(),
            dtype.clone(),
            number("batch", batch),
            number("sequence", sequence),
            number("new", new_tokens),
            compile.as_ref().map(|mode| format!("compile {mode}")),
            implementation.clone(),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// What every version of the file begins with.
#[derive(Debug, Deserialize)]
struct Header {
    format: String,
    version: u64,
}

impl Results {
    /// Results of a program that has measured nothing yet.
    pub fn new(program: Program) -> Self {
        Self {
            program,
            command: String::new(),
            date: String::new(),
            model: String::new(),
            seed: 0,
            repetitions: 0,
            compile_memory_bytes: 0,
            planned: 0,
            machine: Vec::new(),
            targets: Vec::new(),
            cells: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, is something else, has another version, is damaged or contradicts itself.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes =
            fs::read(path).map_err(|source| ReportError::Read { path: path.to_owned(), source })?;
        Self::parse(&bytes, path)
    }

    /// Reads the content of a file.
    fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let owned = || path.to_owned();
        let malformed = |source| ReportError::Malformed { path: owned(), source };
        let value: Value = serde_json::from_slice(bytes).map_err(malformed)?;
        let Ok(header) = Header::deserialize(&value) else {
            return Err(ReportError::NotResults { path: owned(), got: described(&value) });
        };
        if header.format != FORMAT {
            return Err(ReportError::NotResults { path: owned(), got: "another format" });
        }
        if header.version != VERSION {
            let (got, expected) = (header.version, VERSION);
            return Err(ReportError::Version { path: owned(), got, expected });
        }
        // From the text, so that an error says where.
        let results: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        results.check(path)?;
        Ok(results)
    }

    /// As the file has it: a line a target, a cell and a skipped combination.
    pub fn to_json(&self) -> String {
        let Self {
            program,
            command,
            date,
            model,
            seed,
            repetitions,
            compile_memory_bytes,
            planned,
            machine,
            targets,
            cells,
            skipped,
        } = self;
        let fields = [
            ("format", line(FORMAT)),
            ("version", line(&VERSION)),
            ("program", line(program)),
            ("command", line(command)),
            ("date", line(date)),
            ("model", line(model)),
            ("seed", line(seed)),
            ("repetitions", line(repetitions)),
            ("compile_memory_bytes", line(compile_memory_bytes)),
            ("planned", line(planned)),
            ("machine", lines(machine)),
            ("targets", lines(targets)),
            ("cells", lines(cells)),
            ("skipped", lines(skipped)),
        ];
        let fields = fields.map(|(name, value)| format!("  \"{name}\": {value}"));
        format!("{{\n{}\n}}\n", fields.join(",\n"))
    }

    /// Combinations that have all their runs.
    pub fn complete_cells(&self) -> usize {
        self.cells.iter().filter(|cell| cell.runs() >= self.repetitions).count()
    }

    /// The target a combination ran on.
    pub fn target(&self, key: &Key) -> Option<&Target> {
        self.targets
            .iter()
            .find(|target| (&target.device, &target.dtype) == (&key.device, &key.dtype))
    }

    fn check(&self, path: &Path) -> Result<()> {
        let invalid = |what| Err(ReportError::Invalid { path: path.to_owned(), what });
        let mut names = BTreeSet::new();
        for target in &self.targets {
            if !names.insert((&target.device, &target.dtype)) {
                return invalid(format!("{} {} is there twice", target.device, target.dtype));
            }
            let Target { device, dtype, bytes_per_second, flops_per_second, .. } = target;
            for (name, measured) in
                [("bytes_per_second", bytes_per_second), ("flops_per_second", flops_per_second)]
            {
                if measured.is_empty() || measured.iter().any(|&rate| rate <= 0.0) {
                    return invalid(format!(
                        "{name} of {device} {dtype}: expected positive numbers, got {measured:?}"
                    ));
                }
            }
        }
        let mut keys = BTreeSet::new();
        for cell in &self.cells {
            let key = &cell.key;
            if self.target(key).is_none() {
                return invalid(format!("{key} is of no target"));
            }
            if !keys.insert(key) {
                return invalid(format!("{key} is there twice"));
            }
            if let Some(what) = cell.problem() {
                return invalid(format!("{key}: {what}"));
            }
        }
        Ok(())
    }
}

impl Cell {
    /// A combination without runs, and without what they have to do.
    pub fn new(key: Key, decode_implementation: String) -> Self {
        let nothing = Work { forwards: 0, flops: 0.0, bytes: 0.0 };
        Self {
            key,
            decode_implementation,
            generation_ms: Vec::new(),
            prefill_ms: Vec::new(),
            decode_ms: Vec::new(),
            prefill: nothing,
            decode: nothing,
            peak_memory_bytes: None,
        }
    }

    /// Generations that were measured.
    pub fn runs(&self) -> usize {
        self.generation_ms.len()
    }

    /// What does not fit.
    fn problem(&self) -> Option<String> {
        let Self { key, generation_ms, prefill_ms, decode_ms, prefill, decode, .. } = self;
        let counts = [generation_ms, prefill_ms, decode_ms].map(Vec::len);
        if counts[0] == 0 || counts.iter().any(|&count| count != counts[0]) {
            return Some(format!(
                "expected as many of generation_ms, prefill_ms and decode_ms, and one at least, got \
                 {} and {} and {}",
                counts[0], counts[1], counts[2]
            ));
        }
        let positive = |times: &[f64]| times.iter().all(|&time| time > 0.0);
        let work = [prefill, decode];
        let numbers = [generation_ms, prefill_ms, decode_ms].into_iter().all(|all| positive(all))
            && work.iter().all(|work| work.forwards > 0 && positive(&[work.flops, work.bytes]));
        if !numbers || key.batch == 0 || key.sequence == 0 || key.new_tokens < 2 {
            return Some("expected positive numbers, and two new tokens at least".to_owned());
        }
        None
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, dtype, batch, sequence, new_tokens, compile, implementation } = self;
        write!(
            f,
            "{device} {dtype} batch {batch} sequence {sequence} new {new_tokens} compile {compile} \
             {implementation}"
        )
    }
}

fn described(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "a list, as `moexperts bench layer --json` writes it",
        Value::Object(_) => "another object",
        _ => "a single value",
    }
}

fn line(value: &(impl Serialize + ?Sized)) -> String {
    to_string(value).expect("results are numbers and strings")
}

fn lines(values: &[impl Serialize]) -> String {
    if values.is_empty() {
        return "[]".to_owned();
    }
    let lines: Vec<String> = values.iter().map(|value| format!("    {}", line(value))).collect();
    format!("[\n{}\n  ]", lines.join(",\n"))
}

/// Results for tests.
#[cfg(test)]
pub(crate) mod made_up {
    use super::*;

    /// Two cells of one target.
    pub(crate) fn results() -> Results {
        let cell = |implementation: &str| Cell {
            key: Key {
                device: "cpu".to_owned(),
                dtype: "bf16".to_owned(),
                batch: 2,
                sequence: 8,
                new_tokens: 5,
                compile: "none".to_owned(),
                implementation: implementation.to_owned(),
            },
            decode_implementation: implementation.to_owned(),
            generation_ms: vec![10.0, 9.5, 13.5],
            prefill_ms: vec![4.0, 3.5, 4.5],
            decode_ms: vec![6.0, 6.0, 9.0],
            prefill: Work { forwards: 1, flops: 2e8, bytes: 1e7 },
            decode: Work { forwards: 4, flops: 1e8, bytes: 3e7 },
            peak_memory_bytes: Some(123_456_789),
        };
        Results {
            program: Program { version: "0.1.0".to_owned(), commit: None },
            command: "moexperts bench sweep".to_owned(),
            date: "2026-01-02T03:04:05Z".to_owned(),
            model: "made up".to_owned(),
            seed: 0,
            repetitions: 3,
            compile_memory_bytes: 0,
            planned: 2,
            machine: vec![Fact("processor".to_owned(), "none".to_owned())],
            targets: vec![Target {
                device: "cpu".to_owned(),
                dtype: "bf16".to_owned(),
                hardware: "CPU".to_owned(),
                threads: Some(1),
                load_s: 0.5,
                bytes_per_second: vec![1e10],
                flops_per_second: vec![1e11],
                operations: "bf16".to_owned(),
                notes: Vec::new(),
            }],
            cells: vec![cell("eager"), cell("grouped_mm")],
            skipped: Vec::new(),
        }
    }
}

#[cfg(test)]
mod strangers;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Results> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        fs::write(&path, text).unwrap();
        Results::read(&path)
    }

    /// The message without the folder, and the hint.
    #[track_caller]
    fn refused(text: &str) -> (String, String) {
        let error = read(text).unwrap_err();
        let message = error.to_string();
        let (_, said) = message.split_once("results.json` ").unwrap();
        (said.to_owned(), error.hint().unwrap())
    }

    #[test]
    fn a_file_reads_back() {
        let results = made_up::results();
        let text = results.to_json();
        assert_eq!(read(&text).unwrap(), results);
        assert_eq!(text.lines().filter(|line| line.contains("generation_ms")).count(), 2);
        assert_eq!(results.complete_cells(), 2);
    }

    #[test]
    fn a_number_reads_back_to_the_last_bit() {
        let mut results = made_up::results();
        results.targets[0].bytes_per_second = vec![12_255_022_420_255_681_536_f64];
        assert_eq!(read(&results.to_json()).unwrap(), results);
    }

    #[test]
    fn what_is_no_file_of_results_says_what_it_is() {
        let expected = "expected the results of `moexperts bench sweep`";
        for (text, got) in [
            ("[]", "a list, as `moexperts bench layer --json` writes it"),
            ("{}", "another object"),
            ("3", "a single value"),
            (r#"{"format":"photographs","version":1}"#, "another format"),
        ] {
            assert_eq!(refused(text).0, format!("holds {got}, {expected}"), "{text}");
        }
        assert_eq!(refused("{\"format\": ").0, "is damaged");
        assert_eq!(refused(r#"{"format":"moexperts sweep","version":1}"#).0, "is damaged");
        let error = Results::read(Path::new("nowhere.json")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read `nowhere.json`");
    }

    #[test]
    fn another_version_says_who_can_read_it() {
        let text = |version| format!(r#"{{"format":"moexperts sweep","version":{version}}}"#);
        let (old, old_hint) = refused(&text(0));
        assert_eq!(old, "has version 0 of the results, expected 1");
        assert_eq!(old_hint, "measure again with this moexperts");
        let (new, new_hint) = refused(&text(2));
        assert_eq!(new, "has version 2 of the results, expected 1");
        assert_eq!(new_hint, "a newer moexperts wrote it; use that one");
    }

    #[test]
    fn a_contradiction_is_named() {
        let change = |change: fn(&mut Results)| {
            let mut results = made_up::results();
            change(&mut results);
            refused(&results.to_json()).0
        };
        let key = "cpu bf16 batch 2 sequence 8 new 5 compile none";
        let said = change(|results| results.cells[1].prefill_ms.truncate(1));
        assert_eq!(
            said,
            format!(
                "contradicts itself: {key} grouped_mm: expected as many of generation_ms, prefill_ms \
                 and decode_ms, and one at least, got 3 and 1 and 3"
            )
        );
        let said = change(|results| results.cells[0].decode_ms[1] = -1.0);
        assert!(said.ends_with("eager: expected positive numbers, and two new tokens at least"));
        let said = change(|results| results.cells[0].key.new_tokens = 1);
        assert!(said.ends_with("eager: expected positive numbers, and two new tokens at least"));
        let said = change(|results| results.cells[0] = results.cells[1].clone());
        assert_eq!(said, format!("contradicts itself: {key} grouped_mm is there twice"));
        let said = change(|results| results.targets.push(results.targets[0].clone()));
        assert_eq!(said, "contradicts itself: cpu bf16 is there twice");
        let said = change(|results| results.targets.clear());
        assert_eq!(said, format!("contradicts itself: {key} eager is of no target"));
        let said = change(|results| results.targets[0].bytes_per_second.clear());
        assert_eq!(
            said,
            "contradicts itself: bytes_per_second of cpu bf16: expected positive numbers, got []"
        );
    }
}
