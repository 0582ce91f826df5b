//! Expressions of Jinja2, written for an engine whose operators are not Python's: each operator
//! becomes a call of a function that does what Python does.

use super::lexer::Token;

/// Attributes that Python's own types have; they come before the keys of a dictionary.
pub(super) const METHODS: [&str; 61] = [
    "capitalize",
    "casefold",
    "center",
    "clear",
    "copy",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "extend",
    "find",
    "format",
    "format_map",
    "fromkeys",
    "get",
    "index",
    "insert",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "items",
    "join",
    "keys",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "pop",
    "popitem",
    "removeprefix",
    "removesuffix",
    "replace",
    "reverse",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "setdefault",
    "sort",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "update",
    "upper",
    "values",
    "zfill",
];

/// The tokens of one tag, read from the left.
pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

type Written = Result<String, String>;

/// Deeper expressions are refused, before the stack ends.
const DEEPEST: usize = 40;

impl Parser {
    pub(super) fn new(tokens: Vec<Token>) -> Self {
        Self { tokens, at: 0, depth: 0 }
    }

    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if found == name)
    }

    pub(super) fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Some(Token::Sign(found)) if *found == sign)
    }

    pub(super) fn eat_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    pub(super) fn eat(&mut self, sign: &str) -> bool {
        let found = self.is_sign(sign);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, sign: &str) -> Result<(), String> {
        if self.eat(sign) { Ok(()) } else { Err(self.unexpected(&format!("`{sign}`"))) }
    }

    pub(super) fn name(&mut self) -> Written {
        match self.peek() {
            Some(Token::Name(name)) => {
                let name = name.clone();
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    pub(super) fn end(&self) -> Result<(), String> {
        if self.at == self.tokens.len() {
            Ok(())
        } else {
            Err(self.unexpected("the end of the tag"))
        }
    }

    fn unexpected(&self, expected: &str) -> String {
        let got = match self.peek() {
            None => "end of the tag".to_owned(),
            Some(Token::Name(name)) => format!("`{name}`"),
            Some(Token::Text(_)) => "a text".to_owned(),
            Some(Token::Int(_) | Token::Float(_)) => "a number".to_owned(),
            Some(Token::Sign(sign)) => format!("`{sign}`"),
        };
        format!("unexpected {got}, expected {expected}")
    }

    /// One expression, or several with commas between them, which are a tuple.
    pub(super) fn tuple(&mut self, conditional: bool) -> Written {
        let mut items = vec![self.expression(conditional)?];
        let mut commas = 0;
        while self.eat(",") {
            commas += 1;
            if self.peek().is_none() || self.is_sign(")") || self.is_name("if") || self.is_sign("]")
            {
                break;
            }
            items.push(self.expression(conditional)?);
        }
        if commas == 0 {
            return Ok(items.remove(0));
        }
        Ok(format!("__py_tuple({})", items.join(", ")))
    }

    pub(super) fn expression(&mut self, conditional: bool) -> Written {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("an expression is nested too deeply".to_owned());
        }
        let mut written = self.or()?;
        while conditional && self.eat_name("if") {
            let condition = self.or()?;
            written = if self.eat_name("else") {
                let other = self.expression(true)?;
                format!("({written} if {condition} else {other})")
            } else {
                format!("({written} if {condition})")
            };
        }
        self.depth -= 1;
        Ok(written)
    }

    fn or(&mut self) -> Written {
        let mut parts = vec![self.and()?];
        while self.eat_name("or") {
            parts.push(self.and()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { format!("({})", parts.join(" or ")) })
    }

    fn and(&mut self) -> Written {
        let mut parts = vec![self.not()?];
        while self.eat_name("and") {
            parts.push(self.not()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { format!("({})", parts.join(" and ")) })
    }

    fn not(&mut self) -> Written {
        let mut nots = 0;
        while self.eat_name("not") {
            nots += 1;
        }
        let written = self.compare()?;
        Ok(match nots {
            0 => written,
            odd if odd % 2 == 1 => format!("(not {written})"),
            _ => format!("(not (not {written}))"),
        })
    }

    fn compare(&mut self) -> Written {
        let mut left = self.sum()?;
        let mut comparisons = Vec::new();
        loop {
            let name = match self.peek() {
                Some(Token::Sign("==")) => "eq",
                Some(Token::Sign("!=")) => "ne",
                Some(Token::Sign("<")) => "lt",
                Some(Token::Sign("<=")) => "le",
                Some(Token::Sign(">")) => "gt",
                Some(Token::Sign(">=")) => "ge",
                Some(Token::Name(name)) if name == "in" => "in",
                Some(Token::Name(name)) if name == "not" => {
                    let next = self.tokens.get(self.at + 1);
                    if next != Some(&Token::Name("in".to_owned())) {
                        break;
                    }
                    self.at += 1;
                    "not_in"
                }
                _ => break,
            };
            self.at += 1;
            let right = self.sum()?;
            comparisons.push(format!("__py_{name}({left}, {right})"));
            left = right;
        }
        Ok(match comparisons.len() {
            0 => left,
            1 => comparisons.remove(0),
            _ => format!("({})", comparisons.join(" and ")),
        })
    }

    fn sum(&mut self) -> Written {
        self.chain(&[("+", "add"), ("-", "sub")], Self::concat)
    }

    fn concat(&mut self) -> Written {
        self.chain(&[("~", "concat")], Self::product)
    }

    fn product(&mut self) -> Written {
        self.chain(&[("*", "mul"), ("/", "div"), ("//", "floordiv"), ("%", "mod")], Self::power)
    }

    fn power(&mut self) -> Written {
        self.chain(&[("**", "pow")], |parser| parser.unary(true))
    }

    /// Operators that bind to the left; a run of one operator is one call.
    fn chain(&mut self, signs: &[(&str, &str)], operand: fn(&mut Self) -> Written) -> Written {
        let mut written = operand(self)?;
        while let Some((sign, name)) = signs.iter().find(|(sign, _)| self.is_sign(sign)) {
            let mut operands = vec![written];
            while self.eat(sign) {
                operands.push(operand(self)?);
            }
            written = format!("__py_{name}({})", operands.join(", "));
        }
        Ok(written)
    }

    fn unary(&mut self, with_filters: bool) -> Written {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("an expression is nested too deeply".to_owned());
        }
        let mut written = if self.eat("-") {
            format!("__py_neg({})", self.unary(false)?)
        } else if self.eat("+") {
            format!("__py_pos({})", self.unary(false)?)
        } else {
            self.primary()?
        };
        written = self.postfix(written)?;
        if with_filters {
            written = self.filters(written)?;
        }
        self.depth -= 1;
        Ok(written)
    }

    fn primary(&mut self) -> Written {
        let Some(token) = self.peek().cloned() else {
            return Err(self.unexpected("an expression"));
        };
        self.at += 1;
        match token {
            Token::Name(name) => Ok(match name.as_str() {
                "true" | "True" => "true".to_owned(),
                "false" | "False" => "false".to_owned(),
                "none" | "None" => "none".to_owned(),
                "in" | "is" | "and" | "or" | "not" | "if" | "else" | "elif" => {
                    self.at -= 1;
                    return Err(self.unexpected("an expression"));
                }
                "self" => return Err("`self` is not supported".to_owned()),
                "varargs" | "kwargs" => {
                    return Err(format!(
                        "`{name}`, the further arguments of a macro, are not supported"
                    ));
                }
                _ => name,
            }),
            Token::Text(mut text) => {
                while let Some(Token::Text(more)) = self.peek() {
                    text.push_str(more);
                    self.at += 1;
                }
                Ok(quoted(&text))
            }
            Token::Int(digits) => Ok(digits),
            Token::Float(value) if value.is_finite() => Ok(format!("{value:?}")),
            Token::Sign("(") => {
                if self.eat(")") {
                    return Ok("__py_tuple()".to_owned());
                }
                let inner = self.tuple(true)?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Sign("[") => self.items("]").map(|items| format!("[{items}]")),
            Token::Sign("{") => self.dictionary(),
            _ => {
                self.at -= 1;
                Err(self.unexpected("an expression"))
            }
        }
    }

    fn items(&mut self, end: &str) -> Written {
        let mut items = Vec::new();
        while !self.eat(end) {
            if !items.is_empty() {
                self.expect(",")?;
                if self.eat(end) {
                    break;
                }
            }
            items.push(self.expression(true)?);
        }
        Ok(items.join(", "))
    }

    fn dictionary(&mut self) -> Written {
        let mut items = Vec::new();
        while !self.eat("}") {
            if !items.is_empty() {
                self.expect(",")?;
                if self.eat("}") {
                    break;
                }
            }
            let key = self.expression(true)?;
            self.expect(":")?;
            items.push(format!("{key}: {}", self.expression(true)?));
        }
        // Apart from the braces of a tag.
        Ok(format!("{{ {} }}", items.join(", ")))
    }

    fn postfix(&mut self, mut written: String) -> Written {
        loop {
            if self.eat(".") {
                written = self.attribute(&written)?;
            } else if self.eat("[") {
                written = self.subscript(&written)?;
            } else if self.eat("(") {
                written = format!("{written}({})", self.arguments()?);
            } else {
                return Ok(written);
            }
        }
    }

    fn attribute(&mut self, of: &str) -> Written {
        if let Some(Token::Int(index)) = self.peek().cloned() {
            self.at += 1;
            return Ok(format!("__py_item({of}, {index})"));
        }
        let name = self.name()?;
        if self.eat("(") {
            let arguments = self.arguments()?;
            let comma = if arguments.is_empty() { "" } else { ", " };
            return Ok(format!("__py_call({of}, \"{name}\"{comma}{arguments})"));
        }
        Ok(format!("__py_attr({of}, \"{name}\")"))
    }

    fn subscript(&mut self, of: &str) -> Written {
        let mut parts: [Option<String>; 3] = [None, None, None];
        let mut colons = 0;
        let mut index = None;
        while !self.eat("]") {
            if self.eat(":") {
                colons += 1;
                if colons > 2 {
                    return Err(self.unexpected("`]`"));
                }
                continue;
            }
            let part = self.tuple(true)?;
            if parts[colons].is_some() || index.is_some() && colons == 0 {
                return Err(self.unexpected("`]`"));
            }
            if colons == 0 {
                index = Some(part.clone());
            }
            parts[colons] = Some(part);
        }
        if colons == 0 {
            let index = index.ok_or_else(|| self.unexpected("an expression"))?;
            return Ok(format!("__py_item({of}, {index})"));
        }
        let [start, stop, step] = parts.map(|part| part.unwrap_or_else(|| "none".to_owned()));
        Ok(format!("__py_slice({of}, {start}, {stop}, {step})"))
    }

    /// The arguments of a call, whose parenthesis is open.
    pub(super) fn arguments(&mut self) -> Written {
        let mut arguments = Vec::new();
        while !self.eat(")") {
            if !arguments.is_empty() {
                self.expect(",")?;
                if self.eat(")") {
                    break;
                }
            }
            let named = self.tokens.get(self.at + 1) == Some(&Token::Sign("="));
            let start = if self.eat("*") {
                "*".to_owned()
            } else if self.eat("**") {
                "**".to_owned()
            } else if named {
                let name = self.name()?;
                self.expect("=")?;
                format!("{name}=")
            } else {
                String::new()
            };
            arguments.push(start + &self.expression(true)?);
        }
        Ok(arguments.join(", "))
    }

    /// `|filter`, `is test` and calls after an expression.
    pub(super) fn filters(&mut self, mut written: String) -> Written {
        loop {
            if self.eat("|") {
                written = format!("{written}|{}", self.filter()?);
            } else if self.eat_name("is") {
                written = self.test(&written)?;
            } else if self.eat("(") {
                written = format!("{written}({})", self.arguments()?);
            } else {
                return Ok(written);
            }
        }
    }

    /// The name of a filter and its arguments.
    pub(super) fn filter(&mut self) -> Written {
        let name = self.name()?;
        if !self.eat("(") {
            return Ok(name);
        }
        Ok(format!("{name}({})", self.arguments()?))
    }

    fn test(&mut self, of: &str) -> Written {
        let negated = self.eat_name("not");
        let name = self.name()?;
        let arguments = if self.eat("(") {
            self.arguments()?
        } else {
            match self.peek() {
                Some(Token::Name(name)) if ["else", "or", "and"].contains(&name.as_str()) => {
                    String::new()
                }
                Some(Token::Name(name)) if name == "is" => {
                    return Err("tests cannot be chained with `is`".to_owned());
                }
                Some(
                    Token::Name(_)
                    | Token::Text(_)
                    | Token::Int(_)
                    | Token::Float(_)
                    | Token::Sign("[" | "{"),
                ) if !self.is_name("if")
                    && !self.is_name("not")
                    && !self.is_name("in")
                    && !self.is_name("recursive") =>
                {
                    let primary = self.primary()?;
                    self.postfix(primary)?
                }
                _ => String::new(),
            }
        };
        let comma = if arguments.is_empty() { "" } else { ", " };
        let call = format!("__py_test(\"{name}\", {of}{comma}{arguments})");
        Ok(if negated { format!("(not {call})") } else { call })
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ => out.push(c),
        }
    }
    out + "\""
}
