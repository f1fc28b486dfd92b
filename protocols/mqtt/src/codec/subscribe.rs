//! SUBSCRIBE and UNSUBSCRIBE (MQTT 5 §3.8, §3.10), and the three kinds of topic filters.

use mainstem_schemas::{
    Dialect, Filter,
    address::{NOTE_PREFIX, QUEUE_SEGMENT},
    filter::Step,
};

use super::{
    Fault, Frame, Input, Qos, Text, Version,
    property::{self, Context, Value, id},
};

/// Filters that begin so are ours: what is kept with a session as a subscription that brings
/// nothing.
pub const MARK: &str = NOTE_PREFIX;
/// Which queues it consumes.
pub const QUEUE_MARK: &str = "$mainstem-queue/";
/// Under which name its QoS 2 messages are remembered.
pub const WRITER_MARK: &str = "$mainstem-writer/";
/// What it was sent with QoS 2 and has not completed.
pub const SENT_MARK: &str = "$mainstem-sent/";
/// Which places have which packet identifiers.
pub const RUN_MARK: &str = "$mainstem-run/";

/// A request for subscriptions; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    pub packet_id: u16,
    pub subscription_id: Option<u32>,
    pub wishes: Vec<Wish>,
}

/// One topic filter with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub filter: TopicFilter,
    pub qos: Qos,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
}

/// When retained messages are sent (MQTT 5 §3.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainHandling {
    AtSubscribe,
    AtNewSubscribe,
    Never,
}

/// What a topic filter asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicFilter {
    Plain(Filter),
    /// `$share/<group>/<filter>`: the group's members compete.
    Shared {
        group: String,
        filter: Filter,
    },
    /// `$exclusive/<filter>`: one client at a time.
    Exclusive(Filter),
    /// `$queue/<name>`: competing consumption of a named queue.
    Queue(String),
    /// Well formed, but nothing we serve: a wildcard below `$queue`, a queue in `$share`.
    Unserved,
}

/// A request to end subscriptions; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    pub packet_id: u16,
    pub filters: Vec<TopicFilter>,
}

/// Reads a SUBSCRIBE.
pub fn decode_subscribe(frame: &Frame, version: Version) -> Result<Subscribe, Fault> {
    let mut input = Input::new(frame.body.clone());
    let packet_id = input.packet_id()?;
    let mut subscription_id = None;
    if version == Version::V5 {
        property::read_block(&mut input, Context::Subscribe, |id, value, _| {
            if let (id::SUBSCRIPTION_ID, Value::Varint(number)) = (id, value) {
                subscription_id = Some(number);
            }
            Ok(())
        })?;
    }
    let mut wishes = Vec::new();
    while !input.is_empty() {
        let filter = TopicFilter::parse(&input.text()?)?;
        wishes.push(read_options(filter, input.u8()?, version)?);
    }
    if wishes.is_empty() {
        return Err(Fault::protocol("[MQTT-3.8.3-2] a SUBSCRIBE has no filter"));
    }
    Ok(Subscribe { packet_id, subscription_id, wishes })
}

fn read_options(filter: TopicFilter, bits: u8, version: Version) -> Result<Wish, Fault> {
    let reserved = if version == Version::V5 { 0xc0 } else { 0xfc };
    if bits & reserved != 0 {
        return Err(Fault::malformed("[MQTT-3.8.3-5] a reserved subscription option is set"));
    }
    let qos = Qos::from_bits(bits & 0x03)
        .ok_or(Fault::protocol("[MQTT-3.8.3-4] a subscription has quality of service 3"))?;
    let no_local = bits & 0x04 != 0;
    if no_local && matches!(filter, TopicFilter::Shared { .. }) {
        return Err(Fault::protocol("[MQTT-3.8.3-4] no local on a shared subscription"));
    }
    let retain_handling = match bits >> 4 & 0x03 {
        0 => RetainHandling::AtSubscribe,
        1 => RetainHandling::AtNewSubscribe,
        2 => RetainHandling::Never,
        _ => return Err(Fault::protocol("a subscription has retain handling 3")),
    };
    let retain_as_published = bits & 0x08 != 0;
    Ok(Wish { filter, qos, no_local, retain_as_published, retain_handling })
}

/// Reads an UNSUBSCRIBE.
pub fn decode_unsubscribe(frame: &Frame, version: Version) -> Result<Unsubscribe, Fault> {
    let mut input = Input::new(frame.body.clone());
    let packet_id = input.packet_id()?;
    if version == Version::V5 {
        property::read_block(&mut input, Context::Unsubscribe, |_, _, _| Ok(()))?;
    }
    let mut filters = Vec::new();
    while !input.is_empty() {
        filters.push(TopicFilter::parse(&input.text()?)?);
    }
    if filters.is_empty() {
        return Err(Fault::protocol("[MQTT-3.10.3-2] an UNSUBSCRIBE has no filter"));
    }
    Ok(Unsubscribe { packet_id, filters })
}

impl TopicFilter {
    /// Reads a topic filter.
    pub fn parse(text: &Text) -> Result<Self, Fault> {
        let text = text.as_str();
        if let Some(shared) = text.strip_prefix("$share/") {
            return Self::parse_shared(shared);
        }
        if let Some(alone) = text.strip_prefix("$exclusive/") {
            let filter = parse_filter(alone)?;
            let is_plain = !["$share/", "$exclusive/"].iter().any(|kind| alone.starts_with(kind))
                && !is_ours(&filter)
                && !is_of_the_server(&filter);
            return Ok(if is_plain { Self::Exclusive(filter) } else { Self::Unserved });
        }
        let filter = parse_filter(text)?;
        let Some(name) = text.strip_prefix(QUEUE_SEGMENT).and_then(|rest| rest.strip_prefix('/'))
        else {
            return Ok(if is_ours(&filter) { Self::Unserved } else { Self::Plain(filter) });
        };
        let is_one_level = !name.is_empty() && !name.contains('/');
        if !is_one_level || !filter.is_exact() {
            return Ok(Self::Unserved);
        }
        let name = Dialect::Mqtt.unescape(name.as_bytes());
        Ok(String::from_utf8(name).map_or(Self::Unserved, Self::Queue))
    }

    fn parse_shared(text: &str) -> Result<Self, Fault> {
        let Some((group, filter)) = text.split_once('/') else {
            return Err(Fault::malformed("[MQTT-4.8.2-2] a share name without a filter"));
        };
        if group.is_empty() || group.contains(['+', '#']) {
            return Err(Fault::malformed("[MQTT-4.8.2-1] a share name is empty or a wildcard"));
        }
        let levels = parse_filter(filter)?;
        if ["$share/", "$exclusive/"].iter().any(|kind| filter.starts_with(kind))
            || is_ours(&levels)
        {
            return Ok(Self::Unserved);
        }
        Ok(Self::Shared { group: group.to_owned(), filter: levels })
    }

    /// What it asks for alone, if it does.
    #[must_use]
    pub fn exclusive(&self) -> Option<&Filter> {
        match self {
            Self::Exclusive(filter) => Some(filter),
            Self::Plain(_) | Self::Shared { .. } | Self::Queue(_) | Self::Unserved => None,
        }
    }

    /// How many levels it has.
    #[must_use]
    pub fn levels(&self) -> usize {
        match self {
            Self::Plain(filter) | Self::Exclusive(filter) | Self::Shared { filter, .. } => {
                filter.steps().len()
            }
            Self::Queue(_) | Self::Unserved => 1,
        }
    }
}

fn begins(filter: &Filter, is: impl Fn(&[u8]) -> bool) -> bool {
    matches!(filter.steps().first(), Some(Step::Exact(first)) if is(first))
}

/// Whether it is for what the server tells of itself.
#[must_use]
pub fn is_of_the_server(filter: &Filter) -> bool {
    begins(filter, |first| first == b"$SYS")
}

/// Whether it leads to what is kept for ourselves, however its first level is written: `%24` is `$`.
fn is_ours(filter: &Filter) -> bool {
    begins(filter, |first| first == QUEUE_SEGMENT.as_bytes() || first.starts_with(MARK.as_bytes()))
}

fn parse_filter(text: &str) -> Result<Filter, Fault> {
    Filter::parse(text).map_err(|error| {
        use mainstem_schemas::filter::FilterError;
        Fault::malformed(match error {
            FilterError::Empty => "[MQTT-4.7.3-1] a topic filter is empty",
            FilterError::PartialWildcard => "[MQTT-4.7.1-2] a wildcard does not stand alone",
            FilterError::RestNotLast => "[MQTT-4.7.1-1] `#` is not the last level",
        })
    })
}
