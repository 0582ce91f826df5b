//! Filters that shorten text, and write it for addresses and markup.

use std::fmt::Write as _;

use minijinja::{
    Environment, Error, Value,
    value::{Kwargs, Rest, ValueKind, ValueOrKwargs},
};

use super::{
    filters::{Args, or_named},
    functions::given,
    markup::{self, escape, escaped},
    python::{self, Number, invalid, to_str},
};

pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_filter("filesizeformat", file_size);
    environment.add_filter("truncate", truncate);
    environment.add_filter("urlencode", |value: Value| url_encode(&value));
    environment.add_filter("xmlattr", xml_attributes);
}

fn file_size(value: Value, binary: Option<bool>, named: Kwargs) -> Result<String, Error> {
    let binary = or_named(binary, "binary", &named)?.unwrap_or(false);
    named.assert_all_used()?;
    let bytes = match (Number::of(&value), value.as_str()) {
        (Some(Number::Int(bytes)), _) => bytes as f64,
        (Some(Number::Float(bytes)), _) => bytes,
        (None, text) => text
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| invalid("filesizeformat: expected a number"))?,
    };
    let (base, infix) = if binary { (1024.0, "i") } else { (1000.0, "") };
    if bytes == 1.0 {
        return Ok("1 Byte".to_owned());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", bytes as i64));
    }
    let (mut scaled, mut unit) = (bytes / base, 0);
    let units = [if binary { "K" } else { "k" }, "M", "G", "T", "P", "E", "Z", "Y"];
    while scaled >= base && unit + 1 < units.len() {
        scaled /= base;
        unit += 1;
    }
    Ok(format!("{scaled:.1} {}{infix}B", units[unit]))
}

fn truncate(value: Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = given(args);
    let args = Args::new(&args, &["length", "killwords", "end", "leeway"])?;
    let length = args.get("length")?.unwrap_or(255_usize);
    let cuts_words = args.get("killwords")?.unwrap_or(false);
    let end = args.get("end")?.unwrap_or_else(|| "...".to_owned());
    let leeway = args.get("leeway")?.unwrap_or(5_usize);
    args.assert_all_used()?;
    let kept = length
        .checked_sub(end.chars().count())
        .ok_or_else(|| invalid("truncate: expected a length of at least that of `end`"))?;
    if python::length(&value)? <= length.saturating_add(leeway) {
        return Ok(value);
    }
    let text = value.as_str().ok_or_else(|| invalid("truncate: expected text"))?;
    let cut: String = text.chars().take(kept).collect();
    let words = cut.rsplit_once(' ').map_or(cut.as_str(), |(words, _)| words);
    let kept = markup::like(&value, if cuts_words { &cut } else { words });
    markup::concat(&kept, &Value::from(end))
}

/// A text, or the pairs of a mapping or a list as the query of an address.
fn url_encode(value: &Value) -> Result<String, Error> {
    let is_list = matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable);
    if !is_list {
        return Ok(quote(&to_str(value)?, b"/"));
    }
    let query = |value: &Value| Ok::<_, Error>(quote(&to_str(value)?, b"").replace("%20", "+"));
    let mut pairs = Vec::new();
    for item in python::items(value)? {
        let pair = match value.kind() {
            ValueKind::Map => vec![item.clone(), value.get_item(&item)?],
            _ => python::items(&item)?,
        };
        match pair.as_slice() {
            [key, value] => pairs.push(format!("{}={}", query(key)?, query(value)?)),
            _ => return Err(invalid("urlencode: expected pairs")),
        }
    }
    Ok(pairs.join("&"))
}

/// - `safe`: what stays as it is beside letters, digits and `_.-~`
fn quote(text: &str, safe: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"_.-~".contains(&byte) || safe.contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a text does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn xml_attributes(value: Value, leading: Option<bool>, named: Kwargs) -> Result<String, Error> {
    let leading = or_named(leading, "autospace", &named)?.unwrap_or(true);
    named.assert_all_used()?;
    if value.kind() != ValueKind::Map {
        return Err(invalid("xmlattr: expected a mapping"));
    }
    let mut attributes = Vec::new();
    for key in value.try_iter()? {
        let item = value.get_item(&key)?;
        if item.is_none() || item.is_undefined() {
            continue;
        }
        let ends = |c: char| c.is_whitespace() || "/>=".contains(c);
        let name = key.as_str().filter(|name| !name.contains(ends));
        let name = name.ok_or_else(|| invalid("xmlattr: a key is not the name of an attribute"))?;
        attributes.push(format!("{}=\"{}\"", escape(name), escaped(&item)?));
    }
    let space = if leading && !attributes.is_empty() { " " } else { "" };
    Ok(format!("{space}{}", attributes.join(" ")))
}
