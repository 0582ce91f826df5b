//! The command line of generating text.

use moexperts::GenerateOptions;

/// How text is generated. What is not given is as the model's generation_config.json says.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Generation")]
pub(crate) struct GenerationArgs {
    /// The most tokens to generate; by default as the model says, else 128 (512 in a chat).
    #[arg(long, value_name = "N")]
    pub(crate) max_new_tokens: Option<usize>,

    /// Draws tokens at random instead of taking the most likely; by default as the model
    /// says, else false. --temperature above 0, --top-k, --top-p and --min-p turn it on.
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    do_sample: Option<bool>,

    /// Divides the logits before a draw: below 1 favours likely tokens, 0 takes the most likely;
    /// 1 by default.
    #[arg(long, value_name = "X")]
    temperature: Option<f32>,

    /// Draws among the N most likely tokens; 50 by default, 0 is off.
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,

    /// Draws among the fewest tokens that have probability P together; 1 by default, which is off.
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,

    /// Draws among tokens at least P times as likely as the most likely; 0 by default, which is
    /// off.
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,

    /// Makes tokens that were there before less likely, above 1; 1 by default, which is off.
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f32>,

    /// Repeats the draws of an earlier run; a fresh one each time by default.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Ends the text where this string appears, which is not shown; may be given several times.
    #[arg(long, value_name = "STRING")]
    stop: Vec<String>,

    /// Goes on past the tokens that end a text; off by default.
    #[arg(long)]
    ignore_eos: bool,

    /// Writes with the backend that reads the prompt; by default a GPU runs the experts on
    /// `grouped_mm` as `batched_mm` while it writes.
    #[arg(long)]
    no_decode_switch: bool,
}

impl GenerationArgs {
    pub(crate) fn options(&self) -> GenerateOptions {
        GenerateOptions {
            max_new_tokens: self.max_new_tokens,
            do_sample: self.do_sample,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            stop_strings: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            decode_switch: !self.no_decode_switch,
            ..GenerateOptions::default()
        }
    }
}
