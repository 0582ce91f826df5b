//! The `tojson` filter as transformers defines it: Python's `json.dumps`, nothing escaped for HTML.

use std::io::{self, Write};

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, Rest, ValueKind},
};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Writes a value as JSON; keywords `ensure_ascii`, `indent`, `separators`, `sort_keys`.
pub(super) fn to_json(
    value: &Value,
    by_place: Rest<Value>,
    keywords: Kwargs,
) -> Result<String, Error> {
    if !by_place.is_empty() {
        return Err(invalid("tojson: arguments by place are not supported, only by name"));
    }
    check(value)?;
    let indent = keywords.get::<Option<usize>>("indent")?;
    let separators = keywords.get::<Option<Vec<String>>>("separators")?;
    let [item, key] = match separators {
        Some(given) => <[String; 2]>::try_from(given)
            .map_err(|_| invalid("tojson: separators must be two texts"))?,
        None => [if indent.is_some() { "," } else { ", " }, ": "].map(str::to_owned),
    };
    let style = PythonStyle {
        ensure_ascii: keywords.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        indent,
        item,
        key,
        depth: 0,
        empty: true,
    };
    let sort_keys = keywords.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    keywords.assert_all_used()?;
    let failed = |error: serde_json::Error| invalid(format!("tojson: {error}"));
    let mut tree = serde_json::to_value(value).map_err(failed)?;
    if sort_keys {
        tree.sort_all_objects();
    }
    let mut json = Vec::new();
    tree.serialize(&mut Serializer::with_formatter(&mut json, style)).map_err(failed)?;
    String::from_utf8(json).map_err(|error| invalid(error.to_string()))
}

/// Refuses what Python has no JSON for, and keys that come out otherwise.
fn check(value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Seq => value.try_iter()?.try_for_each(|item| check(&item)),
        ValueKind::Map if super::objects::is_dict(value) => {
            value.try_iter()?.try_for_each(|key| match key.kind() {
                ValueKind::String | ValueKind::Number => check(&value.get_item(&key)?),
                _ => Err(invalid("tojson: a key is neither text nor number")),
            })
        }
        ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::String => Ok(()),
        kind => Err(invalid(format!("tojson: a value is {kind}, which has no JSON"))),
    }
}

fn invalid(problem: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}

struct PythonStyle {
    ensure_ascii: bool,
    indent: Option<usize>,
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
        match self.indent {
            Some(indent) => write!(out, "\n{:1$}", "", indent * self.depth),
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
