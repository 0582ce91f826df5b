//! The command line.

mod compile;
mod conversation;
mod generation;

use std::{num::NonZero, path::PathBuf};

use clap::{Parser, Subcommand};
use moexperts::{ExpertsImplementation, GenerateOptions};
use moexperts_bench::args::{BenchCommand, LoadArgs, SourceArgs};

pub(crate) use self::{
    compile::CompileArgs,
    conversation::{PromptArgs, TemplateArgs},
    generation::GenerationArgs,
};

/// Generates text with Mixture-of-Experts models on swappable experts backends.
///
/// Without --model a small model that is part of the program is used, so every command works at
/// once and without a network.
#[derive(Debug, Parser)]
#[command(
    name = "moexperts",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  moexperts generate \"The borrow checker\"
  moexperts chat --model Qwen/Qwen1.5-MoE-A2.7B-Chat --experts-implementation grouped_mm
  moexperts inspect

`moexperts help COMMAND` explains a command and all its flags."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Logs what happens to standard error; twice logs more. RUST_LOG goes first.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
}

/// What the program is to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Generate(GenerateArgs),
    Chat(ChatArgs),
    Logits(LogitsArgs),
    Tokenize(TokenizeArgs),
    Inspect(InspectArgs),
    /// Measures the experts backends, on a layer or in a model.
    #[command(subcommand)]
    Bench(BenchCommand),
}

/// Continues a text.
///
/// The new text goes to standard output as it comes, a summary of time and memory to standard
/// error.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  moexperts generate \"The borrow checker\"
  moexperts generate --chat --model Qwen/Qwen1.5-MoE-A2.7B-Chat \"What is a lifetime?\"
  moexperts generate --temperature 0.8 --top-p 0.9 --seed 7 --max-new-tokens 64 < prompt.txt
  moexperts generate --experts-implementation eager --dtype bf16 \"Once\" 2> summary.txt
  moexperts generate --compile max-autotune \"Ownership\"
  moexperts generate --device cuda:1 \"Ownership\"
  moexperts generate --system \"Be brief.\" --template-arg enable_thinking=false \"What is a lifetime?\"
  moexperts generate --messages conversation.json --tools tools.json --json
  moexperts generate --model Qwen/Qwen3-VL-30B-A3B-Instruct --image cat.png \"What is this?\"")]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,

    /// Writes one JSON object instead of the text: the text, its token ids, why it ended, times and
    /// the experts backend.
    #[arg(long)]
    pub(crate) json: bool,

    /// Writes the log-probability of each new token and of the N most likely ones in its place, before
    /// penalties and temperature; with --json.
    #[arg(long, value_name = "N", requires = "json")]
    logprobs: Option<usize>,

    #[command(flatten)]
    pub(crate) pictures: PictureArgs,

    #[command(flatten)]
    pub(crate) model: ModelArgs,

    #[command(flatten)]
    pub(crate) compile: CompileArgs,

    #[command(flatten)]
    pub(crate) generation: GenerationArgs,
}

impl GenerateArgs {
    pub(crate) fn options(&self) -> GenerateOptions {
        GenerateOptions { logprobs: self.logprobs, ..self.generation.options() }
    }
}

/// The pictures of a prompt.
///
/// Without its own placeholders (`<|image_pad|>`) the prompt is put into the chat template,
/// after the pictures.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Pictures")]
pub(crate) struct PictureArgs {
    /// An image (PNG, JPEG or WebP) for a multimodal model; may be given several times. A prompt
    /// without its own placeholders is put into the chat template, after the images.
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Vec<PathBuf>,

    /// A frame of a video, an image; given as often as the video has frames.
    #[arg(long, value_name = "FILE")]
    pub(crate) frame: Vec<PathBuf>,

    /// Frames a second that --frame gives; 2 by default.
    #[arg(long, value_name = "FPS", requires = "frame", value_parser = frames_per_second)]
    pub(crate) fps: Option<f64>,
}

fn frames_per_second(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(fps) if fps > 0.0 && fps.is_finite() => Ok(fps),
        _ => Err("expected a positive number".to_owned()),
    }
}

/// Talks with a model.
///
/// Each line is a message; what the model has read and written is kept from turn to turn. A model
/// without a chat template continues the lines as plain text.
///
/// Ctrl-C stops an answer, Ctrl-D ends the conversation. Lines that begin with `/` are commands:
/// /image FILE, /experts [NAME], /reset, /help, /quit.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  moexperts chat
  moexperts chat --model ./Qwen1.5-MoE-A2.7B-Chat --threads 8 --system \"Be brief.\"
  printf 'Hello\\n/experts eager\\nAnd now?\\n' | moexperts chat
  printf '/image cat.png\\nWhat is this?\\n' | moexperts chat --model Qwen/Qwen3-VL-30B-A3B-Instruct")]
pub(crate) struct ChatArgs {
    /// A JSON file with the conversation so far, as for `generate`.
    #[arg(long, value_name = "FILE.json", help_heading = "Conversation")]
    pub(crate) messages: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) template: TemplateArgs,

    #[command(flatten)]
    pub(crate) model: ModelArgs,

    #[command(flatten)]
    pub(crate) compile: CompileArgs,

    #[command(flatten)]
    pub(crate) generation: GenerationArgs,
}

/// Writes the logits of a sequence to a file.
///
/// The file holds `logits` [T, V] in f32: after each of the T tokens, a number for each of the V
/// tokens that could come next; the tokens, `input_ids` [T]; and of images their `pixel_values`
/// [patches, values of a patch] and `image_grid_thw` [images, 3].
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  moexperts logits --token-ids 1,2,3 --output logits.safetensors
  moexperts logits --model ./olmoe --dtype f32 --experts-implementation batched_mm \\
      --token-ids 510,5135 --output batched.safetensors
  moexperts logits --model ./qwen3-vl --image cat.png --output seen.safetensors \\
      --prompt \"<|vision_start|><|image_pad|><|vision_end|>What is this?\"")]
#[command(group = clap::ArgGroup::new("input").required(true))]
pub(crate) struct LogitsArgs {
    /// The token ids, separated by commas; with images, a placeholder for each of their rows.
    #[arg(long, value_name = "IDS", value_delimiter = ',', group = "input")]
    pub(crate) token_ids: Vec<u32>,

    /// The text, as it is, outside any chat template; with images, a placeholder for each.
    #[arg(
        long,
        value_name = "TEXT",
        group = "input",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub(crate) prompt: Option<String>,

    /// An image (PNG, JPEG or WebP) for the next placeholder; may be given several times.
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Vec<PathBuf>,

    /// The safetensors file to write; replaced in one step if it exists.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

/// Shows the tokens that a model reads of a text or of a conversation.
///
/// A line for each token: its id, its piece as the vocabulary writes it, and the text it stands for where
/// that differs.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  moexperts tokenize \"The borrow checker\"
  moexperts tokenize --chat --system \"Be brief.\" \"What is a lifetime?\"
  moexperts tokenize --messages conversation.json --json")]
pub(crate) struct TokenizeArgs {
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,

    /// Writes one JSON object: the text, and of each token its id, how the vocabulary writes it, the text it
    /// stands for, its bytes in the text and whether it is special.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// Shows the machine, its devices, the experts backends, the kernels and a model.
///
/// The memory bandwidth is measured, which takes a second; with the bytes a model reads for one
/// token it bounds the tokens per second of a single sequence.
///
/// With --compile the plans are shown too: their pieces, what breaks them, and for each operation its
/// kernel, the bytes of its weights and the floating point operations of its products. Of experts
/// those count that are hit if all are as likely.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  moexperts inspect
  moexperts inspect --model ./Qwen1.5-MoE-A2.7B --threads 4
  moexperts inspect --compile default --prompt-tokens 512 --batch 4
  MOEXPERTS_ISA=avx2 moexperts inspect")]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    #[command(flatten)]
    pub(crate) compile: CompileArgs,

    /// Tokens of each prompt that a plan is shown for, separated by commas; 128 by default.
    #[arg(
        long,
        value_name = "COUNTS",
        value_delimiter = ',',
        requires = "compile",
        help_heading = "Compile"
    )]
    pub(crate) prompt_tokens: Vec<NonZero<usize>>,

    /// Sequences that plans are shown for, separated by commas; 1 by default.
    #[arg(
        long,
        value_name = "COUNTS",
        value_delimiter = ',',
        requires = "compile",
        help_heading = "Compile"
    )]
    pub(crate) batch: Vec<NonZero<usize>>,
}

/// Which model, and what runs its experts.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    #[command(flatten)]
    pub(crate) load: LoadArgs,

    /// The backend that runs the experts: `grouped_mm` (the default), `batched_mm`, `eager` or a
    /// registered one; KEY=NAME,KEY=NAME chooses by sub-config of the model.
    #[arg(
        long,
        value_name = "NAME",
        value_parser = str::parse::<ExpertsImplementation>,
        help_heading = "Model"
    )]
    pub(crate) experts_implementation: Option<ExpertsImplementation>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use moexperts::DeviceName;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn sampling_is_chosen_by_a_flag_with_or_without_a_value() {
        let do_sample = |flags: &[&str]| {
            let words = ["moexperts", "generate"].iter().chain(flags).copied().chain(["x"]);
            let Command::Generate(args) = Args::parse_from(words).command else { panic!() };
            assert_eq!(args.prompt.text.as_deref(), Some("x"));
            args.generation.options().do_sample
        };
        assert_eq!(do_sample(&[]), None);
        assert_eq!(do_sample(&["--do-sample"]), Some(true));
        assert_eq!(do_sample(&["--do-sample=false"]), Some(false));
    }

    fn generate(flags: &[&str]) -> GenerateArgs {
        let words = ["moexperts", "generate", "x"].iter().chain(flags).copied();
        let Command::Generate(args) = Args::parse_from(words).command else { panic!() };
        args
    }

    #[test]
    fn the_device_is_any_unless_it_is_named() {
        for (flags, expected) in [
            (&[][..], DeviceName::Auto),
            (&["--device", "auto"], DeviceName::Auto),
            (&["--device", "cpu"], DeviceName::Cpu),
            (&["--device=cuda"], DeviceName::Cuda(0)),
            (&["--device", "cuda:3"], DeviceName::Cuda(3)),
        ] {
            assert_eq!(generate(flags).model.load.device.device, expected, "{flags:?}");
        }
    }

    #[test]
    fn the_decode_switch_can_be_turned_off() {
        assert!(generate(&[]).generation.options().decode_switch);
        assert!(!generate(&["--no-decode-switch"]).generation.options().decode_switch);
    }
}
