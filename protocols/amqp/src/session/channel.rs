//! One channel: what was said on it and still matters.

use bytes::Bytes;
use mainstem_broker::meter::{KINDS_OF_CHANNELS, Lazy};
use mainstem_schemas::{ConsumerId, Verdict};
use rustc_hash::FxHashMap;

use crate::{
    codec::{ContentHeader, content, method::BasicPublish},
    session::{
        effect::Content,
        fault::{Code, Fault},
        unsettled::{Held, Unsettled},
    },
};

/// Memory taken for a body before any of it came; the rest is taken as it comes.
const BODY_RESERVE_MAX: usize = 256 << 10;

/// ```text
/// open --our channel.close--> closing --channel.close-ok--> gone
///   \--------their channel.close (answered)-----------------> gone
/// ```
#[derive(Debug)]
pub(crate) struct Channel {
    /// Which opening of its number this is: outcomes of an earlier one mean nothing here.
    pub(crate) life: u32,
    /// We closed it; everything but the answer is discarded.
    pub(crate) closing: bool,
    pub(crate) incoming: Incoming,
    pub(crate) unsettled: Unsettled,
    pub(crate) last_tag: u64,
    /// For each consumer that comes, 0 for no limit.
    pub(crate) prefetch: u16,
    /// The limit of all consumers together, which is set in the store; 0 for none.
    pub(crate) shared_prefetch: u16,
    pub(crate) mode: Mode,
    pub(crate) consumers: FxHashMap<Bytes, ConsumerId>,
    /// What an empty queue name stands for.
    pub(crate) last_queue: Option<String>,
    /// The queue last got from, known to be no stream.
    pub(crate) got_from: Option<Known>,
    pub(crate) direct_reply: Option<DirectReply>,
    /// What the session counts for it of [`Channel::unpublished_bytes`].
    pub(crate) counted_bytes: usize,
    pub(crate) meter: Lazy<KINDS_OF_CHANNELS>,
    /// Publishes that were confirmed or refused, on a channel in confirm mode.
    pub(crate) answered: u64,
}

/// What is to be known of a queue to get from it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) queue: String,
    pub(crate) counts_returns: bool,
    pub(crate) timeout_ms: u64,
}

/// A consumer of direct replies: its own queue, under a name that only its requests carry.
#[derive(Debug)]
pub(crate) struct DirectReply {
    pub(crate) queue: Bytes,
    pub(crate) consumer_tag: Bytes,
}

/// What a publish on the channel promises.
#[derive(Debug)]
pub(crate) enum Mode {
    Plain,
    /// Every publish is confirmed; the last sequence number given.
    Confirm {
        last: u64,
    },
    Transaction(Transaction),
}

/// What waits for a commit.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    pub(crate) publishes: Vec<(Content, bool)>,
    pub(crate) publish_bytes: usize,
    pub(crate) settled: Vec<(u64, Held, Verdict)>,
}

/// A message on its way in.
#[derive(Debug)]
pub(crate) enum Incoming {
    Nothing,
    Method(BasicPublish),
    Body { publish: BasicPublish, properties: Bytes, missing: usize, body: Body },
}

/// A body of which some frames came. One that comes in one frame is a slice of the read buffer.
#[derive(Debug)]
pub(crate) enum Body {
    Whole(Bytes),
    Parts(Vec<u8>),
}

impl Transaction {
    pub(crate) fn keep(&mut self, content: Content, mandatory: bool) {
        let content = content.detached();
        self.publish_bytes += content.bytes();
        self.publishes.push((content, mandatory));
    }

    fn bytes(&self) -> usize {
        self.publishes.capacity() * size_of::<(Content, bool)>() + self.publish_bytes
    }
}

impl Incoming {
    /// What it takes in memory, whether or not it has that for itself yet.
    fn bytes(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Method(publish) => names_bytes(publish),
            Self::Body { publish, properties, missing: _, body } => {
                let body = match body {
                    Body::Whole(whole) => whole.len(),
                    Body::Parts(parts) => parts.capacity(),
                };
                names_bytes(publish) + properties.len() + body
            }
        }
    }

    /// Takes memory of its own: a slice keeps all alive that was read together with it.
    pub(crate) fn detach(&mut self) {
        match self {
            Self::Nothing => {}
            Self::Method(publish) => publish.detach(),
            Self::Body { publish, properties, missing: _, body: _ } => {
                publish.detach();
                *properties = Bytes::copy_from_slice(properties);
            }
        }
    }
}

fn names_bytes(publish: &BasicPublish) -> usize {
    publish.exchange.len() + publish.routing_key.len()
}

impl Channel {
    pub(crate) fn new(life: u32) -> Self {
        Self {
            life,
            closing: false,
            incoming: Incoming::Nothing,
            unsettled: Unsettled::default(),
            last_tag: 0,
            prefetch: 0,
            shared_prefetch: 0,
            mode: Mode::Plain,
            consumers: FxHashMap::default(),
            last_queue: None,
            got_from: None,
            direct_reply: None,
            counted_bytes: 0,
            meter: Lazy::default(),
            answered: 0,
        }
    }

    /// Takes a header frame. The content, when it has no body.
    pub(crate) fn header(
        &mut self,
        payload: &Bytes,
        body_max: usize,
    ) -> Result<Option<(BasicPublish, Content)>, Fault> {
        let publish = match std::mem::replace(&mut self.incoming, Incoming::Nothing) {
            Incoming::Method(publish) => publish,
            Incoming::Nothing => return Err(unexpected("method frame", "method")),
            Incoming::Body { .. } => return Err(unexpected("content body", "content body")),
        };
        let header = ContentHeader::decode(payload)
            .map_err(|_| Fault::new(Code::FrameError, "the content header ends too early"))?;
        if header.class != content::BASIC {
            return Err(unexpected("content header for class 60", "class 60 content header"));
        }
        let size = usize::try_from(header.body_size).unwrap_or(usize::MAX);
        if size > body_max {
            return Err(Fault::too_large(header.body_size, body_max));
        }
        let properties = header.properties;
        if size == 0 {
            return Ok(Some(self.finish(publish, properties, Bytes::new())));
        }
        let body = Body::Whole(Bytes::new());
        self.incoming = Incoming::Body { publish, properties, missing: size, body };
        Ok(None)
    }

    /// Takes a body frame. The content, when it is whole.
    pub(crate) fn body(
        &mut self,
        payload: Bytes,
    ) -> Result<Option<(BasicPublish, Content)>, Fault> {
        let Incoming::Body { missing, body, .. } = &mut self.incoming else {
            return Err(match self.incoming {
                Incoming::Method(_) => unexpected("content header for class 60", "content header"),
                Incoming::Nothing | Incoming::Body { .. } => unexpected("method frame", "method"),
            });
        };
        let Some(left) = missing.checked_sub(payload.len()) else {
            let text = "content body frame exceeds remaining content size";
            return Err(Fault::new(Code::FrameError, text));
        };
        match body {
            Body::Whole(whole) if left == 0 => *whole = payload,
            Body::Whole(_) => {
                let mut parts = Vec::with_capacity((*missing).min(BODY_RESERVE_MAX));
                parts.extend_from_slice(&payload);
                *body = Body::Parts(parts);
            }
            Body::Parts(parts) => {
                if parts.capacity() - parts.len() < payload.len() {
                    // Twice as much, and never more than the whole body.
                    parts.reserve_exact(parts.len().max(payload.len()).min(*missing));
                }
                parts.extend_from_slice(&payload);
            }
        }
        *missing = left;
        if left > 0 {
            return Ok(None);
        }
        let Incoming::Body { publish, properties, body, .. } =
            std::mem::replace(&mut self.incoming, Incoming::Nothing)
        else {
            return Ok(None);
        };
        let body = match body {
            Body::Whole(whole) => whole,
            Body::Parts(parts) => parts.into(),
        };
        Ok(Some(self.finish(publish, properties, body)))
    }

    fn finish(
        &self,
        publish: BasicPublish,
        properties: Bytes,
        body: Bytes,
    ) -> (BasicPublish, Content) {
        let content = Content {
            exchange: publish.exchange.clone(),
            routing_key: publish.routing_key.clone(),
            properties,
            body,
            reply_queue: self.direct_reply.as_ref().map(|direct| direct.queue.clone()),
        };
        (publish, content)
    }

    /// Memory taken by what came on it and is not published yet.
    pub(crate) fn unpublished_bytes(&self) -> usize {
        match &self.mode {
            Mode::Transaction(transaction) => self.incoming.bytes() + transaction.bytes(),
            Mode::Plain | Mode::Confirm { .. } => self.incoming.bytes(),
        }
    }

    /// A method came: none may come inside a content.
    pub(crate) fn method(&self) -> Result<(), Fault> {
        match self.incoming {
            Incoming::Nothing => Ok(()),
            Incoming::Method(_) => Err(unexpected("content header for class 60", "content header")),
            Incoming::Body { .. } => Err(unexpected("content body", "content body")),
        }
    }

    /// The delivery tag for the next delivery.
    pub(crate) fn next_tag(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }
}

fn unexpected(expected: &str, other_than: &str) -> Fault {
    let text = format!("expected {expected}, got non {other_than} frame instead");
    Fault::new(Code::UnexpectedFrame, text)
}
