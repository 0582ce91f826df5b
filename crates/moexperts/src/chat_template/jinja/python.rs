//! Values as Python has them: how they print, compare and add up.

use std::cmp::Ordering;

use minijinja::{
    Error, ErrorKind, Value,
    value::{Tuple, ValueKind},
};

use super::markup;

/// What a failed operation says.
pub(super) fn invalid(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}

/// How long a text or a list is.
pub(super) fn length(value: &Value) -> Result<usize, Error> {
    match value.kind() {
        ValueKind::Number | ValueKind::Bool | ValueKind::None => {
            Err(invalid(format!("{} has no length", type_name(value))))
        }
        _ => items(value).map(|items| items.len()),
    }
}

/// Texts and lists are not made longer than this.
const LONGEST: usize = 100_000_000;
/// Lists within lists are not printed or compared deeper than this.
const DEEPEST: usize = 200;

/// A number of Python; true and false are 1 and 0.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value.kind() {
            ValueKind::Bool => Some(Self::Int(value.is_true().into())),
            ValueKind::Number if value.is_integer() => {
                i128::try_from(value.clone()).ok().map(Self::Int)
            }
            ValueKind::Number => f64::try_from(value.clone()).ok().map(Self::Float),
            _ => None,
        }
    }

    pub(super) fn float(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Float(value) => value,
        }
    }

    fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (a, b) => a.float().partial_cmp(&b.float()),
        }
    }
}

/// Python's name of a type.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Seq if value.is_tuple() => "tuple",
        ValueKind::Seq => "list",
        ValueKind::Map => "dict",
        _ => "object",
    }
}

/// Refuses a value that is not there.
pub(super) fn defined(value: &Value) -> Result<(), Error> {
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::UndefinedError, "a value is undefined"));
    }
    Ok(())
}

/// `str(value)`.
pub(super) fn to_str(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        _ => repr(value),
    }
}

/// `repr(value)`.
pub(super) fn repr(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    write_repr(value, &mut out, 0)?;
    Ok(out)
}

fn write_repr(value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    if depth > DEEPEST || out.len() > LONGEST {
        return Err(invalid("a value is too large to be printed"));
    }
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match Number::of(value) {
            Some(Number::Float(float)) => out.push_str(&float_repr(float)),
            _ => out.push_str(&value.to_string()),
        },
        ValueKind::String if value.is_safe() => {
            out.push_str("Markup(");
            quote(value.as_str().unwrap_or_default(), out);
            out.push(')');
        }
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq => {
            let group = value.downcast_object_ref::<super::filters::Group>();
            let tuple = value.is_tuple() || group.is_some();
            out.push(if tuple { '(' } else { '[' });
            for (index, item) in value.try_iter()?.enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_repr(&item, out, depth + 1)?;
            }
            if tuple && value.len() == Some(1) {
                out.push(',');
            }
            out.push(if tuple { ')' } else { ']' });
        }
        ValueKind::Map if !super::objects::is_dict(value) => {
            return Err(invalid("a namespace, loop or macro has no text to print"));
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_repr(&key, out, depth + 1)?;
                out.push_str(": ");
                write_repr(&value.get_item(&key)?, out, depth + 1)?;
            }
            out.push('}');
        }
        _ => match value.downcast_object_ref::<super::objects::View>() {
            Some(view) => {
                out.push_str(view.name);
                out.push('(');
                write_repr(&Value::from(view.items.clone()), out, depth + 1)?;
                out.push(')');
            }
            None => match value.downcast_object_ref::<super::objects::Range>() {
                Some(range) => out.push_str(&range.to_string()),
                None => return Err(invalid("a function, macro or object has no text to print")),
            },
        },
    }
    Ok(())
}

/// A float as Python prints it.
pub(super) fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        small @ -4..16 => {
            let _ = small;
            let plain = format!("{value}");
            if plain.contains('.') { plain } else { plain + ".0" }
        }
        exponent => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", exponent.abs())
        }
    }
}

fn quote(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if printable(c) => out.push(c),
            c if (c as u32) < 0x100 => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if (c as u32) < 0x1_0000 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    out.push(quote);
}

pub(super) fn printable(c: char) -> bool {
    let hidden = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..='\u{fffb}'
        | '\u{e0000}'..='\u{10ffff}');
    c == ' ' || !(c.is_control() || c.is_whitespace() || hidden)
}

/// `a == b`.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return a.compare(b) == Some(Ordering::Equal);
    }
    match (a.kind(), b.kind()) {
        (ValueKind::Undefined, ValueKind::Undefined) | (ValueKind::None, ValueKind::None) => true,
        (ValueKind::String, ValueKind::String) => a.as_str() == b.as_str(),
        (ValueKind::Seq, ValueKind::Seq) => {
            let (Ok(left), Ok(right)) = (a.try_iter(), b.try_iter()) else { return false };
            a.is_tuple() == b.is_tuple()
                && a.len() == b.len()
                && left.zip(right).all(|(a, b)| equal(&a, &b))
        }
        (ValueKind::Map, ValueKind::Map) => {
            let Ok(mut keys) = a.try_iter() else { return false };
            a.len() == b.len()
                && keys.all(|key| match (a.get_item(&key), b.get_item(&key)) {
                    (Ok(a), Ok(b)) => equal(&a, &b) && !b.is_undefined(),
                    _ => false,
                })
        }
        (left, right) => left == right && a == b,
    }
}

/// The order of two values, or why there is none. Not-a-number has none either.
pub(super) fn order(a: &Value, b: &Value) -> Result<Option<Ordering>, Error> {
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return Ok(a.compare(b));
    }
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return Ok(Some(a.cmp(b)));
    }
    if a.kind() == ValueKind::Seq && b.kind() == ValueKind::Seq && a.is_tuple() == b.is_tuple() {
        for (a, b) in a.try_iter()?.zip(b.try_iter()?) {
            if !equal(&a, &b) {
                return order(&a, &b);
            }
        }
        return Ok(a.len().partial_cmp(&b.len()));
    }
    Err(unsupported("<", a, b))
}

fn unsupported(sign: &str, a: &Value, b: &Value) -> Error {
    let (a, b) = (type_name(a), type_name(b));
    invalid(format!("`{sign}` cannot be applied to {a} and {b}"))
}

/// `a in b`.
pub(super) fn contains(item: &Value, of: &Value) -> Result<bool, Error> {
    match of.kind() {
        ValueKind::Undefined => Ok(false),
        ValueKind::String => match item.as_str() {
            Some(item) => Ok(of.as_str().unwrap_or_default().contains(item)),
            None => Err(unsupported("in", item, of)),
        },
        ValueKind::Seq | ValueKind::Iterable => Ok(of.try_iter()?.any(|other| equal(item, &other))),
        ValueKind::Map => Ok(of.try_iter()?.any(|key| equal(item, &key))),
        _ => Err(unsupported("in", item, of)),
    }
}

/// An operator with the sign that Python writes it with.
pub(super) fn operate(sign: &'static str, a: &Value, b: &Value) -> Result<Value, Error> {
    defined(a)?;
    if sign == "%" && a.kind() == ValueKind::String {
        return markup::percent(a, b);
    }
    defined(b)?;
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return arithmetic(sign, a, b);
    }
    let wrong = || unsupported(sign, a, b);
    match (sign, a.kind(), b.kind()) {
        ("+", ValueKind::String, ValueKind::String) => markup::concat(a, b),
        ("+", ValueKind::Seq, ValueKind::Seq) if a.is_tuple() == b.is_tuple() => {
            limit(a.len().unwrap_or(0) + b.len().unwrap_or(0))?;
            Ok(list_like(a, a.try_iter()?.chain(b.try_iter()?).collect()))
        }
        ("*", ValueKind::String | ValueKind::Seq, _) => {
            let Some(Number::Int(times)) = Number::of(b) else { return Err(wrong()) };
            repeat(a, times)
        }
        ("*", _, ValueKind::String | ValueKind::Seq) => {
            let Some(Number::Int(times)) = Number::of(a) else { return Err(wrong()) };
            repeat(b, times)
        }
        _ => Err(wrong()),
    }
}

fn list_like(of: &Value, items: Vec<Value>) -> Value {
    if of.is_tuple() { Value::from(Tuple::from(items)) } else { Value::from(items) }
}

pub(super) fn limit(length: usize) -> Result<(), Error> {
    if length > LONGEST { Err(invalid("a text or list becomes too long")) } else { Ok(()) }
}

fn repeat(value: &Value, times: i128) -> Result<Value, Error> {
    let times =
        usize::try_from(times.max(0)).map_err(|_| invalid("a text or list becomes too long"))?;
    let length = value.as_str().map_or_else(|| value.len().unwrap_or(0), str::len);
    limit(length.saturating_mul(times))?;
    if let Some(text) = value.as_str() {
        return Ok(markup::like(value, text.repeat(times)));
    }
    let items: Vec<Value> = value.try_iter()?.collect();
    let length = items.len() * times;
    Ok(list_like(value, items.into_iter().cycle().take(length).collect()))
}

fn arithmetic(sign: &str, a: Number, b: Number) -> Result<Value, Error> {
    let zero = || invalid("division by zero");
    let large = || invalid("the result is too large a number");
    if let (Number::Int(a), Number::Int(b)) = (a, b) {
        let exact = match sign {
            "+" => a.checked_add(b),
            "-" => a.checked_sub(b),
            "*" => a.checked_mul(b),
            "//" | "%" if b == 0 => return Err(zero()),
            "//" => a.checked_div_euclid(b).map(|_| {
                let quotient = a.wrapping_div(b);
                if a % b != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient }
            }),
            "%" => a
                .checked_rem(b)
                .map(|rest| if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }),
            "**" if b >= 0 => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
            _ => return floats(sign, a as f64, b as f64),
        };
        return exact.map(Value::from).ok_or_else(large);
    }
    floats(sign, a.float(), b.float())
}

fn floats(sign: &str, a: f64, b: f64) -> Result<Value, Error> {
    if b == 0.0 && matches!(sign, "/" | "//" | "%") || sign == "**" && a == 0.0 && b < 0.0 {
        return Err(invalid("division by zero"));
    }
    let rest = || {
        let rest = a % b;
        if rest == 0.0 {
            0.0_f64.copysign(b)
        } else if (rest < 0.0) == (b < 0.0) {
            rest
        } else {
            rest + b
        }
    };
    let result = match sign {
        "+" => a + b,
        "-" => a - b,
        "*" => a * b,
        "/" => a / b,
        "%" => rest(),
        "//" => {
            let quotient = (a - rest()) / b;
            let floor = quotient.floor();
            if quotient - floor > 0.5 { floor + 1.0 } else { floor }
        }
        _ if a < 0.0 && b.fract() != 0.0 => {
            return Err(invalid("complex numbers are not supported"));
        }
        _ => {
            let power = a.powf(b);
            if power.is_infinite() && a.is_finite() {
                return Err(invalid("the result is too large a number"));
            }
            power
        }
    };
    Ok(Value::from(result))
}

/// What a loop goes over.
pub(super) fn items(value: &Value) -> Result<Vec<Value>, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(Vec::new()),
        ValueKind::String => Ok(value
            .as_str()
            .unwrap_or_default()
            .chars()
            .map(|c| Value::from(c.to_string()))
            .collect()),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => Ok(value.try_iter()?.collect()),
        _ => Err(invalid(format!("{} cannot be iterated over", type_name(value)))),
    }
}

/// A bound of a slice: none, or a whole number.
fn bound(value: &Value) -> Result<Option<i128>, Error> {
    match (value.is_none(), Number::of(value)) {
        (true, _) => Ok(None),
        (_, Some(Number::Int(bound))) => Ok(Some(bound)),
        _ => Err(invalid("a slice goes from whole number to whole number")),
    }
}

/// `value[start:stop:step]`.
pub(super) fn slice(value: &Value, bounds: [&Value; 3]) -> Result<Value, Error> {
    defined(value)?;
    let [start, stop, step] = [bound(bounds[0])?, bound(bounds[1])?, bound(bounds[2])?];
    let step = step.unwrap_or(1);
    let is_range = value.downcast_object_ref::<super::objects::Range>().is_some();
    if step == 0 || !(matches!(value.kind(), ValueKind::String | ValueKind::Seq) || is_range) {
        return Err(match step {
            0 => invalid("a slice with a step of 0"),
            _ => invalid(format!("{} cannot be sliced", type_name(value))),
        });
    }
    let all = items(value)?;
    let length = all.len() as i128;
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let place = |given: Option<i128>, none: i128| match given {
        None => none,
        Some(at) if at < 0 => (at.saturating_add(length)).max(low),
        Some(at) => at.min(high),
    };
    let (first, last) = if step > 0 { (low, high) } else { (high, low) };
    let (mut at, stop) = (place(start, first), place(stop, last));
    let mut chosen = Vec::new();
    while if step > 0 { at < stop } else { at > stop } {
        chosen.extend(usize::try_from(at).ok().and_then(|at| all.get(at).cloned()));
        at = at.saturating_add(step);
    }
    if value.kind() == ValueKind::String {
        let text: String = chosen.iter().filter_map(|c| c.as_str()).collect();
        return Ok(markup::like(value, text));
    }
    Ok(list_like(value, chosen))
}

/// `value[key]`.
pub(super) fn item(value: &Value, key: &Value) -> Result<Value, Error> {
    defined(value)?;
    if value.kind() == ValueKind::Map {
        if !key.is_undefined()
            && let Some(found) = value.try_iter()?.find(|other| equal(other, key))
        {
            return value.get_item(&found);
        }
    } else if let (Some(Number::Int(index)), true) = (
        Number::of(key),
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Iterable),
    ) {
        let all = items(value)?;
        let index = if index < 0 { index + all.len() as i128 } else { index };
        let found = usize::try_from(index).ok().and_then(|at| all.get(at));
        return Ok(match (found, found.and_then(Value::as_str)) {
            (Some(_), Some(character)) if value.is_safe() => markup::like(value, character),
            (Some(item), _) => item.clone(),
            (None, _) => Value::UNDEFINED,
        });
    }
    match key.as_str() {
        Some(name) => Ok(super::objects::method(value, name)
            .unwrap_or_else(|| value.get_attr(name).unwrap_or_default())),
        None => Ok(Value::UNDEFINED),
    }
}

/// `value.name`.
pub(super) fn attribute(value: &Value, name: &str) -> Result<Value, Error> {
    if value.is_undefined() {
        let problem = format!("the attribute `{name}` of a value that is undefined");
        return Err(Error::new(ErrorKind::UndefinedError, problem));
    }
    if name.starts_with("__") {
        return Err(invalid(format!("access to the attribute `{name}` is unsafe")));
    }
    if Number::of(value).is_some() && ["real", "imag", "numerator", "denominator"].contains(&name) {
        return Err(invalid(format!("the attribute `{name}` of a number is not supported")));
    }
    match super::objects::method(value, name) {
        Some(method) => Ok(method),
        None if name == "arguments"
            && value.kind() == ValueKind::Map
            && !super::objects::is_dict(value) =>
        {
            Ok(Value::from(Tuple::from(items(&value.get_attr(name)?)?)))
        }
        None => Ok(value.get_attr(name).unwrap_or_default()),
    }
}
