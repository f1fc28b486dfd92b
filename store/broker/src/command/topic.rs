//! What a client asks about the places in a topic: where they are, what stands there, and where a
//! group is to go on.

use mainstem_schemas::{Offset, QueueId};

use super::{GroupRef, Reply, Start};
use crate::{error::Refusal, inbox::Delivery, policy::DeliveryPolicy};

/// A place in a topic, and what the topic has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sought {
    pub queue: QueueId,
    pub at: Offset,
    /// The oldest record that is still kept.
    pub first: Offset,
    /// What the next record gets.
    pub next: Offset,
}

/// A request for what stands in a topic's queue from some place on. Nothing is taken: there is
/// nothing to settle, and everybody who asks gets it.
#[derive(Clone, Copy, Debug)]
pub struct Pull {
    pub queue: QueueId,
    /// Moved in if it is outside.
    pub from: Offset,
    /// At most this many; at least one.
    pub max: usize,
    /// Wait this long for the first one, in milliseconds.
    pub wait_ms: u64,
}

/// A group that was moved, and where it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    pub group: GroupRef,
    pub at: Offset,
}

/// On what terms a topic below a topic is made.
#[derive(Clone, Copy, Debug)]
pub struct BranchTerms {
    /// It goes when nothing was written to it for so long, and every group has read it.
    pub idle_ms: Option<u64>,
    /// As many as there may be in the namespace.
    pub max: usize,
}

/// How long, and how many bytes of records a topic keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// In milliseconds; `None` for the store's own setting.
    pub age_max_ms: Option<u64>,
    /// `None` for the store's own setting.
    pub bytes_max: Option<u64>,
}

/// What a topic goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicTerms {
    /// Groups are given records by priority, from this one down to 0. A topic that has priorities
    /// keeps them: fewer than it has change nothing.
    pub priority_max: u8,
    /// `None` leaves what a topic that is there has.
    pub keeps: Option<Keeps>,
}

/// What may be asked.
#[derive(Debug)]
pub(crate) enum TopicCommand {
    /// Tells whether the topic is new.
    Declare {
        topic: String,
        terms: TopicTerms,
        reply: Reply<Result<bool, Refusal>>,
    },
    /// Ends a topic, or some of those below it; tells whether anything was there.
    Delete {
        topic: String,
        reply: Reply<Result<bool, Refusal>>,
    },
    /// The group has never been at the topic. Tells whether it was.
    DeleteGroup {
        topic: String,
        group: String,
        reply: Reply<Result<bool, Refusal>>,
    },
    Seek {
        topic: String,
        to: Start,
        reply: Reply<Result<Sought, Refusal>>,
    },
    Pull {
        pull: Pull,
        reply: Reply<Vec<Delivery>>,
    },
    OpenBranch {
        name: String,
        terms: BranchTerms,
        reply: Reply<Result<QueueId, Refusal>>,
    },
    /// Some of the names below a topic, in order.
    Branches {
        topic: String,
        after: Option<String>,
        max: usize,
        reply: Reply<Vec<String>>,
    },
    /// Everything of the group before the answer is settled; `None` for no such group.
    FindGroup {
        topic: String,
        group: String,
        reply: Reply<Result<Option<Offset>, Refusal>>,
    },
    /// The group goes on elsewhere; what it had in hand, or had settled, counts no more.
    MoveGroup {
        topic: String,
        group: String,
        to: Start,
        /// For a group that is new.
        policy: DeliveryPolicy,
        reply: Reply<Result<Moved, Refusal>>,
    },
}
