//! The folder of a sweep's results.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use moexperts::{Cpu, inspect::Memory};
use moexperts_report::{Fact, Named, Program, Results, Target, csv, markdown, page};

use crate::{
    args::BenchSweepArgs,
    error::BenchError,
    output::{file, text::bytes},
    provenance,
};

/// The file with every run, which all others follow from.
const RESULTS: &str = "results.json";

/// Where results go, and what was there.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    earlier: Option<Results>,
}

impl Folder {
    /// Finds results to go on with, or makes the folder for new ones.
    ///
    /// # Errors
    /// If there are results that are not to be gone on with, or that another program measured; if
    /// nothing can be written there.
    pub(crate) fn open(path: &Path, resume: bool) -> Result<Self, BenchError> {
        let path = path.to_owned();
        let file = path.join(RESULTS);
        let there = file.try_exists().unwrap_or(true);
        if there && !resume {
            return Err(BenchError::SweepExists { path });
        }
        let earlier = if there { Some(Results::read(&file)?) } else { None };
        fs::create_dir_all(&path)
            .map_err(|source| BenchError::Write { path: path.clone(), source })?;
        file::check(&file)?;
        let folder = Self { path, earlier };
        if let Some(earlier) = &folder.earlier {
            let named = |Program { version, commit, .. }: &Program| {
                format!("moexperts {version}, commit {}", commit.as_deref().unwrap_or("not known"))
            };
            folder.same("program", &named(&earlier.program), &named(&program()))?;
            let listed = |facts: &[Fact]| {
                facts.iter().map(|fact| fact.1.as_str()).collect::<Vec<_>>().join(", ")
            };
            folder.same("machine", &listed(&earlier.machine), &listed(&machine()))?;
        }
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there were results to go on with.
    pub(crate) fn goes_on(&self) -> bool {
        self.earlier.is_some()
    }

    /// What was there, or results without a cell.
    ///
    /// - `words`: the command line
    pub(crate) fn results(
        &self,
        args: &BenchSweepArgs,
        words: &[OsString],
    ) -> Result<Results, BenchError> {
        let (seed, repetitions) = (args.seed, args.repetitions.get());
        let compile_memory_bytes = args.compile.limits.memory_bytes();
        let command = command(words);
        if let Some(earlier) = &self.earlier {
            self.same("seed", &earlier.seed.to_string(), &seed.to_string())?;
            let [there, here] = [earlier.compile_memory_bytes, compile_memory_bytes]
                .map(|count| bytes(count as u64));
            self.same("--compile-memory", &there, &here)?;
            let mut results = earlier.clone();
            (results.repetitions, results.command) = (repetitions, command);
            return Ok(results);
        }
        let mut results = Results::new(program());
        (results.command, results.date, results.machine) = (command, now(), machine());
        (results.seed, results.repetitions) = (seed, repetitions);
        results.compile_memory_bytes = compile_memory_bytes;
        Ok(results)
    }

    /// Enters what the model is called.
    pub(crate) fn enter_model(
        &self,
        results: &mut Results,
        origin: &str,
    ) -> Result<(), BenchError> {
        match &self.earlier {
            Some(earlier) => self.same("model", &earlier.model, origin),
            None => {
                origin.clone_into(&mut results.model);
                Ok(())
            }
        }
    }

    /// Enters a target, or finds it, and says where.
    pub(crate) fn enter_target(
        &self,
        results: &mut Results,
        target: Target,
    ) -> Result<usize, BenchError> {
        let same =
            |there: &Target| (&there.device, &there.dtype) == (&target.device, &target.dtype);
        let Some(place) = results.targets.iter().position(same) else {
            results.targets.push(target);
            return Ok(results.targets.len() - 1);
        };
        let there = &mut results.targets[place];
        self.same("machine", &there.hardware, &target.hardware)?;
        // What was said of it once is not said again with other times.
        for note in target.notes {
            let subject = |note: &String| note.split(':').next().map(str::to_owned);
            if there.notes.iter().all(|known| subject(known) != subject(&note)) {
                there.notes.push(note);
            }
        }
        Ok(place)
    }

    fn same(&self, what: &'static str, there: &str, here: &str) -> Result<(), BenchError> {
        if there == here {
            return Ok(());
        }
        let (there, here) = (there.to_owned(), here.to_owned());
        Err(BenchError::SweepDiffers { path: self.path.clone(), what, there, here })
    }

    /// Writes every run.
    pub(crate) fn write(&self, results: &mut Results) -> Result<(), BenchError> {
        results.date = now();
        file::replace(&self.path.join(RESULTS), results.to_json().as_bytes())
    }

    /// Writes everything, and says what.
    pub(crate) fn write_all(
        &self,
        results: &mut Results,
        reference: bool,
    ) -> Result<String, BenchError> {
        self.write(results)?;
        let named = Named { file: RESULTS, results };
        let files = [
            ("results.csv", csv(results)),
            ("results.md", markdown(results)),
            ("report.html", page(named, None, reference)),
        ];
        for (name, text) in &files {
            file::replace(&self.path.join(name), text.as_bytes())?;
        }
        let names = files.map(|(name, _)| name).join(", ");
        Ok(format!("{RESULTS}, {names} in {}", self.path.display()))
    }
}

fn program() -> Program {
    Program::new(env!("CARGO_PKG_VERSION"), provenance::commit())
}

fn machine() -> Vec<Fact> {
    let fact = |label: &str, value: String| Fact(label.to_owned(), value);
    let processor = Cpu::processor().map(|name| fact("processor", name));
    let memory = Memory::now().map(|memory| fact("memory", bytes(memory.total_bytes)));
    let system = fact("system", format!("{} {}", env::consts::OS, env::consts::ARCH));
    let compiler =
        option_env!("MOEXPERTS_RUSTC").map(|version| fact("compiler", version.to_owned()));
    processor.into_iter().chain(memory).chain([system]).chain(compiler).collect()
}

/// To the second.
fn now() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// The command line, as a shell would take it.
fn command(words: &[OsString]) -> String {
    let words = words.iter().skip(1).map(|word| quoted(&word.to_string_lossy()));
    ["moexperts".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_=./,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_the_words_back() {
        for (word, expected) in [
            ("--batch", "--batch"),
            ("1,4", "1,4"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$HOME;", "'$HOME;'"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }

    #[test]
    fn a_date_has_no_fraction() {
        let date = now();
        assert_eq!((date.len(), date.ends_with('Z')), ("2026-01-02T03:04:05Z".len(), true));
    }
}
