//! A tokenizer from all files of a model that speak of tokens, as `AutoTokenizer` of transformers
//! builds it.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};
use tokenizers::{
    AddedToken, AddedVocabulary, DecoderWrapper, ModelWrapper, NormalizerWrapper,
    PostProcessorWrapper, PreTokenizerWrapper, Tokenizer, models::bpe::BPE,
};

use super::{
    class::Class,
    declared::{Added, Declared, Sources},
    engine,
};
use crate::{
    config::Config,
    error::{Error, Result},
    files::{ModelFiles, TOKENIZER, TOKENIZER_CONFIG},
    warnings::Warnings,
};

/// How Qwen2 cuts a text before merging.
const QWEN2_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The tokenizer, and the file it came from; `None` if the model has no file of one.
pub(super) fn read(
    files: &ModelFiles,
    warnings: &mut Warnings,
) -> Result<Option<(String, Tokenizer)>> {
    let class = Class::of(files, warnings)?;
    let declared = Declared::read(Sources::of(files), &class, warnings)?;
    let settings = Settings::read(files.tokenizer_config.as_ref())?;
    let (file, mut tokenizer) = match (&files.tokenizer, &files.vocab, &files.merges) {
        (Some(bytes), _, _) => (TOKENIZER, engine::read(TOKENIZER, bytes)?),
        (None, Some(vocab), Some(merges)) if class != Class::AsWritten => {
            (vocab.file(), from_vocabulary(vocab, merges)?)
        }
        _ => return missing(files).map_or(Ok(None), Err),
    };
    let failed = |problem| Error::Tokenizer { file: file.to_owned(), problem };
    let listed = listed(&declared, &tokenizer);
    if class != Class::AsWritten {
        let changed = rebuild(&mut tokenizer, class, &settings).map_err(failed)?;
        if files.tokenizer.is_some() && !changed.is_empty() {
            warnings.push(format_args!(
                "{TOKENIZER}: {} not count, `{}` has its own in transformers; set `tokenizer_class` \
                 of {TOKENIZER_CONFIG} to `PreTrainedTokenizerFast` to use the file's",
                in_words(&changed),
                class.name()
            ));
        }
    }
    let known: HashSet<String> = vocabulary(&tokenizer);
    add(&mut tokenizer, &declared, &listed, class).map_err(failed)?;
    tokenizer.set_encode_special_tokens(settings.split_special_tokens);
    if files.tokenizer.is_none() {
        settings.add_ends(&mut tokenizer, &declared).map_err(failed)?;
    }
    for (id, token) in &listed {
        warn_about_id(&tokenizer, *id, token, warnings);
    }
    for token in declared.specials() {
        let listed = listed.values().any(|known| known.content == token.content);
        if !known.contains(&token.content) && !listed {
            warn_about_new(&tokenizer, &declared, token, warnings);
        }
    }
    settings.warn(&tokenizer, class, &declared, files.tokenizer.is_some(), warnings);
    warn_about_size(&tokenizer, files, warnings);
    Ok(Some((file.to_owned(), tokenizer)))
}

/// The error for a model whose tokenizer has a format that is not read; `None` if it has no tokenizer.
fn missing(files: &ModelFiles) -> Option<Error> {
    let mut there = files.other_tokenizers.clone();
    there.extend(files.vocab.as_ref().map(|file| file.file().to_owned()));
    there.extend(files.merges.as_ref().map(|_| crate::files::MERGES.to_owned()));
    (!there.is_empty()).then(|| Error::Tokenizer {
        file: files.origin.clone(),
        problem: format!(
            "missing {TOKENIZER}; there is {}, which is not read here: convert it in Python with \
             `transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`",
            there.join(", ")
        ),
    })
}

/// Byte pairs of `vocab.json` and `merges.txt`.
fn from_vocabulary(vocab: &Config, merges: &str) -> Result<Tokenizer> {
    let mut ids = ahash_map();
    for (token, id) in vocab.raw() {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        ids.insert(token.clone(), id.ok_or_else(|| vocab.refused(token, "a token id"))?);
    }
    let failed = |problem| Error::Tokenizer { file: crate::files::MERGES.to_owned(), problem };
    let mut pairs = Vec::new();
    for (number, line) in merges.lines().enumerate() {
        if line.starts_with("#version") || line.is_empty() {
            continue;
        }
        let mut tokens = line.split(' ');
        match (tokens.next(), tokens.next(), tokens.next()) {
            (Some(left), Some(right), None) => pairs.push((left.to_owned(), right.to_owned())),
            _ => {
                let problem = format!("line {} is `{line}`, expected two tokens", number + 1);
                return Err(failed(problem));
            }
        }
    }
    let model = BPE::builder().vocab_and_merges(ids, pairs).build();
    Ok(Tokenizer::new(model.map_err(|error| failed(error.to_string()))?))
}

fn ahash_map() -> tokenizers::models::bpe::Vocab {
    Default::default()
}

/// The added tokens by the id that the files give them, those of `tokenizer.json` included unless
/// `tokenizer_config.json` has such a list.
fn listed(declared: &Declared, tokenizer: &Tokenizer) -> BTreeMap<u32, Added> {
    let mut listed = declared.added.clone();
    if !declared.replaces {
        listed.extend(tokenizer.get_added_tokens_decoder().into_iter().map(|(id, token)| {
            let AddedToken { content, lstrip, rstrip, single_word, normalized, special } = token;
            let normalized = Some(normalized);
            (id, Added { content, lstrip, rstrip, single_word, normalized, special })
        }));
    }
    listed
}

/// Adds the listed tokens, then those with a role, in the order in which transformers does: the ids
/// of new ones come from it.
fn add(
    tokenizer: &mut Tokenizer,
    declared: &Declared,
    listed: &BTreeMap<u32, Added>,
    class: Class,
) -> Result<(), String> {
    let present = tokenizer.get_added_tokens_decoder();
    let mut known: HashSet<&str> = present.values().map(|token| token.content.as_str()).collect();
    known.extend(listed.values().map(|token| token.content.as_str()));
    let new = declared.specials().filter(|token| !known.contains(token.content.as_str()));
    let tokens: Vec<_> = listed.values().chain(new).map(|token| added(token, declared)).collect();
    tokenizer.add_tokens(tokens).map_err(|error| error.to_string())?;
    if class == Class::Qwen2 {
        let plain = |token: &Added| added(&Added::special(&token.content), declared);
        let plain: Vec<_> = declared.specials().map(plain).collect();
        tokenizer.add_tokens(plain).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn added(token: &Added, declared: &Declared) -> AddedToken {
    let special = token.special || declared.has_role(&token.content);
    AddedToken {
        content: token.content.clone(),
        lstrip: token.lstrip,
        rstrip: token.rstrip,
        single_word: token.single_word,
        normalized: token.normalized.unwrap_or(!special),
        special,
    }
}

/// Gives the tokenizer the parts that the class has in its code; the names of those that were
/// different.
fn rebuild(
    tokenizer: &mut Tokenizer,
    class: Class,
    settings: &Settings,
) -> Result<Vec<&'static str>, String> {
    let prefix = settings.add_prefix_space.unwrap_or(false);
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": use_regex});
    let normalizer: Option<NormalizerWrapper> = match class {
        Class::Gpt2 => None,
        _ => Some(engine::part(json!({"type": "NFC"}))?),
    };
    let pre_tokenizer: PreTokenizerWrapper = engine::part(match class {
        Class::Qwen2 => json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": QWEN2_PATTERN}, "behavior": "Isolated", "invert": false},
            byte_level(false),
        ]}),
        _ => byte_level(true),
    })?;
    let decoder: DecoderWrapper = engine::part(byte_level(true))?;
    let mut changed = Vec::new();
    let written = |part: Option<Value>| part.map(without_defaults).unwrap_or_default();
    let as_json = |part: serde_json::Result<Value>| part.ok();
    let (old, new) = (tokenizer.get_normalizer(), normalizer.as_ref());
    if old.map(serde_json::to_value).and_then(as_json)
        != new.map(serde_json::to_value).and_then(as_json)
    {
        changed.push("normalizer");
    }
    let old = tokenizer.get_pre_tokenizer().map(serde_json::to_value).and_then(as_json);
    if written(old) != written(as_json(serde_json::to_value(&pre_tokenizer))) {
        changed.push("pre_tokenizer");
    }
    if !matches!(tokenizer.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
        changed.push("decoder");
    }
    let ModelWrapper::BPE(model) = tokenizer.get_model() else {
        return Err(format!("its model is not BPE, which `{}` needs", class.name()));
    };
    let mut model = model.clone();
    if model.ignore_merges
        || model.byte_fallback
        || model.dropout.is_some_and(|dropout| dropout > 0.0)
    {
        changed.push("flags of the model");
    }
    (model.dropout, model.unk_token, model.fuse_unk) = (None, None, false);
    (model.byte_fallback, model.ignore_merges) = (false, false);
    model.continuing_subword_prefix = Some(String::new());
    model.end_of_word_suffix = Some(String::new());
    // Tokens that are added are normalised, so the normaliser goes first.
    tokenizer.with_added_vocabulary(AddedVocabulary::new());
    tokenizer.with_normalizer(normalizer).map_err(|error| error.to_string())?;
    tokenizer.with_model(model).with_pre_tokenizer(Some(pre_tokenizer)).with_decoder(Some(decoder));
    Ok(changed)
}

/// A part without the settings that change offsets only.
fn without_defaults(mut part: Value) -> Value {
    match &mut part {
        Value::Object(object) => {
            object.remove("trim_offsets");
            for value in object.values_mut() {
                *value = without_defaults(value.take());
            }
        }
        Value::Array(parts) => {
            for value in parts {
                *value = without_defaults(value.take());
            }
        }
        _ => {}
    }
    part
}

/// What `tokenizer_config.json` says beside tokens.
#[derive(Default)]
struct Settings {
    add_prefix_space: Option<bool>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    split_special_tokens: bool,
    clean_up: bool,
}

impl Settings {
    fn read(file: Option<&Config>) -> Result<Self> {
        let Some(file) = file else { return Ok(Self::default()) };
        Ok(Self {
            add_prefix_space: file.optional("add_prefix_space")?,
            add_bos_token: file.optional("add_bos_token")?,
            add_eos_token: file.optional("add_eos_token")?,
            split_special_tokens: file.or("split_special_tokens", false)?,
            clean_up: file.or("clean_up_tokenization_spaces", false)?,
        })
    }

    /// The tokens that begin and end a text, where no `tokenizer.json` says so.
    fn add_ends(&self, tokenizer: &mut Tokenizer, declared: &Declared) -> Result<(), String> {
        let end = |wanted: Option<bool>, role: &str| {
            let token = declared.role(role).filter(|_| wanted == Some(true))?;
            Some((token.to_owned(), tokenizer.token_to_id(token)?))
        };
        let begin = end(self.add_bos_token, "bos_token");
        let finish = end(self.add_eos_token, "eos_token");
        let piece =
            |(token, _): &(String, u32)| json!({"SpecialToken": {"id": token, "type_id": 0}});
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        let single: Vec<_> =
            begin.iter().map(piece).chain([text]).chain(finish.iter().map(piece)).collect();
        let special: serde_json::Map<String, Value> = begin
            .iter()
            .chain(&finish)
            .map(|(token, id)| {
                (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}))
            })
            .collect();
        let template: PostProcessorWrapper = engine::part(json!({
            "type": "TemplateProcessing", "single": single,
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": special,
        }))?;
        tokenizer.with_post_processor(Some(template));
        Ok(())
    }

    fn warn(
        &self,
        tokenizer: &Tokenizer,
        class: Class,
        declared: &Declared,
        has_file: bool,
        warnings: &mut Warnings,
    ) {
        let ends = tokenizer.encode_fast("", true);
        let ends = ends.map(|ends| ends.get_ids().to_vec()).unwrap_or_default();
        for (key, said, role) in [
            ("add_bos_token", self.add_bos_token, "bos_token"),
            ("add_eos_token", self.add_eos_token, "eos_token"),
        ] {
            let id = declared.role(role).and_then(|token| tokenizer.token_to_id(token));
            let does = id.is_some_and(|id| ends.contains(&id));
            if let (Some(said), true) = (said, has_file)
                && said != does
                && (said || id.is_some())
            {
                warnings.push(format_args!(
                    "{TOKENIZER_CONFIG}: `{key}` is {said}, which does not count beside {TOKENIZER}: \
                     its `post_processor` {} the token; change that one",
                    if does { "adds" } else { "does not add" }
                ));
            }
        }
        if let (Some(said), Class::AsWritten) = (self.add_prefix_space, class)
            && let Some(does) = adds_prefix_space(tokenizer)
            && said != does
        {
            warnings.push(format_args!(
                "{TOKENIZER_CONFIG}: `add_prefix_space` is {said}, which does not count: the \
                 `pre_tokenizer` of {TOKENIZER} says {does}"
            ));
        }
        if self.clean_up {
            warnings.push(format_args!(
                "{TOKENIZER_CONFIG}: `clean_up_tokenization_spaces` is true, which does not count: \
                 text comes back as the tokens spell it"
            ));
        }
    }
}

/// Whether a text gets a space in front, where the pre-tokenizer has a setting for it.
fn adds_prefix_space(tokenizer: &Tokenizer) -> Option<bool> {
    fn find(part: &Value) -> Option<bool> {
        match part {
            Value::Object(object) => match object.get("add_prefix_space") {
                Some(Value::Bool(adds)) => Some(*adds),
                _ => object.values().find_map(find),
            },
            Value::Array(parts) => parts.iter().find_map(find),
            _ => None,
        }
    }
    find(&serde_json::to_value(tokenizer.get_pre_tokenizer()?).ok()?)
}

fn vocabulary(tokenizer: &Tokenizer) -> HashSet<String> {
    tokenizer.get_vocab(true).into_keys().collect()
}

fn warn_about_id(tokenizer: &Tokenizer, id: u32, token: &Added, warnings: &mut Warnings) {
    match tokenizer.token_to_id(&token.content) {
        Some(real) if real != id => warnings.push(format_args!(
            "token `{}` has id {id} in the list of added tokens, but {real} in the vocabulary; \
             {real} is used",
            token.content
        )),
        _ => {}
    }
}

fn warn_about_new(
    tokenizer: &Tokenizer,
    declared: &Declared,
    token: &Added,
    warnings: &mut Warnings,
) {
    let role = declared.roles.iter().find(|(_, known)| known.content == token.content);
    let role = role.map_or("a special token", |(role, _)| role.as_str());
    if let Some(id) = tokenizer.token_to_id(&token.content) {
        warnings.push(format_args!(
            "{role} `{}` is not in the vocabulary; it is added with id {id}",
            token.content
        ));
    }
}

/// Names the first token that the model has no embedding for.
fn warn_about_size(tokenizer: &Tokenizer, files: &ModelFiles, warnings: &mut Warnings) {
    let size = |config: &Config| config.optional::<usize>("vocab_size").ok().flatten();
    let text = files.config.sub("text_config").ok().flatten();
    let Some(size) = text.as_ref().and_then(size).or_else(|| size(&files.config)) else { return };
    let tokens = tokenizer.get_vocab(true);
    let beyond = tokens.iter().filter(|(_, id)| **id as usize >= size);
    let count = beyond.clone().count();
    if let Some((token, id)) = beyond.min_by_key(|(_, id)| **id) {
        warnings.push(format_args!(
            "the tokenizer has {count} token{} beyond the model's `vocab_size` of {size}, the first \
             is `{token}` with id {id}: a text with one is refused",
            if count == 1 { "" } else { "s" }
        ));
    }
}

fn in_words(parts: &[&str]) -> String {
    let verb = if parts.len() == 1 { "does" } else { "do" };
    format!(
        "{} {verb}",
        parts.iter().map(|part| format!("`{part}`")).collect::<Vec<_>>().join(", ")
    )
}
