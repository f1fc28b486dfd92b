//! The CloudEvents reading of a record: a pure function of its header and native block.
//!
//! Each front-end writes the function for its own native block; the process collects them in one
//! [`Views`], so that a front-end reads another's records without knowing it.

use bytes::Bytes;

use crate::{Origin, Record, Table, UnixMillis, Value};

/// What a record says in terms every protocol shares. `None` means the sender did not say.
/// The columns of `MAPPING.md` give the source of each field.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// The sender's message id; the record's own id when `None`.
    pub id: Option<String>,
    /// The sender's type, where its protocol has one.
    pub kind: Option<String>,
    /// When it happened, by the sender; the append time when unset.
    pub time: UnixMillis,
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub data_schema: Option<String>,
    pub correlation: Option<Correlation>,
    pub reply_to: Option<ReplyTo>,
    pub priority: Option<u8>,
    pub app_id: Option<String>,
    pub user_id: Option<String>,
    pub tag: Option<String>,
    pub keys: Vec<String>,
    /// Routing keys that it is published by besides that of its address, as far as readers may
    /// know them.
    pub further_keys: Vec<Bytes>,
    pub partition_key: Option<String>,
    pub trace_parent: Option<String>,
    pub trace_state: Option<String>,
    /// MQTT's payload format indicator: whether the payload is UTF-8 text.
    pub is_text: Option<bool>,
    /// The payload as the application wrote it, where the stored bytes are a compressed form.
    pub plain_data: Option<Bytes>,
    /// CloudEvents attributes the sender gave itself, without prefix; empty for a plain message.
    pub event: Vec<(String, String)>,
    /// Other headers, in the sender's order; names may repeat.
    pub props: Vec<(String, Value)>,
}

/// What ties an answer to its question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Correlation {
    Text(String),
    /// Bytes that are no text.
    Data(Bytes),
}

/// Where an answer is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyTo {
    /// A queue's name.
    Queue(String),
    /// A topic, with `/` between its levels.
    Topic(String),
}

impl ReplyTo {
    /// The stored text: `q:<name>` or `t:<topic>`.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Queue(name) => format!("q:{name}"),
            Self::Topic(topic) => format!("t:{topic}"),
        }
    }

    /// Reads [`ReplyTo::to_text`] back; any other text names a queue.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        match (text.strip_prefix("q:"), text.strip_prefix("t:")) {
            (Some(name), _) => Self::Queue(name.to_owned()),
            (_, Some(topic)) => Self::Topic(topic.to_owned()),
            (None, None) => Self::Queue(text.to_owned()),
        }
    }
}

/// What exchanges may look at besides the address, in the sender's own words: an exchange routes by
/// what is there, whatever else it means.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routing {
    pub headers: Table,
    pub id: Option<Bytes>,
    pub correlation: Option<Bytes>,
    /// In seconds, if the sender said it.
    pub time_s: Option<u64>,
    /// Routing keys besides that of the address, also those that no reader may know.
    pub further_keys: Vec<Bytes>,
}

impl From<View> for Routing {
    fn from(view: View) -> Self {
        let correlation = view.correlation.map(|correlation| match correlation {
            Correlation::Text(text) => Bytes::from(text),
            Correlation::Data(data) => data,
        });
        Self {
            headers: view.props,
            id: view.id.map(Bytes::from),
            correlation,
            time_s: view.time.is_set().then_some(view.time.0 / 1000),
            further_keys: view.further_keys,
        }
    }
}

/// Reads one origin's records.
pub type ViewFn = fn(&Record) -> View;
/// Reads what exchanges look at in one origin's records.
pub type RoutingFn = fn(&Record) -> Routing;

/// The view functions of all origins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Views {
    table: [Option<ViewFn>; Origin::COUNT],
    routing: [Option<RoutingFn>; Origin::COUNT],
}

impl Views {
    /// These views, with `view` for records of `origin`.
    #[must_use]
    pub fn with(mut self, origin: Origin, view: ViewFn) -> Self {
        if let Some(slot) = self.table.get_mut(origin.index()) {
            *slot = Some(view);
        }
        self
    }

    /// The same, with `routing` for records of `origin`, where the view does not say it all.
    #[must_use]
    pub fn with_routing(mut self, origin: Origin, routing: RoutingFn) -> Self {
        if let Some(slot) = self.routing.get_mut(origin.index()) {
            *slot = Some(routing);
        }
        self
    }

    /// What exchanges look at in a record.
    #[must_use]
    pub fn routing_of(&self, record: &Record) -> Routing {
        match self.routing.get(record.origin().index()) {
            Some(Some(routing)) => routing(record),
            Some(None) | None => self.of(record).into(),
        }
    }

    /// The view of a record; empty when nobody reads its origin.
    #[must_use]
    pub fn of(&self, record: &Record) -> View {
        match self.table.get(record.origin().index()) {
            Some(Some(view)) => view(record),
            Some(None) | None => View::default(),
        }
    }
}
