//! `cargo xtask bench-peers`: our program and the programs users would pick instead, in turns.

mod programs;
mod record;
mod samples;
mod table;

use std::{ffi::OsString, num::NonZero, path::PathBuf, thread};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use self::{
    programs::{OURS, Peer, Program},
    record::Record,
    samples::Absence,
};
use crate::announce;

/// Measures this program and its peers in turns and writes one table of ratios.
///
/// The peers are the scripts of bench/peers; its README says how to install them. One that is not
/// installed or cannot run is announced and recorded with the reason. Let nothing else run.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench-peers layers
  cargo xtask bench-peers layers --shapes olmoe,64x32x8x2 --dtypes bf16 --tokens 1,4 --rounds 1
  cargo xtask bench-peers models --model qwen2_moe-4l --gguf qwen2_moe-4l-bf16.gguf
  cargo xtask bench-peers vision --model qwen3_vl_moe-4l")]
pub(crate) struct Args {
    /// What is measured
    #[arg(value_enum, default_value = "layers")]
    subject: Subject,

    /// Layers: names, or HxIxExK
    #[arg(long, value_delimiter = ',', default_value = "qwen1.5-moe,olmoe,qwen3-30b")]
    shapes: Vec<String>,

    /// Layers and vision: element types
    #[arg(long, value_delimiter = ',', default_value = "bf16,f32")]
    dtypes: Vec<String>,

    /// Layers: tokens in a call
    #[arg(long, default_value = "1,4,16,64,256,1024")]
    tokens: String,

    /// Models and vision: the folder with the checkpoint
    #[arg(long, required_if_eq_any([("subject", "models"), ("subject", "vision")]))]
    model: Option<PathBuf>,

    /// Models: the same weights for llama.cpp, made by make_gguf.py
    #[arg(long)]
    gguf: Option<PathBuf>,

    /// Models: lengths of prompts
    #[arg(long, default_value = "16,128,512")]
    prompt_tokens: String,

    /// Models: tokens decoded after a prompt
    #[arg(long, default_value = "32")]
    new_tokens: String,

    /// Vision: sizes of the image, WxH
    #[arg(long, value_delimiter = ',', default_value = "1024x1024")]
    image_sizes: Vec<String>,

    /// How often each program runs; a figure is the median over the rounds
    #[arg(long, default_value = "3")]
    rounds: NonZero<usize>,

    /// Threads of every program; as many as the machine has by default
    #[arg(long)]
    threads: Option<NonZero<usize>>,

    /// Python with requirements.txt
    #[arg(long, default_value = "bench/peers/.venv/transformers/bin/python")]
    python: PathBuf,

    /// Python with requirements-zentorch.txt
    #[arg(long, default_value = "bench/peers/.venv/zentorch/bin/python")]
    zentorch_python: PathBuf,

    /// Python with requirements-llamacpp.txt
    #[arg(long, default_value = "bench/peers/.venv/llamacpp/bin/python")]
    llamacpp_python: PathBuf,

    /// Models: the `llama-bench` of ik_llama.cpp
    #[arg(long)]
    ik_llama_bench: Option<PathBuf>,

    /// The mode of torch.compile
    #[arg(long, default_value = "default")]
    compile_mode: String,

    /// Peers to leave out
    #[arg(long, value_enum, value_delimiter = ',')]
    skip: Vec<Peer>,

    /// The name of the record; the subject and the date by default
    #[arg(long)]
    record: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// One experts layer
    Layers,
    /// A checkpoint: prefill and decoding
    Models,
    /// The vision tower of a checkpoint: one image
    Vision,
}

/// What all programs are asked at once: a process of each gets these arguments.
#[derive(Debug)]
struct Cell {
    title: String,
    arguments: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let threads = args.threads.map_or_else(thread::available_parallelism, Ok)?;
    let cells = args.cells()?;
    let mut record = Record::new(args, threads)?;
    let programs = present(args, &mut record)?;
    for round in 0..args.rounds.get() {
        record.begin(round, args.rounds);
        for cell in &cells {
            for turn in 0..programs.len() {
                // Each round begins with another program.
                let program = &programs[(round + turn) % programs.len()];
                if record.is_absent(program, cell) {
                    continue;
                }
                announce(&format!("round {}: {}: {}", round + 1, cell.title, program.name));
                match program.run(cell, threads) {
                    Ok(rows) => record.add_rows(round, program, cell, rows)?,
                    Err(reason) => record.add_absence(Absence {
                        column: program.name.to_owned(),
                        table: Some(cell.title.clone()),
                        tokens: None,
                        reason,
                    }),
                }
                // Every time, so that an interrupted run keeps what it has.
                record.write()?;
            }
        }
    }
    announce(&format!("written: {}", record.path().display()));
    ensure!(!record.lacks(OURS), "`{OURS}` did not run everywhere; the record says why");
    Ok(())
}

/// The programs that can run, ours first; the record gets their versions, and why others cannot.
fn present(args: &Args, record: &mut Record) -> Result<Vec<Program>> {
    let mut programs = vec![Program::ours(args)?];
    let peers = match args.subject {
        Subject::Layers => Peer::LAYERS.as_slice(),
        Subject::Models => Peer::MODELS.as_slice(),
        Subject::Vision => Peer::VISION.as_slice(),
    };
    for peer in peers {
        let program = peer.program(args).and_then(|program| {
            record.add_versions(&program, &program.versions()?);
            Ok(program)
        });
        match program {
            Ok(program) => programs.push(program),
            Err(reason) => record.add_absence(Absence {
                column: peer.name().to_owned(),
                table: None,
                tokens: None,
                reason,
            }),
        }
    }
    Ok(programs)
}

impl Args {
    fn cells(&self) -> Result<Vec<Cell>> {
        Ok(match self.subject {
            Subject::Layers => self.layer_cells(),
            Subject::Models => {
                let words =
                    ["--prompt-tokens", &self.prompt_tokens, "--new-tokens", &self.new_tokens];
                vec![Cell::new(self.model_name()?, &words)]
            }
            Subject::Vision => self.vision_cells(&self.model_name()?),
        })
    }

    fn layer_cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for shape in &self.shapes {
            // The programs take H,I,E,K; a comma separates the shapes here.
            let numbers = shape.replace('x', ",");
            let is_name = numbers.split(',').any(|part| part.parse::<usize>().is_err());
            let value = if is_name { shape } else { &numbers };
            for dtype in &self.dtypes {
                let words = ["--shape", value, "--dtype", dtype, "--tokens", &self.tokens];
                cells.push(Cell::new(format!("{shape} {dtype}"), &words));
            }
        }
        cells
    }

    fn vision_cells(&self, model: &str) -> Vec<Cell> {
        let mut cells = Vec::new();
        for size in &self.image_sizes {
            for dtype in &self.dtypes {
                let words = ["--image-size", size, "--dtype", dtype];
                cells.push(Cell::new(format!("{model} {dtype}, {size}"), &words));
            }
        }
        cells
    }

    /// What says which checkpoint; a layer is of none.
    fn model_arguments(&self) -> Vec<OsString> {
        match (self.subject, &self.model) {
            (Subject::Models | Subject::Vision, Some(model)) => {
                vec!["--model".into(), model.into()]
            }
            _ => Vec::new(),
        }
    }

    fn model_name(&self) -> Result<String> {
        let name = self.model.as_ref().and_then(|path| path.file_name());
        let name = name.context("--model needs the folder of a checkpoint")?;
        Ok(name.to_string_lossy().into_owned())
    }
}

impl Cell {
    fn new(title: String, arguments: &[&str]) -> Self {
        Self { title, arguments: arguments.iter().map(ToString::to_string).collect() }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Task {
        #[command(flatten)]
        args: Args,
    }

    fn cells(words: &str) -> Vec<(String, Vec<String>)> {
        let task = Task::try_parse_from(format!("task {words}").split(' ')).unwrap();
        let cells = task.args.cells().unwrap();
        cells.into_iter().map(|cell| (cell.title, cell.arguments)).collect()
    }

    #[test]
    fn a_layer_cell_is_a_shape_in_a_dtype() {
        let cells = cells("layers --shapes mixtral,64x32x8x2 --dtypes f16 --tokens 1,4");
        let titles: Vec<_> = cells.iter().map(|(title, _)| title.as_str()).collect();
        assert_eq!(titles, ["mixtral f16", "64x32x8x2 f16"]);
        assert_eq!(cells[0].1, ["--shape", "mixtral", "--dtype", "f16", "--tokens", "1,4"]);
        assert_eq!(cells[1].1[1], "64,32,8,2");
    }

    #[test]
    fn a_model_is_one_cell_named_after_its_folder() {
        let cells = cells("models --model some/folder/olmoe --prompt-tokens 16 --new-tokens 8");
        let [(title, arguments)] = cells.as_slice() else { panic!("{cells:?}") };
        assert_eq!(title, "olmoe");
        assert_eq!(arguments, &["--prompt-tokens", "16", "--new-tokens", "8"]);
    }

    #[test]
    fn a_vision_cell_is_an_image_in_a_dtype() {
        let cells = cells("vision --model some/folder/qwen3-vl --image-sizes 512x256,64x64");
        let titles: Vec<_> = cells.iter().map(|(title, _)| title.as_str()).collect();
        let expected = [
            "qwen3-vl bf16, 512x256",
            "qwen3-vl f32, 512x256",
            "qwen3-vl bf16, 64x64",
            "qwen3-vl f32, 64x64",
        ];
        assert_eq!(titles, expected);
        assert_eq!(cells[1].1, ["--image-size", "512x256", "--dtype", "f32"]);
    }

    #[test]
    fn models_and_vision_need_a_model() {
        for subject in ["models", "vision"] {
            let error = Task::try_parse_from(["task", subject]).unwrap_err();
            assert!(error.to_string().contains("--model"), "{error}");
        }
    }
}
