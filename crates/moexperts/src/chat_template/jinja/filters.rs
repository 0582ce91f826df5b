//! Filters of Jinja2 that the engine has not, or has otherwise.

use std::sync::Arc;

use minijinja::{
    Environment, Error, State, Value,
    value::{
        ArgType, Enumerator, Kwargs, Object, ObjectRepr, Rest, Tuple, ValueKind, ValueOrKwargs,
    },
};

use super::{
    markup, methods,
    python::{self, Number, defined, equal, invalid, to_str},
};

/// Filters by name, in Jinja2 3.1.
const NAMES: [&str; 54] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

pub(super) fn is_known(name: &str) -> bool {
    NAMES.contains(&name)
}

pub(super) fn add(environment: &mut Environment<'_>) {
    for name in ["bool", "split", "lines", "chain", "zip"] {
        environment.remove_filter(name);
    }
    // What the engine's own filters do not do as Jinja2 does is refused.
    for name in ["random", "striptags", "urlize", "wordwrap", "pprint"] {
        environment.add_filter(name, move |_: Value, _: Rest<ValueOrKwargs>| {
            Err::<Value, _>(invalid(format!("the filter `{name}` is not supported")))
        });
    }
    environment.add_filter("string", |value: Value| match value.as_str() {
        Some(_) => Ok(value),
        None => to_str(&value).map(Value::from),
    });
    for name in ["upper", "lower", "capitalize"] {
        environment.add_filter(name, move |value: Value| markup::method(&value, name, &[]));
    }
    environment.add_filter("title", |value: Value| Ok::<_, Error>(title(&to_str(&value)?)));
    environment.add_filter("trim", |value: Value, chars: Option<Value>| {
        markup::method(&value, "strip", &chars.into_iter().collect::<Vec<_>>())
    });
    environment.add_filter("center", |value: Value, width: Option<i64>| {
        markup::method(&value, "center", &[Value::from(width.unwrap_or(80))])
    });
    environment.add_filter(
        "replace",
        |value: Value, old: Value, new: Value, count: Option<Value>| {
            let mut args = vec![Value::from(to_str(&old)?), Value::from(to_str(&new)?)];
            args.extend(count.filter(|count| !count.is_none()));
            methods::text(&to_str(&value)?, "replace", &args)
        },
    );
    environment.add_filter("wordcount", |value: Value| {
        let text = to_str(&value)?;
        Ok::<_, Error>(
            text.split(|c: char| !c.is_alphanumeric() && c != '_')
                .filter(|word| !word.is_empty())
                .count(),
        )
    });
    environment.add_filter("format", |template: Value, args: Rest<ValueOrKwargs>| {
        let template = match template.as_str() {
            Some(_) => template,
            None => Value::from(to_str(&template)?),
        };
        let args = super::functions::given(args);
        let given = match args.split_last() {
            Some((last, [])) if last.is_kwargs() => last.clone(),
            Some((last, _)) if last.is_kwargs() => {
                return Err(invalid("format: arguments by place or by name"));
            }
            _ => Value::from(Tuple::from(args)),
        };
        markup::percent(&template, &given)
    });
    for name in ["e", "escape", "forceescape"] {
        environment.add_filter(name, move |value: Value| {
            match value.is_safe() && name != "forceescape" {
                true => Ok(value),
                false => to_str(&value).map(|text| Value::from_safe_string(markup::escape(&text))),
            }
        });
    }
    for name in ["length", "count"] {
        environment.add_filter(name, |value: Value| python::length(&value));
    }
    environment.add_filter("list", |value: Value| python::items(&value).map(Value::from));
    environment.add_filter("first", |value: Value| {
        Ok::<_, Error>(python::items(&value)?.into_iter().next().unwrap_or_default())
    });
    environment.add_filter("last", last);
    environment.add_filter("reverse", |value: Value| match value.as_str() {
        Some(text) => Ok(markup::like(&value, text.chars().rev().collect::<String>())),
        None => python::items(&value).map(|mut items| {
            items.reverse();
            Value::from(items)
        }),
    });
    environment.add_filter("join", join);
    environment.add_filter("sum", sum);
    environment.add_filter("indent", indent);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("round", round);
    environment.add_filter("abs", |value: Value| match Number::of(&value) {
        Some(Number::Int(value)) => Ok(Value::from(value.saturating_abs())),
        Some(Number::Float(value)) => Ok(Value::from(value.abs())),
        None => Err(invalid("abs: expected a number")),
    });
    environment.add_filter("items", |state: &mut State<'_, '_>, value: Value| match value.kind() {
        ValueKind::Undefined => Ok(Value::from(Vec::<Value>::new())),
        ValueKind::Map => methods::call(state, &value, "items", &[]),
        _ => Err(invalid("items: expected a mapping")),
    });
    environment.add_filter("attr", |value: Value, name: &str| match value.kind() {
        // Keys are no attributes.
        ValueKind::Map if super::objects::is_dict(&value) => {
            Ok(super::objects::method(&value, name).unwrap_or_default())
        }
        _ => python::attribute(&value, name),
    });
    for (name, sign) in [("min", "__py_lt"), ("max", "__py_gt")] {
        let better =
            if sign == "__py_lt" { std::cmp::Ordering::is_lt } else { std::cmp::Ordering::is_gt };
        environment.add_filter(
            name,
            move |value: Value, case_sensitive: Option<bool>, named: Kwargs| {
                extreme(&value, case_sensitive, &named, better)
            },
        );
    }
    environment.add_filter("map", map);
    environment.add_filter("dictsort", dictsort);
    environment.add_filter("groupby", groupby);
    for name in ["d", "default"] {
        environment.add_filter(name, default);
    }
    environment.add_filter("sort", sort);
    environment.add_filter("unique", unique);
    super::texts::add(environment);
}

/// An argument that was given by place, or else by name.
pub(super) fn or_named<'a, T>(
    given: Option<T>,
    name: &'a str,
    named: &'a Kwargs,
) -> Result<Option<T>, Error>
where
    T: ArgType<'a, Output = T>,
{
    match given {
        Some(given) => Ok(Some(given)),
        None => named.get::<Option<T>>(name),
    }
}

/// The arguments of a filter that has more of them than the engine takes apart.
pub(super) struct Args<'a> {
    by_place: &'a [Value],
    named: Kwargs,
    /// Names in the order of their places.
    names: &'a [&'a str],
}

impl<'a> Args<'a> {
    pub(super) fn new(given: &'a [Value], names: &'a [&'a str]) -> Result<Self, Error> {
        let (by_place, named) = match given.split_last() {
            Some((last, by_place)) if last.is_kwargs() => (by_place, last.clone()),
            _ => (given, Value::from(Kwargs::from_iter(std::iter::empty::<(&str, Value)>()))),
        };
        if by_place.len() > names.len() {
            return Err(invalid(format!("expected at most {} arguments", names.len())));
        }
        Ok(Self { by_place, named: Kwargs::try_from(named)?, names })
    }

    pub(super) fn get<T>(&'a self, name: &'a str) -> Result<Option<T>, Error>
    where
        T: ArgType<'a, Output = T>,
    {
        let place = self.names.iter().position(|known| *known == name);
        let given = place.and_then(|place| self.by_place.get(place));
        or_named(<Option<T> as ArgType<'a>>::from_value(given)?, name, &self.named)
    }

    pub(super) fn assert_all_used(&self) -> Result<(), Error> {
        self.named.assert_all_used()
    }
}

fn default(
    value: Value,
    other: Option<Value>,
    falsy: Option<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let other = or_named(other, "default_value", &named)?;
    let falsy = or_named(falsy, "boolean", &named)?;
    named.assert_all_used()?;
    let replaced =
        value.is_undefined() || falsy.is_some_and(|falsy| falsy.is_true()) && !value.is_true();
    Ok(if replaced { other.unwrap_or_else(|| Value::from("")) } else { value })
}

/// A filter on each item, or an attribute of it.
fn map(state: &mut State<'_, '_>, value: Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = super::functions::given(args);
    let items = python::items(&value)?;
    if let [only] = args.as_slice()
        && only.is_kwargs()
    {
        let named = Kwargs::try_from(only.clone())?;
        let path: Value = named.get("attribute")?;
        let other = named.get::<Option<Value>>("default")?;
        named.assert_all_used()?;
        return items.iter().map(|item| attribute_or(item, &path, other.as_ref())).collect();
    }
    let (name, more) =
        args.split_first().ok_or_else(|| invalid("map: expected a filter or an attribute"))?;
    let name = name.as_str().ok_or_else(|| invalid("map: expected the name of a filter"))?;
    items
        .into_iter()
        .map(|item| {
            let all: Vec<Value> = [item].into_iter().chain(more.iter().cloned()).collect();
            state.apply_filter(name, &all)
        })
        .collect()
}

fn attribute_or(item: &Value, path: &Value, other: Option<&Value>) -> Result<Value, Error> {
    let found = by_path(item, path)?;
    Ok(match other {
        Some(other) if found.is_undefined() => other.clone(),
        _ => found,
    })
}

fn dictsort(
    value: Value,
    case: Option<bool>,
    by: Option<String>,
    reverse: Option<bool>,
    named: Kwargs,
) -> Result<Value, Error> {
    let case = or_named(case, "case_sensitive", &named)?;
    let by = or_named(by, "by", &named)?;
    let reverse = or_named(reverse, "reverse", &named)?;
    named.assert_all_used()?;
    let at = match by.as_deref().unwrap_or("key") {
        "key" => 0,
        "value" => 1,
        _ => return Err(invalid("dictsort: expected `key` or `value`")),
    };
    if value.kind() != ValueKind::Map {
        return Err(invalid("dictsort: expected a mapping"));
    }
    let pair = |key: Value| Ok(Value::from(Tuple::from(vec![key.clone(), value.get_item(&key)?])));
    let pairs: Vec<Value> = value.try_iter()?.map(pair).collect::<Result<_, Error>>()?;
    let no_names = Kwargs::from_iter(std::iter::empty::<(&str, Value)>());
    sort(Value::from(pairs), reverse, case, Some(Value::from(at)), no_names)
}

/// Items with the same attribute; a group is a tuple whose parts have names, too.
#[derive(Debug)]
pub(super) struct Group([Value; 2]);

impl Object for Group {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str() {
            Some("grouper") => Some(self.0[0].clone()),
            Some("list") => Some(self.0[1].clone()),
            _ => self.0.get(key.as_usize()?).cloned(),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(2)
    }
}

fn groupby(value: Value, attribute: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let path = attribute.map_or_else(|| named.get::<Value>("attribute"), Ok)?;
    let other = named.get::<Option<Value>>("default")?;
    let case = named.get::<Option<bool>>("case_sensitive")?.unwrap_or(false);
    named.assert_all_used()?;
    let mut keyed: Vec<Value> = Vec::new();
    for item in python::items(&value)? {
        let key = attribute_or(&item, &path, other.as_ref())?;
        defined(&key)?;
        keyed.push(Value::from(vec![key, item]));
    }
    let no_names = Kwargs::from_iter(std::iter::empty::<(&str, Value)>());
    let sorted = sort(Value::from(keyed), None, Some(case), Some(Value::from(0)), no_names)?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for pair in sorted.try_iter()? {
        let (key, item) = (pair.get_item_by_index(0)?, pair.get_item_by_index(1)?);
        match groups.last_mut() {
            Some((known, items)) if equal(&fold(known.clone(), case), &fold(key.clone(), case)) => {
                items.push(item);
            }
            _ => groups.push((key, vec![item])),
        }
    }
    Ok(groups
        .into_iter()
        .map(|(key, items)| Value::from_object(Group([key, Value::from(items)])))
        .collect())
}

fn title(text: &str) -> String {
    // Words end at white space, `-`, `(`, `{`, `[` and `<`.
    let mut start = true;
    let mut out = String::new();
    for c in text.chars() {
        let separates = c.is_whitespace() || "-({[<".contains(c);
        if start && !separates {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
        start = separates;
    }
    out
}

fn last(value: Value) -> Result<Value, Error> {
    Ok(python::items(&value)?.pop().unwrap_or_default())
}

/// `item.a.0` for the attribute `a.0`.
fn by_path(item: &Value, path: &Value) -> Result<Value, Error> {
    let Some(path) = path.as_str() else { return python::item(item, path) };
    path.split('.').try_fold(item.clone(), |value, part| match part.parse::<i64>() {
        Ok(index) => python::item(&value, &Value::from(index)),
        Err(_) => python::item(&value, &Value::from(part)),
    })
}

fn join(
    value: Value,
    between: Option<Value>,
    attribute: Option<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    let between = or_named(between, "d", &named)?;
    let attribute = or_named(attribute, "attribute", &named)?;
    named.assert_all_used()?;
    let between = between.map_or_else(|| Ok(String::new()), |between| to_str(&between))?;
    let mut texts = Vec::new();
    for item in python::items(&value)? {
        let item = match attribute.as_ref().filter(|path| !path.is_none()) {
            Some(path) => by_path(&item, path)?,
            None => item,
        };
        texts.push(to_str(&item)?);
    }
    Ok(texts.join(&between))
}

fn sum(
    value: Value,
    attribute: Option<Value>,
    start: Option<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let attribute = or_named(attribute, "attribute", &named)?;
    let start = or_named(start, "start", &named)?;
    named.assert_all_used()?;
    let mut total = start.unwrap_or_else(|| Value::from(0));
    for item in python::items(&value)? {
        let item = match attribute.as_ref().filter(|path| !path.is_none()) {
            Some(path) => by_path(&item, path)?,
            None => item,
        };
        total = python::operate("+", &total, &item)?;
    }
    Ok(total)
}

fn indent(
    value: Value,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    named: Kwargs,
) -> Result<Value, Error> {
    let width = or_named(width, "width", &named)?;
    let first = or_named(first, "first", &named)?.unwrap_or(false);
    let blank = or_named(blank, "blank", &named)?.unwrap_or(false);
    named.assert_all_used()?;
    let width = width.unwrap_or_else(|| Value::from(4));
    let before = match (width.as_str(), width.as_usize()) {
        (Some(text), _) => text.to_owned(),
        (_, Some(count)) if count < 10_000 => " ".repeat(count),
        _ => return Err(invalid("indent: expected a small number or a text")),
    };
    let text = value.as_str().ok_or_else(|| invalid("indent: expected a text"))?.to_owned() + "\n";
    let mut lines = methods::lines(&text, false).into_iter();
    let mut out = if first { before.clone() } else { String::new() };
    if blank {
        out += &lines.collect::<Vec<_>>().join(&format!("\n{before}"));
        return Ok(markup::like(&value, out));
    }
    out += &lines.next().unwrap_or_default();
    for line in lines {
        out.push('\n');
        if !line.is_empty() {
            out += &before;
            out += &line;
        }
    }
    Ok(markup::like(&value, out))
}

fn int(
    value: Value,
    default: Option<Value>,
    base: Option<u32>,
    named: Kwargs,
) -> Result<Value, Error> {
    let default = or_named(default, "default", &named)?;
    let base = or_named(base, "base", &named)?.unwrap_or(10);
    named.assert_all_used()?;
    defined(&value)?;
    let default = default.unwrap_or_else(|| Value::from(0));
    let whole = |float: f64| (float.abs() < 1e30).then(|| float.trunc() as i128);
    let found = match (Number::of(&value), value.as_str()) {
        (Some(Number::Int(value)), _) => Some(value),
        (Some(Number::Float(value)), _) => whole(value),
        (None, Some(text)) => {
            let text = text.trim().to_lowercase().replace('_', "");
            let prefix = match base {
                16 => "0x",
                8 => "0o",
                2 => "0b",
                10 => "",
                _ => return Err(invalid("int: expected the base 2, 8, 10 or 16")),
            };
            let digits = text.strip_prefix(prefix).unwrap_or(&text);
            i128::from_str_radix(digits, base)
                .ok()
                .or_else(|| text.parse::<f64>().ok().and_then(whole))
        }
        _ => None,
    };
    Ok(found.map_or(default, |value| {
        i64::try_from(value).map_or_else(|_| Value::from(value), Value::from)
    }))
}

fn float(value: Value, default: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let default = or_named(default, "default", &named)?;
    named.assert_all_used()?;
    defined(&value)?;
    let found = match (Number::of(&value), value.as_str()) {
        (Some(number), _) => Some(number.float()),
        (None, Some(text)) => text.trim().replace('_', "").parse().ok(),
        _ => None,
    };
    Ok(found.map_or_else(|| default.unwrap_or_else(|| Value::from(0.0)), Value::from))
}

fn round(
    value: Value,
    precision: Option<i32>,
    method: Option<String>,
    named: Kwargs,
) -> Result<Value, Error> {
    let precision = or_named(precision, "precision", &named)?.unwrap_or(0);
    let method = or_named(method, "method", &named)?;
    named.assert_all_used()?;
    let number = Number::of(&value).ok_or_else(|| invalid("round: expected a number"))?;
    let scale = 10f64.powi(precision);
    match (method.as_deref().unwrap_or("common"), number) {
        ("common", Number::Int(value)) if precision >= 0 => Ok(Value::from(value)),
        ("common", Number::Int(value)) => {
            let scale = 10f64.powi(-precision);
            Ok(Value::from(((value as f64 / scale).round_ties_even() * scale) as i128))
        }
        // The digits of a text are rounded exactly, half to even.
        ("common", Number::Float(value)) if (0..300).contains(&precision) => {
            let digits = usize::try_from(precision).unwrap_or(0);
            Ok(Value::from(format!("{value:.digits$}").parse::<f64>().unwrap_or(value)))
        }
        ("common", Number::Float(value)) => {
            Ok(Value::from((value * scale).round_ties_even() / scale))
        }
        ("ceil", number) => Ok(Value::from((number.float() * scale).ceil() / scale)),
        ("floor", number) => Ok(Value::from((number.float() * scale).floor() / scale)),
        _ => Err(invalid("round: expected the method `common`, `ceil` or `floor`")),
    }
}

/// The key that values are compared by: texts without their case.
fn fold(value: Value, case_sensitive: bool) -> Value {
    match value.as_str() {
        Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
        _ => value,
    }
}

fn extreme(
    value: &Value,
    case_sensitive: Option<bool>,
    named: &Kwargs,
    better: fn(std::cmp::Ordering) -> bool,
) -> Result<Value, Error> {
    let case = or_named(case_sensitive, "case_sensitive", named)?.unwrap_or(false);
    let attribute = named.get::<Option<Value>>("attribute")?;
    named.assert_all_used()?;
    let mut best: Option<(Value, Value)> = None;
    for item in python::items(value)? {
        let key = match &attribute {
            Some(path) => by_path(&item, path)?,
            None => item.clone(),
        };
        let key = fold(key, case);
        let wins = match &best {
            Some((known, _)) => python::order(&key, known)?.is_some_and(better),
            None => true,
        };
        if wins {
            best = Some((key, item));
        }
    }
    Ok(best.map_or(Value::UNDEFINED, |(_, item)| item))
}

fn sort(
    value: Value,
    reverse: Option<bool>,
    case_sensitive: Option<bool>,
    attribute: Option<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let reverse = or_named(reverse, "reverse", &named)?.unwrap_or(false);
    let case = or_named(case_sensitive, "case_sensitive", &named)?.unwrap_or(false);
    let attribute = or_named(attribute, "attribute", &named)?;
    named.assert_all_used()?;
    let paths: Option<Vec<Value>> = attribute.map(|attribute| match attribute.as_str() {
        Some(paths) => paths.split(',').map(Value::from).collect(),
        None => vec![attribute],
    });
    let mut keyed = Vec::new();
    for item in python::items(&value)? {
        let keys = match &paths {
            Some(paths) => {
                paths.iter().map(|path| by_path(&item, path)).collect::<Result<Vec<_>, _>>()?
            }
            None => vec![item.clone()],
        };
        let keys: Vec<Value> = keys.into_iter().map(|key| fold(key, case)).collect();
        keyed.push((Value::from(keys), item));
    }
    let mut failed = None;
    keyed.sort_by(|(a, _), (b, _)| {
        let order = python::order(a, b).unwrap_or_else(|error| {
            failed = Some(error);
            None
        });
        let order = order.unwrap_or(std::cmp::Ordering::Equal);
        if reverse { order.reverse() } else { order }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(keyed.into_iter().map(|(_, item)| item).collect()),
    }
}

fn unique(
    value: Value,
    case_sensitive: Option<bool>,
    attribute: Option<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let case = or_named(case_sensitive, "case_sensitive", &named)?.unwrap_or(false);
    let attribute = or_named(attribute, "attribute", &named)?;
    named.assert_all_used()?;
    let mut seen: Vec<Value> = Vec::new();
    let mut kept = Vec::new();
    for item in python::items(&value)? {
        let key = match &attribute {
            Some(path) => by_path(&item, path)?,
            None => item.clone(),
        };
        let key = fold(key, case);
        if !seen.iter().any(|other| equal(other, &key)) {
            seen.push(key);
            kept.push(item);
        }
    }
    Ok(Value::from(kept))
}
