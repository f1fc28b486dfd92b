//! What a user may do in a namespace: RabbitMQ's patterns for names, and for keys at exchanges.

use std::collections::HashMap;

use fancy_regex::{Regex, RegexBuilder};
use mainstem_broker::{Act, Rights};

/// Steps that one match may take back. A pattern that needs more does not match.
const BACKTRACKS_MAX: usize = 10_000;
/// Bytes of a pattern.
pub(crate) const PATTERN_BYTES_MAX: usize = 4096;

/// Names that something may be done with.
#[derive(Clone, Debug)]
enum Pattern {
    All,
    Nothing,
    Some(Box<Regex>),
}

impl Pattern {
    /// A regular expression that is found anywhere in a name; an empty one is found nowhere (RabbitMQ's
    /// access control guide).
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "" | "^$" => return Ok(Self::Nothing),
            ".*" | "^.*$" | "^.*" | ".*$" => return Ok(Self::All),
            _ => {}
        }
        if text.len() > PATTERN_BYTES_MAX {
            return Err(format!("a pattern has more than {PATTERN_BYTES_MAX} bytes"));
        }
        let regex = RegexBuilder::new(text).backtrack_limit(BACKTRACKS_MAX).build();
        regex.map(|regex| Self::Some(Box::new(regex))).map_err(|error| error.to_string())
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Some(regex) => regex.is_match(name).unwrap_or(false),
        }
    }
}

/// The patterns as they were set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permission {
    pub configure: String,
    pub write: String,
    pub read: String,
}

impl Permission {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        let all = || ".*".to_owned();
        Self { configure: all(), write: all(), read: all() }
    }

    /// Why it is none, if it is none.
    pub fn check(&self) -> Result<(), String> {
        [&self.configure, &self.write, &self.read]
            .into_iter()
            .try_for_each(|text| Pattern::read(text).map(drop))
    }
}

/// Patterns for keys at an exchange. `{username}`, `{vhost}` and `{client_id}` stand for themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicPermission {
    pub write: String,
    pub read: String,
}

impl TopicPermission {
    /// Whether it hangs on what a client calls itself.
    pub(super) fn names_client(&self) -> bool {
        self.write.contains("{client_id}") || self.read.contains("{client_id}")
    }

    /// Why it is none, if it is none.
    pub fn check(&self) -> Result<(), String> {
        [&self.write, &self.read].into_iter().try_for_each(|text| {
            Pattern::read(&Whose { user: "", namespace: "", client_id: None }.fill(text)).map(drop)
        })
    }
}

/// Whom the variables of a pattern stand for.
#[derive(Clone, Copy)]
pub(super) struct Whose<'a> {
    pub(super) user: &'a str,
    pub(super) namespace: &'a str,
    pub(super) client_id: Option<&'a str>,
}

impl Whose<'_> {
    fn fill(self, text: &str) -> String {
        // As they stand: a name with a dot is no pattern. Nobody is called by a control byte.
        let client_id = self.client_id.unwrap_or("\u{1}");
        text.replace("{username}", &fancy_regex::escape(self.user))
            .replace("{vhost}", &fancy_regex::escape(self.namespace))
            .replace("{client_id}", &fancy_regex::escape(client_id))
    }
}

/// Patterns, ready to be asked.
#[derive(Debug)]
pub(super) struct Grant {
    configure: Pattern,
    write: Pattern,
    read: Pattern,
    /// To write and to read, by exchange.
    keys: HashMap<String, (Pattern, Pattern)>,
}

impl Grant {
    /// Nothing.
    pub(super) fn none() -> Self {
        let none = || Pattern::Nothing;
        Self { configure: none(), write: none(), read: none(), keys: HashMap::new() }
    }

    /// A pattern that is none permits nothing.
    pub(super) fn new<'a>(
        permission: &Permission,
        topics: impl Iterator<Item = (&'a str, &'a TopicPermission)>,
        whose: Whose<'_>,
    ) -> Self {
        let read = |text: &str| Pattern::read(text).unwrap_or(Pattern::Nothing);
        let keys = topics.map(|(exchange, topic)| {
            let patterns = (read(&whose.fill(&topic.write)), read(&whose.fill(&topic.read)));
            (exchange.to_owned(), patterns)
        });
        Self {
            configure: read(&permission.configure),
            write: read(&permission.write),
            read: read(&permission.read),
            keys: keys.collect(),
        }
    }
}

impl Rights for Grant {
    fn is_all(&self) -> bool {
        let all = [&self.configure, &self.write, &self.read];
        all.iter().all(|pattern| matches!(pattern, Pattern::All)) && self.keys.is_empty()
    }

    fn may(&self, act: Act, name: &str) -> bool {
        match act {
            Act::Configure => self.configure.has(name),
            Act::Write => self.write.has(name),
            Act::Read => self.read.has(name),
        }
    }

    fn may_use_key(&self, act: Act, exchange: &str, key: &[u8]) -> bool {
        let Some((write, read)) = self.keys.get(exchange) else { return true };
        let Ok(key) = std::str::from_utf8(key) else { return false };
        match act {
            Act::Write => write.has(key),
            Act::Read => read.has(key),
            Act::Configure => true,
        }
    }

    fn bounds_keys(&self, exchange: &str) -> bool {
        self.keys.contains_key(exchange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(patterns: [&str; 3], topics: &[(&str, &str, &str)]) -> Grant {
        let [configure, write, read] = patterns.map(str::to_owned);
        let topics: Vec<_> = topics
            .iter()
            .map(|(exchange, write, read)| {
                let (write, read) = ((*write).to_owned(), (*read).to_owned());
                (*exchange, TopicPermission { write, read })
            })
            .collect();
        let whose = Whose { user: "a.b", namespace: "/", client_id: Some("c1") };
        let permission = Permission { configure, write, read };
        Grant::new(&permission, topics.iter().map(|(exchange, topic)| (*exchange, topic)), whose)
    }

    #[test]
    fn patterns_are_found_anywhere_and_an_empty_one_nowhere() {
        let grant = grant(["", "^order", "s$"], &[]);
        assert!(!grant.may(Act::Configure, "") && !grant.may(Act::Configure, "x"));
        assert!(grant.may(Act::Write, "orders") && !grant.may(Act::Write, "reorder"));
        assert!(grant.may(Act::Read, "orders") && !grant.may(Act::Read, "order"));
        assert!(!grant.is_all());
    }

    #[test]
    fn everything_is_everything_only_without_bounds_for_keys() {
        assert!(grant([".*", ".*", ".*"], &[]).is_all());
        assert!(!grant([".*", ".*", ".*"], &[("amq.topic", ".*", ".*")]).is_all());
        assert!(!grant([".*", "", ".*"], &[]).is_all());
    }

    #[test]
    fn variables_stand_for_names_as_they_are() {
        let grant = grant([".*"; 3], &[("amq.topic", r"^{username}\.", r"^{client_id}\.")]);
        let may = |act, key: &str| grant.may_use_key(act, "amq.topic", key.as_bytes());
        assert!(may(Act::Write, "a.b.x") && !may(Act::Write, "aXb.x"));
        assert!(may(Act::Read, "c1.x") && !may(Act::Read, "c2.x"));
        assert!(grant.may_use_key(Act::Write, "other", b"anything"));
        assert!(!grant.may_use_key(Act::Read, "amq.topic", b"c1.\xff"));
    }

    #[test]
    fn who_has_no_client_id_is_called_by_none() {
        let topic = TopicPermission { write: "^{client_id}$".to_owned(), read: String::new() };
        let whose = Whose { user: "a", namespace: "/", client_id: None };
        let grant = Grant::new(&Permission::all(), [("e", &topic)].into_iter(), whose);
        for key in ["", "{client_id}", "a"] {
            assert!(!grant.may_use_key(Act::Write, "e", key.as_bytes()), "{key}");
        }
    }

    #[test]
    fn a_pattern_that_is_none_is_refused_and_permits_nothing() {
        let odd = Permission { configure: "(".to_owned(), ..Permission::all() };
        assert!(odd.check().is_err());
        assert!(!grant(["(", ".*", ".*"], &[]).may(Act::Configure, "("));
        let slow = grant([r"^(a+)+(?!x)$", "", ""], &[]);
        assert!(!slow.may(Act::Configure, &"a".repeat(5000).replace("aaaaa", "aaaab")));
    }
}
