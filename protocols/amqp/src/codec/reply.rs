//! What the server says, but for what travels with content (see [`super::content`]).

use bytes::{BufMut, Bytes, BytesMut};
use mainstem_schemas::Table;

use super::{
    frame::{self, Kind},
    table,
};

/// A server's method.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Start {
        server_properties: Table,
        mechanisms: String,
        locales: &'static str,
    },
    Tune {
        channel_max: u16,
        frame_max: u32,
        heartbeat: u16,
    },
    OpenOk,
    Close(Close),
    CloseOk,
    Blocked {
        reason: &'static str,
    },
    Unblocked,
    UpdateSecretOk,
    ChannelOpenOk,
    ChannelFlowOk {
        active: bool,
    },
    ChannelClose(Close),
    ChannelCloseOk,
    AccessRequestOk,
    ExchangeDeclareOk,
    ExchangeDeleteOk,
    ExchangeBindOk,
    ExchangeUnbindOk,
    QueueDeclareOk {
        queue: String,
        message_count: u32,
        consumer_count: u32,
    },
    QueueBindOk,
    QueuePurgeOk {
        message_count: u32,
    },
    QueueDeleteOk {
        message_count: u32,
    },
    QueueUnbindOk,
    QosOk,
    ConsumeOk {
        consumer_tag: Bytes,
    },
    CancelOk {
        consumer_tag: Bytes,
    },
    /// The server's own cancel, which wants no answer.
    Cancel {
        consumer_tag: Bytes,
    },
    GetEmpty,
    RecoverOk,
    Ack {
        delivery_tag: u64,
        multiple: bool,
    },
    Nack {
        delivery_tag: u64,
    },
    ConfirmSelectOk,
    TxSelectOk,
    TxCommitOk,
    TxRollbackOk,
}

/// The arguments of connection.close and channel.close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    pub code: u16,
    pub text: String,
    /// What failed; 0/0 when no method did.
    pub class: u16,
    pub method: u16,
}

impl Reply {
    /// Writes the method's frame.
    pub fn put(&self, out: &mut BytesMut, channel: u16) {
        let (class, method) = self.id();
        frame::put(out, Kind::Method, channel, |out| {
            out.put_u16(class);
            out.put_u16(method);
            self.put_arguments(out);
        });
    }

    fn id(&self) -> (u16, u16) {
        match self {
            Self::Start { .. } => (10, 10),
            Self::Tune { .. } => (10, 30),
            Self::OpenOk => (10, 41),
            Self::Close(_) => (10, 50),
            Self::CloseOk => (10, 51),
            Self::Blocked { .. } => (10, 60),
            Self::Unblocked => (10, 61),
            Self::UpdateSecretOk => (10, 71),
            Self::ChannelOpenOk => (20, 11),
            Self::ChannelFlowOk { .. } => (20, 21),
            Self::ChannelClose(_) => (20, 40),
            Self::ChannelCloseOk => (20, 41),
            Self::AccessRequestOk => (30, 11),
            Self::ExchangeDeclareOk => (40, 11),
            Self::ExchangeDeleteOk => (40, 21),
            Self::ExchangeBindOk => (40, 31),
            // RabbitMQ's own extension numbers exchange.unbind-ok 51.
            Self::ExchangeUnbindOk => (40, 51),
            Self::QueueDeclareOk { .. } => (50, 11),
            Self::QueueBindOk => (50, 21),
            Self::QueuePurgeOk { .. } => (50, 31),
            Self::QueueDeleteOk { .. } => (50, 41),
            Self::QueueUnbindOk => (50, 51),
            Self::QosOk => (60, 11),
            Self::ConsumeOk { .. } => (60, 21),
            Self::Cancel { .. } => (60, 30),
            Self::CancelOk { .. } => (60, 31),
            Self::GetEmpty => (60, 72),
            Self::Ack { .. } => (60, 80),
            Self::RecoverOk => (60, 111),
            Self::Nack { .. } => (60, 120),
            Self::ConfirmSelectOk => (85, 11),
            Self::TxSelectOk => (90, 11),
            Self::TxCommitOk => (90, 21),
            Self::TxRollbackOk => (90, 31),
        }
    }

    fn put_arguments(&self, out: &mut BytesMut) {
        match self {
            Self::Start { server_properties, mechanisms, locales } => {
                out.put_slice(&[0, 9]);
                table::put(out, server_properties);
                table::put_long_string(out, mechanisms.as_bytes());
                table::put_long_string(out, locales.as_bytes());
            }
            Self::Tune { channel_max, frame_max, heartbeat } => {
                out.put_u16(*channel_max);
                out.put_u32(*frame_max);
                out.put_u16(*heartbeat);
            }
            Self::Close(close) | Self::ChannelClose(close) => {
                out.put_u16(close.code);
                table::put_short_string(out, close.text.as_bytes());
                out.put_u16(close.class);
                out.put_u16(close.method);
            }
            // One reserved short string, and the reserved long string of channel.open-ok.
            Self::OpenOk | Self::GetEmpty => out.put_u8(0),
            Self::ChannelOpenOk => out.put_u32(0),
            Self::Blocked { reason } => table::put_short_string(out, reason.as_bytes()),
            Self::ChannelFlowOk { active } => out.put_u8(u8::from(*active)),
            Self::AccessRequestOk => out.put_u16(1),
            Self::QueueDeclareOk { queue, message_count, consumer_count } => {
                table::put_short_string(out, queue.as_bytes());
                out.put_u32(*message_count);
                out.put_u32(*consumer_count);
            }
            Self::QueuePurgeOk { message_count } | Self::QueueDeleteOk { message_count } => {
                out.put_u32(*message_count);
            }
            Self::ConsumeOk { consumer_tag } | Self::CancelOk { consumer_tag } => {
                table::put_short_string(out, consumer_tag);
            }
            Self::Cancel { consumer_tag } => {
                table::put_short_string(out, consumer_tag);
                out.put_u8(1);
            }
            Self::Ack { delivery_tag, multiple } => {
                out.put_u64(*delivery_tag);
                out.put_u8(u8::from(*multiple));
            }
            Self::Nack { delivery_tag } => {
                out.put_u64(*delivery_tag);
                out.put_u8(0);
            }
            Self::CloseOk
            | Self::Unblocked
            | Self::UpdateSecretOk
            | Self::ChannelCloseOk
            | Self::ExchangeDeclareOk
            | Self::ExchangeDeleteOk
            | Self::ExchangeBindOk
            | Self::ExchangeUnbindOk
            | Self::QueueBindOk
            | Self::QueueUnbindOk
            | Self::QosOk
            | Self::RecoverOk
            | Self::ConfirmSelectOk
            | Self::TxSelectOk
            | Self::TxCommitOk
            | Self::TxRollbackOk => {}
        }
    }
}
