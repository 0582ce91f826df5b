//! The JSON files of a model, read by key.
//!
//! What the keys mean is the business of a model family. This file reads their values, and says in
//! words of the file what is wrong with one.

use std::{
    collections::BTreeSet,
    fmt::Display,
    sync::{Arc, Mutex, PoisonError},
};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    json,
    warnings::Warnings,
};

/// A JSON object and the name of the file it came from.
///
/// A key that is absent and a key that is `null` are the same thing here: transformers writes
/// `null` for options that are not set.
///
/// It remembers which keys were read: a key that is never read is not obeyed, see
/// [`unread`](Self::unread).
#[derive(Debug, Clone)]
pub struct Config {
    file: String,
    /// Keys from the root of the file to this object, each followed by a dot.
    prefix: String,
    object: Map<String, Value>,
    /// The keys that were read, from the root of the file on; shared with what [`sub`](Self::sub) gives.
    read: Arc<Mutex<BTreeSet<String>>>,
    /// What [`warn`](Self::warn) was told; shared likewise.
    warnings: Arc<Mutex<Warnings>>,
}

impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        (&self.file, &self.prefix, &self.object) == (&other.file, &other.prefix, &other.object)
    }
}

impl Config {
    /// Reads the text of a JSON file; `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::Config`] if the text is not a JSON object; broken JSON with line and column.
    pub fn parse(file: impl Into<String>, text: &str) -> Result<Self> {
        let file = file.into();
        let problem = match json::parse(text) {
            Ok(Value::Object(object)) => {
                let (prefix, read, warnings) = (String::new(), Arc::default(), Arc::default());
                return Ok(Self { file, prefix, object, read, warnings });
            }
            Ok(other) => format!("is {}, expected a JSON object", shown(&other)),
            Err(error) => format!("broken JSON: {error}"),
        };
        Err(Error::Config { file, problem })
    }

    /// The file this came from: `config.json`.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The keys with a value other than `null` that were not read, those of objects that were read by
    /// [`sub`](Self::sub) as `text_config.hidden_act`.
    pub fn unread(&self) -> Vec<String> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unread = Vec::new();
        collect_unread(&self.object, &self.prefix, &read, &mut unread);
        unread
    }

    /// Says that something of the file is done differently from what it says; ``config.json: key `x` …``.
    pub(crate) fn warn(&self, problem: impl Display) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.push(format_args!("{}: {problem}", self.file));
    }

    /// What of the file is done differently, as far as its readers have said.
    pub(crate) fn warnings(&self) -> Warnings {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A key with the keys above it: `text_config.hidden_act`.
    pub(crate) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The value at a path of keys, each followed by a dot but the last; it does not count as read.
    pub(crate) fn at(&self, path: &str) -> Option<&Value> {
        let mut keys = path.split('.');
        let first = self.object.get(keys.next()?)?;
        keys.try_fold(first, |value, key| value.get(key))
    }

    /// Whether the key is there and its value is `null`.
    pub(crate) fn is_null(&self, key: &str) -> bool {
        self.object.get(key).is_some_and(Value::is_null)
    }

    /// Whether the object has no keys.
    pub(crate) fn is_empty(&self) -> bool {
        self.object.is_empty()
    }

    /// Whether the key has a value other than `null`.
    pub fn contains(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::Config`] if the key is missing or its value is not a `T`.
    pub fn required<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        self.optional(key)?
            .ok_or_else(|| self.problem(format!("missing key `{}{key}`", self.prefix)))
    }

    /// The value of a key, if it is there.
    ///
    /// # Errors
    /// [`Error::Config`] if the value is not a `T`.
    pub fn optional<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        T::deserialize(value).map(Some).map_err(|error| self.mistyped(key, value, &error))
    }

    /// The value of a key, or `default` if it is not there.
    ///
    /// # Errors
    /// [`Error::Config`] if the value is not a `T`.
    pub fn or<T: DeserializeOwned>(&self, key: &str, default: T) -> Result<T> {
        Ok(self.optional(key)?.unwrap_or(default))
    }

    /// The object under a key, if it is there; its errors name the whole path from the root.
    ///
    /// # Errors
    /// [`Error::Config`] if the value is not an object.
    pub fn sub(&self, key: &str) -> Result<Option<Self>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(self.below(key, object.clone()))),
            Some(_) => Err(self.refused(key, "an object")),
        }
    }

    /// The object under a key, an empty one if it is not there.
    ///
    /// # Errors
    /// As [`sub`](Self::sub).
    pub(crate) fn sub_or_empty(&self, key: &str) -> Result<Self> {
        Ok(self.sub(key)?.unwrap_or_else(|| self.below(key, Map::new())))
    }

    fn below(&self, key: &str, object: Map<String, Value>) -> Self {
        Self {
            file: self.file.clone(),
            prefix: format!("{}{key}.", self.prefix),
            object,
            read: Arc::clone(&self.read),
            warnings: Arc::clone(&self.warnings),
        }
    }

    /// The error for a value of the right type that cannot be used: ``config.json: key
    /// `hidden_act` is "relu6", expected …``.
    #[must_use]
    pub fn refused(&self, key: &str, expected: &str) -> Error {
        let value = self.object.get(key).map_or_else(|| "missing".to_owned(), shown);
        self.problem(format!("key `{}{key}` is {value}, expected {expected}", self.prefix))
    }

    /// Every key of the object with its value, `null` included; none counts as read.
    pub(crate) fn keys(&self) -> &Map<String, Value> {
        &self.object
    }

    /// [`keys`](Self::keys), each of which counts as read.
    pub(crate) fn raw(&self) -> &Map<String, Value> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.extend(self.object.keys().map(|key| format!("{}{key}", self.prefix)));
        &self.object
    }

    fn value(&self, key: &str) -> Option<&Value> {
        let value = self.object.get(key).filter(|value| !value.is_null())?;
        let path = format!("{}{key}", self.prefix);
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
        Some(value)
    }

    fn mistyped(&self, key: &str, value: &Value, error: &serde_json::Error) -> Error {
        let message = error.to_string();
        let Some((got, expected)) = message.rsplit_once(", expected ") else {
            let value = shown(value);
            return self.problem(format!("key `{}{key}` is {value}: {message}", self.prefix));
        };
        let got = got.trim_start_matches("invalid type: ").trim_start_matches("invalid value: ");
        let nested = match value {
            Value::Array(_) => got != "sequence" && !got.starts_with("invalid length"),
            Value::Object(_) => got != "map",
            _ => false,
        };
        let expected = in_words(expected);
        if nested {
            let value = shown(value);
            let problem = format!("is {value}, which holds {got}, expected {expected}");
            return self.problem(format!("key `{}{key}` {problem}", self.prefix));
        }
        self.refused(key, expected)
    }

    fn problem(&self, problem: String) -> Error {
        Error::Config { file: self.file.clone(), problem }
    }
}

/// Adds the keys of an object that were not read, with the path to it.
fn collect_unread(
    object: &Map<String, Value>,
    prefix: &str,
    read: &BTreeSet<String>,
    unread: &mut Vec<String>,
) {
    for (key, value) in object.iter().filter(|(_, value)| !value.is_null()) {
        let path = format!("{prefix}{key}");
        let below = format!("{path}.");
        match value {
            // An object that was read as a whole has no key below it that was read.
            Value::Object(object) if read.iter().any(|read| read.starts_with(&below)) => {
                collect_unread(object, &below, read, unread);
            }
            _ if read.contains(&path) => {}
            _ => unread.push(path),
        }
    }
}

/// What serde expected, in words of JSON rather than of Rust.
fn in_words(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a non-negative integer",
        "i8" | "i16" | "i32" | "i64" | "isize" => "an integer",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        other => other,
    }
}

/// A value as it stands in the file, cut where it gets long.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse("config.json", text).unwrap()
    }

    fn text<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn reads_values_by_key() {
        let config = config(
            r#"{"hidden_size": 2048, "eps": 1e-6, "theta": 10000, "tied": null, "act": "silu",
                "mlp_only_layers": [0, 3]}"#,
        );
        assert_eq!(config.required::<usize>("hidden_size").unwrap(), 2048);
        assert_eq!(config.required::<f64>("eps").unwrap(), 1e-6);
        assert_eq!(config.required::<f32>("theta").unwrap(), 10000.0);
        assert_eq!(config.required::<String>("act").unwrap(), "silu");
        assert_eq!(config.required::<Vec<usize>>("mlp_only_layers").unwrap(), [0, 3]);
        assert_eq!(config.optional::<bool>("tied").unwrap(), None);
        assert!(!config.or("tied", false).unwrap());
    }

    #[test]
    fn names_a_missing_key() {
        let config = config(r#"{"num_experts": null}"#);
        assert_eq!(
            text(config.required::<usize>("hidden_size")),
            "config.json: missing key `hidden_size`"
        );
        assert_eq!(
            text(config.required::<usize>("num_experts")),
            "config.json: missing key `num_experts`"
        );
    }

    #[test]
    fn names_what_a_value_should_be() {
        let config = config(r#"{"a": "big", "b": -1, "c": 1.5, "d": {"e": [1]}}"#);
        let expected_integer = |key: &str, value: &str| {
            format!("config.json: key `{key}` is {value}, expected a non-negative integer")
        };
        assert_eq!(text(config.required::<usize>("a")), expected_integer("a", "\"big\""));
        assert_eq!(text(config.required::<u32>("b")), expected_integer("b", "-1"));
        assert_eq!(text(config.or("c", 1_u64)), expected_integer("c", "1.5"));
        assert_eq!(
            text(config.optional::<f32>("a")),
            "config.json: key `a` is \"big\", expected a number"
        );
        assert_eq!(
            text(config.optional::<bool>("d")),
            "config.json: key `d` is {\"e\":[1]}, expected true or false"
        );
        assert_eq!(
            text(config.optional::<Vec<usize>>("b")),
            "config.json: key `b` is -1, expected a list"
        );
        let config = self::config(r#"{"ids": [1, "a"]}"#);
        assert_eq!(
            text(config.optional::<Vec<usize>>("ids")),
            "config.json: key `ids` is [1,\"a\"], which holds string \"a\", \
             expected a non-negative integer"
        );
    }

    #[test]
    fn lists_the_variants_of_an_enum() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum RopeType {
            Default,
            Yarn,
        }
        let config = config(r#"{"rope_type": "spiral", "right": "yarn", "plain": "default"}"#);
        assert!(matches!(config.required("right").unwrap(), RopeType::Yarn));
        assert!(matches!(config.required("plain").unwrap(), RopeType::Default));
        assert_eq!(
            text(config.required::<RopeType>("rope_type")),
            "config.json: key `rope_type` is \"spiral\", expected `default` or `yarn`"
        );
    }

    #[test]
    fn nested_errors_name_the_whole_path() {
        let config = config(r#"{"rope_parameters": {"rope_theta": true}, "text": 5}"#);
        let rope = config.sub("rope_parameters").unwrap().unwrap();
        assert_eq!(
            text(rope.required::<f32>("rope_theta")),
            "config.json: key `rope_parameters.rope_theta` is true, expected a number"
        );
        assert_eq!(
            text(rope.required::<f32>("factor")),
            "config.json: missing key `rope_parameters.factor`"
        );
        assert!(config.sub("absent").unwrap().is_none());
        assert_eq!(text(config.sub("text")), "config.json: key `text` is 5, expected an object");
    }

    #[test]
    fn says_where_json_is_broken() {
        assert_eq!(
            text(Config::parse("config.json", "{\n  \"a\": 1,\n}")),
            "config.json: broken JSON: trailing comma at line 3 column 1"
        );
        assert_eq!(
            text(Config::parse("config.json", "[1, 2]")),
            "config.json: is [1,2], expected a JSON object"
        );
    }

    #[test]
    fn remembers_which_keys_were_read() {
        let config = config(
            r#"{"a": 1, "b": 2, "none": null, "sub": {"x": 1, "y": 2}, "whole": {"z": 1}, "no": {}}"#,
        );
        config.required::<usize>("a").unwrap();
        config.sub("sub").unwrap().unwrap().required::<usize>("x").unwrap();
        config.required::<Map<String, Value>>("whole").unwrap();
        assert_eq!(config.clone().unread(), ["b", "sub.y", "no"]);
        assert_eq!(config.sub("sub").unwrap().unwrap().unread(), ["sub.y"]);
    }

    #[test]
    fn cuts_long_values() {
        let config = config(&format!(r#"{{"a": "{}"}}"#, "ä".repeat(1000)));
        let expected = format!("key `a` is \"{}…, expected a number", "ä".repeat(59));
        assert_eq!(text(config.required::<f32>("a")), format!("config.json: {expected}"));
    }
}
