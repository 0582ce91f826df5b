//! A template of Jinja2, tag by tag, as the engine reads it.

use super::{
    expressions::Parser,
    lexer::{self, Token},
};

/// Writes a template for the engine; an error has its line. Lines stay where they are.
pub(super) fn rewrite(template: &str) -> Result<String, String> {
    let mut out = String::with_capacity(template.len() * 2);
    let mut at = 0;
    while let Some(found) = next_tag(&template[at..]) {
        out.push_str(&template[at..at + found]);
        at += found;
        let rest = &template[at..];
        let line = 1 + template[..at].matches('\n').count();
        let length = tag(rest, &mut out).map_err(|problem| format!("line {line}: {problem}"))?;
        at += length;
    }
    out.push_str(&template[at..]);
    Ok(out)
}

fn next_tag(source: &str) -> Option<usize> {
    ["{{", "{%", "{#"].iter().filter_map(|start| source.find(start)).min()
}

/// Writes the tag that the source starts with; gives its length.
fn tag(source: &str, out: &mut String) -> Result<usize, String> {
    if source.starts_with("{#") {
        let end = source.find("#}").ok_or("a comment without its `#}`")? + 2;
        out.push_str(&source[..end]);
        return Ok(end);
    }
    if let Some(end) = raw(source)? {
        out.push_str(&source[..end]);
        return Ok(end);
    }
    let statement = source.starts_with("{%");
    let end = if statement { "%}" } else { "}}" };
    let signed = source[2..].starts_with('-') || source[2..].starts_with('+') && statement;
    let start = 2 + usize::from(signed);
    let (tokens, inside) = lexer::tokens(&source[start..], end)?;
    let mut parser = Parser::new(tokens.clone());
    let written = if statement {
        self::statement(&mut parser, &tokens)?
    } else {
        let written = parser.tuple(true)?;
        parser.end()?;
        written
    };
    let close = start + inside;
    let length = close + source[close..].find(end).unwrap_or(0) + 2;
    // Blanks keep a sign of the expression apart from that of the tag.
    out.extend([&source[..start], " ", &written, " "]);
    out.extend(source[..close].matches('\n'));
    out.push_str(&source[close..length]);
    Ok(length)
}

/// The length of `{% raw %}…{% endraw %}`, if the source starts with it.
fn raw(source: &str) -> Result<Option<usize>, String> {
    let Some(after) = keyword_tag(source, "raw") else { return Ok(None) };
    let mut at = after;
    while let Some(found) = source[at..].find("{%") {
        at += found;
        if let Some(length) = keyword_tag(&source[at..], "endraw") {
            return Ok(Some(at + length));
        }
        at += 2;
    }
    Err("missing `{% endraw %}`".to_owned())
}

fn keyword_tag(source: &str, keyword: &str) -> Option<usize> {
    let rest = source.strip_prefix("{%")?;
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).trim_start();
    let rest = rest.strip_prefix(keyword)?.trim_start();
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).strip_prefix("%}")?;
    Some(source.len() - rest.len())
}

fn statement(parser: &mut Parser, tokens: &[Token]) -> Result<String, String> {
    let keyword = parser.name()?;
    let written = match keyword.as_str() {
        "if" | "elif" => format!("{keyword} {}", parser.tuple(false)?),
        "for" => for_loop(parser)?,
        "set" => assignment(parser)?,
        "macro" => {
            let name = parser.name()?;
            parser.expect("(")?;
            parameters(parser)
                .map(|(names, defaults)| format!("macro {name}({names}){defaults}"))?
        }
        "call" => {
            let parameters = match parser.eat("(") {
                true => {
                    let (names, defaults) = parameters(parser)?;
                    if !defaults.is_empty() {
                        return Err(
                            "defaults of the parameters of `call` are not supported".to_owned()
                        );
                    }
                    format!("({names})")
                }
                false => String::new(),
            };
            format!("call{parameters} {}", parser.expression(true)?)
        }
        "filter" => {
            let mut filters = parser.filter()?;
            while parser.eat("|") {
                filters = format!("{filters}|{}", parser.filter()?);
            }
            format!("filter {filters}")
        }
        "with" => {
            let mut names = Vec::new();
            while parser.peek().is_some() {
                if !names.is_empty() {
                    parser.expect(",")?;
                }
                let name = parser.name()?;
                parser.expect("=")?;
                names.push(format!("{name} = {}", parser.expression(true)?));
            }
            format!("with {}", names.join(", "))
        }
        // A scope that prints its inside; what it marks matters to training only.
        "generation" => "with".to_owned(),
        "endgeneration" => "endwith".to_owned(),
        "else" | "endif" | "endfor" | "endset" | "endmacro" | "endcall" | "endfilter"
        | "endwith" | "break" | "continue" => keyword,
        "block" => format!("block {}", parser.name()?),
        "endblock" => {
            if parser.peek().is_some() {
                parser.name()?;
            }
            keyword
        }
        // Templates of a model are alone: there is no other one to read.
        "include" | "import" | "from" | "extends" if tokens.len() > 1 => {
            return Ok(format!("set __py_other = __py_no_loader(\"{keyword}\")"));
        }
        "print" => {
            let mut printed = String::new();
            while parser.peek().is_some() {
                if !printed.is_empty() {
                    parser.expect(",")?;
                }
                printed += &format!("{{{{ {} }}}}", parser.expression(true)?);
            }
            format!("with %}}{printed}{{% endwith")
        }
        "autoescape" | "endautoescape" => {
            return Err(format!("the tag `{keyword}` is not supported"));
        }
        other => return Err(format!("unknown tag `{other}`")),
    };
    parser.end()?;
    Ok(written)
}

/// The names of a macro's parameters, and tags that give those not passed their defaults, which
/// may speak of earlier parameters.
fn parameters(parser: &mut Parser) -> Result<(String, String), String> {
    let (mut names, mut defaults) = (Vec::new(), String::new());
    while !parser.eat(")") {
        if !names.is_empty() {
            parser.expect(",")?;
            if parser.eat(")") {
                break;
            }
        }
        let name = parser.name()?;
        if parser.eat("=") {
            let default = parser.expression(true)?;
            defaults += &format!(
                " %}}{{% if __py_test(\"undefined\", {name}) %}}{{% set {name} = {default} %}}{{% endif"
            );
        }
        names.push(name);
    }
    Ok((names.join(", "), defaults))
}

fn for_loop(parser: &mut Parser) -> Result<String, String> {
    let targets = targets(parser)?;
    if !parser.eat_name("in") {
        return Err("a loop without `in`".to_owned());
    }
    let items = parser.tuple(false)?;
    let condition = match parser.eat_name("if") {
        true => format!(" if {}", parser.expression(true)?),
        false => String::new(),
    };
    let recursive = if parser.eat_name("recursive") { " recursive" } else { "" };
    Ok(format!("for {targets} in __py_iter({items}){condition}{recursive}"))
}

fn assignment(parser: &mut Parser) -> Result<String, String> {
    let mut target = targets(parser)?;
    while parser.eat(".") {
        let name = parser.name()?;
        if name.starts_with('_') {
            return Err("a namespace has no names that begin with `_`".to_owned());
        }
        target = format!("{target}.{name}");
    }
    if parser.eat("=") {
        return Ok(format!("set {target} = {}", parser.tuple(true)?));
    }
    while parser.eat("|") {
        target = format!("{target} | {}", parser.filter()?);
    }
    Ok(format!("set {target}"))
}

/// Names to assign to, in parentheses or not.
fn targets(parser: &mut Parser) -> Result<String, String> {
    let mut out = Vec::new();
    loop {
        if parser.eat("(") {
            let inner = targets(parser)?;
            parser.expect(")")?;
            out.push(format!("({inner})"));
        } else {
            out.push(parser.name()?);
        }
        if !parser.eat(",") || parser.is_name("in") || parser.is_sign("=") {
            return Ok(out.join(", "));
        }
    }
}
