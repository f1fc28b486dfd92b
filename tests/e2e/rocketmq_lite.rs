//! Very many lite topics: made by their first message, kept over a restart, listed, and gone when idle.
//!
//! `MAINSTEM_LITE_TOPICS` says how many and `MAINSTEM_LITE_IDLE_MS` when they are idle: a million and 420000 were
//! tried by hand.

use std::{env, fs, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use mainstem_rocketmq::codec::{
    operator::{ListLiteTopicsRequest, admin_client::AdminClient},
    proto::{
        Code, Message, MessageType, Resource, SendMessageRequest, SystemProperties,
        messaging_service_client::MessagingServiceClient,
    },
};
use mainstem_tests::{Deadline, Server};
use tokio::task::JoinSet;
use tonic::Request;

const TOPIC: &str = "sessions";
/// Messages of one request, each to a lite topic of its own; and requests under way at a time.
const TOGETHER: usize = 100;
const SENDERS: usize = 64;
const MEMORY_KIB_MAX: u64 = 1 << 20;

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap())
}

fn message(number: usize) -> Message {
    let system_properties = SystemProperties {
        message_id: format!("m{number}"),
        message_type: MessageType::Lite as i32,
        lite_topic: Some(format!("session-{number:07}")),
        ..Default::default()
    };
    Message {
        topic: Some(Resource { name: TOPIC.to_owned(), ..Default::default() }),
        system_properties: Some(system_properties),
        body: "x".repeat(100).into(),
        ..Default::default()
    }
}

async fn fill(server: &Server, count: usize) {
    let address = format!("http://127.0.0.1:{}", server.ports().rocketmq);
    let grpc = MessagingServiceClient::connect(address).await.unwrap();
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let (mut grpc, next) = (grpc.clone(), next.clone());
        senders.spawn(async move {
            loop {
                let from = next.fetch_add(TOGETHER, std::sync::atomic::Ordering::Relaxed);
                if from >= count {
                    return;
                }
                let messages = (from..count.min(from + TOGETHER)).map(message).collect();
                let mut request = Request::new(SendMessageRequest { messages });
                let client_id = format!("sender-{sender}").parse().unwrap();
                request.metadata_mut().insert("x-mq-client-id", client_id);
                let answer = grpc.send_message(request).await.unwrap().into_inner();
                assert_eq!(answer.status.unwrap().code(), Code::Ok);
            }
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended.unwrap();
    }
}

async fn listed(server: &Server) -> usize {
    let address = format!("http://127.0.0.1:{}", server.ports().rocketmq);
    let mut grpc = AdminClient::connect(address).await.unwrap();
    let authorization = format!("Basic {}", BASE64_STANDARD.encode("guest:guest"));
    let (mut count, mut page_token) = (0, String::new());
    loop {
        let topic = TOPIC.to_owned();
        let mut request = Request::new(ListLiteTopicsRequest { topic, page_token });
        request.metadata_mut().insert("authorization", authorization.parse().unwrap());
        let page = grpc.list_lite_topics(request).await.unwrap().into_inner();
        assert_eq!(page.status.unwrap().code(), Code::Ok);
        count += page.lite_topics.len();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return count;
        }
    }
}

/// Tells how long something took.
fn clock() -> Deadline {
    Deadline::seconds(36_000)
}

fn memory_kib(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn very_many_lite_topics_outlast_a_restart_and_go_when_they_are_idle() {
    let count = usize::try_from(setting("MAINSTEM_LITE_TOPICS").unwrap_or(5_000)).unwrap();
    let idle_ms = setting("MAINSTEM_LITE_IDLE_MS").unwrap_or(30_000);
    let topics = format!("rocketmq.topics=[{{ name = \"{TOPIC}\", type = \"LITE\" }}]");
    let idle = format!("rocketmq.lite_topic_idle_ms={idle_ms}");
    let mut server = Server::start_with(&[&topics, &idle]);
    let told = |what: &str, began: Deadline, server: &Server| {
        let (took, memory) = (began.elapsed(), memory_kib(server) / 1024);
        println!("{count} lite topics {what} in {took:.1?}; the server has {memory} MiB");
        assert!(memory < MEMORY_KIB_MAX / 1024, "{memory} MiB");
    };
    let began = clock();
    fill(&server, count).await;
    told("made", began, &server);
    let began = clock();
    assert_eq!(listed(&server).await, count);
    told("listed", began, &server);
    assert!(server.terminate().success());
    let began = clock();
    server.restart();
    told("there again after a restart", began, &server);
    assert_eq!(listed(&server).await, count);
    told("listed again", began, &server);
    let began = clock();
    let patience = Deadline::seconds(idle_ms / 1000 + 120 + count as u64 / 500);
    let gone = patience.until_async("idle lite topics to go", || async {
        // To look at all of them is work, too.
        tokio::time::sleep(Duration::from_secs(1)).await;
        (listed(&server).await == 0).then_some(())
    });
    gone.await;
    told("gone", began, &server);
}
