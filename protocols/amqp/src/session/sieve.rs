//! Which records of a stream a consumer wants (RabbitMQ: stream filtering). RabbitMQ filters whole
//! chunks and leaves the rest to the client; here it is exact.

use mainstem_schemas::Value;

use super::equivalence;

pub(super) const FILTER: &str = "x-stream-filter";
pub(super) const MATCH_UNFILTERED: &str = "x-stream-match-unfiltered";

/// Values that one consumer may want.
const WANTED_MAX: usize = 256;
/// Bytes of one of them (RabbitMQ: as many).
const VALUE_BYTES_MAX: usize = 255;

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
            (FILTER, Value::Text(_)) => return self.want(std::slice::from_ref(value)),
            (FILTER, Value::Array(values)) => return self.want(values),
            (MATCH_UNFILTERED, Value::Bool(takes)) => self.takes_unfiltered = *takes,
            (_, other) => {
                return Some(format!("{{unacceptable_type,{}}}", equivalence::type_name(other)));
            }
        }
        None
    }

    fn want(&mut self, values: &[Value]) -> Option<String> {
        self.wanted.clear();
        if values.len() > WANTED_MAX {
            return Some(format!("{{too_many_filter_values,{}}}", values.len()));
        }
        for value in values {
            match value.as_text() {
                Some(text) if text.len() <= VALUE_BYTES_MAX => self.wanted.push(text.to_owned()),
                Some(text) => return Some(format!("{{filter_value_too_long,{}}}", text.len())),
                None => return Some("{unacceptable_type,array}".to_owned()),
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

    #[test]
    fn what_a_consumer_may_want_is_bounded() {
        let read = |value: &Value| Sieve::default().read(FILTER, value);
        let text = |bytes: usize| Value::Text("v".repeat(bytes));
        assert_eq!(read(&text(255)), None);
        assert_eq!(read(&text(256)).as_deref(), Some("{filter_value_too_long,256}"));
        let many = |count| Value::Array(vec![text(255); count]);
        assert_eq!(read(&many(256)), None);
        assert_eq!(read(&many(257)).as_deref(), Some("{too_many_filter_values,257}"));
        assert!(read(&Value::Array(vec![text(256)])).is_some());
    }
}
