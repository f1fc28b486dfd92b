//! Queues and exchanges, each by itself.

use mainstem_broker::{Count, Did, ExchangeShown, QueueShown, Refusal};

use super::page::{Kind, Page, number};
use crate::{config::Compat, http::Gate};

/// What is told of each of them, by RabbitMQ's names for such groups.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    QueueCoarse,
    QueueConsumers,
    Queue,
    Exchange,
}

impl Family {
    pub(super) const ALL: [Self; 4] =
        [Self::QueueCoarse, Self::QueueConsumers, Self::Queue, Self::Exchange];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::QueueCoarse => "queue_coarse_metrics",
            Self::QueueConsumers => "queue_consumer_count",
            Self::Queue => "queue_metrics",
            Self::Exchange => "exchange_metrics",
        }
    }
}

/// A number of each queue: its name behind `mainstem_queue_` or RabbitMQ's `queue_`.
type OfQueue = (&'static str, Kind, &'static str, fn(&QueueShown) -> u64);

const COARSE: [OfQueue; 3] = [
    ("messages_ready", Kind::Gauge, "messages that could be delivered", |it| it.stats.ready),
    ("messages_unacked", Kind::Gauge, "messages in hand", |it| it.stats.unsettled),
    ("messages", Kind::Gauge, "both", |it| it.stats.ready + it.stats.unsettled),
];
const CONSUMERS: [OfQueue; 1] =
    [("consumers", Kind::Gauge, "consumers", |it| it.stats.consumers.into())];
const REST: [OfQueue; 8] = [
    ("messages_ready_bytes", Kind::Gauge, "bytes of what is ready", |it| it.ready_bytes),
    ("messages_unacked_bytes", Kind::Gauge, "bytes of what is in hand", |it| it.unsettled_bytes),
    ("messages_published_total", Kind::Counter, "messages that came", |it| did(it, Did::Publish)),
    ("messages_delivered_total", Kind::Counter, "consumed, to be settled", |it| {
        did(it, Did::Deliver)
    }),
    ("messages_delivered_auto_ack_total", Kind::Counter, "consumed, settled at once", |it| {
        did(it, Did::DeliverNoAck)
    }),
    ("messages_got_total", Kind::Counter, "taken by a get", |it| {
        did(it, Did::Get) + did(it, Did::GetNoAck)
    }),
    ("messages_acked_total", Kind::Counter, "settled as done", |it| did(it, Did::Ack)),
    ("messages_redelivered_total", Kind::Counter, "handed out again", |it| did(it, Did::Redeliver)),
];

fn did(queue: &QueueShown, did: Did) -> u64 {
    let count = queue.counts.and_then(|counts| counts.did.get(did as usize).copied());
    count.map_or(0, |Count { total, .. }| total)
}

/// Some of what there is, up to a bound.
#[derive(Default)]
pub(super) struct Objects {
    queues: Vec<(String, QueueShown)>,
    exchanges: Vec<(String, ExchangeShown)>,
    is_cut: bool,
}

impl Objects {
    /// Those of these namespaces, or of all.
    pub(super) async fn find(
        gate: &Gate,
        namespaces: Option<Vec<String>>,
    ) -> Result<Self, Refusal> {
        let directory = gate.registry.directory();
        let mut wanted: Vec<String> = directory.namespaces.keys().cloned().collect();
        wanted.retain(|name| namespaces.as_ref().is_none_or(|some| some.contains(name)));
        let max = gate.config.metrics.objects_max;
        let mut found = Self::default();
        for namespace in wanted {
            let mut after = None;
            loop {
                let page = gate.broker.list_exchanges(&namespace, after).await?;
                found.exchanges.extend(page.items.into_iter().map(|it| (namespace.clone(), it)));
                after = page.next;
                if after.is_none() || found.exchanges.len() > max {
                    break;
                }
            }
            let mut after = None;
            loop {
                let page = gate.broker.list_queues(&namespace, after).await?;
                found.queues.extend(page.items.into_iter().map(|it| (namespace.clone(), it)));
                after = page.next;
                if after.is_none() || found.queues.len() > max {
                    break;
                }
            }
        }
        found.is_cut = found.exchanges.len() > max || found.queues.len() > max;
        found.exchanges.truncate(max);
        found.queues.truncate(max);
        Ok(found)
    }

    /// Puts these families there, by our names; and where that is wanted, by RabbitMQ's behind `prefix`.
    pub(super) fn put(&self, gate: &Gate, page: &mut Page, families: &[Family], prefix: &str) {
        let is_cut = "1 if there are more queues or exchanges than metrics.objects_max";
        page.one("mainstem_objects_cut", Kind::Gauge, is_cut, &[], self.is_cut.into());
        let compat = gate.config.metrics.compat.contains(&Compat::Rabbitmq);
        for family in families {
            let of_queues: &[OfQueue] = match family {
                Family::QueueCoarse => &COARSE,
                Family::QueueConsumers => &CONSUMERS,
                Family::Queue => &REST,
                Family::Exchange => {
                    self.put_exchanges(page);
                    continue;
                }
            };
            for of_queue in of_queues {
                self.put_queues(page, "mainstem_named_queue_", "ns", of_queue);
                if compat {
                    self.put_queues(page, &format!("{prefix}queue_"), "vhost", of_queue);
                }
            }
        }
    }

    fn put_queues(&self, page: &mut Page, prefix: &str, space: &str, of_queue: &OfQueue) {
        let (name, kind, help, of) = of_queue;
        let name = format!("{prefix}{name}");
        page.family(&name, *kind, help);
        for (namespace, queue) in &self.queues {
            let labels = [(space, &**namespace), ("queue", &queue.def.name)];
            page.sample(&name, &labels, number(of(queue)));
        }
    }

    fn put_exchanges(&self, page: &mut Page) {
        for (at, name, help) in [
            (0, "mainstem_exchange_messages_in_total", "messages that clients brought"),
            (1, "mainstem_exchange_messages_out_total", "how often one went on to a queue"),
        ] {
            page.family(name, Kind::Counter, help);
            for (namespace, exchange) in &self.exchanges {
                let labels = [("ns", &**namespace), ("exchange", &exchange.def.name)];
                let count = exchange.counts.get(at).map_or(0, |count| count.total);
                page.sample(name, &labels, number(count));
            }
        }
    }
}
