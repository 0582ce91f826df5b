//! Functions behind the operators, tests and globals of Jinja2.

use std::cmp::Ordering;

use minijinja::{
    Environment, Error, ErrorKind, State, Value,
    value::{Kwargs, Rest, Tuple, ValueKind, ValueOrKwargs},
};

use super::{
    methods, objects,
    python::{self, Number, defined, equal, invalid, to_str},
};

pub(super) fn add(environment: &mut Environment<'_>) {
    for (name, sign) in [
        ("add", "+"),
        ("sub", "-"),
        ("mul", "*"),
        ("div", "/"),
        ("floordiv", "//"),
        ("mod", "%"),
        ("pow", "**"),
    ] {
        environment.add_function(format!("__py_{name}"), move |operands: Rest<Value>| {
            let mut all = operands.iter();
            let first = all.next().cloned().unwrap_or_default();
            all.try_fold(first, |sum, next| python::operate(sign, &sum, next))
        });
    }
    for (name, test) in COMPARISONS {
        environment.add_function(format!("__py_{name}"), move |a: Value, b: Value| test(&a, &b));
    }
    environment.add_function("__py_neg", |value: Value| {
        python::operate("*", &value, &Value::from(-1)).and_then(numeric)
    });
    environment.add_function("__py_pos", |value: Value| {
        python::operate("*", &value, &Value::from(1)).and_then(numeric)
    });
    environment.add_function("__py_concat", |parts: Rest<Value>| {
        let texts: Vec<String> = parts.iter().map(to_str).collect::<Result<_, _>>()?;
        python::limit(texts.iter().map(String::len).sum())?;
        Ok::<_, Error>(texts.concat())
    });
    environment
        .add_function("__py_tuple", |items: Rest<Value>| Value::from(Tuple::from(items.to_vec())));
    environment.add_function("__py_iter", |value: Value| python::items(&value).map(Value::from));
    environment.add_function("__py_item", |value: Value, key: Value| python::item(&value, &key));
    environment
        .add_function("__py_attr", |value: Value, name: &str| python::attribute(&value, name));
    environment.add_function(
        "__py_slice",
        |value: Value, start: Value, stop: Value, step: Value| {
            python::slice(&value, [&start, &stop, &step])
        },
    );
    environment.add_function(
        "__py_call",
        |state: &mut State<'_, '_>, value: Value, name: &str, args: Rest<ValueOrKwargs>| {
            methods::call(state, &value, name, &given(args))
        },
    );
    environment.add_function(
        "__py_test",
        |state: &mut State<'_, '_>, name: &str, value: Value, args: Rest<Value>| {
            test(state, name, &value, &args)
        },
    );
    environment.add_function("__py_no_loader", |tag: &str| {
        Err::<Value, _>(invalid(format!(
            "`{tag}`: a chat template has no other templates beside it"
        )))
    });
    for name in TESTS {
        environment.add_test(
            name,
            move |state: &mut State<'_, '_>, value: Value, args: Rest<Value>| {
                test(state, name, &value, &args)
            },
        );
    }
    environment.add_function("range", objects::range);
    environment.add_function("cycler", objects::cycler);
    environment.add_function("joiner", objects::joiner);
    environment.add_function("dict", dict);
    environment.add_function("namespace", namespace);
    environment.add_function("lipsum", |_: Rest<ValueOrKwargs>| {
        Err::<Value, _>(invalid("lipsum: random text is not supported"))
    });
}

/// Arguments by place, with those by name as the last.
pub(super) fn given(args: Rest<ValueOrKwargs>) -> Vec<Value> {
    args.0.into_iter().map(Value::from).collect()
}

/// A dictionary of pairs or of another one, and of names.
fn dict(of: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let mut pairs: Vec<(Value, Value)> = Vec::new();
    let mut put =
        |key: Value, value: Value| match pairs.iter_mut().find(|(known, _)| equal(known, &key)) {
            Some(pair) => pair.1 = value,
            None => pairs.push((key, value)),
        };
    if let Some(of) = of {
        for item in python::items(&of)? {
            if of.kind() == ValueKind::Map {
                put(item.clone(), of.get_item(&item)?);
                continue;
            }
            match python::items(&item)?.as_slice() {
                [key, value] => put(key.clone(), value.clone()),
                _ => return Err(invalid("dict: expected pairs")),
            }
        }
    }
    for name in named.args().map(str::to_owned).collect::<Vec<_>>() {
        put(Value::from(name.as_str()), named.get(&name)?);
    }
    Ok(Value::from_pairs(pairs))
}

fn namespace(of: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let fields = dict(of, named)?;
    let hidden = |key: &Value| key.as_str().is_some_and(|name| name.starts_with('_'));
    if fields.try_iter()?.any(|key| hidden(&key)) {
        return Err(invalid("a namespace has no names that begin with `_`"));
    }
    minijinja::functions::namespace(Some(fields.into()))
}

fn numeric(value: Value) -> Result<Value, Error> {
    match Number::of(&value) {
        Some(_) => Ok(value),
        None => Err(invalid("a sign before what is not a number")),
    }
}

type Comparison = fn(&Value, &Value) -> Result<bool, Error>;

const COMPARISONS: [(&str, Comparison); 8] = [
    ("eq", |a, b| Ok(equal(a, b))),
    ("ne", |a, b| Ok(!equal(a, b))),
    ("lt", |a, b| ordered(a, b, Ordering::is_lt)),
    ("le", |a, b| ordered(a, b, Ordering::is_le)),
    ("gt", |a, b| ordered(a, b, Ordering::is_gt)),
    ("ge", |a, b| ordered(a, b, Ordering::is_ge)),
    ("in", |a, b| python::contains(a, b)),
    ("not_in", |a, b| Ok(!python::contains(a, b)?)),
];

fn ordered(a: &Value, b: &Value, holds: fn(Ordering) -> bool) -> Result<bool, Error> {
    defined(a)?;
    defined(b)?;
    Ok(python::order(a, b)?.is_some_and(holds))
}

const TESTS: [&str; 39] = [
    "defined",
    "undefined",
    "none",
    "boolean",
    "true",
    "false",
    "integer",
    "float",
    "number",
    "string",
    "mapping",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "filter",
    "test",
    "upper",
    "lower",
    "odd",
    "even",
    "divisibleby",
    "in",
    "eq",
    "equalto",
    "==",
    "ne",
    "!=",
    "lt",
    "lessthan",
    "<",
    "le",
    "<=",
    "gt",
    "greaterthan",
    ">",
    "ge",
    ">=",
];

fn test(
    state: &mut State<'_, '_>,
    name: &str,
    value: &Value,
    args: &[Value],
) -> Result<bool, Error> {
    let kind = value.kind();
    let number = Number::of(value);
    let whole = |number| match number {
        Some(Number::Int(value)) => Ok(value),
        _ => Err(invalid(format!("the test `{name}` wants a whole number"))),
    };
    let simple = match name {
        "defined" => kind != ValueKind::Undefined,
        "undefined" => kind == ValueKind::Undefined,
        "none" => kind == ValueKind::None,
        "boolean" => kind == ValueKind::Bool,
        "true" => kind == ValueKind::Bool && value.is_true(),
        "false" => kind == ValueKind::Bool && !value.is_true(),
        "integer" => kind == ValueKind::Number && value.is_integer(),
        "float" => kind == ValueKind::Number && !value.is_integer(),
        "number" => number.is_some() || kind == ValueKind::Number,
        "string" => kind == ValueKind::String,
        "mapping" => kind == ValueKind::Map && objects::is_dict(value),
        // Python's undefined has a length and no items to get by number.
        "sequence" => match kind {
            ValueKind::Map => objects::is_dict(value),
            ValueKind::Iterable => value.downcast_object_ref::<objects::Range>().is_some(),
            _ => matches!(kind, ValueKind::String | ValueKind::Seq | ValueKind::Undefined),
        },
        "iterable" => match kind {
            ValueKind::Map => objects::is_dict(value),
            _ => matches!(
                kind,
                ValueKind::String | ValueKind::Seq | ValueKind::Iterable | ValueKind::Undefined
            ),
        },
        "callable" => {
            kind == ValueKind::Undefined
                || value.as_object().is_some()
                    && !matches!(kind, ValueKind::Seq | ValueKind::Iterable)
                    && !(kind == ValueKind::Map && objects::is_dict(value))
        }
        "escaped" => value.is_safe(),
        "odd" | "even" | "divisibleby" => {
            let by =
                if name == "divisibleby" { whole(args.first().and_then(Number::of))? } else { 2 };
            let value = match number {
                Some(Number::Float(float)) => {
                    return Ok((float % by as f64 == 0.0) == (name != "odd")
                        && (name != "odd" || float % 2.0 == 1.0));
                }
                number => whole(number)?,
            };
            let rest = value.checked_rem_euclid(by).ok_or_else(|| invalid("division by zero"))?;
            (rest == 0) == (name != "odd")
        }
        "upper" | "lower" => {
            let text = to_str(value)?;
            let other = if name == "upper" { char::is_lowercase } else { char::is_uppercase };
            text.chars().any(|c| c.is_lowercase() || c.is_uppercase()) && !text.chars().any(other)
        }
        "filter" | "test" => {
            let asked =
                value.as_str().ok_or_else(|| invalid(format!("the test `{name}` wants a name")))?;
            if name == "test" { TESTS.contains(&asked) } else { super::filters::is_known(asked) }
        }
        _ => return binary_test(state, name, value, args),
    };
    let takes = usize::from(name == "divisibleby");
    if args.len() != takes {
        return Err(invalid(format!("the test `{name}` takes {takes} arguments")));
    }
    Ok(simple)
}

fn binary_test(
    _: &mut State<'_, '_>,
    name: &str,
    value: &Value,
    args: &[Value],
) -> Result<bool, Error> {
    let operator = match name {
        "equalto" | "==" => "eq",
        "!=" => "ne",
        "lessthan" | "<" => "lt",
        "<=" => "le",
        "greaterthan" | ">" => "gt",
        ">=" => "ge",
        other => other,
    };
    let [other] = args else {
        return Err(Error::new(
            ErrorKind::UnknownTest,
            format!("no test `{name}` with {} arguments", args.len()),
        ));
    };
    if operator == "sameas" {
        let same_kind = value.kind() == other.kind() && value.is_integer() == other.is_integer();
        return Ok(same_kind && equal(value, other));
    }
    match COMPARISONS.iter().find(|(known, _)| *known == operator && operator != "not_in") {
        Some((_, compare)) => compare(value, other),
        None => Err(Error::new(ErrorKind::UnknownTest, format!("no test `{name}`"))),
    }
}
