//! Everything a model is made of, from a folder or from the program itself.

use std::{collections::BTreeMap, fs, io, path::Path, sync::Arc};

use moexperts_core::Storage;
use serde::Deserialize;

use crate::{
    chat_template,
    checkpoint::{Checkpoint, require_folder},
    config::Config,
    error::{Error, Result},
    json,
    warnings::Warnings,
};

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const ADDED_TOKENS: &str = "added_tokens.json";
const VOCAB: &str = "vocab.json";
pub(crate) const MERGES: &str = "merges.txt";
/// Tokenizers of other formats, which transformers converts.
pub(crate) const OTHER_TOKENIZERS: [&str; 4] =
    ["tokenizer.model", "tekken.json", "tiktoken.model", "spiece.model"];
pub(crate) const CHAT_TEMPLATE: &str = "chat_template.jinja";
const CHAT_TEMPLATE_JSON: &str = "chat_template.json";
/// The folder of templates with other names than `default`.
pub(crate) const ADDITIONAL_CHAT_TEMPLATES: &str = "additional_chat_templates";
const PREPROCESSOR_CONFIG: &str = "preprocessor_config.json";
const VIDEO_PREPROCESSOR_CONFIG: &str = "video_preprocessor_config.json";
const PROCESSOR_CONFIG: &str = "processor_config.json";
const EMBEDDED_WEIGHTS: &str = "model.safetensors";

/// The files of a model, opened; only `config.json` and the weights must be there.
#[derive(Debug)]
#[non_exhaustive]
pub struct ModelFiles {
    /// Where they came from, for messages: a folder, or the name of an embedded model.
    pub origin: String,
    /// `config.json`.
    pub config: Config,
    /// `generation_config.json`.
    pub generation_config: Option<Config>,
    /// The bytes of `tokenizer.json`.
    pub tokenizer: Option<Vec<u8>>,
    /// `vocab.json`: token ids by text, for a model without `tokenizer.json`.
    pub vocab: Option<Config>,
    /// The text of `merges.txt`, which goes with `vocab.json`.
    pub merges: Option<String>,
    /// Names of tokenizers in formats that are not read, for a model without `tokenizer.json`.
    pub other_tokenizers: Vec<String>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<Config>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<Config>,
    /// `added_tokens.json`: token ids by text.
    pub added_tokens: Option<Config>,
    /// Chat templates by name; the name of a model's only one is `default`. They are
    /// `chat_template.jinja` and the files in `additional_chat_templates`, or else those of
    /// `chat_template.json` or `tokenizer_config.json`.
    pub chat_templates: BTreeMap<String, String>,
    /// `preprocessor_config.json`, or else `image_processor` of `processor_config.json`.
    pub preprocessor_config: Option<Config>,
    /// `video_preprocessor_config.json`, or else `video_processor` of `processor_config.json`.
    pub video_preprocessor_config: Option<Config>,
    /// The weights.
    pub checkpoint: Checkpoint,
    /// Files that cannot be read and that the model does without.
    pub warnings: Warnings,
}

/// The files of a model that was compiled into the program.
#[derive(Debug, Clone)]
pub struct EmbeddedFiles {
    /// The name of the model, for messages.
    pub origin: &'static str,
    /// The text of `config.json`.
    pub config: &'static str,
    /// The text of `generation_config.json`.
    pub generation_config: Option<&'static str>,
    /// The bytes of `tokenizer.json`.
    pub tokenizer: Option<&'static [u8]>,
    /// The text of `tokenizer_config.json`.
    pub tokenizer_config: Option<&'static str>,
    /// The text of `chat_template.jinja`.
    pub chat_template: Option<&'static str>,
    /// The weights, one safetensors file; see [`StaticBytes`].
    pub safetensors: Arc<dyn Storage>,
}

impl ModelFiles {
    /// What a model needs at least; further files are added to the fields.
    pub fn new(origin: impl Into<String>, config: Config, checkpoint: Checkpoint) -> Self {
        Self {
            origin: origin.into(),
            config,
            checkpoint,
            generation_config: None,
            tokenizer: None,
            vocab: None,
            merges: None,
            other_tokenizers: Vec::new(),
            tokenizer_config: None,
            special_tokens_map: None,
            added_tokens: None,
            chat_templates: BTreeMap::new(),
            preprocessor_config: None,
            video_preprocessor_config: None,
            warnings: Warnings::default(),
        }
    }

    /// Opens the files of a folder.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder or a file in it cannot be read, [`Error::Config`] if a JSON file
    /// is broken, and the errors of [`Checkpoint::open`].
    pub fn open(folder: &Path) -> Result<Self> {
        require_folder(folder)?;
        let parsed = |file: &str| -> Result<Option<Config>> {
            read_text(&folder.join(file))?.map(|text| Config::parse(file, &text)).transpose()
        };
        let config = parsed(CONFIG)?.ok_or_else(|| no_config(folder))?;
        let tokenizer_config = parsed(TOKENIZER_CONFIG)?;
        let mut chat_templates = template_files(folder)?;
        for config in [&parsed(CHAT_TEMPLATE_JSON)?, &tokenizer_config].into_iter().flatten() {
            if chat_templates.is_empty() {
                chat_templates = templates_of(config)?;
            }
        }
        let processor_config = parsed(PROCESSOR_CONFIG)?;
        let own_or_sub = |file: &str, key: &str| -> Result<Option<Config>> {
            match (parsed(file)?, &processor_config) {
                (None, Some(processor)) => processor.sub(key),
                (own, _) => Ok(own),
            }
        };
        let mut warnings = Warnings::default();
        // The model generates without it, as in transformers.
        let generation_config = parsed(GENERATION_CONFIG).unwrap_or_else(|error| {
            warnings.push(format_args!(
                "{}; it is not used, the end tokens of {CONFIG} count",
                in_full(&error)
            ));
            None
        });
        let tokenizer = read(&folder.join(TOKENIZER))?;
        let (mut vocab, mut merges, mut other_tokenizers) = (None, None, Vec::new());
        if tokenizer.is_none() {
            (vocab, merges) = (parsed(VOCAB)?, read_text(&folder.join(MERGES))?);
            let there = OTHER_TOKENIZERS.into_iter().filter(|file| folder.join(file).is_file());
            other_tokenizers = there.map(str::to_owned).collect();
        }
        Ok(Self {
            origin: folder.display().to_string(),
            config,
            generation_config,
            tokenizer,
            vocab,
            merges,
            other_tokenizers,
            chat_templates,
            tokenizer_config,
            special_tokens_map: parsed(SPECIAL_TOKENS_MAP)?,
            added_tokens: parsed(ADDED_TOKENS)?,
            preprocessor_config: own_or_sub(PREPROCESSOR_CONFIG, "image_processor")?,
            video_preprocessor_config: own_or_sub(VIDEO_PREPROCESSOR_CONFIG, "video_processor")?,
            checkpoint: Checkpoint::open(folder)?,
            warnings,
        })
    }

    /// Takes the files from the program.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Checkpoint`] if what was embedded is broken.
    pub fn from_parts(parts: EmbeddedFiles) -> Result<Self> {
        let parsed = |file, text: Option<&str>| -> Result<Option<Config>> {
            text.map(|text| Config::parse(file, text)).transpose()
        };
        let tokenizer_config = parsed(TOKENIZER_CONFIG, parts.tokenizer_config)?;
        let chat_templates = match (parts.chat_template, &tokenizer_config) {
            (Some(template), _) => one_template(template),
            (None, Some(config)) => templates_of(config)?,
            (None, None) => BTreeMap::new(),
        };
        let config = Config::parse(CONFIG, parts.config)?;
        let checkpoint = Checkpoint::from_storage(EMBEDDED_WEIGHTS, parts.safetensors)?;
        Ok(Self {
            generation_config: parsed(GENERATION_CONFIG, parts.generation_config)?,
            tokenizer: parts.tokenizer.map(<[u8]>::to_vec),
            chat_templates,
            tokenizer_config,
            ..Self::new(parts.origin, config, checkpoint)
        })
    }
}

/// A constant of the program as weights.
///
/// `include_bytes!` promises no alignment, and weights that are not aligned are copied to memory
/// where they are used. Put the bytes into a type that is aligned for them:
///
/// ```
/// use moexperts::files::StaticBytes;
///
/// #[repr(C, align(64))]
/// struct Aligned<T: ?Sized>(T);
///
/// // `*include_bytes!("model.safetensors")` in a real program.
/// static WEIGHTS: &Aligned<[u8]> = &Aligned(*b"weights");
/// let storage = StaticBytes::new(&WEIGHTS.0);
/// ```
pub struct StaticBytes(&'static [u8]);

impl StaticBytes {
    /// Wraps the constant.
    pub const fn new(bytes: &'static [u8]) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for StaticBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StaticBytes({} bytes)", self.0.len())
    }
}

impl Storage for StaticBytes {
    fn bytes(&self) -> &[u8] {
        self.0
    }
}

fn one_template(template: impl Into<String>) -> BTreeMap<String, String> {
    BTreeMap::from([(chat_template::DEFAULT.to_owned(), template.into())])
}

/// The templates that are files. They go before those in JSON files, as in transformers.
fn template_files(folder: &Path) -> Result<BTreeMap<String, String>> {
    let template = read_text(&folder.join(CHAT_TEMPLATE))?;
    let mut templates = template.map_or_else(BTreeMap::new, one_template);
    let additional = folder.join(ADDITIONAL_CHAT_TEMPLATES);
    let entries = match fs::read_dir(&additional) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(templates),
        entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    for entry in entries.map_err(|source| Error::Io { path: additional, source })? {
        let path = entry.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        let is_template = path.extension().is_some_and(|extension| extension == "jinja");
        if let (Some(name), true) = (name, is_template)
            && let Some(template) = read_text(&path)?
        {
            templates.insert(name.to_owned(), template);
        }
    }
    Ok(templates)
}

/// The templates of `tokenizer_config.json` or `chat_template.json`: one, a list of named ones, or an
/// object of them.
fn templates_of(config: &Config) -> Result<BTreeMap<String, String>> {
    const KEY: &str = "chat_template";
    #[derive(Deserialize)]
    struct Named {
        name: String,
        template: String,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Templates {
        One(String),
        List(Vec<Named>),
        Object(BTreeMap<String, String>),
    }
    let templates = config.optional(KEY).map_err(|_| {
        config.refused(KEY, "a string or a list of objects with `name` and `template`")
    })?;
    Ok(match templates {
        None => BTreeMap::new(),
        Some(Templates::One(template)) => one_template(template),
        Some(Templates::List(list)) => {
            list.into_iter().map(|named| (named.name, named.template)).collect()
        }
        Some(Templates::Object(templates)) => templates,
    })
}

/// An error with what the system said.
fn in_full(error: &Error) -> String {
    match error {
        Error::Io { source, .. } => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

fn no_config(folder: &Path) -> Error {
    let source = io::Error::new(io::ErrorKind::NotFound, "no such file");
    Error::Io { path: folder.join(CONFIG), source }
}

fn read_text(path: &Path) -> Result<Option<String>> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    let text = json::text(&bytes).map_err(|problem| {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Error::Config { file, problem }
    })?;
    Ok(Some(text.to_owned()))
}

/// The bytes of a file, `None` if there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn templates(json: &str) -> Result<Vec<(String, String)>> {
        let templates = templates_of(&Config::parse(TOKENIZER_CONFIG, json).unwrap())?;
        Ok(templates.into_iter().collect())
    }

    fn named(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|&(name, template)| (name.to_owned(), template.to_owned())).collect()
    }

    #[test]
    fn templates_of_a_json_file_have_names() {
        let list = r#"{"chat_template": [{"name": "rag", "template": "r"},
            {"name": "default", "template": "first"}, {"name": "default", "template": "d"}]}"#;
        let object = r#"{"chat_template": {"rag": "r", "default": "d"}}"#;
        for json in [list, object] {
            assert_eq!(templates(json).unwrap(), named(&[("default", "d"), ("rag", "r")]));
        }
        assert_eq!(templates(r#"{"chat_template": "d"}"#).unwrap(), named(&[("default", "d")]));
        for json in [r#"{"chat_template": []}"#, r#"{"chat_template": null}"#, "{}"] {
            assert_eq!(templates(json).unwrap(), []);
        }
        assert_eq!(
            templates(r#"{"chat_template": 5}"#).unwrap_err().to_string(),
            "tokenizer_config.json: key `chat_template` is 5, expected a string or a list of \
             objects with `name` and `template`"
        );
    }

    #[test]
    fn templates_that_are_files_go_before_those_in_json_files() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
        let templates = || {
            let files = ModelFiles::open(folder.path()).unwrap();
            files.chat_templates.into_iter().collect::<Vec<_>>()
        };
        write(CONFIG, "{}");
        write("model.safetensors", "\x02\0\0\0\0\0\0\0{}");
        assert_eq!(templates(), []);
        write(TOKENIZER_CONFIG, r#"{"chat_template": [{"name": "rag", "template": "r"}]}"#);
        assert_eq!(templates(), named(&[("rag", "r")]));
        write(CHAT_TEMPLATE_JSON, r#"{"chat_template": "of json"}"#);
        assert_eq!(templates(), named(&[("default", "of json")]));
        write(CHAT_TEMPLATE, "of file");
        assert_eq!(templates(), named(&[("default", "of file")]));
        fs::create_dir(folder.path().join(ADDITIONAL_CHAT_TEMPLATES)).unwrap();
        write("additional_chat_templates/tool_use.jinja", "t");
        write("additional_chat_templates/README.md", "no template");
        assert_eq!(templates(), named(&[("default", "of file"), ("tool_use", "t")]));
        fs::remove_file(folder.path().join(CHAT_TEMPLATE)).unwrap();
        assert_eq!(templates(), named(&[("tool_use", "t")]));
    }

    #[test]
    fn opens_a_model_from_the_program() {
        #[repr(align(8))]
        struct Aligned<const LEN: usize>([u8; LEN]);
        static WEIGHTS: Aligned<10> = Aligned(*b"\x02\0\0\0\0\0\0\0{}");
        let parts = EmbeddedFiles {
            origin: "tiny",
            config: r#"{"hidden_size": 8}"#,
            generation_config: None,
            tokenizer: Some(b"{}"),
            tokenizer_config: Some(r#"{"chat_template": "t"}"#),
            chat_template: None,
            safetensors: Arc::new(StaticBytes::new(&WEIGHTS.0)),
        };
        let files = ModelFiles::from_parts(parts.clone()).unwrap();
        assert_eq!(files.config.required::<usize>("hidden_size").unwrap(), 8);
        assert_eq!(files.chat_templates, one_template("t"));
        assert_eq!(files.tokenizer.as_deref(), Some(b"{}".as_slice()));
        assert_eq!(files.checkpoint.size_bytes(), 10);

        let broken = EmbeddedFiles { config: "", ..parts };
        assert_eq!(
            ModelFiles::from_parts(broken).unwrap_err().to_string(),
            "config.json: broken JSON: EOF while parsing a value at line 1 column 0"
        );
    }
}
