//! Reads the SQL92 subset of the reference's `SelectorParser.jj`: no arithmetic, no `LIKE`.
//!
//! ```text
//! or         = and { OR and }
//! and        = not { AND not }
//! not        = NOT not | equality
//! equality   = comparison { ("=" | "<>") comparison | IS [NOT] NULL }
//! comparison = unary { ("<" | "<=" | ">" | ">=") unary | [NOT] BETWEEN unary AND unary
//!            | [NOT] IN "(" string { "," string } ")"
//!            | [NOT] (CONTAINS | STARTSWITH | ENDSWITH) string }
//! unary      = ("+" | "-" | NOT) unary | literal | property | "(" or ")"
//! ```
//!
//! The reference has no `not` of its own and reads `NOT a = 5` as `(NOT a) = 5`, which means
//! nothing; here it means what it does in SQL.

use super::sql::{Comparison, Expression, Literal, SqlError, TextTest};

/// Parentheses and prefixes inside one another.
const NESTING_MAX: usize = 64;
/// Operators in one condition. A chain of them is a tree as deep as it is long.
const OPERATORS_MAX: usize = 1000;

/// Reads a whole condition.
pub(super) fn parse(text: &str) -> Result<Expression, SqlError> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, nesting: 0, operators: 0 };
    let root = parser.or()?;
    if !matches!(parser.peek(), Token::End) {
        return Err(parser.expected("the end"));
    }
    Ok(root)
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// A property or a keyword; keywords have no case.
    Word(String),
    Literal(Literal),
    Symbol(&'static str),
    End,
}

/// Two-byte symbols first, so that `<=` is not read as `<`.
const SYMBOLS: [&str; 11] = ["<>", "<=", ">=", "<", ">", "=", "(", ")", ",", "+", "-"];
const KEYWORDS: [&str; 13] = [
    "OR",
    "AND",
    "NOT",
    "IS",
    "NULL",
    "BETWEEN",
    "IN",
    "CONTAINS",
    "STARTSWITH",
    "ENDSWITH",
    "TRUE",
    "FALSE",
    "LIKE",
];

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, SqlError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let at = text.len() - rest.len();
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, tail)| tail);
            continue;
        }
        if let Some(comment) = rest.strip_prefix("/*") {
            let end = SqlError::Expected { at, expected: "the end of the comment" };
            rest = comment.split_once("*/").ok_or(end)?.1;
            continue;
        }
        let Some(first) = rest.chars().next() else {
            tokens.push((at, Token::End));
            return Ok(tokens);
        };
        let (token, tail) = if first == '\'' {
            string(rest)?
        } else if first.is_ascii_alphabetic() || matches!(first, '_' | '$') {
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$');
            let end = rest.find(|c| !legal(c)).unwrap_or(rest.len());
            let (word, tail) = rest.split_at(end);
            (Token::Word(word.to_owned()), tail)
        } else if first.is_ascii_digit() || first == '.' {
            number(rest, at)?
        } else {
            let symbol = SYMBOLS.into_iter().find_map(|s| Some((s, rest.strip_prefix(s)?)));
            let (symbol, tail) = symbol
                .ok_or(SqlError::Expected { at, expected: "a word, a value or an operator" })?;
            (Token::Symbol(symbol), tail)
        };
        tokens.push((at, token));
        rest = tail;
    }
}

/// A string between quotes, in which two quotes stand for one.
fn string(text: &str) -> Result<(Token, &str), SqlError> {
    let mut value = String::new();
    let mut rest = text.strip_prefix('\'').unwrap_or(text);
    loop {
        let (part, tail) = rest.split_once('\'').ok_or(SqlError::OpenString)?;
        value.push_str(part);
        match tail.strip_prefix('\'') {
            Some(tail) => {
                value.push('\'');
                rest = tail;
            }
            None => return Ok((Token::Literal(Literal::Text(value)), tail)),
        }
    }
}

/// Decimal, `0x` hexadecimal or `0` octal, with an optional `L`; or a float with a point or an
/// exponent.
fn number(text: &str, at: usize) -> Result<(Token, &str), SqlError> {
    let mut end = 0;
    let mut previous = ' ';
    for c in text.chars() {
        let hex = text.starts_with("0x") || text.starts_with("0X");
        let sign = matches!(c, '+' | '-') && matches!(previous, 'e' | 'E') && !hex;
        if !(c.is_ascii_alphanumeric() || c == '.' || sign) {
            break;
        }
        end += 1;
        previous = c;
    }
    let (digits, tail) = text.split_at(end);
    let plain = digits.strip_suffix(['l', 'L']).unwrap_or(digits);
    let int = if let Some(hex) = plain.strip_prefix("0x").or_else(|| plain.strip_prefix("0X")) {
        i64::from_str_radix(hex, 16).ok()
    } else if plain.len() > 1
        && plain.bytes().all(|byte| matches!(byte, b'0'..=b'7'))
        && plain.starts_with('0')
    {
        i64::from_str_radix(plain, 8).ok()
    } else {
        plain.parse().ok()
    };
    let literal = match int {
        Some(int) => Literal::Int(int),
        None => {
            let float = digits.contains(['.', 'e', 'E']).then(|| digits.parse::<f64>().ok());
            let float = float.flatten().filter(|float| float.is_finite());
            Literal::Float(float.ok_or(SqlError::Number(at))?)
        }
    };
    Ok((Token::Literal(literal), tail))
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    nesting: usize,
    operators: usize,
}

impl Parser {
    fn or(&mut self) -> Result<Expression, SqlError> {
        let mut left = self.and()?;
        while self.keyword("OR") {
            self.operator()?;
            left = Expression::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expression, SqlError> {
        let mut left = self.not()?;
        while self.keyword("AND") {
            self.operator()?;
            left = Expression::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expression, SqlError> {
        if !self.keyword("NOT") {
            return self.equality();
        }
        self.nested(|parser| parser.not().map(|inner| Expression::Not(Box::new(inner))))
    }

    fn equality(&mut self) -> Result<Expression, SqlError> {
        let mut left = self.comparison()?;
        loop {
            if self.symbol("=") {
                let right = self.comparison()?;
                left = Expression::Compare(Comparison::Equal, Box::new(left), Box::new(right));
            } else if self.symbol("<>") {
                let right = self.comparison()?;
                left = Expression::Compare(Comparison::NotEqual, Box::new(left), Box::new(right));
            } else if self.keyword("IS") {
                let negated = self.keyword("NOT");
                if !self.keyword("NULL") {
                    return Err(self.expected("NULL"));
                }
                left = negate(negated, Expression::IsNull(Box::new(left)));
            } else {
                return Ok(left);
            }
            self.operator()?;
        }
    }

    fn comparison(&mut self) -> Result<Expression, SqlError> {
        let mut left = self.unary()?;
        loop {
            let order = [
                ("<", Comparison::Less),
                ("<=", Comparison::LessOrEqual),
                (">", Comparison::Greater),
                (">=", Comparison::GreaterOrEqual),
            ];
            let order = order.into_iter().find(|(symbol, _)| self.symbol(symbol));
            if let Some((_, comparison)) = order {
                let right = self.number()?;
                left = Expression::Compare(comparison, Box::new(left), Box::new(right));
            } else {
                let negated = self.keyword("NOT");
                left = match self.test(left, negated)? {
                    Tested::Yes(test) => negate(negated, test),
                    Tested::No(left) => return Ok(left),
                };
            }
            self.operator()?;
        }
    }

    /// The keyword tests behind a value; after a `NOT` there must be one.
    fn test(&mut self, left: Expression, required: bool) -> Result<Tested, SqlError> {
        if self.keyword("BETWEEN") {
            let low = self.number()?;
            if !self.keyword("AND") {
                return Err(self.expected("AND"));
            }
            let high = self.number()?;
            let (value, low, high) = (Box::new(left), Box::new(low), Box::new(high));
            return Ok(Tested::Yes(Expression::Between { value, low, high }));
        }
        if self.keyword("IN") {
            return Ok(Tested::Yes(Expression::In(Box::new(left), self.list()?)));
        }
        let tests = [
            ("CONTAINS", TextTest::Contains),
            ("STARTSWITH", TextTest::StartsWith),
            ("ENDSWITH", TextTest::EndsWith),
        ];
        match tests.into_iter().find(|(keyword, _)| self.keyword(keyword)) {
            Some((_, test)) => {
                Ok(Tested::Yes(Expression::Text(test, Box::new(left), self.text()?)))
            }
            None if required => Err(self.expected("BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH")),
            None => Ok(Tested::No(left)),
        }
    }

    fn list(&mut self) -> Result<Vec<String>, SqlError> {
        if !self.symbol("(") {
            return Err(self.expected("'('"));
        }
        let mut texts = vec![self.text()?];
        while self.symbol(",") {
            texts.push(self.text()?);
        }
        if !self.symbol(")") {
            return Err(self.expected("')'"));
        }
        Ok(texts)
    }

    /// An operand of an order: a string has none.
    fn number(&mut self) -> Result<Expression, SqlError> {
        if matches!(self.peek(), Token::Literal(Literal::Text(_))) {
            return Err(self.expected("a number"));
        }
        self.unary()
    }

    fn unary(&mut self) -> Result<Expression, SqlError> {
        self.nested(|parser| {
            if parser.symbol("+") {
                parser.unary()
            } else if parser.symbol("-") {
                parser.unary().map(|inner| Expression::Negative(Box::new(inner)))
            } else if parser.keyword("NOT") {
                parser.unary().map(|inner| Expression::Not(Box::new(inner)))
            } else {
                parser.primary()
            }
        })
    }

    fn nested(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<Expression, SqlError>,
    ) -> Result<Expression, SqlError> {
        self.nesting += 1;
        if self.nesting > NESTING_MAX {
            return Err(SqlError::Depth);
        }
        let expression = parse(self);
        self.nesting -= 1;
        expression
    }

    fn primary(&mut self) -> Result<Expression, SqlError> {
        if self.symbol("(") {
            let inner = self.or()?;
            return if self.symbol(")") { Ok(inner) } else { Err(self.expected("')'")) };
        }
        if self.keyword("TRUE") {
            return Ok(Expression::Literal(Literal::Bool(true)));
        }
        if self.keyword("FALSE") {
            return Ok(Expression::Literal(Literal::Bool(false)));
        }
        let expression = match self.peek() {
            Token::Literal(literal) => Expression::Literal(literal.clone()),
            Token::Word(word) if !is_keyword(word) => Expression::Property(word.clone()),
            Token::Word(_) | Token::Symbol(_) | Token::End => {
                return Err(self.expected("a value or a property"));
            }
        };
        self.at += 1;
        Ok(expression)
    }

    fn text(&mut self) -> Result<String, SqlError> {
        let Token::Literal(Literal::Text(text)) = self.peek() else {
            return Err(self.expected("a string"));
        };
        let text = text.clone();
        self.at += 1;
        Ok(text)
    }

    fn operator(&mut self) -> Result<(), SqlError> {
        self.operators += 1;
        if self.operators > OPERATORS_MAX { Err(SqlError::Depth) } else { Ok(()) }
    }

    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |(_, token)| token)
    }

    fn keyword(&mut self, keyword: &str) -> bool {
        let found = matches!(self.peek(), Token::Word(word) if word.eq_ignore_ascii_case(keyword));
        self.at += usize::from(found);
        found
    }

    fn symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Token::Symbol(found) if *found == symbol);
        self.at += usize::from(found);
        found
    }

    fn expected(&self, expected: &'static str) -> SqlError {
        let at = self.tokens.get(self.at).map_or(0, |(at, _)| *at);
        SqlError::Expected { at, expected }
    }
}

enum Tested {
    Yes(Expression),
    No(Expression),
}

fn negate(negated: bool, test: Expression) -> Expression {
    if negated { Expression::Not(Box::new(test)) } else { test }
}

fn is_keyword(word: &str) -> bool {
    KEYWORDS.iter().any(|keyword| word.eq_ignore_ascii_case(keyword))
}
