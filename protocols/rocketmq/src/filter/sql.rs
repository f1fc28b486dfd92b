//! An SQL92 condition over a message's properties, with three-valued logic: `None` is unknown, and
//! only what is certainly true holds.

use super::parser;

/// A parsed condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    root: Expression,
}

/// Why a text is not a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SqlError {
    #[error("the condition is illegal at byte {at}: expected {expected}")]
    Expected { at: usize, expected: &'static str },
    #[error("the condition has a string that does not end")]
    OpenString,
    #[error("the condition has a number out of range at byte {0}")]
    Number(usize),
    #[error("the condition nests too deep")]
    Depth,
}

/// A node of a condition.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expression {
    Literal(Literal),
    Property(String),
    Negative(Box<Self>),
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Compare(Comparison, Box<Self>, Box<Self>),
    Between { value: Box<Self>, low: Box<Self>, high: Box<Self> },
    In(Box<Self>, Vec<String>),
    Text(TextTest, Box<Self>, String),
    IsNull(Box<Self>),
}

/// A value written in the condition, or read from a message.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextTest {
    Contains,
    StartsWith,
    EndsWith,
}

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Condition {
    /// Reads a condition.
    pub fn parse(text: &str) -> Result<Self, SqlError> {
        Ok(Self { root: parser::parse(text)? })
    }

    /// Whether it certainly holds for the properties that `lookup` knows.
    #[must_use]
    pub fn holds(&self, lookup: Lookup<'_>) -> bool {
        self.root.truth(lookup) == Some(true)
    }
}

impl Expression {
    fn truth(&self, lookup: Lookup<'_>) -> Option<bool> {
        match self {
            Self::Not(inner) => inner.truth(lookup).map(|truth| !truth),
            Self::And(left, right) => match (left.truth(lookup), right.truth(lookup)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                (None, _) | (_, None) => None,
            },
            Self::Or(left, right) => match (left.truth(lookup), right.truth(lookup)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                (None, _) | (_, None) => None,
            },
            Self::Compare(comparison, left, right) => {
                compare(*comparison, &left.value(lookup)?, &right.value(lookup)?)
            }
            Self::Between { value, low, high } => {
                let value = value.value(lookup)?;
                let above = compare(Comparison::GreaterOrEqual, &value, &low.value(lookup)?)?;
                Some(above && compare(Comparison::LessOrEqual, &value, &high.value(lookup)?)?)
            }
            Self::In(value, texts) => {
                let value = value.value(lookup)?.into_text();
                Some(texts.contains(&value))
            }
            Self::Text(test, value, part) => {
                let value = value.value(lookup)?.into_text();
                Some(match test {
                    TextTest::Contains => value.contains(part.as_str()),
                    TextTest::StartsWith => value.starts_with(part.as_str()),
                    TextTest::EndsWith => value.ends_with(part.as_str()),
                })
            }
            Self::IsNull(value) => Some(value.value(lookup).is_none()),
            Self::Literal(_) | Self::Property(_) | Self::Negative(_) => {
                match self.value(lookup)? {
                    Literal::Bool(truth) => Some(truth),
                    Literal::Text(text) => Some(text.eq_ignore_ascii_case("true")),
                    Literal::Int(_) | Literal::Float(_) => Some(false),
                }
            }
        }
    }

    fn value(&self, lookup: Lookup<'_>) -> Option<Literal> {
        match self {
            Self::Literal(literal) => Some(literal.clone()),
            Self::Property(name) => lookup(name).map(Literal::Text),
            Self::Negative(inner) => match inner.value(lookup)?.as_number()? {
                Literal::Int(int) => int.checked_neg().map(Literal::Int),
                Literal::Float(float) => Some(Literal::Float(-float)),
                Literal::Bool(_) | Literal::Text(_) => None,
            },
            Self::Not(_)
            | Self::And(..)
            | Self::Or(..)
            | Self::Compare(..)
            | Self::Between { .. }
            | Self::In(..)
            | Self::Text(..)
            | Self::IsNull(_) => self.truth(lookup).map(Literal::Bool),
        }
    }
}

impl Literal {
    /// The number this is or reads as.
    fn as_number(&self) -> Option<Self> {
        match self {
            Self::Int(_) | Self::Float(_) => Some(self.clone()),
            Self::Text(text) => match text.trim().parse() {
                Ok(int) => Some(Self::Int(int)),
                Err(_) => text
                    .trim()
                    .parse()
                    .ok()
                    .filter(|float: &f64| float.is_finite())
                    .map(Self::Float),
            },
            Self::Bool(_) => None,
        }
    }

    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Bool(truth) => truth.to_string(),
            Self::Int(int) => int.to_string(),
            Self::Float(float) => float.to_string(),
        }
    }

    fn is_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }
}

/// Properties are texts: one is a number where the other side is, and a truth where the other
/// side is. A property that is no number compares with no number.
fn compare(comparison: Comparison, left: &Literal, right: &Literal) -> Option<bool> {
    use std::cmp::Ordering;

    let equality = matches!(comparison, Comparison::Equal | Comparison::NotEqual);
    let order = match (left, right) {
        (Literal::Bool(truth), other) | (other, Literal::Bool(truth)) if equality => {
            let other = match other {
                Literal::Bool(other) => Some(*other),
                Literal::Text(text) => Some(text.eq_ignore_ascii_case("true")),
                Literal::Int(_) | Literal::Float(_) => None,
            };
            other.map(|other| truth.cmp(&other))
        }
        _ if equality && left.is_text() && right.is_text() => {
            Some(left.clone().into_text().cmp(&right.clone().into_text()))
        }
        _ => match (left.as_number(), right.as_number()) {
            (Some(Literal::Int(left)), Some(Literal::Int(right))) => Some(left.cmp(&right)),
            (Some(left), Some(right)) => left.to_float()?.partial_cmp(&right.to_float()?),
            (None, _) | (_, None) => None,
        },
    };
    let Some(order) = order else { return Some(comparison == Comparison::NotEqual) };
    Some(match comparison {
        Comparison::Equal => order == Ordering::Equal,
        Comparison::NotEqual => order != Ordering::Equal,
        Comparison::Less => order == Ordering::Less,
        Comparison::LessOrEqual => order != Ordering::Greater,
        Comparison::Greater => order == Ordering::Greater,
        Comparison::GreaterOrEqual => order != Ordering::Less,
    })
}

impl Literal {
    fn to_float(&self) -> Option<f64> {
        match self {
            #[expect(clippy::cast_precision_loss, reason = "the other side is a float already")]
            Self::Int(int) => Some(*int as f64),
            Self::Float(float) => Some(*float),
            Self::Bool(_) | Self::Text(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Properties: a = "5", b = "x", t = "true", f = "2.5", big = "9007199254740993", q = "it's".
    fn holds(text: &str) -> bool {
        let lookup = |name: &str| {
            let value = match name {
                "a" => "5",
                "b" => "x",
                "t" => "true",
                "f" => "2.5",
                "big" => "9007199254740993",
                "q" => "it's",
                "$_9" => "odd",
                _ => return None,
            };
            Some(value.to_owned())
        };
        Condition::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).holds(&lookup)
    }

    #[test]
    fn every_operator_holds_where_it_should() {
        for text in [
            "a = 5",
            "a <> 6",
            "a < 6",
            "a <= 5",
            "a > 4",
            "a >= 5",
            "5 = a",
            "4 < a",
            "a = '5'",
            "b = 'x'",
            "b <> 'y'",
            "f > 2",
            "f = 2.5",
            "f < 1e1",
            "a > -1",
            "a > +1",
            "a = 0x5",
            "a = 05",
            "a = 5L",
            "a > .5",
            "-a = -5",
            "big = 9007199254740993",
            "a BETWEEN 5 AND 6",
            "a between 1 and 5",
            "a NOT BETWEEN 6 AND 7",
            "b IN ('y', 'x')",
            "b NOT IN ('y')",
            "a in ('5')",
            "none IS NULL",
            "a IS NOT NULL",
            "b CONTAINS 'x'",
            "b NOT CONTAINS 'y'",
            "q STARTSWITH 'it''s'",
            "q ENDSWITH 's'",
            "q NOT STARTSWITH 'x'",
            "q NOT ENDSWITH 't'",
            "t",
            "t = TRUE",
            "NOT (t = FALSE)",
            "TRUE",
            "NOT FALSE",
            "not b",
            "a = 5 AND b = 'x'",
            "a = 6 OR b = 'x'",
            "a = 6 OR a = 7 OR t",
            "(a = 5 OR a = 6) AND NOT b = 'y'",
            "a=5 -- the rest",
            "a /* in \n between */ = 5",
            "$_9 = 'odd'",
            "a = 5 OR none = 1",
            "NOT (none = 1 AND a = 6)",
        ] {
            assert!(holds(text), "{text}");
        }
    }

    #[test]
    fn what_is_false_or_unknown_does_not_hold() {
        for text in [
            "a = 6",
            "a > 5",
            "b > 1",
            "b = 1",
            "none = 1",
            "none <> 1",
            "NOT none = 1",
            "none > 1",
            "none BETWEEN 1 AND 2",
            "NOT none BETWEEN 1 AND 2",
            "none IN ('x')",
            "none NOT IN ('x')",
            "none NOT CONTAINS 'x'",
            "NOT none",
            "none",
            "a IS NULL",
            "a = 5 AND none = 1",
            "a = 6 OR none = 1",
            "b",
            "FALSE",
            "a BETWEEN 6 AND 4",
            "big = 9007199254740992",
            "b BETWEEN 1 AND 2",
        ] {
            assert!(!holds(text), "{text}");
        }
    }

    #[test]
    fn what_is_no_condition_is_an_error() {
        for text in [
            "",
            " ",
            "a =",
            "= 5",
            "a = 5 b",
            "(a = 5",
            "a = 5)",
            "a LIKE 'x'",
            "a + 1 = 2",
            "a IN (5)",
            "a IN ()",
            "a IN ('x'",
            "a BETWEEN 1",
            "a BETWEEN 'x' AND 'y'",
            "a > 'x'",
            "a IS 5",
            "a = 'open",
            "a == 5",
            "a != 5",
            "a CONTAINS b",
            "5a = 5",
            "a = 99999999999999999999",
            "/* open",
            "a NOT 5",
            "AND",
            "a AND",
            "a = #",
        ] {
            assert!(Condition::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |count: usize| format!("{}TRUE{}", "(".repeat(count), ")".repeat(count));
        assert!(Condition::parse(&deep(20)).is_ok());
        assert_eq!(Condition::parse(&deep(100_000)), Err(SqlError::Depth));
        assert_eq!(Condition::parse(&"NOT ".repeat(100_000)), Err(SqlError::Depth));
        assert_eq!(
            Condition::parse(&format!("TRUE{}", " OR TRUE".repeat(5000))),
            Err(SqlError::Depth)
        );
    }
}
