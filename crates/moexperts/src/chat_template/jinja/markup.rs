//! Texts that are escaped for markup: what `safe`, `escape` and `e` make.
//!
//! As in the package `markupsafe` of Python, what such a text is joined with is escaped, and what is cut
//! out of it stays escaped.

use minijinja::{
    Error, Value,
    value::{Kwargs, Tuple, ValueKind},
};

use super::{format, methods, python};

/// A text for markup: itself if it is escaped, else with its special characters written out.
pub(super) fn escaped(value: &Value) -> Result<String, Error> {
    let text = python::to_str(value)?;
    Ok(if value.is_safe() { text } else { escape(&text) })
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&#39;")
        .replace('"', "&#34;")
}

/// `a + b` of two texts; markup if one of them is.
pub(super) fn concat(a: &Value, b: &Value) -> Result<Value, Error> {
    let is_markup = a.is_safe() || b.is_safe();
    let write = if is_markup { escaped } else { python::to_str };
    let text = write(a)? + &write(b)?;
    python::limit(text.len())?;
    Ok(if is_markup { Value::from_safe_string(text) } else { Value::from(text) })
}

/// A text that came out of another one, and is markup if that is.
pub(super) fn like(of: &Value, text: impl Into<String>) -> Value {
    let text = text.into();
    if of.is_safe() { Value::from_safe_string(text) } else { Value::from(text) }
}

/// `template % value`.
pub(super) fn percent(template: &Value, value: &Value) -> Result<Value, Error> {
    let text = template.as_str().unwrap_or_default();
    if !template.is_safe() {
        return format::percent(text, value).map(Value::from);
    }
    let value = match value.kind() {
        ValueKind::Map => {
            let pair = |key: Value| Ok((key.clone(), argument(&value.get_item(&key)?)?));
            Value::from_pairs(value.try_iter()?.map(pair).collect::<Result<Vec<_>, Error>>()?)
        }
        ValueKind::Seq if value.is_tuple() => {
            let items = value.try_iter()?.map(|item| argument(&item));
            Value::from(Tuple::from(items.collect::<Result<Vec<_>, _>>()?))
        }
        _ => argument(value)?,
    };
    format::percent(text, &value).map(Value::from_safe_string)
}

/// A method of a text.
pub(super) fn method(of: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let text = python::to_str(of)?;
    if !of.is_safe() {
        return methods::text(&text, name, args);
    }
    let given: Vec<Value> = match (name, args) {
        ("join", [items]) => {
            let items = python::items(items)?;
            vec![items.iter().map(argument).collect::<Result<Value, _>>()?]
        }
        ("format" | "ljust" | "rjust" | "center", args) => {
            args.iter().map(argument).collect::<Result<_, _>>()?
        }
        ("replace", [old, new, rest @ ..]) => [&[old.clone(), argument(new)?], rest].concat(),
        _ => args.to_vec(),
    };
    let result = methods::text(&text, name, &given)?;
    match result.kind() {
        ValueKind::String => Ok(like(of, result.as_str().unwrap_or_default())),
        ValueKind::Seq => {
            let parts = result.try_iter()?.map(|part| like(of, part.as_str().unwrap_or_default()));
            Ok(match result.is_tuple() {
                true => Value::from(Tuple::from(parts.collect::<Vec<_>>())),
                false => parts.collect(),
            })
        }
        _ => Ok(result),
    }
}

/// What is put into a text for markup; numbers stay what they are.
fn argument(value: &Value) -> Result<Value, Error> {
    if value.is_kwargs() {
        let named = Kwargs::try_from(value.clone())?;
        let argument = |name: &str| Ok((name.to_owned(), argument(&named.get(name)?)?));
        let arguments = named.args().map(argument).collect::<Result<Vec<_>, Error>>()?;
        return Ok(Value::from(Kwargs::from_iter(arguments)));
    }
    match value.kind() {
        ValueKind::Number | ValueKind::Bool | ValueKind::None | ValueKind::Undefined => {
            Ok(value.clone())
        }
        _ => escaped(value).map(Value::from_safe_string),
    }
}
