//! A recall handle: which delayed message to take back, as opaque text that a client keeps.
//!
//! ```text
//! base64url( "v1 " topic " " due ms " " position " " message id )
//! ```
//!
//! It outlives a restart, so nothing of the process is in it. It proves nothing: whoever may send
//! to a topic may recall what waits for it, and the store holds no two records at one position.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mainstem_broker::HeldId;
use mainstem_schemas::{Position, UnixMillis};

/// What a recall handle says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recall {
    pub id: HeldId,
    pub message_id: String,
}

/// The handle's text.
#[must_use]
pub fn seal(recall: &Recall, topic: &str) -> String {
    let HeldId { due, origin } = recall.id;
    let text = format!("v1 {topic} {} {} {}", due.0, origin.0, recall.message_id);
    URL_SAFE_NO_PAD.encode(text)
}

/// Reads the handle of a message that waits to be delivered in `topic`.
#[must_use]
pub fn open(text: &str, topic: &str) -> Option<Recall> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let mut parts = text.splitn(5, ' ');
    if parts.next() != Some("v1") || parts.next() != Some(topic) {
        return None;
    }
    let due = UnixMillis(parts.next()?.parse().ok()?);
    let origin = Position(parts.next()?.parse().ok()?);
    let message_id = parts.next()?.to_owned();
    // What waits for a decision is a transaction's, which only its own call ends.
    let id = HeldId { due, origin };
    (due.is_set() && due < HeldId::UNDECIDED).then_some(Recall { id, message_id })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recall(due: UnixMillis) -> Recall {
        let id = HeldId { due, origin: Position(1 << 40) };
        Recall { id, message_id: "01 A".to_owned() }
    }

    #[test]
    fn a_handle_reads_back_for_its_topic_only() {
        let sent = recall(UnixMillis(1_700_000_000_123));
        let text = seal(&sent, "T");
        assert_eq!(open(&text, "T"), Some(sent));
        assert_eq!(open(&text, "U"), None);
        for junk in ["", "v1", "!!!", &text[1..], &URL_SAFE_NO_PAD.encode("v1 T 5")] {
            assert_eq!(open(junk, "T"), None, "{junk}");
        }
    }

    #[test]
    fn a_handle_does_not_reach_what_waits_for_a_decision() {
        assert_eq!(open(&seal(&recall(HeldId::UNDECIDED), "T"), "T"), None);
        assert_eq!(open(&seal(&recall(UnixMillis::NONE), "T"), "T"), None);
    }
}
