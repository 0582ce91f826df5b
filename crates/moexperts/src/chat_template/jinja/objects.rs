//! Objects of Python that a template may hold: ranges, views of dictionaries, bound methods.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use minijinja::{
    Error, State, Value,
    value::{Enumerator, Object, ObjectRepr, Rest, ValueKind},
};

use super::{
    expressions::METHODS,
    methods,
    python::{Number, invalid},
};

/// The keys, values or items of a dictionary.
#[derive(Debug)]
pub(super) struct View {
    pub(super) name: &'static str,
    pub(super) items: Vec<Value>,
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }
}

/// `range(start, stop, step)`.
#[derive(Debug)]
pub(super) struct Range {
    start: i128,
    stop: i128,
    step: i128,
}

/// As Jinja's sandbox has it.
const LONGEST_RANGE: i128 = 100_000;

impl Range {
    fn len(&self) -> i128 {
        let (from, to) =
            if self.step > 0 { (self.start, self.stop) } else { (self.stop, self.start) };
        let step = self.step.saturating_abs();
        if to <= from { 0 } else { (to.saturating_sub(from).saturating_sub(1)) / step + 1 }
    }
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values((0..self.len()).map(|at| int(self.start + at * self.step)).collect())
    }
}

fn int(value: i128) -> Value {
    i64::try_from(value).map_or_else(|_| Value::from(value), Value::from)
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            1 => write!(f, "range({}, {})", self.start, self.stop),
            step => write!(f, "range({}, {}, {step})", self.start, self.stop),
        }
    }
}

pub(super) fn range(arguments: Rest<Value>) -> Result<Value, Error> {
    let bounds: Option<Vec<i128>> = arguments
        .iter()
        .map(|value| match Number::of(value) {
            Some(Number::Int(bound)) => Some(bound),
            _ => None,
        })
        .collect();
    let (start, stop, step) = match bounds.as_deref() {
        Some(&[stop]) => (0, stop, 1),
        Some(&[start, stop]) => (start, stop, 1),
        Some(&[start, stop, step]) if step != 0 => (start, stop, step),
        _ => return Err(invalid("range: expected one to three whole numbers, the step not 0")),
    };
    let range = Range { start, stop, step };
    if range.len() > LONGEST_RANGE {
        return Err(invalid(format!("range: more than {LONGEST_RANGE} numbers")));
    }
    Ok(Value::from_object(range))
}

/// A method that was looked up and not called.
#[derive(Debug)]
struct Method {
    of: Value,
    name: String,
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        methods::call(state, &self.of, &self.name, args)
    }
}

/// The method of that name, if Python's type has one.
pub(super) fn method(of: &Value, name: &str) -> Option<Value> {
    const DICT: [&str; 11] = [
        "clear",
        "copy",
        "fromkeys",
        "get",
        "items",
        "keys",
        "pop",
        "popitem",
        "setdefault",
        "update",
        "values",
    ];
    const LIST: [&str; 11] = [
        "append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove",
        "reverse", "sort",
    ];
    let has = match of.kind() {
        ValueKind::Map => is_dict(of) && DICT.contains(&name),
        ValueKind::Seq if of.is_tuple() => matches!(name, "count" | "index"),
        ValueKind::Seq => LIST.contains(&name),
        ValueKind::String => {
            METHODS.contains(&name)
                && (!DICT.contains(&name))
                && !matches!(name, "extend" | "insert" | "reverse" | "sort")
        }
        _ => false,
    };
    has.then(|| Value::from_object(Method { of: of.clone(), name: name.to_owned() }))
}

/// Whether a mapping is a dictionary, and no namespace, macro or loop.
pub(super) fn is_dict(value: &Value) -> bool {
    let object = value.as_object().map(|object| format!("{:?}", object.type_name()));
    !object.is_some_and(|name| ["Namespace", "Macro", "Loop"].iter().any(|own| name.contains(own)))
}

/// `cycler(…)`.
#[derive(Debug)]
pub(super) struct Cycler {
    items: Vec<Value>,
    at: Mutex<usize>,
}

pub(super) fn cycler(items: Rest<Value>) -> Result<Value, Error> {
    if items.is_empty() {
        return Err(invalid("cycler: at least one item has to be provided"));
    }
    Ok(Value::from_object(Cycler { items: items.to_vec(), at: Mutex::new(0) }))
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = *self.at.lock().ok()?;
        (key.as_str()? == "current").then(|| self.items[at].clone())
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        name: &str,
        _: &[Value],
    ) -> Result<Value, Error> {
        let mut at = self.at.lock().map_err(|_| invalid("cycler: broken"))?;
        let current = self.items[*at].clone();
        match name {
            "next" => {
                *at = (*at + 1) % self.items.len();
                Ok(current)
            }
            "reset" => {
                *at = 0;
                Ok(Value::from(()))
            }
            _ => Err(invalid(format!("cycler: no method `{name}`"))),
        }
    }
}

/// `joiner(…)`.
#[derive(Debug)]
struct Joiner {
    between: String,
    used: Mutex<bool>,
}

pub(super) fn joiner(between: Option<String>) -> Value {
    let between = between.unwrap_or_else(|| ", ".to_owned());
    Value::from_object(Joiner { between, used: Mutex::new(false) })
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, _: &[Value]) -> Result<Value, Error> {
        let mut used = self.used.lock().map_err(|_| invalid("joiner: broken"))?;
        let first = !std::mem::replace(&mut *used, true);
        Ok(Value::from(if first { "" } else { &self.between }))
    }
}
