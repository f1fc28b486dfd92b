//! Where a record was published, in its sender's own words and as the path every reader matches.
//!
//! An [`Address`] keeps what the sender wrote. Its [`Path`] is the list of opaque segments that
//! filters match. A [`Dialect`] turns segments into one protocol's words and back; both ways are
//! inverse to each other, so a name that crosses protocols and comes back is the same name.

use bytes::{BufMut, Bytes, BytesMut};

/// Which kind of front-end a record came by. Persisted: never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Origin {
    Amqp = 1,
    Mqtt = 2,
    Rocketmq = 3,
    Http = 4,
}

impl Origin {
    /// How many ids [`Origin::index`] can give.
    pub const COUNT: usize = 4;

    /// The origin with this stored id.
    #[must_use]
    pub fn from_u8(id: u8) -> Option<Self> {
        [Self::Amqp, Self::Mqtt, Self::Rocketmq, Self::Http].into_iter().find(|o| *o as u8 == id)
    }

    /// A place for this origin in a table of [`Origin::COUNT`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize - 1
    }

    /// The word for labels and sources.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Amqp => "amqp",
            Self::Mqtt => "mqtt",
            Self::Rocketmq => "rocketmq",
            Self::Http => "http",
        }
    }
}

/// The exchange that stands for the root of all addresses.
pub const ROOT_EXCHANGE: &str = "amq.topic";
/// The first segment of a direct message to a queue: `$queue`, then the queue's name.
pub const QUEUE_SEGMENT: &str = "$queue";
/// What the queues begin with that stand for one connection's replies. Nobody else names a queue so.
pub const REPLY_QUEUE_PREFIX: &str = "amq.rabbitmq.reply-to.";
/// What first segments begin with that front-ends use for notes of their own; no peer can name one so.
pub const NOTE_PREFIX: &str = "$mainstem-";
/// How a routing key on the default exchange names a topic instead of a queue.
pub const TOPIC_KEY_PREFIX: &str = "$topic.";

/// The sender's own words for where a record goes.
///
/// | origin | first | second |
/// | --- | --- | --- |
/// | AMQP | exchange | routing key |
/// | MQTT, HTTP | topic | empty |
/// | RocketMQ | topic | tag, or with `lite` the lite topic |
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    pub origin: Origin,
    pub first: Bytes,
    pub second: Bytes,
    /// `second` is a lite topic, whose `/` separate segments.
    pub lite: bool,
}

/// Where routing starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// At this exchange with this key, and nowhere else in the exchange graph.
    Exchange { name: Bytes, key: Bytes },
    /// At the root exchange and at the exchange that the first segment names.
    Path,
}

/// At which exchanges a record that came by a path enters the exchange graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doors {
    /// At the root exchange, and at the exchange that its first segment names.
    Both,
    Root,
    Named,
}

impl Address {
    /// An AMQP address.
    #[must_use]
    pub fn amqp(exchange: Bytes, routing_key: Bytes) -> Self {
        Self { origin: Origin::Amqp, first: exchange, second: routing_key, lite: false }
    }

    /// A place in the exchange graph, whoever names it: the same as an AMQP address.
    #[must_use]
    pub fn exchange(name: Bytes, key: Bytes) -> Self {
        Self::amqp(name, key)
    }

    /// An MQTT address.
    #[must_use]
    pub fn mqtt(topic: Bytes) -> Self {
        Self { origin: Origin::Mqtt, first: topic, second: Bytes::new(), lite: false }
    }

    /// A RocketMQ address; `tag` may be empty.
    #[must_use]
    pub fn rocketmq(topic: Bytes, tag: Bytes) -> Self {
        Self { origin: Origin::Rocketmq, first: topic, second: tag, lite: false }
    }

    /// An HTTP address: the URL path behind `/topics/`, percent-decoded.
    #[must_use]
    pub fn http(topic: Bytes) -> Self {
        Self { origin: Origin::Http, first: topic, second: Bytes::new(), lite: false }
    }

    /// The segments that filters match.
    #[must_use]
    pub fn path(&self) -> Path {
        let mut path = PathBuilder::default();
        match self.origin {
            Origin::Amqp if self.first.is_empty() => match self.topic_key() {
                Some(key) => path.push_words(key, Dialect::Amqp),
                None => {
                    path.push(QUEUE_SEGMENT.as_bytes());
                    path.push(&self.second);
                }
            },
            Origin::Amqp => {
                if self.first != ROOT_EXCHANGE.as_bytes() {
                    path.push(&self.first);
                }
                if !self.second.is_empty() {
                    path.push_words(&self.second, Dialect::Amqp);
                }
            }
            Origin::Mqtt | Origin::Http => path.push_words(&self.first, Dialect::Mqtt),
            Origin::Rocketmq => {
                path.push(&self.first);
                if self.lite {
                    path.push_words(&self.second, Dialect::Mqtt);
                } else if !self.second.is_empty() {
                    path.push(&self.second);
                }
            }
        }
        path.build()
    }

    /// Where routing starts: a record that came by exchange stays in the exchange graph it
    /// entered; a direct message to `$queue/<name>` is a publish to the default exchange.
    #[must_use]
    pub fn entrance(&self) -> Entrance {
        if self.origin == Origin::Amqp {
            return match self.topic_key() {
                Some(_) => Entrance::Path,
                None => Entrance::Exchange { name: self.first.clone(), key: self.second.clone() },
            };
        }
        match self.queue_name() {
            Some(key) => Entrance::Exchange { name: Bytes::new(), key },
            None => Entrance::Path,
        }
    }

    /// A path, in nobody's words in particular.
    #[must_use]
    pub fn of_path(path: &Path) -> Self {
        Self::http(path.render(Dialect::Mqtt))
    }

    /// Where a record enters the exchange graph whose sender may write nowhere else: by the name of a
    /// topic at the exchange of that name, else at the root exchange.
    #[must_use]
    pub fn own_door(&self) -> Doors {
        if self.origin == Origin::Rocketmq { Doors::Named } else { Doors::Root }
    }

    /// Whether the sender named the default exchange.
    #[must_use]
    pub fn is_at_default_exchange(&self) -> bool {
        self.origin == Origin::Amqp && self.first.is_empty()
    }

    /// The queue a `$queue/<name>` topic names.
    fn queue_name(&self) -> Option<Bytes> {
        if !self.first.starts_with(QUEUE_SEGMENT.as_bytes()) {
            return None;
        }
        let path = self.path();
        let mut segments = path.segments();
        let (Some(first), Some(name), None) = (segments.next(), segments.next(), segments.next())
        else {
            return None;
        };
        (first == QUEUE_SEGMENT.as_bytes()).then(|| Bytes::copy_from_slice(name))
    }

    fn topic_key(&self) -> Option<&[u8]> {
        if !self.first.is_empty() {
            return None;
        }
        self.second.strip_prefix(TOPIC_KEY_PREFIX.as_bytes())
    }
}

/// The segments of an address. Stored as each segment behind its `u16` length.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    raw: Bytes,
}

impl Path {
    /// The path of these segments. Segments over 65,535 bytes are cut there.
    pub fn of<S: AsRef<[u8]>>(segments: impl IntoIterator<Item = S>) -> Self {
        let mut path = PathBuilder::default();
        for segment in segments {
            path.push(segment.as_ref());
        }
        path.build()
    }

    /// The path a protocol's words name.
    #[must_use]
    pub fn parse(words: &[u8], dialect: Dialect) -> Self {
        let mut path = PathBuilder::default();
        path.push_words(words, dialect);
        path.build()
    }

    /// The segments, first to last.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.raw;
        std::iter::from_fn(move || {
            let (len, tail) = rest.split_first_chunk::<2>()?;
            let (segment, tail) = tail.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
            rest = tail;
            Some(segment)
        })
    }

    /// The stored bytes, for keys.
    #[must_use]
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The path with these stored bytes.
    #[must_use]
    pub fn from_raw(raw: Bytes) -> Self {
        Self { raw }
    }

    /// This path in a protocol's words.
    #[must_use]
    pub fn render(&self, dialect: Dialect) -> Bytes {
        render_segments(self.segments(), dialect)
    }

    /// The first segment, and the rest in a protocol's words.
    #[must_use]
    pub fn split_first(&self, dialect: Dialect) -> Option<(&[u8], Bytes)> {
        let mut segments = self.segments();
        let first = segments.next()?;
        let mut out = BytesMut::new();
        for (index, segment) in segments.enumerate() {
            if index > 0 {
                out.put_u8(dialect.separator());
            }
            dialect.escape(segment, false, &mut out);
        }
        Some((first, out.freeze()))
    }
}

fn render_segments<'a>(segments: impl Iterator<Item = &'a [u8]>, dialect: Dialect) -> Bytes {
    let mut out = BytesMut::new();
    for (index, segment) in segments.enumerate() {
        if index > 0 {
            out.put_u8(dialect.separator());
        }
        dialect.escape(segment, index == 0, &mut out);
    }
    out.freeze()
}

#[derive(Default)]
struct PathBuilder {
    raw: BytesMut,
}

impl PathBuilder {
    fn push(&mut self, segment: &[u8]) {
        let len = u16::try_from(segment.len()).unwrap_or(u16::MAX);
        self.raw.put_u16_le(len);
        self.raw.put_slice(segment.get(..usize::from(len)).unwrap_or(segment));
    }

    fn push_words(&mut self, words: &[u8], dialect: Dialect) {
        for word in words.split(|byte| *byte == dialect.separator()) {
            if word.contains(&b'%') {
                self.push(&dialect.unescape(word));
            } else {
                self.push(word);
            }
        }
    }

    fn build(self) -> Path {
        Path { raw: self.raw.freeze() }
    }
}

/// How a protocol writes segments: its separator, and the bytes it must escape as `%XX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Words between `.`; `.` is escaped, and a word that is only `*` or `#`.
    Amqp,
    /// Levels between `/`; `/`, `+`, `#`, control bytes and invalid UTF-8 are escaped, and a
    /// leading `$` of the first level unless it begins one of our own names.
    Mqtt,
}

impl Dialect {
    /// The byte between two words.
    #[must_use]
    pub fn separator(self) -> u8 {
        match self {
            Self::Amqp => b'.',
            Self::Mqtt => b'/',
        }
    }

    /// Writes a segment as one word.
    pub fn escape(self, segment: &[u8], leading: bool, out: &mut BytesMut) {
        let invalid_from = match std::str::from_utf8(segment) {
            Ok(_) => segment.len(),
            Err(error) => error.valid_up_to(),
        };
        let own_name = segment == QUEUE_SEGMENT.as_bytes();
        for (index, byte) in segment.iter().copied().enumerate() {
            let escaped = match self {
                Self::Amqp => {
                    byte == b'.' || (segment.len() == 1 && (byte == b'*' || byte == b'#'))
                }
                Self::Mqtt => {
                    matches!(byte, b'/' | b'+' | b'#')
                        || byte.is_ascii_control()
                        || (byte >= 0x80 && index >= invalid_from)
                        || (leading && index == 0 && byte == b'$' && !own_name)
                }
            };
            let tail = segment.get(index..).unwrap_or_default();
            if escaped || (byte == b'%' && self.escape_at(tail).is_some()) {
                out.put_slice(format!("%{byte:02X}").as_bytes());
            } else {
                out.put_u8(byte);
            }
        }
    }

    /// Reads one word as a segment.
    #[must_use]
    pub fn unescape(self, word: &[u8]) -> Vec<u8> {
        let mut segment = Vec::with_capacity(word.len());
        let mut rest = word;
        while let Some((byte, tail)) = rest.split_first() {
            match self.escape_at(rest) {
                Some(decoded) => {
                    segment.push(decoded);
                    rest = rest.get(3..).unwrap_or_default();
                }
                None => {
                    segment.push(*byte);
                    rest = tail;
                }
            }
        }
        segment
    }

    /// The byte that an escape of this dialect at the start of `text` stands for. Only what
    /// [`Dialect::escape`] may write counts; any other `%` is a plain `%`.
    fn escape_at(self, text: &[u8]) -> Option<u8> {
        let [b'%', high, low, ..] = text else { return None };
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'A'..=b'F' => Some(byte - b'A' + 10),
            _ => None,
        };
        let byte = digit(*high)? << 4 | digit(*low)?;
        let ours = match self {
            Self::Amqp => matches!(byte, b'.' | b'*' | b'#' | b'%'),
            Self::Mqtt => {
                matches!(byte, b'/' | b'+' | b'#' | b'$' | b'%')
                    || byte.is_ascii_control()
                    || byte >= 0x80
            }
        };
        ours.then_some(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(path: &Path) -> Vec<String> {
        path.segments().map(|s| String::from_utf8_lossy(s).into_owned()).collect()
    }

    #[test]
    fn each_origin_names_its_path() {
        let check = |address: Address, expected: &[&str]| {
            assert_eq!(segments(&address.path()), expected);
        };
        check(Address::amqp("orders".into(), "eu.new".into()), &["orders", "eu", "new"]);
        check(Address::amqp("amq.topic".into(), "a.b".into()), &["a", "b"]);
        check(Address::amqp("".into(), "q.1".into()), &["$queue", "q.1"]);
        check(Address::amqp("".into(), "$topic.a.b".into()), &["a", "b"]);
        check(Address::amqp("orders".into(), "".into()), &["orders"]);
        check(Address::mqtt("/a//b".into()), &["", "a", "", "b"]);
        check(Address::rocketmq("T".into(), "x/y".into()), &["T", "x/y"]);
        check(Address::rocketmq("T".into(), "".into()), &["T"]);
        let lite = Address { lite: true, ..Address::rocketmq("T".into(), "x/y".into()) };
        check(lite, &["T", "x", "y"]);
    }

    #[test]
    fn a_queue_topic_enters_at_the_default_exchange() {
        let entrance = Address::mqtt("$queue/jobs".into()).entrance();
        assert_eq!(entrance, Entrance::Exchange { name: "".into(), key: "jobs".into() });
        assert_eq!(Address::mqtt("$queue/jobs/x".into()).entrance(), Entrance::Path);
        assert_eq!(Address::mqtt("a/b".into()).entrance(), Entrance::Path);
    }

    #[test]
    fn names_render_as_the_addressing_rules_say() {
        let check = |topic: &str, key: &str| {
            let path = Path::parse(topic.as_bytes(), Dialect::Mqtt);
            assert_eq!(path.render(Dialect::Amqp), key);
            assert_eq!(Path::parse(key.as_bytes(), Dialect::Amqp), path);
        };
        check("a/b", "a.b");
        check("/a", ".a");
        check("a//b", "a..b");
        check("a.b/c", "a%2Eb.c");
        check("*/x", "%2A.x");
        check("a%2Eb", "a%252Eb");
        check("100%", "100%");
        let key = |key: &str| Path::parse(key.as_bytes(), Dialect::Amqp).render(Dialect::Mqtt);
        assert_eq!(key("a/b.c+"), "a%2Fb/c%2B");
        assert_eq!(key("$SYS.x"), "%24SYS/x");
        assert_eq!(key("#.x"), "%23/x");
    }
}
