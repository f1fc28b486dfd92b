//! A recall handle: which delayed message to take back, as opaque text that a client keeps.
//!
//! ```text
//! base64url( "v2 " topic " " due ms " " position " " record id " " message id )
//! ```
//!
//! It outlives a restart, so nothing of the process is in it. The record's id is what it proves
//! itself by: the server drew it, and tells it to nobody else while the record waits.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mainstem_broker::HeldId;
use mainstem_schemas::{Position, RecordId, UnixMillis};

/// What a recall handle says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recall {
    pub id: HeldId,
    pub record: RecordId,
    pub message_id: String,
}

/// The handle's text.
#[must_use]
pub fn seal(recall: &Recall, topic: &str) -> String {
    let HeldId { due, origin } = recall.id;
    let record = u128::from_be_bytes(recall.record.0);
    let text = format!("v2 {topic} {} {} {record:x} {}", due.0, origin.0, recall.message_id);
    URL_SAFE_NO_PAD.encode(text)
}

/// Reads the handle of a message that waits to be delivered in `topic`.
#[must_use]
pub fn open(text: &str, topic: &str) -> Option<Recall> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let mut parts = text.splitn(6, ' ');
    if parts.next() != Some("v2") || parts.next() != Some(topic) {
        return None;
    }
    let due = UnixMillis(parts.next()?.parse().ok()?);
    let origin = Position(parts.next()?.parse().ok()?);
    let record = RecordId(u128::from_str_radix(parts.next()?, 16).ok()?.to_be_bytes());
    let message_id = parts.next()?.to_owned();
    // What waits for a decision is a transaction's, which only its own call ends.
    let id = HeldId { due, origin };
    (due.is_set() && due < HeldId::UNDECIDED).then_some(Recall { id, record, message_id })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recall(due: UnixMillis) -> Recall {
        let id = HeldId { due, origin: Position(1 << 40) };
        let record = RecordId::new(due, u128::MAX / 3);
        Recall { id, record, message_id: "01 A".to_owned() }
    }

    #[test]
    fn a_handle_reads_back_for_its_topic_only() {
        let sent = recall(UnixMillis(1_700_000_000_123));
        let text = seal(&sent, "T");
        assert_eq!(open(&text, "T"), Some(sent));
        assert_eq!(open(&text, "U"), None);
        for junk in ["", "v2", "!!!", &text[1..], &URL_SAFE_NO_PAD.encode("v2 T 5")] {
            assert_eq!(open(junk, "T"), None, "{junk}");
        }
    }

    #[test]
    fn a_handle_does_not_reach_what_waits_for_a_decision() {
        assert_eq!(open(&seal(&recall(HeldId::UNDECIDED), "T"), "T"), None);
        assert_eq!(open(&seal(&recall(UnixMillis::NONE), "T"), "T"), None);
    }
}
