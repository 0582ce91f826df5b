//! Python's two ways to format: `"%d" % n` and `"{:d}".format(n)`.

use minijinja::{Error, Value, value::ValueKind};

use super::python::{Number, defined, invalid, item, limit, repr, to_str};

/// How one value is written.
#[derive(Debug, Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    plus: Option<char>,
    alternate: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// `template % value`.
pub(super) fn percent(template: &str, value: &Value) -> Result<String, Error> {
    let tuple: Option<Vec<Value>> =
        if value.is_tuple() { Some(value.try_iter()?.collect()) } else { None };
    let mut given = tuple.clone().unwrap_or_else(|| vec![value.clone()]).into_iter();
    let mut out = String::new();
    let mut chars = template.chars().peekable();
    let mut named = false;
    let few = || invalid("not enough arguments for the format");
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut key = None;
        if chars.next_if_eq(&'(').is_some() {
            let name: String = chars.by_ref().take_while(|c| *c != ')').collect();
            if value.kind() != ValueKind::Map {
                return Err(invalid("the format requires a mapping"));
            }
            let found = item(value, &Value::from(name.as_str()))?;
            defined(&found)?;
            key = Some(found);
            named = true;
        }
        let mut spec = Spec::default();
        let mut zero = false;
        while let Some(flag) = chars.next_if(|c| "-+ #0".contains(*c)) {
            match flag {
                '-' => spec.align = Some('<'),
                '+' => spec.plus = Some('+'),
                ' ' => spec.plus = spec.plus.or(Some(' ')),
                '#' => spec.alternate = true,
                _ => zero = true,
            }
        }
        spec.width = star_or_digits(&mut chars, &mut given)?.unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(star_or_digits(&mut chars, &mut given)?.unwrap_or(0));
        }
        while chars.next_if(|c| "hlL".contains(*c)).is_some() {}
        let kind = chars.next().ok_or_else(|| invalid("an incomplete format"))?;
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match key {
            Some(found) => found,
            None => given.next().ok_or_else(few)?,
        };
        spec.align = spec.align.or(Some('>'));
        if zero && spec.align == Some('>') && !"sracC".contains(kind) {
            (spec.fill, spec.align) = (Some('0'), Some('='));
        }
        out += &percent_one(kind, &value, spec)?;
        limit(out.len())?;
    }
    let left = given.next().is_some();
    if left
        && (tuple.is_some() || !(named || matches!(value.kind(), ValueKind::Map | ValueKind::Seq)))
    {
        return Err(invalid("not all arguments are converted by the format"));
    }
    Ok(out)
}

fn star_or_digits(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    given: &mut impl Iterator<Item = Value>,
) -> Result<Option<usize>, Error> {
    if chars.next_if_eq(&'*').is_some() {
        let value = given.next().as_ref().and_then(Number::of);
        return match value {
            Some(Number::Int(width)) => Ok(Some(small(usize::try_from(width).ok())?)),
            _ => Err(invalid("`*` of a format wants a whole number")),
        };
    }
    let mut digits = String::new();
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        digits.push(digit);
    }
    if digits.is_empty() { Ok(None) } else { Ok(Some(small(digits.parse().ok())?)) }
}

fn small(width: Option<usize>) -> Result<usize, Error> {
    width.filter(|width| *width <= 10_000).ok_or_else(|| invalid("a format is too wide"))
}

fn percent_one(kind: char, value: &Value, mut spec: Spec) -> Result<String, Error> {
    let number = Number::of(value);
    match kind {
        's' => text(&to_str(value)?, &spec),
        'r' | 'a' => text(&repr(value)?, &spec),
        'c' => match (number, value.as_str()) {
            (Some(Number::Int(code)), _) => {
                let c = u32::try_from(code).ok().and_then(char::from_u32);
                text(
                    &c.ok_or_else(|| invalid("%c: no character of this number"))?.to_string(),
                    &spec,
                )
            }
            (_, Some(one)) if one.chars().count() == 1 => text(one, &spec),
            _ => Err(invalid("%c requires a number or a character")),
        },
        'd' | 'i' | 'u' => {
            let whole = match number {
                Some(Number::Float(float)) if float.is_finite() => float.trunc() as i128,
                Some(Number::Int(int)) => int,
                _ => return Err(invalid("%d requires a number")),
            };
            spec.kind = Some('d');
            if let Some(digits) = spec.precision.take() {
                let body = format!("{:0>digits$}", whole.unsigned_abs());
                return Ok(pad(sign(whole < 0, &spec), &body, &spec));
            }
            integer(whole, &spec)
        }
        'x' | 'X' | 'o' => match number {
            Some(Number::Int(int)) => {
                spec.kind = Some(kind);
                integer(int, &spec)
            }
            _ => Err(invalid(format!("%{kind} requires a whole number"))),
        },
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let number = number.ok_or_else(|| invalid(format!("%{kind} requires a number")))?;
            spec.kind = Some(kind);
            float(number.float(), &spec)
        }
        other => Err(invalid(format!("`%{other}` is no format"))),
    }
}

fn text(text: &str, spec: &Spec) -> Result<String, Error> {
    let cut: String = text.chars().take(spec.precision.unwrap_or(usize::MAX)).collect();
    Ok(pad("", &cut, spec))
}

fn sign(negative: bool, spec: &Spec) -> &'static str {
    match (negative, spec.plus) {
        (true, _) => "-",
        (_, Some('+')) => "+",
        (_, Some(' ')) => " ",
        _ => "",
    }
}

fn pad(before: &str, body: &str, spec: &Spec) -> String {
    let length = before.chars().count() + body.chars().count();
    let missing = spec.width.saturating_sub(length);
    let fill = |count: usize| spec.fill.unwrap_or(' ').to_string().repeat(count);
    match spec.align.unwrap_or('<') {
        '=' => format!("{before}{}{body}", fill(missing)),
        '>' => format!("{}{before}{body}", fill(missing)),
        '^' => format!("{}{before}{body}{}", fill(missing / 2), fill(missing - missing / 2)),
        _ => format!("{before}{body}{}", fill(missing)),
    }
}

fn integer(value: i128, spec: &Spec) -> Result<String, Error> {
    let size = value.unsigned_abs();
    let (prefix, digits) = match spec.kind {
        Some('x') => ("0x", format!("{size:x}")),
        Some('X') => ("0X", format!("{size:X}")),
        Some('o') => ("0o", format!("{size:o}")),
        Some('b') => ("0b", format!("{size:b}")),
        _ => ("", size.to_string()),
    };
    let prefix = if spec.alternate { prefix } else { "" };
    let before = format!("{}{prefix}", sign(value < 0, spec));
    Ok(pad(&before, &group(&digits, spec.grouping), spec))
}

fn group(digits: &str, with: Option<char>) -> String {
    let Some(with) = with else { return digits.to_owned() };
    let (whole, rest) = digits.split_at(digits.find(['.', 'e']).unwrap_or(digits.len()));
    let mut out = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            out.push(with);
        }
        out.push(digit);
    }
    out + rest
}

fn float(value: f64, spec: &Spec) -> Result<String, Error> {
    let size = value.abs();
    let precision = spec.precision.unwrap_or(6);
    let kind = spec.kind.unwrap_or('g');
    let mut digits = if !value.is_finite() {
        if value.is_nan() { "nan" } else { "inf" }.to_owned()
    } else {
        match kind.to_ascii_lowercase() {
            'f' => format!("{size:.precision$}"),
            '%' => format!("{:.precision$}%", size * 100.0),
            'e' => exponent(&format!("{size:.precision$e}")),
            _ => general(size, precision.max(1), spec.alternate),
        }
    };
    if kind.is_ascii_uppercase() {
        digits = digits.to_uppercase();
    }
    let before = sign(value.is_sign_negative() && !value.is_nan(), spec);
    Ok(pad(before, &group(&digits, spec.grouping), spec))
}

fn exponent(scientific: &str) -> String {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn general(size: f64, precision: usize, alternate: bool) -> String {
    let scientific = format!("{size:.0$e}", precision - 1);
    let at = scientific.split_once('e').map_or(0, |(_, at)| at.parse::<i32>().unwrap_or(0));
    let trimmed = |digits: &str| match digits.contains('.') && !alternate {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => digits.to_owned(),
    };
    if at < -4 || at >= precision as i32 {
        let (mantissa, at) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        return exponent(&format!("{}e{at}", trimmed(mantissa)));
    }
    let places = usize::try_from(precision as i32 - 1 - at).unwrap_or(0);
    trimmed(&format!("{size:.places$}"))
}

/// `template.format(…)`.
pub(super) fn braces(template: &str, given: &[Value], named: &Value) -> Result<String, Error> {
    let mut out = String::new();
    let mut chars = template.chars().peekable();
    let mut next = 0;
    while let Some(c) = chars.next() {
        match c {
            '{' if chars.next_if_eq(&'{').is_some() => out.push('{'),
            '}' if chars.next_if_eq(&'}').is_some() => out.push('}'),
            '}' => return Err(invalid("a single `}` in a format")),
            '{' => {
                let mut field = String::new();
                let mut depth = 1;
                for c in chars.by_ref() {
                    depth = match c {
                        '{' => depth + 1,
                        '}' => depth - 1,
                        _ => depth,
                    };
                    if depth == 0 {
                        break;
                    }
                    field.push(c);
                }
                if depth > 0 {
                    return Err(invalid("a single `{` in a format"));
                }
                out += &one_field(&field, given, named, &mut next)?;
                limit(out.len())?;
            }
            _ => out.push(c),
        }
    }
    Ok(out)
}

fn one_field(
    field: &str,
    given: &[Value],
    named: &Value,
    next: &mut usize,
) -> Result<String, Error> {
    let (path, spec) = field.split_once(':').unwrap_or((field, ""));
    if spec.contains('{') {
        return Err(invalid("a format within a format is not supported"));
    }
    let (path, conversion) = match path.split_once('!') {
        Some((path, conversion)) => (path, conversion),
        None => (path, ""),
    };
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, mut rest) = path.split_at(end);
    let mut value = if name.is_empty() {
        *next += 1;
        given.get(*next - 1).cloned()
    } else if let Ok(index) = name.parse::<usize>() {
        given.get(index).cloned()
    } else {
        Some(item(named, &Value::from(name))?).filter(|value| !value.is_undefined())
    }
    .ok_or_else(|| invalid(format!("the format has no argument for `{{{field}}}`")))?;
    while let Some(more) = rest.strip_prefix('[') {
        let (key, after) =
            more.split_once(']').ok_or_else(|| invalid("missing `]` in a format"))?;
        let key = key.parse::<i64>().map_or_else(|_| Value::from(key), Value::from);
        value = item(&value, &key)?;
        defined(&value)?;
        rest = after;
    }
    if !rest.is_empty() {
        return Err(invalid("attributes in a format are not supported"));
    }
    let value = match conversion {
        "" => value,
        "r" | "a" => Value::from(repr(&value)?),
        "s" => Value::from(to_str(&value)?),
        _ => return Err(invalid(format!("`!{conversion}` is no conversion"))),
    };
    with_spec(&value, spec)
}

fn with_spec(value: &Value, source: &str) -> Result<String, Error> {
    if source.is_empty() {
        return to_str(value);
    }
    let mut spec = Spec::default();
    let all: Vec<char> = source.chars().collect();
    let mut at = 0;
    let is_align = |c: Option<&char>| c.is_some_and(|c| "<>=^".contains(*c));
    if is_align(all.get(1)) {
        (spec.fill, spec.align, at) = (Some(all[0]), Some(all[1]), 2);
    } else if is_align(all.first()) {
        (spec.align, at) = (Some(all[0]), 1);
    }
    let mut chars = source.chars().skip(at).collect::<String>();
    let mut take = |allowed: &str| {
        let first = chars.chars().next().filter(|c| allowed.contains(*c))?;
        chars.remove(0);
        Some(first)
    };
    spec.plus = take("+- ").filter(|sign| *sign != '-');
    spec.alternate = take("#").is_some();
    if take("0").is_some() && spec.align.is_none() {
        (spec.fill, spec.align) = (Some('0'), Some('='));
    }
    let mut digits = String::new();
    while let Some(digit) = take("0123456789") {
        digits.push(digit);
    }
    if !digits.is_empty() {
        spec.width = small(digits.parse().ok())?;
    }
    spec.grouping = take(",_");
    if take(".").is_some() {
        let mut digits = String::new();
        while let Some(digit) = take("0123456789") {
            digits.push(digit);
        }
        spec.precision = Some(small(digits.parse().ok())?);
    }
    spec.kind = take("bcdeEfFgGnosxX%");
    if !chars.is_empty() {
        return Err(invalid(format!("`{source}` is no format")));
    }
    let wrong = || invalid(format!("`{source}` is no format for this value"));
    match (Number::of(value), spec.kind) {
        (None, None | Some('s')) if value.as_str().is_some() && spec.align != Some('=') => {
            text(value.as_str().unwrap_or_default(), &spec)
        }
        (Some(number), kind) => {
            spec.align = spec.align.or(Some('>'));
            match (number, kind) {
                (Number::Int(int), None | Some('d' | 'x' | 'X' | 'o' | 'b'))
                    if spec.precision.is_none() =>
                {
                    integer(int, &spec)
                }
                (number, Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => {
                    float(number.float(), &spec)
                }
                (Number::Float(_), None) if spec.precision.is_none() => {
                    let written = to_str(value)?;
                    let (negative, size) = match written.strip_prefix('-') {
                        Some(size) => (true, size),
                        None => (false, written.as_str()),
                    };
                    Ok(pad(sign(negative, &spec), &group(size, spec.grouping), &spec))
                }
                _ => Err(wrong()),
            }
        }
        _ => Err(wrong()),
    }
}
