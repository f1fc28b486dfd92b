//! Reading by offset, and where groups are.

use prost_types::Timestamp;

use super::*;
use crate::{
    codec::proto::{
        FilterExpression, FilterType, GetOffsetRequest, PullMessageRequest, QueryOffsetPolicy,
        QueryOffsetRequest, UpdateOffsetRequest, pull_message_response,
    },
    normalize::timestamp,
};

fn queue(topic: &str) -> Option<MessageQueue> {
    Some(MessageQueue { topic: Some(resource(topic)), ..Default::default() })
}

impl Peer {
    async fn fill(&mut self, count: usize) {
        for number in 0..count {
            let mut message = message(&format!("m{number}"), MessageType::Normal);
            let system = message.system_properties.as_mut().unwrap();
            system.tag = Some(if number % 2 == 0 { "even" } else { "odd" }.to_owned());
            message.user_properties.insert("n".to_owned(), number.to_string());
            self.send(message).await.unwrap();
        }
    }

    /// A pull's code, messages and next offset.
    async fn pull(
        &mut self,
        offset: i64,
        wait_ms: u64,
        filter: Option<(FilterType, &str)>,
    ) -> (Code, Vec<Message>, Option<i64>) {
        let filter_expression = filter.map(|(kind, expression)| FilterExpression {
            r#type: kind as i32,
            expression: expression.to_owned(),
        });
        let request = self.request(PullMessageRequest {
            group: Some(resource(GROUP)),
            message_queue: queue(TOPIC),
            offset,
            batch_size: 3,
            filter_expression,
            long_polling_timeout: Some(duration(wait_ms)),
        });
        let mut parts = self.grpc.pull_message(request).await.unwrap().into_inner();
        let (mut code, mut messages, mut next) = (None, Vec::new(), None);
        while let Some(part) = parts.message().await.unwrap() {
            match part.content.unwrap() {
                pull_message_response::Content::Status(status) => code = Some(status.code()),
                pull_message_response::Content::Message(message) => messages.push(message),
                pull_message_response::Content::NextOffset(offset) => next = Some(offset),
            }
        }
        (code.unwrap(), messages, next)
    }

    async fn committed(&mut self, group: &str) -> Result<i64, Code> {
        let request = self.request(GetOffsetRequest {
            group: Some(resource(group)),
            message_queue: queue(TOPIC),
        });
        let answer = self.grpc.get_offset(request).await.unwrap().into_inner();
        match answer.status.unwrap().code() {
            Code::Ok => Ok(answer.offset),
            code => Err(code),
        }
    }

    async fn commit(&mut self, group: &str, offset: i64) -> Code {
        let request = self.request(UpdateOffsetRequest {
            group: Some(resource(group)),
            message_queue: queue(TOPIC),
            offset,
        });
        let answer = self.grpc.update_offset(request).await.unwrap().into_inner();
        answer.status.unwrap().code()
    }

    async fn query(
        &mut self,
        topic: &str,
        policy: QueryOffsetPolicy,
        timestamp: Option<Timestamp>,
    ) -> Result<i64, Code> {
        let request = self.request(QueryOffsetRequest {
            message_queue: queue(topic),
            query_offset_policy: policy as i32,
            timestamp,
        });
        let answer = self.grpc.query_offset(request).await.unwrap().into_inner();
        match answer.status.unwrap().code() {
            Code::Ok => Ok(answer.offset),
            code => Err(code),
        }
    }
}

#[tokio::test]
async fn a_pull_takes_nothing_and_says_where_to_go_on() {
    let server = Server::start(Limits::default()).await;
    let (mut one, mut other) = (server.peer("one").await, server.peer("other").await);
    one.fill(5).await;
    for peer in [&mut one, &mut other] {
        let (code, first, next) = peer.pull(0, 0, None).await;
        assert_eq!((code, ids(&first), next), (Code::Ok, vec!["m0", "m1", "m2"], Some(3)));
        let offsets = first.iter().map(|m| m.system_properties.as_ref().unwrap().queue_offset());
        assert_eq!(offsets.collect::<Vec<_>>(), [0, 1, 2]);
        let (code, rest, next) = peer.pull(3, 0, None).await;
        assert_eq!((code, ids(&rest), next), (Code::Ok, vec!["m3", "m4"], Some(5)));
        let (code, none, next) = peer.pull(5, 0, None).await;
        assert_eq!((code, none.len(), next), (Code::MessageNotFound, 0, Some(5)));
    }
    for (offset, nearest) in [(6, 5), (-1, 0)] {
        let (code, none, next) = one.pull(offset, 0, None).await;
        assert_eq!((code, none.len(), next), (Code::IllegalOffset, 0, Some(nearest)));
    }
    // Nothing was taken from the group.
    assert_eq!(one.committed(GROUP).await, Err(Code::OffsetNotFound));
    assert_eq!(one.receive(5_000).await.len(), 5);
}

#[tokio::test]
async fn a_pull_waits_for_the_next_message() {
    let server = Server::start(Limits::default()).await;
    let (mut one, mut other) = (server.peer("one").await, server.peer("other").await);
    one.fill(1).await;
    let (waiting, ()) = tokio::join!(one.pull(1, 10_000, None), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        other.send(message("late", MessageType::Normal)).await.unwrap();
    });
    assert_eq!((waiting.0, ids(&waiting.1), waiting.2), (Code::Ok, vec!["late"], Some(2)));
    let began = tokio::time::Instant::now();
    assert_eq!(one.pull(2, 700, None).await.0, Code::MessageNotFound);
    let took = began.elapsed();
    assert!((700..2_000).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test]
async fn a_pull_passes_over_what_its_filter_does_not_want() {
    let server = Server::start(Limits::default()).await;
    let mut peer = server.peer("one").await;
    peer.fill(5).await;
    let odd = Some((FilterType::Tag, "odd"));
    let (_, found, next) = peer.pull(0, 0, odd).await;
    assert_eq!((ids(&found), next), (vec!["m1"], Some(3)));
    // Only what is unwanted is left: the next one is waited for, behind it.
    let (code, found, next) = peer.pull(4, 200, odd).await;
    assert_eq!((code, found.len(), next), (Code::MessageNotFound, 0, Some(5)));
    let last = Some((FilterType::Sql, "n >= 4"));
    let (code, found, next) = peer.pull(0, 0, last).await;
    assert_eq!((code, found.len(), next), (Code::MessageNotFound, 0, Some(3)));
    let (_, found, next) = peer.pull(0, 2_000, last).await;
    assert_eq!((ids(&found), next), (vec!["m4"], Some(5)));
    let bad = peer.pull(0, 0, Some((FilterType::Sql, "n >="))).await;
    assert_eq!((bad.0, bad.2), (Code::IllegalFilterExpression, None));
}

#[tokio::test]
async fn a_group_goes_on_where_it_committed_over_a_restart() {
    let mut server = Server::start(Limits::default()).await;
    let mut peer = server.peer("one").await;
    peer.fill(5).await;
    assert_eq!(peer.commit(GROUP, 3).await, Code::Ok);
    assert_eq!(peer.commit(GROUP, 6).await, Code::IllegalOffset);
    assert_eq!(peer.commit(GROUP, -1).await, Code::IllegalOffset);
    server.restart().await;
    let mut peer = server.peer("one").await;
    assert_eq!(peer.committed(GROUP).await, Ok(3));
    // Whichever call it reads by.
    let rest = peer.receive(5_000).await;
    assert_eq!(ids(&rest), ["m3", "m4"]);
    assert_eq!(peer.committed(GROUP).await, Ok(5));
    assert_eq!(peer.committed("other").await, Err(Code::OffsetNotFound));
}

#[tokio::test]
async fn a_group_that_is_moved_back_gets_everything_again() {
    let server = Server::start(Limits::default()).await;
    let mut peer = server.peer("one").await;
    peer.fill(4).await;
    assert_eq!(peer.receive(5_000).await.len(), 4);
    assert!(peer.receive(0).await.is_empty());
    // A poll that waits meanwhile finds it.
    let mut operator = server.peer("operator").await;
    let (again, code) = tokio::join!(peer.take(TOPIC, GROUP, 10_000, 5_000), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        operator.commit(GROUP, 1).await
    });
    assert_eq!((ids(&again), code), (vec!["m1", "m2", "m3"], Code::Ok));
    // What it had before it was moved is not its own any more.
    assert_eq!(operator.commit(GROUP, 2).await, Code::Ok);
    let system = again[2].system_properties.as_ref().unwrap();
    let entry = AckMessageEntry {
        message_id: system.message_id.clone(),
        receipt_handle: system.receipt_handle().to_owned(),
        ..Default::default()
    };
    let request = peer.request(AckMessageRequest {
        group: Some(resource(GROUP)),
        topic: Some(resource(TOPIC)),
        entries: vec![entry],
    });
    let answer = peer.grpc.ack_message(request).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code(), Code::InvalidReceiptHandle);
    assert_eq!(ids(&peer.receive(5_000).await), ["m2", "m3"]);
}

#[tokio::test]
async fn offsets_are_found_by_policy_and_by_time() {
    let server = Server::start(Limits::default()).await;
    let mut peer = server.peer("one").await;
    let none = peer.query(TOPIC, QueryOffsetPolicy::End, None).await;
    assert_eq!(none, Err(Code::TopicNotFound));
    peer.fill(3).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let middle = server.broker().now();
    tokio::time::sleep(Duration::from_millis(50)).await;
    peer.fill(2).await;
    assert_eq!(peer.query(TOPIC, QueryOffsetPolicy::Beginning, None).await, Ok(0));
    assert_eq!(peer.query(TOPIC, QueryOffsetPolicy::End, None).await, Ok(5));
    let by_time = QueryOffsetPolicy::Timestamp;
    assert_eq!(peer.query(TOPIC, by_time, Some(timestamp(middle))).await, Ok(3));
    assert_eq!(peer.query(TOPIC, by_time, None).await, Err(Code::BadRequest));
    assert_eq!(peer.query("a b", QueryOffsetPolicy::End, None).await, Err(Code::IllegalTopic));
    // A group is reset by time with the two.
    assert_eq!(peer.receive(5_000).await.len(), 5);
    let at = peer.query(TOPIC, by_time, Some(timestamp(middle))).await.unwrap();
    assert_eq!(peer.commit(GROUP, at).await, Code::Ok);
    assert_eq!(ids(&peer.receive(5_000).await), ["m0", "m1"]);
}
