//! Measured settings of kernels, kept on disk from run to run.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use moexperts_core::Knob;
use serde::{Deserialize, Serialize};

use crate::disk;

/// The fastest way through an operation: settings other than the defaults, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MeasuredChoice {
    /// Values of knobs that are not at their default.
    #[serde(default)]
    pub(super) knobs: BTreeMap<String, usize>,
    /// Whether a copy of the weights is faster; `None` if that was not measured.
    #[serde(default)]
    pub(super) copy: Option<bool>,
}

impl MeasuredChoice {
    /// Whether every setting exists.
    fn fits(&self, knobs: &[Knob]) -> bool {
        let exists = |(name, value): (&String, &usize)| {
            knobs.iter().any(|knob| knob.name == name && knob.values.contains(value))
        };
        self.knobs.iter().all(exists)
    }
}

/// A file of choices, for one machine and version of the program.
///
/// It is read and written as a whole and replaced in one step. If two processes write at once, one
/// wins, and what the other measured is measured again. A file that is damaged, or of another machine
/// or version, counts as empty.
#[derive(Debug)]
pub(super) struct MeasuredChoices {
    path: Option<PathBuf>,
    device: String,
    choices: BTreeMap<String, MeasuredChoice>,
}

/// The content of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    program: String,
    device: String,
    choices: BTreeMap<String, MeasuredChoice>,
}

/// What the choices depend on beside the device.
const PROGRAM: &str = concat!("moexperts ", env!("CARGO_PKG_VERSION"));

impl MeasuredChoices {
    /// The choices for a device, from a folder; only in memory without one.
    ///
    /// - `device`: its [`fingerprint`](moexperts_core::Tuning::fingerprint)
    pub(super) fn open(folder: Option<&Path>, device: String, knobs: &[Knob]) -> Self {
        let path = folder.map(|folder| folder.join(file_name(&device)));
        let mut choices = Self { path, device, choices: BTreeMap::new() };
        choices.choices = choices.stored();
        choices.choices.retain(|_, choice| choice.fits(knobs));
        choices
    }

    pub(super) fn get(&self, key: &str) -> Option<&MeasuredChoice> {
        self.choices.get(key)
    }

    /// Keeps a choice until [`save`](Self::save).
    pub(super) fn insert(&mut self, key: String, choice: MeasuredChoice) {
        self.choices.insert(key, choice);
    }

    /// Writes them, together with what another process has written since.
    ///
    /// # Errors
    /// If the folder cannot be made or written.
    pub(super) fn save(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut choices = self.stored();
        choices.extend(self.choices.iter().map(|(key, choice)| (key.clone(), choice.clone())));
        let document =
            Document { program: PROGRAM.to_owned(), device: self.device.clone(), choices };
        disk::replace(path, |file| Ok(serde_json::to_writer_pretty(file, &document)?))
    }

    /// What the file holds, if it is whole and of this device and program.
    fn stored(&self) -> BTreeMap<String, MeasuredChoice> {
        let Some(path) = &self.path else { return BTreeMap::new() };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return BTreeMap::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read the autotune cache");
                return BTreeMap::new();
            }
        };
        match serde_json::from_slice::<Document>(&text) {
            Ok(file) if file.program == PROGRAM && file.device == self.device => file.choices,
            Ok(_) => {
                tracing::info!(path = %path.display(), "the autotune cache is of another machine");
                BTreeMap::new()
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the autotune cache is damaged");
                BTreeMap::new()
            }
        }
    }
}

/// The device's name as far as a file can have it, and a number that tells devices apart whose
/// names then are the same.
fn file_name(device: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let mut name: String = device.chars().map(plain).take(80).collect();
    let hash = disk::fnv1a(device.as_bytes());
    name.push_str(&format!("-{:08x}.json", hash as u32));
    name
}

/// The folder choices are kept in: `autotune` in `$XDG_CACHE_HOME/moexperts` or
/// `~/.cache/moexperts`; `None` where there is neither.
pub(super) fn default_folder() -> Option<PathBuf> {
    Some(disk::cache_folder()?.join("moexperts").join("autotune"))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use moexperts_core::Rows;

    use super::*;

    const KNOBS: &[Knob] =
        &[Knob { name: "ahead", values: &[0, 1, 2], default: 2, rows: Rows::Any }];

    fn choice(value: usize) -> MeasuredChoice {
        MeasuredChoice { knobs: [("ahead".to_owned(), value)].into(), copy: Some(false) }
    }

    fn open(folder: &Path) -> MeasuredChoices {
        MeasuredChoices::open(Some(folder), "A, avx2, 2 threads".to_owned(), KNOBS)
    }

    fn file(folder: &Path) -> PathBuf {
        fs::read_dir(folder).unwrap().next().unwrap().unwrap().path()
    }

    #[test]
    fn what_is_saved_is_there_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("not/there/yet");
        let mut choices = open(&inner);
        choices.insert("linear".to_owned(), choice(1));
        choices.save().unwrap();
        assert_eq!(open(&inner).get("linear"), Some(&choice(1)));
        assert_eq!(open(&inner).get("experts"), None);
        let other = MeasuredChoices::open(Some(&inner), "B, avx2, 2 threads".to_owned(), KNOBS);
        assert_eq!(other.get("linear"), None);
    }

    #[test]
    fn a_damaged_or_foreign_file_is_ignored_and_rewritten() {
        let folder = tempfile::tempdir().unwrap();
        let mut choices = open(folder.path());
        choices.insert("linear".to_owned(), choice(1));
        choices.save().unwrap();
        let path = file(folder.path());
        let good = fs::read_to_string(&path).unwrap();
        let damaged = [
            String::new(),
            good[..good.len() / 2].to_owned(),
            "[]".to_owned(),
            "\u{0}\u{1}".to_owned(),
            good.replace("A, avx2", "B, avx2"),
            good.replace(PROGRAM, "moexperts 0.0.0"),
        ];
        for text in damaged {
            fs::write(&path, &text).unwrap();
            let mut choices = open(folder.path());
            assert_eq!(choices.get("linear"), None, "{text}");
            choices.insert("experts".to_owned(), choice(0));
            choices.save().unwrap();
            assert_eq!(open(folder.path()).get("experts"), Some(&choice(0)), "{text}");
        }
        // Settings that this version does not have.
        for text in [good.replace("\"ahead\": 1", "\"ahead\": 7"), good.replace("ahead", "behind")]
        {
            fs::write(&path, &text).unwrap();
            assert_eq!(open(folder.path()).get("linear"), None, "{text}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let choices = open(folder.path());
        assert_eq!(choices.get("linear"), None);
        assert!(choices.save().is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn many_may_write_at_once_and_the_file_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        thread::scope(|scope| {
            for writer in 0..4 {
                let folder = folder.path();
                scope.spawn(move || {
                    for round in 0..20 {
                        let mut choices = open(folder);
                        choices.insert(format!("{writer} {round}"), choice(round % 3));
                        choices.save().unwrap();
                        let text = fs::read(folder.join(file_name("A, avx2, 2 threads"))).unwrap();
                        serde_json::from_slice::<Document>(&text).unwrap();
                    }
                });
            }
        });
        assert!(!open(folder.path()).choices.is_empty());
    }
}
