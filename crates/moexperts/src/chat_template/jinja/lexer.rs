//! The tokens between `{{` and `}}` or `{%` and `%}`, as Jinja2 reads them.

/// A token; strings are decoded, numbers written in full.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Name(String),
    Text(String),
    Int(String),
    Float(f64),
    Sign(&'static str),
}

const SIGNS: [&str; 27] = [
    "//", "**", "==", "!=", "<=", ">=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";", "!",
];

/// Reads tokens until the end of the tag; gives them and the number of bytes before the end.
pub(super) fn tokens(source: &str, end: &str) -> Result<(Vec<Token>, usize), String> {
    let mut tokens = Vec::new();
    let mut open = Vec::new();
    let mut rest = source;
    loop {
        rest = rest.trim_start();
        if open.is_empty() {
            let bare = rest.strip_prefix('-').unwrap_or(rest);
            let bare = if end == "%}" { rest.strip_prefix('+').unwrap_or(bare) } else { bare };
            if bare.starts_with(end) {
                return Ok((tokens, source.len() - rest.len()));
            }
        }
        let Some(first) = rest.chars().next() else {
            return Err(format!("unexpected end of the template, expected `{end}`"));
        };
        let (token, length) = if first.is_ascii_digit() {
            number(rest)?
        } else if first.is_alphabetic() || first == '_' {
            let length =
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            (Token::Name(rest[..length].to_owned()), length)
        } else if first == '"' || first == '\'' {
            text(rest, first)?
        } else {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
            let sign = *sign.ok_or_else(|| format!("unexpected character `{first}`"))?;
            match sign {
                "(" => open.push(")"),
                "[" => open.push("]"),
                "{" => open.push("}"),
                ")" | "]" | "}" if open.pop() != Some(sign) => {
                    return Err(format!("unexpected `{sign}`"));
                }
                _ => {}
            }
            (Token::Sign(sign), sign.len())
        };
        // `1.real` is an attribute, `1.5` a number.
        tokens.push(token);
        rest = &rest[length..];
    }
}

fn number(source: &str) -> Result<(Token, usize), String> {
    let digits = |from: usize, allowed: fn(&char) -> bool| {
        let run = source[from..].chars().take_while(|c| allowed(c) || *c == '_').count();
        from + run
    };
    let lower = source.get(..2).map(str::to_ascii_lowercase).unwrap_or_default();
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if lower == prefix {
            let end = digits(2, char::is_ascii_hexdigit);
            let plain = source[2..end].replace('_', "");
            let value = u128::from_str_radix(&plain, radix)
                .map_err(|_| format!("`{}` is no number", &source[..end]))?;
            return Ok((Token::Int(value.to_string()), end));
        }
    }
    let whole = digits(0, char::is_ascii_digit);
    let mut end = whole;
    let digit_at = |at: usize| source[at..].starts_with(|c: char| c.is_ascii_digit());
    if source[end..].starts_with('.') && digit_at(end + 1) {
        end = digits(end + 1, char::is_ascii_digit);
    }
    if source[end..].starts_with(['e', 'E']) {
        let sign = usize::from(source[end + 1..].starts_with(['+', '-']));
        if digit_at(end + 1 + sign) {
            end = digits(end + 1 + sign, char::is_ascii_digit);
        }
    }
    let plain = source[..end].replace('_', "");
    let token = if end == whole {
        if plain.parse::<i128>().is_err() {
            return Err(format!("the number {plain} is too long"));
        }
        Token::Int(plain)
    } else {
        Token::Float(plain.parse().map_err(|_| format!("`{plain}` is no number"))?)
    };
    Ok((token, end))
}

/// A string with Python's escapes.
fn text(source: &str, quote: char) -> Result<(Token, usize), String> {
    let mut out = String::new();
    let mut chars = source.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Ok((Token::Text(out), at + 1));
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some((at, escape)) = chars.next() else { break };
        let (digits, radix) = match escape {
            'x' => (2, 16),
            'u' => (4, 16),
            'U' => (8, 16),
            '0'..='7' => (3, 8),
            _ => (0, 10),
        };
        if digits == 0 {
            match escape {
                '\n' => {}
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                'a' => out.push('\x07'),
                'b' => out.push('\x08'),
                'f' => out.push('\x0c'),
                'v' => out.push('\x0b'),
                '\\' | '\'' | '"' => out.push(escape),
                'N' => return Err("names of characters, `\\N{…}`, are not known".to_owned()),
                other => out.extend(['\\', other]),
            }
            continue;
        }
        let start = if radix == 8 { at } else { at + 1 };
        let run = source[start..].chars().take(digits).take_while(|c| c.is_digit(radix)).count();
        if run == 0 || (radix == 16 && run < digits) {
            return Err(format!("broken escape `\\{escape}` in a text"));
        }
        let code = u32::from_str_radix(&source[start..start + run], radix).ok();
        let char = code.and_then(char::from_u32);
        out.push(char.ok_or_else(|| format!("broken escape `\\{escape}` in a text"))?);
        for _ in at + 1..start + run {
            chars.next();
        }
    }
    Err("a text without its closing quote".to_owned())
}
