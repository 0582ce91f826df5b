//! Text out: one forward for the prompts, then one for each token.

mod candidates;
pub(crate) mod config;
mod logprobs;
pub(crate) mod options;
mod processors;
mod sampler;
mod text;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use moexperts_core::{Batch, Span};

pub use self::logprobs::TokenLogprobs;
use self::{
    logprobs::token_logprobs,
    options::{GenerateOptions, Length, ResolvedOptions},
    processors::Place,
    sampler::Sampler,
    text::TextStream,
};
use crate::{
    error::{Error, Result},
    experts_implementation::Phase,
    language_model::{ForwardInput, LanguageModel, UnreadPrompt, check_context},
    model::LogitsRows,
    prompt::{Position, Prompt},
    session::Session,
};

/// New tokens whose memory is reserved in advance, at most.
const RESERVED: usize = 4096;

/// New tokens where nothing says how many.
const DEFAULT_NEW_TOKENS: usize = 128;

/// One new token of one sequence.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// Which prompt it continues.
    pub sequence: usize,
    /// The token.
    pub token: u32,
    /// Text that is now certain: whole characters, and nothing that could be the beginning of a
    /// stop string. Empty for models without a tokenizer.
    pub text: String,
    /// How likely it was, if [`GenerateOptions::logprobs`] is set.
    pub logprobs: Option<TokenLogprobs>,
    /// Set with the last token of the sequence.
    pub finish: Option<FinishReason>,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// An end-of-sequence token.
    EndOfSequence,
    /// A stop string.
    StopString,
    /// `max_new_tokens` tokens.
    MaxNewTokens,
    /// `max_length` tokens, the prompt's included.
    MaxLength,
    /// `max_time` seconds.
    MaxTime,
    /// The length that the model was trained for, where neither `max_new_tokens` nor `max_length` is
    /// set.
    Context,
}

/// How long a generation took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GenerationStats {
    /// Patches of pictures the vision tower read.
    pub patches: usize,
    /// Time for those.
    pub vision: Duration,
    /// Prompt tokens that were computed (not those a session had).
    pub prompt_tokens: usize,
    /// Time to the first tokens, less that of the vision tower.
    pub prefill: Duration,
    /// Tokens after the first of each sequence.
    pub decoded_tokens: usize,
    /// Time for those.
    pub decode: Duration,
}

/// A generation in progress: an iterator over new tokens.
///
/// Switching the model's experts backend takes effect at the next token.
#[derive(Debug)]
pub struct Generation<'a> {
    model: &'a LanguageModel,
    options: ResolvedOptions,
    session: Session,
    sequences: Vec<Sequence<'a>>,
    events: VecDeque<Event>,
    phase: Phase,
    failed: bool,
    started: Instant,
    stats: GenerationStats,
    buffers: Buffers,
}

/// What the forward in progress reads and writes; the next uses the same memory.
#[derive(Debug, Default)]
struct Buffers {
    batch: Batch,
    ids: Vec<u32>,
    positions: Vec<Position>,
    logits: Vec<f32>,
}

#[derive(Debug)]
struct Sequence<'a> {
    /// The prompt, and the new tokens after it.
    prompt: Prompt,
    /// Tokens of the prompt alone.
    prompt_tokens: usize,
    limit: Limit,
    sampler: Sampler,
    text: Option<TextStream<'a>>,
    finished: bool,
}

/// The most tokens of a sequence, the prompt's included.
#[derive(Debug, Clone, Copy)]
struct Limit {
    tokens: usize,
    /// Why it ends there.
    reason: FinishReason,
}

impl Limit {
    /// That of a prompt of `prompt` tokens.
    fn new(length: Length, prompt: usize, trained: usize) -> Result<Self> {
        Ok(match length {
            Length::New(new) => {
                let tokens = prompt.saturating_add(new);
                Self { tokens, reason: FinishReason::MaxNewTokens }
            }
            Length::Total(tokens) if prompt < tokens => {
                Self { tokens, reason: FinishReason::MaxLength }
            }
            Length::Total(tokens) => {
                let expected = format!(
                    "more than the prompt's {prompt} tokens; `max_new_tokens` counts those after it"
                );
                return Err(Error::Option {
                    option: "max_length",
                    got: tokens.to_string(),
                    expected,
                });
            }
            // A prompt that is longer than what the model was trained for is continued all the same.
            Length::Default
                if (1..DEFAULT_NEW_TOKENS).contains(&trained.saturating_sub(prompt)) =>
            {
                Self { tokens: trained, reason: FinishReason::Context }
            }
            Length::Default => {
                let tokens = prompt + DEFAULT_NEW_TOKENS;
                Self { tokens, reason: FinishReason::MaxNewTokens }
            }
        })
    }
}

impl LanguageModel {
    /// The text that continues `prompt`.
    ///
    /// # Errors
    /// As [`generate_tokens`](Self::generate_tokens), and if the model has no tokenizer.
    pub fn generate(&self, prompt: &str, options: &GenerateOptions) -> Result<String> {
        let mut texts = self.generate_batch(&[prompt], options)?;
        Ok(texts.pop().unwrap_or_default())
    }

    /// The texts that continue several prompts, generated together; each is what it would be
    /// alone.
    ///
    /// # Errors
    /// As [`generate_tokens`](Self::generate_tokens), and if the model has no tokenizer.
    pub fn generate_batch(
        &self,
        prompts: &[&str],
        options: &GenerateOptions,
    ) -> Result<Vec<String>> {
        let encode = |prompt: &&str| self.encode(prompt);
        let prompts = prompts.iter().map(encode).collect::<Result<Vec<_>>>()?;
        self.texts(prompts, options)
    }

    /// The text that continues a prompt, which may hold pictures.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_prompt(&self, prompt: Prompt, options: &GenerateOptions) -> Result<String> {
        self.require_tokenizer()?;
        let mut texts = self.texts(vec![prompt], options)?;
        Ok(texts.pop().unwrap_or_default())
    }

    fn texts(
        &self,
        prompts: Vec<impl Into<Prompt>>,
        options: &GenerateOptions,
    ) -> Result<Vec<String>> {
        let mut texts = vec![String::new(); prompts.len()];
        for event in self.generate_tokens(prompts, options)? {
            let event = event?;
            texts[event.sequence].push_str(&event.text);
        }
        Ok(texts)
    }

    /// Starts a generation from prompts or token ids, one a sequence; they may differ in length.
    ///
    /// # Errors
    /// For an option out of range or an empty prompt; [`Error::Tokenizer`] for stop strings of a model
    /// without a tokenizer.
    pub fn generate_tokens(
        &self,
        prompts: Vec<impl Into<Prompt>>,
        options: &GenerateOptions,
    ) -> Result<Generation<'_>> {
        let session = self.session(prompts.len())?;
        self.continue_tokens(session, prompts, options)
    }

    /// [`generate_tokens`](Self::generate_tokens) with a session of an earlier generation: what
    /// the prompts share with its sequences is not computed again.
    ///
    /// # Errors
    /// As [`generate_tokens`](Self::generate_tokens); [`Error::Option`] for a session of another model.
    pub fn continue_tokens(
        &self,
        mut session: Session,
        prompts: Vec<impl Into<Prompt>>,
        options: &GenerateOptions,
    ) -> Result<Generation<'_>> {
        if !options.stop_strings.is_empty() {
            self.require_tokenizer()?;
        }
        let options = options.resolve(self.generation_config())?;
        self.check_session(&session)?;
        if session.sequences() != prompts.len() {
            let (expected, got) = (session.sequences().to_string(), prompts.len().to_string());
            return Err(Error::Option { option: "prompts", got, expected });
        }
        let mut sequences = Vec::with_capacity(prompts.len());
        for processor in &options.processors {
            processor.check(self.spec().vocab_size)?;
        }
        for (index, prompt) in prompts.into_iter().enumerate() {
            let mut prompt = prompt.into();
            let prompt_tokens = prompt.tokens().len();
            let limit = self.check_prompt(&prompt, &options)?;
            self.begin(&mut session, index, &mut prompt, limit)?;
            let text = |tokenizer| {
                TextStream::new(tokenizer, &options.stop_strings, &prompt.tokens()[..prompt_tokens])
            };
            let text = self.tokenizer().map(text).transpose()?;
            sequences.push(Sequence {
                prompt,
                prompt_tokens,
                limit,
                sampler: Sampler::new(&options, index as u64),
                text,
                finished: false,
            });
        }
        Ok(Generation {
            model: self,
            options,
            session,
            sequences,
            events: VecDeque::new(),
            phase: Phase::Prefill,
            failed: false,
            started: Instant::now(),
            stats: GenerationStats::default(),
            buffers: Buffers::default(),
        })
    }

    /// Checks a prompt; returns how long its sequence may get.
    fn check_prompt(&self, prompt: &Prompt, options: &ResolvedOptions) -> Result<Limit> {
        let tokens = prompt.tokens();
        if tokens.is_empty() {
            let (got, expected) = ("empty".to_owned(), "at least one token".to_owned());
            return Err(Error::Option { option: "prompt", got, expected });
        }
        check_context(tokens.len())?;
        let limit = self.spec().vocab_size;
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= limit) {
            let (what, index) = ("token id", id as usize);
            return Err(moexperts_core::Error::OutOfRange { what, index, limit }.into());
        }
        let limit = Limit::new(options.length, tokens.len(), self.spec().trained_length())?;
        let least = options.processors.iter().filter_map(|processor| processor.least(tokens.len()));
        if let Some(least) = least.max().filter(|&least| least > limit.tokens) {
            tracing::warn!(
                "`min_length` or `min_new_tokens` keep a sequence from ending before {least} tokens, \
                 its length ends it at {}",
                limit.tokens
            );
        }
        Ok(limit)
    }

    /// Makes a sequence of a session ready for a prompt: what the two do not share is forgotten, and
    /// memory for the new tokens is allocated.
    fn begin(
        &self,
        session: &mut Session,
        sequence: usize,
        prompt: &mut Prompt,
        limit: Limit,
    ) -> Result<()> {
        let tokens = prompt.tokens().len();
        let mut start = session.shared(sequence, prompt);
        // A layer with a window has dropped what a token far before the last one sees.
        if !self.runner().can_cut(&mut *session.memory, sequence, start)? {
            tracing::info!(
                sequence,
                held = session.read[sequence].tokens().len(),
                shared = start,
                "a layer does not hold what was read before: the prompt is read again"
            );
            start = 0;
        }
        session.read[sequence].truncate(start);
        // So that a step allocates nothing, up to a bound.
        let positions = limit.tokens.min(tokens + RESERVED);
        self.runner().reserve(&mut *session.memory, sequence, positions)?;
        session.read[sequence].reserve(positions);
        prompt.reserve(positions);
        Ok(())
    }
}

impl Generation<'_> {
    /// How long it took so far.
    pub fn stats(&self) -> GenerationStats {
        self.stats
    }

    /// The tokens of a sequence, its prompt included.
    ///
    /// # Panics
    /// If there is no such sequence.
    pub fn tokens(&self, sequence: usize) -> &[u32] {
        self.sequences[sequence].prompt.tokens()
    }

    /// The session, to continue from.
    pub fn into_session(self) -> Session {
        self.session
    }

    /// One forward over every sequence that goes on, and the tokens it gives.
    fn step(&mut self) -> Result<()> {
        let Buffers { batch, ids, positions, logits } = &mut self.buffers;
        batch.clear();
        ids.clear();
        positions.clear();
        for (index, sequence) in self.sequences.iter().enumerate() {
            if !sequence.finished {
                let prompt = &sequence.prompt;
                let start = self.session.read[index].tokens().len();
                let tokens = start..prompt.tokens().len();
                ids.extend_from_slice(&prompt.tokens()[tokens.clone()]);
                batch.push(Span { sequence: index, start, tokens: tokens.len() });
                positions.extend(tokens.map(|index| prompt.position(index)));
            }
        }
        if batch.spans().is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        let mut unread = batch.rows().map(|(span, rows)| UnreadPrompt {
            prompt: &self.sequences[span.sequence].prompt,
            start: span.start,
            first_row: rows.start,
        });
        let memory = &mut *self.session.memory;
        let patches = self.model.runner().read_pictures(&mut unread, memory)?;
        if patches > 0 {
            self.stats.patches += patches;
            self.stats.vision += start.elapsed();
        }
        let start = Instant::now();
        let phase = if self.options.decode_switch { self.phase } else { Phase::Prefill };
        let input = ForwardInput { ids, batch, positions, logits: LogitsRows::LastOfSpan, phase };
        self.model.runner().forward(input, memory, logits)?;
        let vocab = self.model.spec().vocab_size;
        for (span, logits) in batch.spans().iter().zip(logits.chunks_exact(vocab)) {
            let sequence = &mut self.sequences[span.sequence];
            self.session.read[span.sequence].extend_to(&sequence.prompt);
            let mut event = sequence.advance(span.sequence, logits, &self.options)?;
            let late = |seconds| self.started.elapsed().as_secs_f64() > seconds;
            if event.finish.is_none() && self.options.max_time.is_some_and(late) {
                event.finish = Some(FinishReason::MaxTime);
            }
            sequence.finish(&mut event);
            self.events.push_back(event);
            self.session.warn_past(sequence.prompt.tokens().len(), self.model.spec());
        }
        match self.phase {
            Phase::Prefill => {
                self.stats.prompt_tokens += batch.tokens();
                self.stats.prefill += start.elapsed();
            }
            Phase::Decode => {
                self.stats.decoded_tokens += batch.tokens();
                self.stats.decode += start.elapsed();
            }
        }
        self.phase = Phase::Decode;
        Ok(())
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        if self.events.is_empty()
            && !self.failed
            && let Err(error) = self.step()
        {
            self.failed = true;
            return Some(Err(error));
        }
        self.events.pop_front().map(Ok)
    }
}

impl Sequence<'_> {
    /// Chooses the next token and says what became of the text.
    fn advance(
        &mut self,
        index: usize,
        logits: &[f32],
        options: &ResolvedOptions,
    ) -> Result<Event> {
        let (history, max_length) = (self.prompt.tokens(), self.limit.tokens);
        let token = self
            .sampler
            .next_token(logits, Place { history, prompt: self.prompt_tokens, max_length })?;
        self.prompt.push(token);
        let logprobs = options.logprobs.map(|top| token_logprobs(logits, token, top));
        let mut event =
            Event { sequence: index, token, text: String::new(), logprobs, finish: None };
        if options.eos_token_id.contains(&token) {
            event.finish = Some(FinishReason::EndOfSequence);
        } else if let Some(text) = &mut self.text {
            let step = text.push(token)?;
            event.text = step.text;
            if step.stopped {
                event.finish = Some(FinishReason::StopString);
            }
        }
        if event.finish.is_none() && self.prompt.tokens().len() >= self.limit.tokens {
            event.finish = Some(self.limit.reason);
        }
        Ok(event)
    }

    /// Hands on the rest of the text with the last token.
    fn finish(&mut self, event: &mut Event) {
        if event.finish.is_some() {
            self.finished = true;
            if let Some(text) = self.text.take()
                && event.finish != Some(FinishReason::StopString)
            {
                event.text.push_str(&text.finish());
            }
        }
    }
}
