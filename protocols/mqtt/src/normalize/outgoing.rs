//! A record of another protocol as an MQTT message (`MAPPING.md` §4 and §5).

use bytes::{BufMut, Bytes, BytesMut};
use mainstem_schemas::{
    Address, Correlation, Dialect, Origin, Record, ReplyTo, UnixMillis, Value, View,
    address::QUEUE_SEGMENT,
};

use crate::codec::{output::put_binary, property::id};

/// Another protocol's record in MQTT's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Empty when the address has no MQTT form; such a record cannot be sent.
    pub topic: Bytes,
    /// MQTT 5 property bytes.
    pub native: Bytes,
    pub payload: Bytes,
}

/// Whole seconds until a time to expire at, rounded up; `None` when there is none.
#[must_use]
pub fn expiry_left_s(expiry: UnixMillis, now: UnixMillis) -> Option<u32> {
    let left_s = expiry.since(now).div_ceil(1000);
    expiry.is_set().then(|| u32::try_from(left_s).unwrap_or(u32::MAX))
}

impl Foreign {
    /// The message for a record that came by an address, which is not its own when it died
    /// elsewhere; without `with_props`, the sender's own headers stay behind.
    #[must_use]
    pub fn new(record: &Record, address: &Address, view: &View, with_props: bool) -> Self {
        let topic = address.path().render(Dialect::Mqtt);
        let payload = view.plain_data.clone().unwrap_or_else(|| record.data());
        let mut block = Block { out: BytesMut::new(), origin: record.origin() };
        block.put_message(view, &payload);
        block.put_carried(view);
        if with_props {
            for (name, value) in &view.props {
                block.put_prop(name, value);
            }
        } else if !view.props.is_empty() {
            count_dropped("props", block.origin);
        }
        block.count_unexpressed(view);
        Self { topic, native: block.out.freeze(), payload }
    }
}

/// The property block while it is written.
struct Block {
    out: BytesMut,
    origin: Origin,
}

impl Block {
    fn put_message(&mut self, view: &View, payload: &[u8]) {
        if is_text(view) && std::str::from_utf8(payload).is_ok() {
            self.out.put_slice(&[id::PAYLOAD_FORMAT, 1]);
        }
        if let Some(content_type) = &view.content_type {
            self.put_text(id::CONTENT_TYPE, content_type, "datacontenttype");
        }
        match &view.reply_to {
            Some(ReplyTo::Queue(name)) => {
                let mut topic = BytesMut::from(QUEUE_SEGMENT);
                topic.put_u8(b'/');
                Dialect::Mqtt.escape(name.as_bytes(), false, &mut topic);
                self.put_bytes(id::RESPONSE_TOPIC, &topic, "replyto");
            }
            Some(ReplyTo::Topic(topic)) if topic.contains(['+', '#']) => {
                count_dropped("replyto", self.origin);
            }
            Some(ReplyTo::Topic(topic)) => self.put_text(id::RESPONSE_TOPIC, topic, "replyto"),
            None => {}
        }
        match &view.correlation {
            Some(Correlation::Text(text)) => {
                self.put_bytes(id::CORRELATION_DATA, text.as_bytes(), "correlationid");
            }
            Some(Correlation::Data(data)) => {
                self.put_bytes(id::CORRELATION_DATA, data, "correlationdata");
            }
            None => {}
        }
    }

    /// The attributes that travel as user properties: a CloudEvent's own under their bare names,
    /// then what the record says besides.
    fn put_carried(&mut self, view: &View) {
        for (name, value) in view.event.iter().filter(|(name, _)| name != "datacontenttype") {
            self.put_user(name, value, "event");
        }
        // The payload goes out as the application wrote it, so its encoding is undone.
        let encoding = view.content_encoding.as_ref().filter(|_| view.plain_data.is_none());
        let carried = [
            ("content-encoding", encoding),
            ("tag", view.tag.as_ref()),
            ("partitionkey", view.partition_key.as_ref()),
            ("traceparent", view.trace_parent.as_ref()),
            ("tracestate", view.trace_state.as_ref()),
            ("dataschema", view.data_schema.as_ref()),
            ("appid", view.app_id.as_ref()),
        ];
        for (name, value) in carried {
            let Some(value) = value else { continue };
            if !view.event.iter().any(|(known, _)| known == name) {
                self.put_user(name, value, name);
            }
        }
        for key in &view.keys {
            self.put_user("keys", key, "keys");
        }
    }

    fn put_prop(&mut self, name: &str, value: &Value) {
        let text = match value {
            Value::Text(text) => return self.put_user(name, text, "props"),
            Value::Void => String::new(),
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Time(seconds) => seconds.to_string(),
            Value::Bytes(_) | Value::Decimal(..) | Value::Array(_) | Value::Table(_) => {
                return count_dropped("props", self.origin);
            }
        };
        self.put_user(name, &text, "props");
    }

    /// What MQTT has no place for.
    fn count_unexpressed(&self, view: &View) {
        let is_event = !view.event.is_empty();
        let fields = [
            ("id", view.id.is_some() && !is_event),
            ("type", view.kind.is_some() && !is_event),
            ("time", view.time.is_set() && !is_event),
            ("priority", view.priority.is_some()),
            ("userid", view.user_id.is_some()),
        ];
        for (field, _) in fields.into_iter().filter(|(_, is_lost)| *is_lost) {
            count_dropped(field, self.origin);
        }
    }

    fn put_text(&mut self, id: u8, text: &str, field: &'static str) {
        if text.contains('\0') {
            return count_dropped(field, self.origin);
        }
        self.put_bytes(id, text.as_bytes(), field);
    }

    fn put_bytes(&mut self, id: u8, bytes: &[u8], field: &'static str) {
        if bytes.len() > usize::from(u16::MAX) {
            return count_dropped(field, self.origin);
        }
        self.out.put_u8(id);
        put_binary(&mut self.out, bytes);
    }

    fn put_user(&mut self, name: &str, value: &str, field: &'static str) {
        let is_carried = |text: &str| text.len() <= usize::from(u16::MAX) && !text.contains('\0');
        if !is_carried(name) || !is_carried(value) {
            return count_dropped(field, self.origin);
        }
        self.out.put_u8(id::USER);
        put_binary(&mut self.out, name.as_bytes());
        put_binary(&mut self.out, value.as_bytes());
    }
}

/// Whether the sender said that the payload is UTF-8 text.
fn is_text(view: &View) -> bool {
    let content_type = view.content_type.as_deref().unwrap_or_default().to_ascii_lowercase();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    view.is_text == Some(true)
        || media_type.ends_with("/json")
        || media_type.ends_with("+json")
        || content_type.contains("charset=utf-8")
}

/// Counts a field that did not cross.
pub fn count_dropped(field: &'static str, from: Origin) {
    metrics::counter!("mainstem_interop_dropped_fields_total", "field" => field,
        "from" => from.name(), "to" => Origin::Mqtt.name())
    .increment(1);
}
