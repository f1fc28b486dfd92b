//! Which records of a stream a consumer wants (RabbitMQ: stream filtering). RabbitMQ filters whole
//! chunks and leaves the rest to the client; here it is exact.

use mainstem_schemas::Value;

use super::equivalence;

pub(super) const FILTER: &str = "x-stream-filter";
pub(super) const MATCH_UNFILTERED: &str = "x-stream-match-unfiltered";

/// What a consumer said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sieve {
    wanted: Vec<String>,
    /// Records that say nothing are wanted, too.
    takes_unfiltered: bool,
}

impl Sieve {
    /// Whether anything is kept back at all.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Whether a record with this filter value is wanted.
    #[must_use]
    pub fn wants(&self, value: Option<&str>) -> bool {
        match value {
            _ if !self.is_set() => true,
            Some(value) => self.wanted.iter().any(|wanted| wanted == value),
            None => self.takes_unfiltered,
        }
    }

    /// Reads one of the consumer's arguments; answers what is wrong with it.
    pub(super) fn read(&mut self, name: &str, value: &Value) -> Option<String> {
        match (name, value) {
            (FILTER, Value::Text(wanted)) => self.wanted = vec![wanted.clone()],
            (FILTER, Value::Array(values)) => {
                self.wanted = values.iter().filter_map(Value::as_text).map(str::to_owned).collect();
                if self.wanted.len() < values.len() {
                    return Some("{unacceptable_type,array}".to_owned());
                }
            }
            (MATCH_UNFILTERED, Value::Bool(takes)) => self.takes_unfiltered = *takes,
            (_, other) => {
                return Some(format!("{{unacceptable_type,{}}}", equivalence::type_name(other)));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sieve_keeps_back_what_is_not_wanted() {
        let text = |text: &str| Value::Text(text.to_owned());
        let mut sieve = Sieve::default();
        assert!(sieve.wants(None) && sieve.wants(Some("x")));
        assert_eq!(sieve.read(FILTER, &Value::Array(vec![text("a"), text("b")])), None);
        assert!(sieve.wants(Some("b")) && !sieve.wants(Some("c")) && !sieve.wants(None));
        assert_eq!(sieve.read(MATCH_UNFILTERED, &Value::Bool(true)), None);
        assert!(sieve.wants(None) && !sieve.wants(Some("c")));
        assert!(sieve.read(FILTER, &Value::Int(1)).is_some());
        assert!(sieve.read(FILTER, &Value::Array(vec![Value::Int(1)])).is_some());
    }
}
