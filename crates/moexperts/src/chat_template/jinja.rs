//! Templates in Jinja for Python: the same whitespace rules, functions, variables and Python methods
//! that `apply_chat_template` of transformers gives them.

mod expressions;
mod filters;
mod format;
mod functions;
mod json;
mod lexer;
mod markup;
mod methods;
mod objects;
mod python;
mod rewrite;
mod texts;

use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, context, syntax::SyntaxConfig};
use serde_json::Value as Json;

use super::{ChatOptions, Engine, Message};
use crate::special_tokens::SpecialTokens;

const NAME: &str = "chat_template";

/// Steps after which a template is taken for endless; a long conversation takes some ten thousand.
const FUEL: u64 = 5_000_000;

/// A compiled template.
#[derive(Debug)]
pub(super) struct Jinja(Environment<'static>);

/// Compiles a template; the error says what is wrong with it.
pub(super) fn compile(template: &str, special_tokens: &SpecialTokens) -> Result<Jinja, String> {
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
    environment.set_fuel(Some(FUEL));
    environment.set_formatter(|out, _, value| {
        out.write_str(&python::to_str(value)?).map_err(minijinja::Error::from)
    });
    functions::add(&mut environment);
    filters::add(&mut environment);
    // A name without an extension is not escaped for HTML.
    environment.add_filter("tojson", json::to_json);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    let template = rewrite::rewrite(&with_line_ends(template))?;
    environment.add_template_owned(NAME, template).map_err(|error| failed(&error))?;
    Ok(Jinja(environment))
}

impl Engine for Jinja {
    fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String, String> {
        let messages: Value =
            messages.iter().map(|message| json::object(message.fields())).collect();
        let list = |list: &Option<Vec<Json>>| list.as_deref().map(json::array);
        // Templates test these two against `none`; transformers always passes them.
        let variables = context! {
            messages,
            add_generation_prompt => options.add_generation_prompt,
            tools => list(&options.tools),
            documents => list(&options.documents),
            ..json::object(&options.template_args)
        };
        let template = self.0.get_template(NAME);
        template.and_then(|template| template.render(variables)).map_err(|error| failed(&error))
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

/// One way to end lines, as Python reads text files and Jinja2 reads templates.
fn with_line_ends(template: &str) -> String {
    template.replace("\r\n", "\n").replace('\r', "\n")
}

fn failed(error: &minijinja::Error) -> String {
    let problem = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("line {line}: {problem}"),
        None => problem,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
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
