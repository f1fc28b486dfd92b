//! A small model of the addressing rules, held against the matrix's table and, over random
//! topologies, against the broker.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and says where"
)]

#[path = "routing_model/broker.rs"]
mod broker;
#[path = "routing_model/model.rs"]
mod model;

use mainstem_tests::{
    Matrix,
    matrix::{By, Publisher, Reader},
};
use model::{Came, Exchange, Topology, Words, key_words, words};

/// The token stands for any one word.
const TOKEN: &str = "token";

#[test]
fn the_matrix_says_what_the_rules_say() {
    let matrix = Matrix::load();
    let mut topology = Topology::default();
    for (name, exchange) in &matrix.exchanges {
        topology.exchanges.insert(name.clone(), Exchange { hidden: exchange.hidden });
    }
    for (column, reader) in &matrix.readers {
        for (exchange, key) in &reader.binds {
            topology.bind(exchange, column, key_words(key));
        }
    }
    for (row, publisher) in &matrix.publishers {
        let publisher = publisher.named(TOKEN);
        let came = came(&publisher);
        for (column, reader) in &matrix.readers {
            let says = u32::from(reaches(&topology, &came, &publisher, column, reader));
            assert_eq!(matrix.copies(row, column), says, "{row} -> {column}");
        }
    }
}

fn came(publisher: &Publisher) -> Came {
    match publisher.by {
        By::Amqp => Came::amqp(&publisher.exchange, &publisher.key),
        By::Mqtt311 | By::Mqtt5 | By::Http => Came::topic(&publisher.topic),
        By::Rocketmq => Came::rocketmq(&publisher.topic, &publisher.tag),
    }
}

fn reaches(
    topology: &Topology,
    came: &Came,
    publisher: &Publisher,
    column: &str,
    reader: &Reader,
) -> bool {
    match reader.by {
        By::Amqp => topology.queues(came).contains(column),
        By::Mqtt311 | By::Mqtt5 => match reader.filter.strip_prefix("$queue/") {
            Some(queue) => came.direct() == Some(queue),
            None => {
                let filter = reader.filter.strip_prefix("$share/crew/").unwrap_or(&reader.filter);
                topology.is_wanted(came, &words(filter, '/'))
            }
        },
        By::Rocketmq => {
            topology.is_wanted(came, &[reader.topic.clone(), "#".to_owned()])
                && (!reader.sql || tag_begins_with_line1(publisher, came))
        }
        By::Http => false,
    }
}

/// The SQL reader's expression over messages that carry no tag property.
fn tag_begins_with_line1(publisher: &Publisher, came: &Came) -> bool {
    let path: Words = came.path();
    let rest = path.get(1..).unwrap_or_default().join("/");
    let tag = if publisher.tag.is_empty() { rest } else { publisher.tag.clone() };
    tag.starts_with("line1")
}
