//! Text out: one forward for the prompts, then one for each token.

pub(crate) mod options;
mod sampler;
mod text;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use moexperts_core::{Batch, Span};

use self::{
    options::{GenerateOptions, ResolvedOptions},
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

/// One new token of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// Which prompt it continues.
    pub sequence: usize,
    /// The token.
    pub token: u32,
    /// Text that is now certain: whole characters, and nothing that could be the beginning of a
    /// stop string. Empty for models without a tokenizer.
    pub text: String,
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
    /// The model's last position.
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
    new_tokens: usize,
    sampler: Sampler,
    text: Option<TextStream<'a>>,
    finished: bool,
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
    /// For an option out of range, an empty prompt, or one longer than the model's context.
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
        let options = options.resolve(self.generation_config())?;
        self.check_session(&session)?;
        if session.sequences() != prompts.len() {
            let (expected, got) = (session.sequences().to_string(), prompts.len().to_string());
            return Err(Error::Option { option: "prompts", got, expected });
        }
        let mut sequences = Vec::with_capacity(prompts.len());
        for (index, prompt) in prompts.into_iter().enumerate() {
            let prompt = self.begin(&mut session, index, prompt.into(), &options)?;
            sequences.push(Sequence {
                prompt,
                new_tokens: 0,
                sampler: Sampler::new(&options, index as u64),
                text: self.tokenizer().map(|t| TextStream::new(t, &options.stop_strings)),
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
            stats: GenerationStats::default(),
            buffers: Buffers::default(),
        })
    }

    /// Checks a prompt and makes a sequence of a session ready for it: what the two do not share is
    /// forgotten, and memory for the new tokens is allocated.
    fn begin(
        &self,
        session: &mut Session,
        sequence: usize,
        mut prompt: Prompt,
        options: &ResolvedOptions,
    ) -> Result<Prompt> {
        let tokens = prompt.tokens();
        if tokens.is_empty() {
            let (got, expected) = ("empty".to_owned(), "at least one token".to_owned());
            return Err(Error::Option { option: "prompt", got, expected });
        }
        check_context(self.spec(), tokens.len())?;
        let limit = self.spec().vocab_size;
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= limit) {
            let (what, index) = ("token id", id as usize);
            return Err(moexperts_core::Error::OutOfRange { what, index, limit }.into());
        }
        let tokens = tokens.len();
        let mut start = session.shared(sequence, &prompt);
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
        let context = self.spec().max_position_embeddings;
        let positions = (tokens + options.max_new_tokens.min(RESERVED)).min(context);
        self.runner().reserve(&mut *session.memory, sequence, positions)?;
        session.read[sequence].reserve(positions);
        prompt.reserve(positions);
        Ok(prompt)
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
            let context = self.model.spec().max_position_embeddings;
            let event = sequence.advance(span.sequence, logits, &self.options, context)?;
            self.events.push_back(event);
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
        context: usize,
    ) -> Result<Event> {
        let token = self.sampler.next_token(logits, self.prompt.tokens())?;
        self.prompt.push(token);
        self.new_tokens += 1;
        let mut event = Event { sequence: index, token, text: String::new(), finish: None };
        let ends = options.eos_token_id.contains(&token);
        if ends {
            event.finish = Some(FinishReason::EndOfSequence);
        } else if let Some(text) = &mut self.text {
            let step = text.push(token)?;
            event.text = step.text;
            if step.stopped {
                event.finish = Some(FinishReason::StopString);
            }
        }
        if event.finish.is_none() {
            if self.new_tokens >= options.max_new_tokens {
                event.finish = Some(FinishReason::MaxNewTokens);
            } else if self.prompt.tokens().len() > context {
                event.finish = Some(FinishReason::Context);
            }
        }
        if event.finish.is_some() {
            self.finished = true;
            if let Some(text) = self.text.take()
                && event.finish != Some(FinishReason::StopString)
            {
                event.text.push_str(&text.finish());
            }
        }
        Ok(event)
    }
}
