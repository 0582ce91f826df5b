//! The command line of `bench-peers`, and the arguments that the programs get.

use std::{ffi::OsString, fmt, num::NonZero, path::PathBuf, str::FromStr};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    peer::{OURS, Peer},
    tools::{Context as _, Result},
};

/// Measures this program and its peers in turns and writes one table of ratios.
///
/// The peers are the scripts of bench/peers; its README says how to install them. One that is not
/// installed or cannot run is announced and recorded with the reason. Let nothing else run.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench-peers",
    bin_name = "cargo xtask bench-peers",
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  cargo xtask bench-peers layers
  cargo xtask bench-peers layers --shapes olmoe,64x32x8x2 --dtypes bf16 --tokens 1,4 --rounds 1
  cargo xtask bench-peers layers --device cuda --budget 500
  cargo xtask bench-peers models --model qwen2_moe-4l --gguf qwen2_moe-4l-bf16.gguf
  cargo xtask bench-peers models --device cuda --model qwen2_moe-24l --generations 1x16x64,4x128x16
  cargo xtask bench-peers vision --model qwen3_vl_moe-4l"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) task: Option<Task>,

    /// What is measured
    #[arg(value_enum, default_value = "layers")]
    pub(crate) subject: Subject,

    /// Layers and models: where the programs compute, `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "cpu")]
    pub(crate) device: String,

    /// Layers: names, or HxIxExK; by default the first three, on a GPU those that fit it
    #[arg(long, value_delimiter = ',')]
    shapes: Vec<String>,

    /// Layers and vision: element types; bf16 and f32 by default, on a GPU bf16
    #[arg(long, value_delimiter = ',')]
    dtypes: Vec<String>,

    /// Layers: tokens in a call; 1 to 1024 by default, on a GPU 1 to 8192
    #[arg(long)]
    tokens: Option<String>,

    /// Models and vision: the folder with the checkpoint
    #[arg(long, required_if_eq_any([("subject", "models"), ("subject", "vision")]))]
    model: Option<PathBuf>,

    /// Models: the same weights for llama.cpp, made by make_gguf.py
    #[arg(long)]
    pub(crate) gguf: Option<PathBuf>,

    /// Models: lengths of prompts
    #[arg(long, default_value = "16,128,512")]
    prompt_tokens: String,

    /// Models: tokens decoded after a prompt
    #[arg(long, default_value = "32")]
    new_tokens: String,

    /// Models: batch x prompt tokens x new tokens, in place of these: a table of milliseconds
    #[arg(long, value_delimiter = ',')]
    pub(crate) generations: Vec<Generation>,

    /// Vision: sizes of the image, WxH
    #[arg(long, value_delimiter = ',', default_value = "1024x1024")]
    image_sizes: Vec<String>,

    /// How often each program runs; a figure is the median over the rounds; 3 by default, on a GPU 1
    #[arg(long)]
    rounds: Option<NonZero<usize>>,

    /// Layers: seconds that each implementation is measured for, by ours and on a GPU by all
    #[arg(long)]
    time: Option<f64>,

    /// Seconds after which nothing more is measured; programs that still run then are ended
    #[arg(long)]
    pub(crate) budget: Option<f64>,

    /// Threads of every program; as many as the machine has by default
    #[arg(long)]
    pub(crate) threads: Option<NonZero<usize>>,

    /// Python with requirements.txt
    #[arg(long, default_value = "bench/peers/.venv/transformers/bin/python")]
    pub(crate) python: PathBuf,

    /// Python with requirements-zentorch.txt
    #[arg(long, default_value = "bench/peers/.venv/zentorch/bin/python")]
    pub(crate) zentorch_python: PathBuf,

    /// Python with requirements-llamacpp.txt
    #[arg(long, default_value = "bench/peers/.venv/llamacpp/bin/python")]
    pub(crate) llamacpp_python: PathBuf,

    /// Models: the `llama-bench` of ik_llama.cpp
    #[arg(long)]
    pub(crate) ik_llama_bench: Option<PathBuf>,

    /// The mode of torch.compile; on a GPU modes, of models also `cuda-graph`
    #[arg(long)]
    compile_mode: Option<String>,

    /// Layers on a GPU: the tokens that are compiled for
    #[arg(long, default_value = "1,4,8,64,512,2048,8192")]
    compile_tokens: String,

    /// Peers to leave out
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) skip: Vec<Peer>,

    /// A folder of `gpu-check --pack`: its program is measured, and nothing is built
    #[arg(long)]
    pub(crate) pack: Option<PathBuf>,

    /// The name of the record; the subject and the date by default
    #[arg(long)]
    pub(crate) record: Option<String>,

    /// The folder of the record
    #[arg(long, default_value = "bench/record")]
    pub(crate) record_folder: PathBuf,
}

/// What is done in place of measuring.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Prints which targets on a GPU the records of `bench-peers --device cuda` meet
    Targets {
        /// Their JSON files
        #[arg(required = true)]
        records: Vec<PathBuf>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// One experts layer
    Layers,
    /// A checkpoint: prefill and decoding
    Models,
    /// The vision tower of a checkpoint: one image
    Vision,
}

/// A batch of prompts and what follows them: `4x128x16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Generation {
    pub(crate) batch: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) new_tokens: u64,
}

/// What all programs measure at once: a process of each gets these arguments.
#[derive(Debug)]
pub(crate) struct PeerCell {
    pub(crate) title: String,
    pub(crate) arguments: Vec<String>,
    /// Those of this project's program where they differ: one process for each of them.
    pub(crate) own_arguments: Vec<Vec<String>>,
}

impl Args {
    pub(crate) fn on_gpu(&self) -> bool {
        self.device != "cpu"
    }

    pub(crate) fn rounds(&self) -> NonZero<usize> {
        let default = if self.on_gpu() { 1 } else { 3 };
        self.rounds.or(NonZero::new(default)).unwrap_or(NonZero::<usize>::MIN)
    }

    pub(crate) fn cells(&self) -> Result<Vec<PeerCell>> {
        Ok(match self.subject {
            Subject::Layers => self.layer_cells(),
            Subject::Models if self.generations.is_empty() => {
                let words =
                    ["--prompt-tokens", &self.prompt_tokens, "--new-tokens", &self.new_tokens];
                vec![PeerCell::new(self.model_name()?, &words)]
            }
            Subject::Models => vec![self.generations_cell()?],
            Subject::Vision => self.vision_cells(&self.model_name()?),
        })
    }

    fn layer_cells(&self) -> Vec<PeerCell> {
        let (shapes, tokens) = match self.on_gpu() {
            false => ("qwen1.5-moe,olmoe,qwen3-30b", "1,4,16,64,256,1024"),
            true => (
                "qwen1.5-moe,olmoe,qwen3-30b,mixtral,deepseek-v3",
                "1,2,4,8,16,32,64,128,256,512,1024,2048,4096,8192",
            ),
        };
        let tokens = self.tokens.as_deref().unwrap_or(tokens);
        let mut cells = Vec::new();
        for shape in listed(&self.shapes, shapes) {
            // The programs take H,I,E,K; a comma separates the shapes here.
            let numbers = shape.replace('x', ",");
            let is_name = numbers.split(',').any(|part| part.parse::<usize>().is_err());
            let value = if is_name { &shape } else { &numbers };
            for dtype in self.dtypes() {
                let words = ["--shape", value, "--dtype", &dtype, "--tokens", tokens];
                cells.push(PeerCell::new(format!("{shape} {dtype}"), &words));
            }
        }
        cells
    }

    /// Ours takes one number of new tokens and all batches with all prompts: a process for each
    /// batch and number of new tokens.
    fn generations_cell(&self) -> Result<PeerCell> {
        let names: Vec<String> = self.generations.iter().map(ToString::to_string).collect();
        let mut cell = PeerCell::new(self.model_name()?, &["--generations", &names.join(",")]);
        let mut done = Vec::new();
        for &Generation { batch, new_tokens, .. } in &self.generations {
            if done.contains(&(batch, new_tokens)) {
                continue;
            }
            done.push((batch, new_tokens));
            let same = |one: &&Generation| (one.batch, one.new_tokens) == (batch, new_tokens);
            let prompts = self.generations.iter().filter(same);
            let prompts: Vec<String> = prompts.map(|one| one.prompt_tokens.to_string()).collect();
            let [batch, new_tokens] = [batch, new_tokens].map(|number| number.to_string());
            let words = ["--batch", &batch, "--prompt-tokens", &prompts.join(",")];
            let words = [&words[..], &["--new-tokens", &new_tokens]].concat();
            cell.own_arguments.push(words.into_iter().map(str::to_owned).collect());
        }
        Ok(cell)
    }

    fn vision_cells(&self, model: &str) -> Vec<PeerCell> {
        let mut cells = Vec::new();
        for size in &self.image_sizes {
            for dtype in self.dtypes() {
                let words = ["--image-size", size, "--dtype", &dtype];
                cells.push(PeerCell::new(format!("{model} {dtype}, {size}"), &words));
            }
        }
        cells
    }

    fn dtypes(&self) -> Vec<String> {
        listed(&self.dtypes, if self.on_gpu() { "bf16" } else { "bf16,f32" })
    }

    /// How long a layer is measured for, if that is not for the programs to say.
    fn time(&self) -> Vec<String> {
        let time = self.time.or(self.on_gpu().then_some(0.2));
        let time = time.filter(|_| self.subject == Subject::Layers);
        time.map_or(Vec::new(), |time| vec!["--time".to_owned(), time.to_string()])
    }

    /// What of this project's program is measured.
    pub(crate) fn own_arguments(&self) -> Vec<OsString> {
        const ALL: &str = "eager,grouped_mm,batched_mm";
        let generations = !self.generations.is_empty();
        let mut words = match self.subject {
            Subject::Layers if self.on_gpu() => vec!["layer", "--experts-implementation", ALL],
            Subject::Layers => vec!["layer", "--experts-implementation", "grouped_mm,batched_mm"],
            Subject::Models if generations => vec!["model", "--experts-implementation", ALL],
            Subject::Models => {
                vec!["model", "--batch", "1", "--experts-implementation", "grouped_mm"]
            }
            Subject::Vision => vec!["vision"],
        };
        words.extend(["--device", self.device.as_str()]);
        if self.on_gpu() && self.subject == Subject::Models {
            words.extend(["--compile", "none,reduce-overhead"]);
        }
        let words = words.into_iter().map(str::to_owned).chain(self.time());
        words.map(OsString::from).chain(self.model_arguments()).collect()
    }

    /// What of transformers is measured: on a GPU all at once, for starting takes long.
    pub(crate) fn transformers_arguments(&self, peer: Peer) -> Vec<OsString> {
        let mut words = Vec::new();
        let (on_gpu, default) = match (self.on_gpu(), self.subject) {
            (false, _) => (false, "default"),
            (true, Subject::Models) => (true, "cuda-graph,reduce-overhead,default"),
            (true, _) => (true, "default,max-autotune-no-cudagraphs"),
        };
        let modes = self.compile_mode.as_deref().unwrap_or(default);
        if on_gpu {
            let modes = match self.skip.contains(&Peer::Compile) {
                true => "none".to_owned(),
                false => format!("none,{modes}"),
            };
            words.extend(["--device".to_owned(), self.device.clone()]);
            words.extend(["--compile".to_owned(), modes, "--implementation".to_owned()]);
            match self.subject {
                Subject::Layers => {
                    words.push("eager,grouped_mm,batched_mm,torch".to_owned());
                    words.extend(["--compile-tokens".to_owned(), self.compile_tokens.clone()]);
                }
                _ => words.push("eager,grouped_mm+batched_mm,grouped_mm,batched_mm".to_owned()),
            }
        } else if peer == Peer::Compile {
            words.extend(["--compile".to_owned(), modes.to_owned()]);
        } else if peer == Peer::Plugin {
            words.extend(["--implementation".to_owned(), OURS.to_owned()]);
        }
        words.extend(self.time().into_iter().filter(|_| on_gpu));
        let words = words.into_iter().map(OsString::from);
        self.model_arguments().into_iter().chain(words).collect()
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
        let name = name.context(|| "--model needs the folder of a checkpoint".to_owned())?;
        Ok(name.to_string_lossy().into_owned())
    }
}

/// What was given, or else the default.
fn listed(given: &[String], default: &str) -> Vec<String> {
    match given {
        [] => default.split(',').map(str::to_owned).collect(),
        given => given.to_vec(),
    }
}

impl PeerCell {
    fn new(title: String, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        Self { title, arguments, own_arguments: Vec::new() }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { batch, prompt_tokens, new_tokens } = self;
        write!(f, "{batch}x{prompt_tokens}x{new_tokens}")
    }
}

impl FromStr for Generation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<u64>, _> = text.split('x').map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[batch, prompt_tokens, new_tokens]) => {
                Ok(Self { batch, prompt_tokens, new_tokens })
            }
            _ => Err("expected batch x prompt tokens x new tokens: 4x128x16".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &str) -> Args {
        Args::try_parse_from(format!("task {words}").split(' ')).unwrap()
    }

    fn cells(words: &str) -> Vec<(String, Vec<String>)> {
        let cells = args(words).cells().unwrap();
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
    fn a_gpu_has_other_defaults() {
        let cpu = args("layers");
        assert_eq!((cpu.rounds().get(), cpu.cells().unwrap().len()), (3, 6));
        let gpu = args("layers --device cuda:1");
        assert_eq!((gpu.rounds().get(), gpu.cells().unwrap().len()), (1, 5));
        let words = ["--device", "cuda:1", "--time", "0.2"].map(OsString::from);
        assert!(gpu.own_arguments().ends_with(&words));
        let arguments = gpu.transformers_arguments(Peer::Transformers);
        assert!(arguments.ends_with(&words[2..]));
        assert!(arguments.contains(&"none,default,max-autotune-no-cudagraphs".into()));
        let gpu = args("layers --device cuda --skip compile");
        assert!(gpu.transformers_arguments(Peer::Transformers).contains(&"none".into()));
    }

    #[test]
    fn a_model_is_one_cell_named_after_its_folder() {
        let cells = cells("models --model some/folder/olmoe --prompt-tokens 16 --new-tokens 8");
        let [(title, arguments)] = cells.as_slice() else { panic!("{cells:?}") };
        assert_eq!(title, "olmoe");
        assert_eq!(arguments, &["--prompt-tokens", "16", "--new-tokens", "8"]);
    }

    #[test]
    fn generations_of_a_batch_and_length_share_a_process_of_ours() {
        let args = args("models --model m --generations 1x16x64,1x128x64,4x128x16");
        let [cell] = &args.cells().unwrap()[..] else { panic!("one model is one cell") };
        assert_eq!(cell.arguments, ["--generations", "1x16x64,1x128x64,4x128x16"]);
        let own: Vec<String> = cell.own_arguments.iter().map(|words| words.join(" ")).collect();
        let expected = [
            "--batch 1 --prompt-tokens 16,128 --new-tokens 64",
            "--batch 4 --prompt-tokens 128 --new-tokens 16",
        ];
        assert_eq!(own, expected);
        assert!("4x128".parse::<Generation>().is_err());
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
            let error = Args::try_parse_from(["task", subject]).unwrap_err();
            assert!(error.to_string().contains("--model"), "{error}");
        }
    }

    #[test]
    fn targets_are_of_records() {
        let Some(Task::Targets { records }) = args("targets a.json b.json").task else { panic!() };
        assert_eq!(records.len(), 2);
        assert!(args("layers --tokens 1").task.is_none());
    }
}
