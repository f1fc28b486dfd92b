//! What a client may say: its methods, with arguments as slices of the frame.

use bytes::Bytes;

use super::cursor::{Cursor, Malformed};

/// A client's method. Tables are their entries, unread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    StartOk { client_properties: Bytes, mechanism: Bytes, response: Bytes },
    TuneOk { channel_max: u16, frame_max: u32, heartbeat: u16 },
    Open { vhost: Bytes },
    Close { code: u16, text: Bytes },
    CloseOk,
    UpdateSecret { secret: Bytes },
    ChannelOpen,
    ChannelFlow { active: bool },
    ChannelFlowOk,
    ChannelClose { code: u16, text: Bytes },
    ChannelCloseOk,
    AccessRequest,
    ExchangeDeclare(ExchangeDeclare),
    ExchangeDelete { exchange: Bytes, if_unused: bool, no_wait: bool },
    ExchangeBind(Binding),
    ExchangeUnbind(Binding),
    QueueDeclare(QueueDeclare),
    QueueBind(Binding),
    QueuePurge { queue: Bytes, no_wait: bool },
    QueueDelete { queue: Bytes, if_unused: bool, if_empty: bool, no_wait: bool },
    QueueUnbind(Binding),
    Qos { prefetch_size: u32, prefetch_count: u16, global: bool },
    Consume(BasicConsume),
    Cancel { consumer_tag: Bytes, no_wait: bool },
    CancelOk,
    Publish(BasicPublish),
    Get { queue: Bytes, no_ack: bool },
    Ack { delivery_tag: u64, multiple: bool },
    Reject { delivery_tag: u64, requeue: bool },
    RecoverAsync { requeue: bool },
    Recover { requeue: bool },
    Nack { delivery_tag: u64, multiple: bool, requeue: bool },
    ConfirmSelect { no_wait: bool },
    TxSelect,
    TxCommit,
    TxRollback,
}

/// exchange.declare
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeDeclare {
    pub exchange: Bytes,
    pub kind: Bytes,
    pub passive: bool,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub no_wait: bool,
    pub arguments: Bytes,
}

/// queue.declare
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueDeclare {
    pub queue: Bytes,
    pub passive: bool,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub no_wait: bool,
    pub arguments: Bytes,
}

/// The four methods that bind or unbind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    pub destination: Bytes,
    pub source: Bytes,
    pub routing_key: Bytes,
    pub no_wait: bool,
    pub arguments: Bytes,
}

/// basic.consume
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicConsume {
    pub queue: Bytes,
    pub consumer_tag: Bytes,
    pub no_ack: bool,
    pub exclusive: bool,
    pub no_wait: bool,
    pub arguments: Bytes,
}

/// basic.publish
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicPublish {
    pub exchange: Bytes,
    pub routing_key: Bytes,
    pub mandatory: bool,
    pub immediate: bool,
}

impl BasicPublish {
    /// Takes memory of its own: a slice keeps all alive that was read together with it.
    pub fn detach(&mut self) {
        self.exchange = Bytes::copy_from_slice(&self.exchange);
        self.routing_key = Bytes::copy_from_slice(&self.routing_key);
    }
}

/// Why a method frame's payload is not a method of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MethodFault {
    #[error("no such method: class {class}, method {method}")]
    Unknown { class: u16, method: u16 },
    #[error("the method's arguments end too early")]
    Truncated,
}

impl From<Malformed> for MethodFault {
    fn from(Malformed: Malformed) -> Self {
        Self::Truncated
    }
}

/// Reads arguments as slices of the payload.
struct Arguments<'a> {
    payload: &'a Bytes,
    cursor: Cursor<'a>,
}

impl Arguments<'_> {
    fn short(&mut self) -> Result<Bytes, Malformed> {
        Ok(self.payload.slice_ref(self.cursor.short_string()?))
    }

    fn long(&mut self) -> Result<Bytes, Malformed> {
        Ok(self.payload.slice_ref(self.cursor.long_string()?))
    }

    /// The reserved ticket of access.request.
    fn ticket(&mut self) -> Result<(), Malformed> {
        self.cursor.u16().map(drop)
    }

    fn bits(&mut self) -> Result<Bits, Malformed> {
        self.cursor.u8().map(Bits)
    }
}

/// Consecutive bit arguments, packed in an octet from its lowest bit.
#[derive(Clone, Copy)]
struct Bits(u8);

impl Bits {
    fn at(self, index: u8) -> bool {
        self.0 >> index & 1 != 0
    }
}

impl Method {
    /// Reads a method frame's payload.
    pub fn decode(payload: &Bytes) -> Result<Self, MethodFault> {
        let mut cursor = Cursor::new(payload);
        let class = cursor.u16()?;
        let method = cursor.u16()?;
        let mut arguments = Arguments { payload, cursor };
        let decoded = match class {
            10 => connection(method, &mut arguments)?,
            20 => channel(method, &mut arguments)?,
            30 if method == 10 => Some(Self::AccessRequest),
            40 => exchange(method, &mut arguments)?,
            50 => queue(method, &mut arguments)?,
            60 => basic(method, &mut arguments)?,
            85 if method == 10 => Some(Self::ConfirmSelect { no_wait: arguments.bits()?.at(0) }),
            90 => match method {
                10 => Some(Self::TxSelect),
                20 => Some(Self::TxCommit),
                30 => Some(Self::TxRollback),
                _ => None,
            },
            _ => None,
        };
        decoded.ok_or(MethodFault::Unknown { class, method })
    }

    /// Class and method, as a close names what failed.
    #[must_use]
    pub fn id(&self) -> (u16, u16) {
        match self {
            Self::StartOk { .. } => (10, 11),
            Self::TuneOk { .. } => (10, 31),
            Self::Open { .. } => (10, 40),
            Self::Close { .. } => (10, 50),
            Self::CloseOk => (10, 51),
            Self::UpdateSecret { .. } => (10, 70),
            Self::ChannelOpen => (20, 10),
            Self::ChannelFlow { .. } => (20, 20),
            Self::ChannelFlowOk => (20, 21),
            Self::ChannelClose { .. } => (20, 40),
            Self::ChannelCloseOk => (20, 41),
            Self::AccessRequest => (30, 10),
            Self::ExchangeDeclare(_) => (40, 10),
            Self::ExchangeDelete { .. } => (40, 20),
            Self::ExchangeBind(_) => (40, 30),
            Self::ExchangeUnbind(_) => (40, 40),
            Self::QueueDeclare(_) => (50, 10),
            Self::QueueBind(_) => (50, 20),
            Self::QueuePurge { .. } => (50, 30),
            Self::QueueDelete { .. } => (50, 40),
            Self::QueueUnbind(_) => (50, 50),
            Self::Qos { .. } => (60, 10),
            Self::Consume(_) => (60, 20),
            Self::Cancel { .. } => (60, 30),
            Self::CancelOk => (60, 31),
            Self::Publish(_) => (60, 40),
            Self::Get { .. } => (60, 70),
            Self::Ack { .. } => (60, 80),
            Self::Reject { .. } => (60, 90),
            Self::RecoverAsync { .. } => (60, 100),
            Self::Recover { .. } => (60, 110),
            Self::Nack { .. } => (60, 120),
            Self::ConfirmSelect { .. } => (85, 10),
            Self::TxSelect => (90, 10),
            Self::TxCommit => (90, 20),
            Self::TxRollback => (90, 30),
        }
    }
}

fn connection(method: u16, a: &mut Arguments<'_>) -> Result<Option<Method>, Malformed> {
    Ok(Some(match method {
        11 => {
            let client_properties = a.long()?;
            let mechanism = a.short()?;
            let response = a.long()?;
            let _locale = a.short()?;
            Method::StartOk { client_properties, mechanism, response }
        }
        31 => Method::TuneOk {
            channel_max: a.cursor.u16()?,
            frame_max: a.cursor.u32()?,
            heartbeat: a.cursor.u16()?,
        },
        40 => Method::Open { vhost: a.short()? },
        50 => Method::Close { code: a.cursor.u16()?, text: a.short()? },
        51 => Method::CloseOk,
        70 => {
            let secret = a.long()?;
            let _reason = a.short()?;
            Method::UpdateSecret { secret }
        }
        _ => return Ok(None),
    }))
}

fn channel(method: u16, a: &mut Arguments<'_>) -> Result<Option<Method>, Malformed> {
    Ok(Some(match method {
        10 => Method::ChannelOpen,
        20 => Method::ChannelFlow { active: a.bits()?.at(0) },
        21 => Method::ChannelFlowOk,
        40 => Method::ChannelClose { code: a.cursor.u16()?, text: a.short()? },
        41 => Method::ChannelCloseOk,
        _ => return Ok(None),
    }))
}

fn exchange(method: u16, a: &mut Arguments<'_>) -> Result<Option<Method>, Malformed> {
    a.ticket()?;
    Ok(Some(match method {
        10 => {
            let (exchange, kind) = (a.short()?, a.short()?);
            let bits = a.bits()?;
            Method::ExchangeDeclare(ExchangeDeclare {
                exchange,
                kind,
                passive: bits.at(0),
                durable: bits.at(1),
                auto_delete: bits.at(2),
                internal: bits.at(3),
                no_wait: bits.at(4),
                arguments: a.long()?,
            })
        }
        20 => {
            let exchange = a.short()?;
            let bits = a.bits()?;
            Method::ExchangeDelete { exchange, if_unused: bits.at(0), no_wait: bits.at(1) }
        }
        30 => Method::ExchangeBind(binding(a)?),
        40 => Method::ExchangeUnbind(binding(a)?),
        _ => return Ok(None),
    }))
}

fn binding(a: &mut Arguments<'_>) -> Result<Binding, Malformed> {
    Ok(Binding {
        destination: a.short()?,
        source: a.short()?,
        routing_key: a.short()?,
        no_wait: a.bits()?.at(0),
        arguments: a.long()?,
    })
}

fn queue(method: u16, a: &mut Arguments<'_>) -> Result<Option<Method>, Malformed> {
    a.ticket()?;
    Ok(Some(match method {
        10 => {
            let queue = a.short()?;
            let bits = a.bits()?;
            Method::QueueDeclare(QueueDeclare {
                queue,
                passive: bits.at(0),
                durable: bits.at(1),
                exclusive: bits.at(2),
                auto_delete: bits.at(3),
                no_wait: bits.at(4),
                arguments: a.long()?,
            })
        }
        20 => Method::QueueBind(binding(a)?),
        30 => Method::QueuePurge { queue: a.short()?, no_wait: a.bits()?.at(0) },
        40 => {
            let queue = a.short()?;
            let bits = a.bits()?;
            Method::QueueDelete {
                queue,
                if_unused: bits.at(0),
                if_empty: bits.at(1),
                no_wait: bits.at(2),
            }
        }
        // queue.unbind has no no-wait bit.
        50 => Method::QueueUnbind(Binding {
            destination: a.short()?,
            source: a.short()?,
            routing_key: a.short()?,
            no_wait: false,
            arguments: a.long()?,
        }),
        _ => return Ok(None),
    }))
}

fn basic(method: u16, a: &mut Arguments<'_>) -> Result<Option<Method>, Malformed> {
    Ok(Some(match method {
        10 => Method::Qos {
            prefetch_size: a.cursor.u32()?,
            prefetch_count: a.cursor.u16()?,
            global: a.bits()?.at(0),
        },
        20 => {
            a.ticket()?;
            let (queue, consumer_tag) = (a.short()?, a.short()?);
            let bits = a.bits()?;
            // Bit 0, no-local, means nothing to RabbitMQ, and nothing here.
            Method::Consume(BasicConsume {
                queue,
                consumer_tag,
                no_ack: bits.at(1),
                exclusive: bits.at(2),
                no_wait: bits.at(3),
                arguments: a.long()?,
            })
        }
        30 => Method::Cancel { consumer_tag: a.short()?, no_wait: a.bits()?.at(0) },
        31 => Method::CancelOk,
        40 => {
            a.ticket()?;
            let (exchange, routing_key) = (a.short()?, a.short()?);
            let bits = a.bits()?;
            let (mandatory, immediate) = (bits.at(0), bits.at(1));
            Method::Publish(BasicPublish { exchange, routing_key, mandatory, immediate })
        }
        70 => {
            a.ticket()?;
            Method::Get { queue: a.short()?, no_ack: a.bits()?.at(0) }
        }
        80 => Method::Ack { delivery_tag: a.cursor.u64()?, multiple: a.bits()?.at(0) },
        90 => Method::Reject { delivery_tag: a.cursor.u64()?, requeue: a.bits()?.at(0) },
        100 => Method::RecoverAsync { requeue: a.bits()?.at(0) },
        110 => Method::Recover { requeue: a.bits()?.at(0) },
        120 => {
            let delivery_tag = a.cursor.u64()?;
            let bits = a.bits()?;
            Method::Nack { delivery_tag, multiple: bits.at(0), requeue: bits.at(1) }
        }
        _ => return Ok(None),
    }))
}
