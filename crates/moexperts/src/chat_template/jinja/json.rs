//! JSON as a template sees it, and the `tojson` filter as transformers defines it: Python's `json.dumps`,
//! nothing escaped for HTML.

use std::io::{self, Write};

use minijinja::{
    Error, Value,
    value::{Rest, ValueKind, ValueOrKwargs},
};
use serde::Serialize;
use serde_json::{
    Map, Value as Json,
    ser::{Formatter, Serializer},
};

use super::{
    filters::Args,
    functions::given,
    python::{self, Number, invalid},
};

/// A JSON value in a template. Not by serde, for which numbers are something else where a program turns
/// on `arbitrary_precision` of `serde_json`.
fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => array(items),
        Json::Object(fields) => object(fields),
    }
}

pub(super) fn array(items: &[Json]) -> Value {
    items.iter().map(from_json).collect()
}

pub(super) fn object(fields: &Map<String, Json>) -> Value {
    Value::from_pairs(fields.iter().map(|(key, value)| (key.as_str(), from_json(value))))
}

/// Writes a value as JSON.
pub(super) fn to_json(value: Value, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let args = given(args);
    let args = Args::new(&args, &["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let is_true =
        |name| Ok::<_, Error>(args.get(name)?.is_some_and(|value: Value| value.is_true()));
    let (ensure_ascii, sort_keys) = (is_true("ensure_ascii")?, is_true("sort_keys")?);
    let indent = args.get("indent")?.filter(|indent: &Value| !indent.is_none());
    let indent = indent.map(indentation).transpose()?;
    let [item, key] = match args.get::<Vec<String>>("separators")? {
        Some(given) => <[String; 2]>::try_from(given)
            .map_err(|_| invalid("tojson: separators must be two texts"))?,
        None => [if indent.is_some() { "," } else { ", " }, ": "].map(str::to_owned),
    };
    args.assert_all_used()?;
    let style = PythonStyle { ensure_ascii, indent, item, key, depth: 0, empty: true };
    let mut tree = tree(&value)?;
    if sort_keys {
        tree.sort_all_objects();
    }
    let mut json = Vec::new();
    tree.serialize(&mut Serializer::with_formatter(&mut json, style)).map_err(failed)?;
    String::from_utf8(json).map_err(|error| invalid(error.to_string()))
}

/// Blanks, or the text itself.
fn indentation(indent: Value) -> Result<String, Error> {
    if let Some(text) = indent.as_str() {
        return Ok(text.to_owned());
    }
    match Number::of(&indent) {
        Some(Number::Int(blanks)) => {
            let blanks = usize::try_from(blanks).unwrap_or(0);
            python::limit(blanks)?;
            Ok(" ".repeat(blanks))
        }
        _ => Err(invalid("tojson: expected a number of blanks or text as `indent`")),
    }
}

/// The value as JSON has it; refuses what Python has no JSON for.
fn tree(value: &Value) -> Result<Json, Error> {
    match value.kind() {
        ValueKind::Seq => value.try_iter()?.map(|item| tree(&item)).collect(),
        ValueKind::Map if super::objects::is_dict(value) => value
            .try_iter()?
            .map(|key| {
                let item = tree(&value.get_item(&key)?)?;
                Ok((key_text(&key)?, item))
            })
            .collect(),
        ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::String => {
            serde_json::to_value(value).map_err(failed)
        }
        kind => Err(invalid(format!("tojson: a value is {kind}, which has no JSON"))),
    }
}

fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String | ValueKind::Number => python::to_str(key),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        _ => Err(invalid("tojson: a key is neither text, number, `true`, `false` nor `none`")),
    }
}

fn failed(error: serde_json::Error) -> Error {
    invalid(format!("tojson: {error}"))
}

struct PythonStyle {
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    depth: usize,
    /// Whether the list or object that is being written has no items yet.
    empty: bool,
}

impl PythonStyle {
    fn open<W: Write + ?Sized>(&mut self, out: &mut W, bracket: &str) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        out.write_all(bracket.as_bytes())
    }

    fn close<W: Write + ?Sized>(&mut self, out: &mut W, bracket: &str) -> io::Result<()> {
        self.depth -= 1;
        if !self.empty {
            self.line(out)?;
        }
        self.empty = false;
        out.write_all(bracket.as_bytes())
    }

    fn next<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            out.write_all(self.item.as_bytes())?;
        }
        self.empty = false;
        self.line(out)
    }

    fn line<W: Write + ?Sized>(&self, out: &mut W) -> io::Result<()> {
        match &self.indent {
            Some(indent) => write!(out, "\n{}", indent.repeat(self.depth)),
            None => Ok(()),
        }
    }
}

impl Formatter for PythonStyle {
    fn begin_array<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, "[")
    }

    fn end_array<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, "]")
    }

    fn begin_array_value<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn begin_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, "{")
    }

    fn end_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, "}")
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.key.as_bytes())
    }

    fn write_string_fragment<W: Write + ?Sized>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if !self.ensure_ascii {
            return out.write_all(fragment.as_bytes());
        }
        for unit in fragment.encode_utf16() {
            match u8::try_from(unit).ok().filter(u8::is_ascii) {
                Some(ascii) => out.write_all(&[ascii])?,
                None => write!(out, "\\u{unit:04x}")?,
            }
        }
        Ok(())
    }
}
