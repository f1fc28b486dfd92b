//! How entries write the names of queues, cursors and subscriptions.

use bytes::BufMut;
use mainstem_index::{CursorName, QueueName};
use mainstem_schemas::{
    Filter,
    wire::{Reader, Short, put_blob},
};

pub(super) fn encode_queue_name(name: &QueueName, out: &mut Vec<u8>) {
    match name {
        QueueName::Named(name) => {
            out.put_u8(0);
            put_blob(out, name.as_bytes());
        }
        QueueName::Filter(filter) => {
            out.put_u8(1);
            filter.encode(out);
        }
        QueueName::Topic(topic) => {
            out.put_u8(2);
            put_blob(out, topic.as_bytes());
        }
    }
}

pub(super) fn decode_queue_name(r: &mut Reader) -> Result<QueueName, Short> {
    Ok(match r.u8()? {
        0 => QueueName::Named(r.text()?),
        1 => QueueName::Filter(Filter::decode(r)?),
        2 => QueueName::Topic(r.text()?),
        _ => return Err(Short),
    })
}

pub(super) fn encode_cursor_name(name: &CursorName, out: &mut Vec<u8>) {
    let (tag, text) = match name {
        CursorName::Main => (0, ""),
        CursorName::Session(id) => (1, id.as_str()),
        CursorName::Share(group) => (2, group.as_str()),
        CursorName::Group(group) => (3, group.as_str()),
    };
    out.put_u8(tag);
    put_blob(out, text.as_bytes());
}

pub(super) fn decode_cursor_name(r: &mut Reader) -> Result<CursorName, Short> {
    let tag = r.u8()?;
    let text = r.text()?;
    Ok(match tag {
        0 => CursorName::Main,
        1 => CursorName::Session(text),
        2 => CursorName::Share(text),
        3 => CursorName::Group(text),
        _ => return Err(Short),
    })
}

pub(super) fn encode_subscription(
    namespace: &str,
    session: &str,
    share: Option<&str>,
    filter: &Filter,
    out: &mut Vec<u8>,
) {
    put_blob(out, namespace.as_bytes());
    put_blob(out, session.as_bytes());
    out.put_u8(u8::from(share.is_some()));
    put_blob(out, share.unwrap_or_default().as_bytes());
    filter.encode(out);
}

pub(super) type SubscriptionKey = (String, String, Option<String>, Filter);

pub(super) fn decode_subscription(r: &mut Reader) -> Result<SubscriptionKey, Short> {
    let (namespace, session) = (r.text()?, r.text()?);
    let shared = r.u8()? != 0;
    let share = r.text()?;
    Ok((namespace, session, shared.then_some(share), Filter::decode(r)?))
}
