//! Templates against what transformers renders; see `testdata/templates/`.

use std::{fmt::Write, path::Path};

use super::*;

/// Templates of the goldens that are refused although Jinja2 renders them; the error says why.
const REFUSED: [&str; 18] = [
    "\"²\".isdigit",
    ".encode()",
    ".translate(",
    "n.real",
    ".__class__",
    "pprint",
    "| random",
    "striptags",
    "urlize",
    "wordwrap",
    "lipsum",
    "{{ namespace(a=1) }}",
    "{{ self }}",
    "dict.fromkeys",
    "varargs",
    "kwargs",
    "{% autoescape",
    "{% set loop",
];

#[test]
fn templates_render_as_in_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/templates");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let golden: Value = serde_json::from_str(&read("templates.json")).unwrap();
    let mut differences = String::new();
    for case in golden["cases"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let template = match case["long"].as_bool() {
            Some(true) => read(&format!("{name}.jinja")),
            _ => name.to_owned(),
        };
        let rendered = render(&template, case, &golden);
        match (&rendered, case["text"].as_str()) {
            (Ok(text), Some(expected)) if text == expected => {}
            (Err(_), None) => {}
            (Err(_), Some(_)) if REFUSED.iter().any(|piece| name.contains(piece)) => {}
            _ => writeln!(differences, "{name:?}\n  {rendered:?}\n  expected {case}").unwrap(),
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

fn render(template: &str, case: &Value, golden: &Value) -> Result<String> {
    let of = |key: &str| case.get(key).unwrap_or(&golden[key]).clone();
    let messages = Vec::<Message>::deserialize(of("messages")).unwrap();
    let mut options = ChatOptions::new()
        .add_generation_prompt(case["add_generation_prompt"] != false)
        .tools(case["tools"].as_array().cloned());
    for (name, value) in of("variables").as_object().unwrap() {
        options = options.template_arg(name, value.clone());
    }
    ChatTemplate::new(template, &SpecialTokens::default())?.render(&messages, &options)
}
