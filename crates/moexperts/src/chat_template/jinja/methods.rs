//! The methods of Python's texts, lists and dictionaries that change nothing.

use minijinja::{
    Error, State, Value,
    value::{Kwargs, Tuple, ValueKind},
};

use super::{
    format, markup,
    objects::{View, is_dict},
    python::{Number, defined, equal, invalid, items, limit, printable, type_name},
};

/// `of.name(args)`.
pub(super) fn call(
    state: &mut State<'_, '_>,
    of: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    defined(of)?;
    if of.as_object().is_some() && name == "cycle" && args.is_empty() {
        return Err(invalid("loop.cycle: no items"));
    }
    match of.kind() {
        ValueKind::String => markup::method(of, name, args),
        ValueKind::Map if is_dict(of) => match dictionary(of, name, args)? {
            Some(result) => Ok(result),
            None => {
                let found = of.get_attr(name)?;
                defined(&found).map_err(|_| no_method(of, name))?;
                found.call(state, args)
            }
        },
        ValueKind::Seq => list(of, name, args),
        ValueKind::Number | ValueKind::Bool => number(of, name),
        _ => of.call_method(state, name, args),
    }
}

fn no_method(of: &Value, name: &str) -> Error {
    invalid(format!("{} has no method `{name}`", type_name(of)))
}

fn changes(of: &Value, name: &str) -> Error {
    invalid(format!("`{name}` would change a {}, which templates may not", type_name(of)))
}

fn number(of: &Value, name: &str) -> Result<Value, Error> {
    match (Number::of(of), name) {
        (Some(Number::Int(value)), "bit_length") => {
            Ok(Value::from(128 - value.unsigned_abs().leading_zeros()))
        }
        (Some(Number::Float(value)), "is_integer") => Ok(Value::from(value.fract() == 0.0)),
        _ => Err(no_method(of, name)),
    }
}

fn dictionary(of: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let view = |name, items| Ok(Some(Value::from_object(View { name, items })));
    let keys = || of.try_iter();
    let none = |result| {
        if args.is_empty() { result } else { Err(invalid(format!("{name} takes no arguments"))) }
    };
    match name {
        "keys" => none(view("dict_keys", keys()?.collect())),
        "values" => none(view(
            "dict_values",
            keys()?.map(|key| of.get_item(&key)).collect::<Result<_, _>>()?,
        )),
        "items" => {
            let pair =
                |key: Value| Ok(Value::from(Tuple::from(vec![key.clone(), of.get_item(&key)?])));
            none(view("dict_items", keys()?.map(pair).collect::<Result<_, Error>>()?))
        }
        "get" => {
            let (key, other) = match args {
                [key] => (key, Value::from(())),
                [key, other] if !other.is_kwargs() => (key, other.clone()),
                _ => return Err(invalid("get: expected a key and perhaps a default")),
            };
            match keys()?.find(|known| equal(known, key)) {
                Some(known) => of.get_item(&known).map(Some),
                None => Ok(Some(other)),
            }
        }
        "copy" => none(Ok(Some(of.clone()))),
        "fromkeys" => Err(invalid("fromkeys is not supported")),
        "clear" | "pop" | "popitem" | "setdefault" | "update" => Err(changes(of, name)),
        _ => Ok(None),
    }
}

fn list(of: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match (name, args) {
        ("count", [item]) => {
            Ok(Value::from(of.try_iter()?.filter(|other| equal(item, other)).count()))
        }
        ("index", [item]) => match of.try_iter()?.position(|other| equal(item, &other)) {
            Some(index) => Ok(Value::from(index)),
            None => Err(invalid("index: the value is not in the list")),
        },
        ("copy", []) if !of.is_tuple() => Ok(of.clone()),
        ("append" | "clear" | "extend" | "insert" | "pop" | "remove" | "reverse" | "sort", _) => {
            Err(changes(of, name))
        }
        _ => Err(no_method(of, name)),
    }
}

/// The arguments of a method by place or by name.
struct Arguments<'a> {
    method: &'a str,
    values: Vec<Option<Value>>,
}

impl<'a> Arguments<'a> {
    fn read(method: &'a str, args: &[Value], names: &[&str]) -> Result<Self, Error> {
        let (args, named) = match args.split_last() {
            Some((last, args)) if last.is_kwargs() => (args, Some(Kwargs::try_from(last.clone())?)),
            _ => (args, None),
        };
        if args.len() > names.len() {
            return Err(invalid(format!("{method}: too many arguments")));
        }
        let mut values: Vec<Option<Value>> = args.iter().cloned().map(Some).collect();
        values.resize(names.len(), None);
        if let Some(named) = named {
            for (value, name) in values.iter_mut().zip(names) {
                if named.has(name) {
                    *value = Some(named.get(name)?);
                }
            }
            named.assert_all_used()?;
        }
        for value in values.iter().flatten() {
            defined(value)?;
        }
        Ok(Self { method, values })
    }

    fn wrong(&self, expected: &str) -> Error {
        invalid(format!("{}: expected {expected}", self.method))
    }

    fn get(&self, at: usize) -> Option<&Value> {
        self.values.get(at)?.as_ref()
    }

    fn text(&self, at: usize) -> Result<&str, Error> {
        self.get(at).and_then(Value::as_str).ok_or_else(|| self.wrong("a text"))
    }

    fn text_or_none(&self, at: usize) -> Result<Option<&str>, Error> {
        match self.get(at) {
            None => Ok(None),
            Some(value) if value.is_none() => Ok(None),
            Some(_) => self.text(at).map(Some),
        }
    }

    fn int(&self, at: usize, other: i128) -> Result<i128, Error> {
        match self.get(at).map(Number::of) {
            None => Ok(other),
            Some(Some(Number::Int(value))) => Ok(value),
            Some(_) => Err(self.wrong("a whole number")),
        }
    }

    fn char(&self, at: usize) -> Result<char, Error> {
        let Some(value) = self.get(at) else { return Ok(' ') };
        let mut chars = value.as_str().unwrap_or_default().chars();
        match (chars.next(), chars.next()) {
            (Some(fill), None) => Ok(fill),
            _ => Err(self.wrong("one character")),
        }
    }
}

pub(super) fn text(of: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let read = |names: &[&str]| Arguments::read(name, args, names);
    let chars = || of.chars();
    let has_all = |test: fn(char) -> bool| Value::from(!of.is_empty() && of.chars().all(test));
    match name {
        "format" => {
            let (given, named) = match args.split_last() {
                Some((last, given)) if last.is_kwargs() => (given, last.clone()),
                _ => (args, Value::from_pairs(std::iter::empty::<(Value, Value)>())),
            };
            return format::braces(of, given, &named).map(Value::from);
        }
        "join" => {
            let read = read(&["iterable"])?;
            let parts = read.get(0).ok_or_else(|| read.wrong("a list"))?;
            let parts = items(parts)?;
            let parts: Option<Vec<&str>> = parts.iter().map(Value::as_str).collect();
            return Ok(Value::from(parts.ok_or_else(|| read.wrong("texts"))?.join(of)));
        }
        "split" | "rsplit" => {
            let read = read(&["sep", "maxsplit"])?;
            let parts = split(of, read.text_or_none(0)?, read.int(1, -1)?, name == "rsplit")?;
            return Ok(parts.into_iter().map(Value::from).collect());
        }
        "strip" | "lstrip" | "rstrip" => {
            let read = read(&["chars"])?;
            let cut = read.text_or_none(0)?;
            let is_cut = |c: char| cut.map_or_else(|| space(c), |cut| cut.contains(c));
            let left = if name == "rstrip" { of } else { of.trim_start_matches(is_cut) };
            return Ok(Value::from(if name == "lstrip" {
                left
            } else {
                left.trim_end_matches(is_cut)
            }));
        }
        "replace" => {
            let read = read(&["old", "new", "count"])?;
            let count = usize::try_from(read.int(2, -1)?).unwrap_or(usize::MAX);
            let new = read.text(1)?;
            limit(
                of.len()
                    .saturating_mul(new.len().max(1))
                    .min(new.len().saturating_mul(1 + of.len())),
            )?;
            return Ok(Value::from(of.replacen(read.text(0)?, new, count)));
        }
        "removeprefix" | "removesuffix" => {
            let read = read(&["affix"])?;
            let affix = read.text(0)?;
            let cut = if name == "removeprefix" {
                of.strip_prefix(affix)
            } else {
                of.strip_suffix(affix)
            };
            return Ok(Value::from(cut.unwrap_or(of)));
        }
        "startswith" | "endswith" | "find" | "rfind" | "index" | "rindex" | "count" => {
            return search(of, name, &read(&["sub", "start", "end"])?);
        }
        "partition" | "rpartition" => {
            let read = read(&["sep"])?;
            let sep = read.text(0)?;
            if sep.is_empty() {
                return Err(read.wrong("a separator that is not empty"));
            }
            let found = if name == "partition" { of.split_once(sep) } else { of.rsplit_once(sep) };
            let parts = match (found, name) {
                (Some((a, b)), _) => [a, sep, b],
                (None, "partition") => [of, "", ""],
                _ => ["", "", of],
            };
            return Ok(Value::from(Tuple::from(parts.map(Value::from))));
        }
        "splitlines" => {
            let read = read(&["keepends"])?;
            return Ok(lines(of, read.get(0).is_some_and(Value::is_true))
                .into_iter()
                .map(Value::from)
                .collect());
        }
        "zfill" | "ljust" | "rjust" | "center" => {
            let read = read(&["width", "fillchar"])?;
            let width = usize::try_from(read.int(0, 0)?).unwrap_or(0);
            limit(width)?;
            let missing = width.saturating_sub(of.chars().count());
            let fill = read.char(1)?.to_string();
            let (sign, digits) = of.split_at(usize::from(of.starts_with(['+', '-'])));
            return Ok(Value::from(match name {
                "zfill" => format!("{sign}{}{digits}", "0".repeat(missing)),
                "ljust" => format!("{of}{}", fill.repeat(missing)),
                "rjust" => format!("{}{of}", fill.repeat(missing)),
                _ => {
                    let left = missing / 2 + (missing & width & 1);
                    format!("{}{of}{}", fill.repeat(left), fill.repeat(missing - left))
                }
            }));
        }
        "expandtabs" => {
            let read = read(&["tabsize"])?;
            let size = usize::try_from(read.int(0, 8)?.clamp(0, 1000)).unwrap_or(8);
            return Ok(Value::from(expand_tabs(of, size)));
        }
        _ => {}
    }
    if !args.is_empty() {
        return Err(invalid(format!("{name}: no such method of a text with these arguments")));
    }
    let lower = of.to_lowercase();
    let cased = || chars().any(|c| c.is_lowercase() || c.is_uppercase());
    Ok(match name {
        "upper" => Value::from(of.to_uppercase()),
        "lower" => Value::from(lower),
        "casefold" => Value::from(lower.replace('ß', "ss")),
        "title" => Value::from(title(of)),
        "capitalize" => Value::from(capitalize(of)),
        "swapcase" => Value::from(
            chars()
                .map(|c| {
                    if c.is_uppercase() {
                        c.to_lowercase().collect()
                    } else {
                        c.to_uppercase().collect::<String>()
                    }
                })
                .collect::<String>(),
        ),
        "isdigit" | "isdecimal" | "isnumeric" if of.is_ascii() => has_all(|c| c.is_ascii_digit()),
        "isnumeric" => has_all(char::is_numeric),
        "isdigit" | "isdecimal" => {
            return Err(invalid(format!("{name} is supported for ASCII only")));
        }
        "isalpha" => has_all(char::is_alphabetic),
        "isalnum" => has_all(char::is_alphanumeric),
        "isspace" => has_all(space),
        "isascii" => Value::from(of.is_ascii()),
        "isprintable" => Value::from(chars().all(printable)),
        "isupper" => Value::from(cased() && !chars().any(char::is_lowercase)),
        "islower" => Value::from(cased() && !chars().any(char::is_uppercase)),
        "istitle" => Value::from(cased() && title(of) == of),
        "isidentifier" => {
            let first = chars().next().is_some_and(|c| c.is_alphabetic() || c == '_');
            Value::from(first && chars().all(|c| c.is_alphanumeric() || c == '_'))
        }
        _ => return Err(invalid(format!("str has no method `{name}` that is supported"))),
    })
}

/// White space as Python has it: four control characters more than Unicode's property.
fn space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

pub(super) fn capitalize(of: &str) -> String {
    let mut chars = of.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + &chars.as_str().to_lowercase()
    })
}

fn title(of: &str) -> String {
    let mut inside = false;
    let mut out = String::new();
    for c in of.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_lowercase() || c.is_uppercase();
    }
    out
}

fn expand_tabs(of: &str, size: usize) -> String {
    let (mut out, mut column) = (String::new(), 0);
    for c in of.chars() {
        match c {
            '\t' => {
                let missing = if size == 0 { 0 } else { size - column % size };
                out.push_str(&" ".repeat(missing));
                column += missing;
            }
            _ => {
                out.push(c);
                column = if c == '\n' || c == '\r' { 0 } else { column + 1 };
            }
        }
    }
    out
}

fn split(of: &str, sep: Option<&str>, most: i128, from_right: bool) -> Result<Vec<String>, Error> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let owned = |parts: Vec<&str>| parts.into_iter().map(str::to_owned).collect::<Vec<_>>();
    if let Some(sep) = sep {
        if sep.is_empty() {
            return Err(invalid("split: expected a separator that is not empty"));
        }
        let most = most.saturating_add(1);
        if !from_right {
            return Ok(owned(of.splitn(most, sep).collect()));
        }
        let mut parts: Vec<&str> = of.rsplitn(most, sep).collect();
        parts.reverse();
        return Ok(owned(parts));
    }
    let mut parts = Vec::new();
    let mut rest =
        if from_right { of.trim_end_matches(space) } else { of.trim_start_matches(space) };
    while !rest.is_empty() && parts.len() < most {
        let (part, more) = if from_right {
            let at = rest
                .rfind(space)
                .map_or(0, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8));
            (&rest[at..], rest[..at].trim_end_matches(space))
        } else {
            let at = rest.find(space).unwrap_or(rest.len());
            (&rest[..at], rest[at..].trim_start_matches(space))
        };
        parts.push(part);
        rest = more;
    }
    if !rest.is_empty() {
        parts.push(if from_right { rest.trim_end_matches(space) } else { rest });
    }
    if from_right {
        parts.reverse();
    }
    Ok(owned(parts))
}

pub(super) fn lines(of: &str, keep: bool) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = of;
    let ends =
        ['\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}'];
    while let Some(at) = rest.find(ends) {
        let end = if rest[at..].starts_with("\r\n") {
            2
        } else {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        out.push(rest[..if keep { at + end } else { at }].to_owned());
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        out.push(rest.to_owned());
    }
    out
}

/// Looks for a text between two characters.
fn search(of: &str, name: &str, read: &Arguments<'_>) -> Result<Value, Error> {
    let length = of.chars().count() as i128;
    let place = |at: i128| if at < 0 { (at.saturating_add(length)).max(0) } else { at.min(length) };
    let bound = |at: usize, other: i128| match read.get(at) {
        Some(value) if value.is_none() => Ok(other),
        _ => read.int(at, other),
    };
    let asked = bound(1, 0)?;
    let (start, end) = (place(asked), place(bound(2, length)?));
    let skipped = usize::try_from(start).unwrap_or(0);
    let taken = usize::try_from(end - start).unwrap_or(0);
    let within: String = of.chars().skip(skipped).take(taken).collect();
    let fits = start <= end && asked <= length;
    if let "startswith" | "endswith" = name {
        let wanted = read.get(0).ok_or_else(|| read.wrong("a text or a tuple of texts"))?;
        let all = if wanted.is_tuple() { items(wanted)? } else { vec![wanted.clone()] };
        let mut found = false;
        for one in &all {
            let one = one.as_str().ok_or_else(|| read.wrong("a text or a tuple of texts"))?;
            found |= fits
                && if name == "startswith" {
                    within.starts_with(one)
                } else {
                    within.ends_with(one)
                };
        }
        return Ok(Value::from(found));
    }
    let sub = read.text(0)?;
    if name == "count" {
        return Ok(Value::from(if fits { within.matches(sub).count() } else { 0 }));
    }
    let found = if name.starts_with('r') { within.rfind(sub) } else { within.find(sub) };
    match found.filter(|_| fits) {
        Some(at) => Ok(Value::from(skipped + within[..at].chars().count())),
        None if name.ends_with("find") => Ok(Value::from(-1)),
        None => Err(invalid(format!("{name}: the text is not found"))),
    }
}
