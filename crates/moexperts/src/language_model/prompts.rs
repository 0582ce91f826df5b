//! What a model reads: pictures made ready, texts and conversations as tokens.

use super::{front::LanguageModel, runner::text_only};
use crate::{
    chat_template::{ChatOptions, ChatTemplate, Message},
    error::{Error, Result},
    image_processor::Image,
    multimodal::Processors,
    prompt::{Prompt, Visual},
    tokenizer::Tokenizer,
};

impl LanguageModel {
    /// An image, resized and cut into patches as the model's `preprocessor_config.json` says.
    ///
    /// # Errors
    /// [`Error::TextOnly`] if the model reads text only, [`Error::Image`] if the image is too long
    /// for its width or beyond the pixel limit.
    pub fn prepare_image(&self, image: &Image) -> Result<Visual> {
        self.require_processors()?.prepare_image(image)
    }

    /// A video of frames of one size, each at its `timestamps` in seconds.
    ///
    /// # Errors
    /// As [`prepare_image`](Self::prepare_image), and for frames that do not fit together.
    pub fn prepare_video(&self, frames: &[Image], timestamps: &[f64]) -> Result<Visual> {
        self.require_processors()?.prepare_video(frames, timestamps)
    }

    /// Token ids of a prompt, with the special tokens the model expects around it.
    ///
    /// # Errors
    /// If the model has no tokenizer or the text cannot be encoded.
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        self.require_tokenizer()?.encode(prompt, true)
    }

    /// A text and the pictures its placeholders stand for (`<|image_pad|>` for an image,
    /// `<|video_pad|>` for a video), in the order of each kind.
    ///
    /// - `add_special_tokens`: whether to add those that begin or end a text; chat templates write
    ///   them themselves
    ///
    /// # Errors
    /// [`Error::Placeholders`] if there are more or fewer placeholders than pictures,
    /// [`Error::TextOnly`] for pictures if the model reads text only, [`Error::Tokenizer`] if it
    /// has no tokenizer.
    pub fn prompt(
        &self,
        text: &str,
        visuals: Vec<Visual>,
        add_special_tokens: bool,
    ) -> Result<Prompt> {
        let tokenizer = self.require_tokenizer()?;
        let (text, visuals) = match &self.processors {
            Some(processors) => processors.expand(text, visuals)?,
            None => (text.to_owned(), visuals),
        };
        self.prompt_of_tokens(tokenizer.encode(&text, add_special_tokens)?, visuals)
    }

    /// A conversation, and the pictures its parts stand for, in the order of each kind.
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt) and [`require_chat_template`](Self::require_chat_template);
    /// [`Error::Tokenizer`] if the template is broken or refuses the conversation.
    pub fn chat_prompt(
        &self,
        messages: &[Message],
        visuals: Vec<Visual>,
        options: &ChatOptions,
    ) -> Result<Prompt> {
        let template = self.require_chat_template()?;
        // The template writes the special tokens itself.
        self.prompt(&template.render(messages, options)?, visuals, false)
    }

    /// Token ids and the pictures that some of them stand for: a placeholder for each row of each
    /// picture, see [`Prompt::new`].
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt), but that no tokenizer is needed.
    pub fn prompt_of_tokens(&self, tokens: Vec<u32>, visuals: Vec<Visual>) -> Result<Prompt> {
        match &self.processors {
            Some(processors) => Prompt::new(tokens, visuals, processors.spec()),
            None if visuals.is_empty() => Ok(tokens.into()),
            None => Err(text_only(self.origin(), self.spec())),
        }
    }

    /// What stands for a picture in a text: `<|image_pad|>`, `<|video_pad|>`.
    ///
    /// # Errors
    /// [`Error::TextOnly`] if the model reads text only, [`Error::Tokenizer`] if it has no
    /// tokenizer.
    pub fn placeholder(&self, visual: &Visual) -> Result<String> {
        self.require_tokenizer()?;
        Ok(self.require_processors()?.placeholder(visual).unwrap_or_default())
    }

    /// The model's chat template.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the model came without one; [`Error::NotBuilt`] without the feature
    /// `chat-template`.
    pub fn require_chat_template(&self) -> Result<&ChatTemplate> {
        self.chat_template().ok_or_else(|| match cfg!(feature = "chat-template") {
            true => Error::Tokenizer {
                file: self.origin().to_owned(),
                problem: "the model has no chat template".to_owned(),
            },
            false => Error::not_built("a conversation", "chat-template"),
        })
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if it came without one.
    pub(crate) fn require_tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer().ok_or_else(|| match cfg!(feature = "tokenizer") {
            true => Error::Tokenizer {
                file: self.origin().to_owned(),
                problem: "missing tokenizer.json, which turns text into token ids".to_owned(),
            },
            false => Error::not_built("text", "tokenizer"),
        })
    }

    fn require_processors(&self) -> Result<&Processors> {
        self.processors.as_ref().ok_or_else(|| text_only(self.origin(), self.spec()))
    }
}
