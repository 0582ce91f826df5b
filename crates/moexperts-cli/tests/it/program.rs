//! The program as a test calls it.

use std::{
    env,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use moexperts::{AutoModelForCausalLm, AutoModelForImageTextToText, LanguageModel, LoadOptions};

/// A random model with a tokenizer and a chat template.
pub(crate) const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/qwen2_moe");

/// A random model that reads images, and images.
pub(crate) const VISION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/qwen3_vl_moe");

/// An image of the folder [`VISION`].
pub(crate) fn picture(file: &str) -> String {
    format!("{VISION}/{file}")
}

/// A golden file of [`VISION`].
pub(crate) fn golden(prompt: &str) -> Vec<u8> {
    std::fs::read(picture(&format!("golden_{prompt}.safetensors"))).unwrap()
}

/// The integers of a tensor.
pub(crate) fn i64s(file: &[u8], name: &str) -> (Vec<usize>, Vec<i64>) {
    let file = safetensors::SafeTensors::deserialize(file).unwrap();
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), safetensors::Dtype::I64);
    let values = tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()));
    (tensor.shape().to_vec(), values.collect())
}

/// The backends that come with the program.
pub(crate) const BACKENDS: [&str; 3] = ["eager", "batched_mm", "grouped_mm"];

/// What says which GPUs a program sees.
const VISIBLE_GPUS: &str = "CUDA_VISIBLE_DEVICES";

/// A run of the program.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A call of the program to be made, shielded from the caller's settings for the hub and the log, and
/// from any GPU.
pub(crate) struct Program {
    command: Command,
    input: Vec<u8>,
}

impl Program {
    pub(crate) fn new(words: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moexperts"));
        command.args(words);
        for variable in
            ["HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE", "RUST_LOG"]
        {
            command.env_remove(variable);
        }
        command.env(VISIBLE_GPUS, "");
        Self { command, input: Vec::new() }
    }

    /// With the tiny model and the words of a command that takes one.
    pub(crate) fn with_model(words: &[&str]) -> Self {
        let mut program = Self::new(words);
        program.command.args(["--model", MODEL]);
        program
    }

    /// With the tiny model that reads images.
    pub(crate) fn with_vision(words: &[&str]) -> Self {
        let mut program = Self::new(words);
        program.command.args(["--model", VISION]);
        program
    }

    pub(crate) fn input(mut self, text: &str) -> Self {
        self.input = text.into();
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Not shielded from GPUs.
    pub(crate) fn with_gpus(mut self) -> Self {
        match env::var_os(VISIBLE_GPUS) {
            Some(visible) => self.command.env(VISIBLE_GPUS, visible),
            None => self.command.env_remove(VISIBLE_GPUS),
        };
        self
    }

    /// Without standard error: whatever is written there fails.
    #[cfg(target_os = "linux")]
    pub(crate) fn run_without_stderr(mut self) -> Run {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = self.command.stdin(Stdio::null()).stderr(full).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        Run { code: output.status.code(), stdout, stderr: String::new() }
    }

    pub(crate) fn folder(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    pub(crate) fn run(mut self) -> Run {
        let pipes = self.command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = pipes.stderr(Stdio::piped()).spawn().unwrap();
        // The program need not read what it is given.
        let _ = child.stdin.take().unwrap().write_all(&self.input);
        let output = child.wait_with_output().unwrap();
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Standard output of a run that succeeds.
    #[track_caller]
    pub(crate) fn stdout(self) -> String {
        let run = self.run();
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        run.stdout
    }
}

/// The tiny model in this process, to say what the program has to write.
pub(crate) fn model() -> LanguageModel {
    AutoModelForCausalLm::from_pretrained(MODEL, LoadOptions::new()).unwrap()
}

/// The tiny model that reads images in this process.
pub(crate) fn vision_model() -> LanguageModel {
    AutoModelForImageTextToText::from_pretrained(VISION, LoadOptions::new()).unwrap()
}
