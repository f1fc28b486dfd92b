//! Which addresses a reader wants: segments, with `+` for any one and a last `#` for any rest.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    Path,
    address::Dialect,
    wire::{self, Reader, Short},
};

/// One step of a filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Exactly this segment.
    Exact(Bytes),
    /// Any one segment.
    One,
    /// Any number of segments, none included; only as the last step.
    Rest,
}

/// A filter over address paths. A wildcard at the start does not match a first segment that
/// begins with `$` ([MQTT-4.7.2-1]).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Filter {
    /// Shared by its copies: there are millions.
    steps: Arc<[Step]>,
}

/// Why a text is not a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("a filter must have at least one character")]
    Empty,
    #[error("a wildcard must stand alone in its level")]
    PartialWildcard,
    #[error("`#` must be the last level")]
    RestNotLast,
}

impl Filter {
    /// The filter an MQTT topic filter writes. Errors: [MQTT-4.7.1-1], [MQTT-4.7.1-2],
    /// [MQTT-4.7.3-1].
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Err(FilterError::Empty);
        }
        let mut steps = Vec::new();
        for level in text.split('/') {
            if steps.last() == Some(&Step::Rest) {
                return Err(FilterError::RestNotLast);
            }
            steps.push(match level {
                "+" => Step::One,
                "#" => Step::Rest,
                _ if level.contains(['+', '#']) => return Err(FilterError::PartialWildcard),
                _ => Step::Exact(Dialect::Mqtt.unescape(level.as_bytes()).into()),
            });
        }
        Ok(Self { steps: steps.into() })
    }

    /// The filter that wants `first` and everything below it.
    #[must_use]
    pub fn below(first: &[u8]) -> Self {
        Self { steps: [Step::Exact(Bytes::copy_from_slice(first)), Step::Rest].into() }
    }

    /// The steps, first to last.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether it has no wildcard.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, Step::Exact(_)))
    }

    /// Whether it wants this path. The trie in the router gives the same answer for many
    /// filters at once; this is the rule in its plainest form.
    #[must_use]
    pub fn matches(&self, path: &Path) -> bool {
        let mut segments = path.segments().peekable();
        let hidden = segments.peek().is_some_and(|first| first.starts_with(b"$"));
        if hidden && !matches!(self.steps.first(), Some(Step::Exact(_))) {
            return false;
        }
        for step in &*self.steps {
            match (step, segments.next()) {
                (Step::Rest, _) => return true,
                (Step::One, Some(_)) => {}
                (Step::Exact(wanted), Some(segment)) if wanted == segment => {}
                (Step::One | Step::Exact(_), _) => return false,
            }
        }
        segments.next().is_none()
    }

    /// The stored form: per step a tag byte, and for an exact one its segment behind a length.
    pub fn encode(&self, out: &mut impl BufMut) {
        wire::put_varint(out, self.steps.len() as u64);
        for step in &*self.steps {
            match step {
                Step::Exact(segment) => {
                    out.put_u8(0);
                    wire::put_blob(out, segment);
                }
                Step::One => out.put_u8(1),
                Step::Rest => out.put_u8(2),
            }
        }
    }

    /// Reads a stored filter.
    pub fn decode(reader: &mut Reader) -> Result<Self, Short> {
        let count = reader.varint()?;
        let mut steps = Vec::new();
        for _ in 0..count {
            steps.push(match reader.u8()? {
                // A copy: it lives longer than what it was read from.
                0 => Step::Exact(Bytes::copy_from_slice(&reader.blob()?)),
                1 => Step::One,
                2 => Step::Rest,
                _ => return Err(Short),
            });
        }
        Ok(Self { steps: steps.into() })
    }

    /// The filter in MQTT's words.
    #[must_use]
    pub fn render(&self) -> Bytes {
        self.render_as(Dialect::Mqtt, b'+')
    }

    /// The filter as an AMQP binding key.
    #[must_use]
    pub fn render_key(&self) -> Bytes {
        self.render_as(Dialect::Amqp, b'*')
    }

    fn render_as(&self, dialect: Dialect, any_one: u8) -> Bytes {
        let mut out = BytesMut::new();
        for (index, step) in self.steps.iter().enumerate() {
            if index > 0 {
                out.put_u8(dialect.separator());
            }
            match step {
                Step::Exact(segment) => dialect.escape(segment, index == 0, &mut out),
                Step::One => out.put_u8(any_one),
                Step::Rest => out.put_u8(b'#'),
            }
        }
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(filter: &str, topic: &str) -> bool {
        let path = Path::parse(topic.as_bytes(), Dialect::Mqtt);
        Filter::parse(filter).unwrap().matches(&path)
    }

    #[test]
    fn wildcards_match_as_mqtt_says() {
        assert!(check("sport/#", "sport"));
        assert!(check("sport/#", "sport/a/b"));
        assert!(check("sport/+", "sport/"));
        assert!(!check("sport/+", "sport"));
        assert!(check("+/+", "/a"));
        assert!(!check("/a", "a"));
        assert!(!check("a", "a/"));
        assert!(!check("#", "$SYS/x"));
        assert!(!check("+/x", "$SYS/x"));
        assert!(check("$SYS/#", "$SYS/x"));
    }

    #[test]
    fn a_bad_filter_says_why() {
        assert_eq!(Filter::parse(""), Err(FilterError::Empty));
        assert_eq!(Filter::parse("a/#/b"), Err(FilterError::RestNotLast));
        assert_eq!(Filter::parse("a+"), Err(FilterError::PartialWildcard));
        assert_eq!(Filter::parse("a#"), Err(FilterError::PartialWildcard));
    }

    #[test]
    fn a_filter_reads_back() {
        let filter = Filter::parse("a/+/c/#").unwrap();
        let mut out = Vec::new();
        filter.encode(&mut out);
        assert_eq!(Filter::decode(&mut Reader::new(out.into())), Ok(filter.clone()));
        assert_eq!(filter.render(), "a/+/c/#");
    }
}
