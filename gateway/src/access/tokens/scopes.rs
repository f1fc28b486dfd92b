//! What scopes permit (RabbitMQ's OAuth 2 plugin): `read:vhost/name/key`, each part percent-encoded,
//! with `*` for anything; and `tag:administrator`.

use mainstem_broker::Act;

/// A text with wildcards.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wild {
    /// What stands between the wildcards; one part for none.
    parts: Vec<String>,
}

impl Wild {
    fn of(text: &str) -> Self {
        Self { parts: text.split('*').map(unescape).collect() }
    }

    fn any() -> Self {
        Self::of("*")
    }

    fn is_any(&self) -> bool {
        self.parts.iter().all(String::is_empty) && self.parts.len() > 1
    }

    fn has(&self, text: &[u8]) -> bool {
        let [first, between @ .., last] = self.parts.as_slice() else {
            return self.parts.first().is_some_and(|all| all.as_bytes() == text);
        };
        let Some(rest) = text.strip_prefix(first.as_bytes()) else { return false };
        let Some(mut rest) = rest.strip_suffix(last.as_bytes()) else { return false };
        for part in between.iter().filter(|part| !part.is_empty()) {
            let found = rest.windows(part.len()).position(|some| some == part.as_bytes());
            let Some(at) = found else { return false };
            rest = rest.get(at + part.len()..).unwrap_or_default();
        }
        true
    }
}

/// Percent-decoding; what is none stays as it is.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let hex = (*byte == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        let hex = hex.and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(decoded) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            out.push(decoded);
            at += 3;
        } else {
            out.push(*byte);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What may be done with what.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scope {
    act: Act,
    namespace: Wild,
    name: Wild,
    key: Wild,
}

/// The scopes of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scopes {
    all: Vec<Scope>,
    pub(super) tags: Vec<String>,
}

impl Scopes {
    /// Those that begin with `prefix`; all others are for somebody else.
    pub(super) fn read<'a>(texts: impl Iterator<Item = &'a str>, prefix: &str) -> Self {
        let mut scopes = Self::default();
        for text in texts.filter_map(|text| text.strip_prefix(prefix)) {
            let Some((word, rest)) = text.split_once(':') else { continue };
            let act = match word {
                "configure" => Act::Configure,
                "write" => Act::Write,
                "read" => Act::Read,
                "tag" => {
                    scopes.tags.push(rest.to_owned());
                    continue;
                }
                _ => continue,
            };
            let parts: Vec<&str> = rest.split('/').collect();
            let (namespace, name, key) = match parts.as_slice() {
                [namespace, name] => (namespace, name, Wild::any()),
                [namespace, name, key] => (namespace, name, Wild::of(key)),
                _ => continue,
            };
            let (namespace, name) = (Wild::of(namespace), Wild::of(name));
            scopes.all.push(Scope { act, namespace, name, key });
        }
        scopes
    }

    fn of(&self, namespace: &str) -> impl Iterator<Item = &Scope> {
        self.all.iter().filter(move |scope| scope.namespace.has(namespace.as_bytes()))
    }

    /// Whether there is anything to do in a namespace.
    pub(super) fn sees(&self, namespace: &str) -> bool {
        self.of(namespace).next().is_some()
    }

    pub(super) fn may(&self, namespace: &str, act: Act, name: &str) -> bool {
        self.of(namespace).any(|scope| scope.act == act && scope.name.has(name.as_bytes()))
    }

    pub(super) fn may_use_key(&self, namespace: &str, act: Act, name: &str, key: &[u8]) -> bool {
        self.of(namespace)
            .any(|scope| scope.act == act && scope.name.has(name.as_bytes()) && scope.key.has(key))
    }

    pub(super) fn bounds_keys(&self, namespace: &str, name: &str) -> bool {
        self.of(namespace).any(|scope| scope.name.has(name.as_bytes()) && !scope.key.is_any())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(texts: &[&str]) -> Scopes {
        Scopes::read(texts.iter().copied(), "rabbitmq.")
    }

    #[test]
    fn wildcards_stand_for_anything_and_for_nothing() {
        for (wild, text, has) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a", "a", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*a", "ba", true),
            ("a*a", "a", false),
            ("a*a", "aba", true),
            ("*b*d*", "abcde", true),
            ("*d*b*", "abcde", false),
            ("%2F", "/", true),
            ("a%2a", "ab", false),
            ("a%2a", "a*", true),
            ("100%", "100%", true),
        ] {
            assert_eq!(Wild::of(wild).has(text.as_bytes()), has, "{wild} {text}");
        }
    }

    #[test]
    fn scopes_permit_what_they_say_where_they_say_it() {
        let scopes = scopes(&[
            "rabbitmq.read:%2F/orders*",
            "rabbitmq.write:*/amq.topic/devices.*",
            "rabbitmq.tag:monitoring",
            "rabbitmq.configure:too/many/parts/here",
            "rabbitmq.read:toofew",
            "rabbitmq.own:*/*",
            "other.write:*/*",
            "openid",
        ]);
        assert_eq!((scopes.all.len(), &*scopes.tags), (2, &["monitoring".to_owned()][..]));
        assert!(scopes.may("/", Act::Read, "orders.1") && !scopes.may("b", Act::Read, "orders.1"));
        assert!(!scopes.may("/", Act::Configure, "orders") && !scopes.may("/", Act::Read, "x"));
        assert!(scopes.sees("b") && scopes.may("b", Act::Write, "amq.topic"));
        let may = |key: &[u8]| scopes.may_use_key("/", Act::Write, "amq.topic", key);
        assert!(may(b"devices.7") && !may(b"orders.7"));
        assert!(scopes.bounds_keys("/", "amq.topic") && !scopes.bounds_keys("/", "orders"));
        assert!(!self::scopes(&["rabbitmq.read:a/b"]).sees("c"));
    }
}
