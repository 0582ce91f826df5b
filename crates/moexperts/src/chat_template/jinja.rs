//! Templates in Jinja for Python: the same whitespace rules, functions, variables and Python methods
//! that `apply_chat_template` of transformers gives them.

mod json;

use minijinja::{
    Environment, ErrorKind, UndefinedBehavior, Value, context, syntax::SyntaxConfig, value::Serde,
};

use super::{ChatOptions, Content, Engine, Message, Part};
use crate::{
    error::{Error, Result},
    special_tokens::SpecialTokens,
};

const NAME: &str = "chat_template";

/// A compiled template.
#[derive(Debug)]
struct Jinja(Environment<'static>);

/// Compiles a template.
pub(super) fn compile(template: &str, special_tokens: &SpecialTokens) -> Result<Box<dyn Engine>> {
    let mut environment = Environment::new();
    for (role, token) in special_tokens.iter() {
        environment.add_global(role.to_owned(), token);
    }
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| failed(&error))?,
    );
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    // A name without an extension is not escaped for HTML.
    environment.add_filter("tojson", json::to_json);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment
        .add_template_owned(NAME, without_generation_tags(template))
        .map_err(|error| failed(&error))?;
    Ok(Box::new(Jinja(environment)))
}

impl Engine for Jinja {
    fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|Message { role, content }| {
                context! { role, content => content_value(content) }
            })
            .collect();
        // Templates test these two against `none`; transformers always passes them.
        let variables = context! {
            messages,
            add_generation_prompt => options.add_generation_prompt,
            tools => Value::from(Serde(&options.tools)),
            documents => Value::from(()),
            ..Value::from(Serde(&options.template_args))
        };
        let template = self.0.get_template(NAME);
        template.and_then(|template| template.render(variables)).map_err(|error| failed(&error))
    }
}

fn content_value(content: &Content) -> Value {
    match content {
        Content::Text(text) => text.as_str().into(),
        Content::Parts(parts) => parts.iter().map(part_value).collect::<Vec<_>>().into(),
    }
}

fn part_value(part: &Part) -> Value {
    match part {
        Part::Text { text } => Value::from_pairs([("type", "text"), ("text", text)]),
        Part::Image => Value::from_pairs([("type", "image")]),
        Part::Video => Value::from_pairs([("type", "video")]),
    }
}

/// Refuses a conversation in the template's words.
fn raise_exception(message: &str) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

/// The local time, in the format of C's `strftime`.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now()).map_err(|error| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}"))
    })
}

/// Writes `{% generation %}`, which marks the model's words for training and prints nothing, in
/// Jinja that every engine has. Lines stay where they are.
fn without_generation_tags(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, tag)) = rest.split_once("{%") {
        let (inside, after) = tag.split_once("%}").unwrap_or((tag, ""));
        let word = inside.trim_matches(['-', '+', ' ', '\n', '\t']);
        let instead = match word {
            "generation" => inside.replace(word, "if true"),
            "endgeneration" => inside.replace(word, "endif"),
            _ => inside.to_owned(),
        };
        out.extend([before, "{%", &instead]);
        if inside.len() < tag.len() {
            out.push_str("%}");
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn failed(error: &minijinja::Error) -> Error {
    let problem = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let problem = match error.line() {
        Some(line) => format!("line {line}: {problem}"),
        None => problem,
    };
    Error::Tokenizer { file: NAME.into(), problem }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn only_the_tags_of_generation_are_rewritten(text in "([{%} +-]|if|a){0,24}") {
            prop_assert_eq!(without_generation_tags(&text), text);
        }

        #[test]
        fn any_template_runs_or_is_an_error(
            text in r"(\{\{|\}\}|\{%|%\}|generation|messages|for|in|if|endfor|\||\[|[0-9a-z' ]){0,24}",
        ) {
            let message = [Message::text("user", "hi")];
            let _ = compile(&text, &SpecialTokens::default())
                .and_then(|template| template.render(&message, &ChatOptions::new()));
        }
    }
}
