//! RocketMQ's operators: let in by the users, tags and permissions that are set over HTTP.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use mainstem_rocketmq::codec::{
    operator::{
        CreateTopicRequest, DescribeTopicRequest, ListTopicsRequest,
        admin_client::AdminClient as OperatorClient,
    },
    proto::{
        ChangeLogLevelRequest, Code, MessageType, admin_client::AdminClient,
        change_log_level_request::Level,
    },
};
use mainstem_tests::{Deadline, Server, http};
use tonic::{Request, transport::Channel};

struct Operator {
    grpc: OperatorClient<Channel>,
    authorization: String,
}

impl Operator {
    async fn of(server: &Server, user: &str, password: &str) -> Self {
        let address = format!("http://127.0.0.1:{}", server.ports().rocketmq);
        let authorization = BASE64_STANDARD.encode(format!("{user}:{password}"));
        Self { grpc: OperatorClient::connect(address).await.unwrap(), authorization }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let basic = format!("Basic {}", self.authorization);
        request.metadata_mut().insert("authorization", basic.parse().unwrap());
        request
    }

    async fn create(&mut self, topic: &str) -> (Code, String) {
        let kind = MessageType::Fifo as i32;
        let request = CreateTopicRequest { topic: topic.to_owned(), r#type: kind, retention: None };
        let request = self.request(request);
        let answer = self.grpc.create_topic(request).await.unwrap().into_inner();
        let status = answer.status.unwrap();
        (status.code(), status.message)
    }

    async fn describe(&mut self, topic: &str) -> Code {
        let request = self.request(DescribeTopicRequest { topic: topic.to_owned() });
        let answer = self.grpc.describe_topic(request).await.unwrap().into_inner();
        answer.status.unwrap().code()
    }
}

fn put(server: &Server, path: &str, body: &str) {
    let answer = http::as_guest(server.ports().http, "PUT", path, body);
    assert!(answer.status < 300, "{path}: {} {}", answer.status, answer.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_the_users_with_tags_and_do_what_their_permissions_reach() {
    let server = Server::start();
    for (user, tags) in [("ann", "management"), ("bob", ""), ("eve", "management")] {
        put(
            &server,
            &format!("/api/users/{user}"),
            &format!(r#"{{"password":"pw","tags":"{tags}"}}"#),
        );
    }
    let permission = r#"{"configure":"^mine","write":"^mine","read":"^mine"}"#;
    for user in ["ann", "bob"] {
        put(&server, &format!("/api/permissions/%2F/{user}"), permission);
    }
    let mut guest = Operator::of(&server, "guest", "guest").await;
    assert_eq!(guest.create("theirs").await.0, Code::Ok);
    let mut ann = Operator::of(&server, "ann", "pw").await;
    assert_eq!(ann.create("mine").await.0, Code::Ok);
    let (code, text) = ann.create("other").await;
    assert_eq!((code, &*text), (Code::Forbidden, "access to topic 'other' refused for user 'ann'"));
    assert_eq!(guest.describe("other").await, Code::TopicNotFound);
    for (user, password, refused) in [
        ("ann", "wrong", Code::Unauthorized),
        ("bob", "pw", Code::Forbidden),
        ("eve", "pw", Code::Forbidden),
    ] {
        let mut operator = Operator::of(&server, user, password).await;
        assert_eq!(operator.create("mine-too").await.0, refused, "{user}");
        assert_eq!(operator.describe("mine").await, refused, "{user}");
    }
    // In a namespace of its own.
    put(&server, "/api/vhosts/plant", "");
    let mut request = guest.request(ListTopicsRequest::default());
    request.metadata_mut().insert("x-mq-namespace", "plant".parse().unwrap());
    let there = guest.grpc.list_topics(request).await.unwrap().into_inner();
    assert_eq!((there.status.unwrap().code(), there.topics.len()), (Code::Ok, 0));
    // A topic, its type included, goes with its namespace.
    let fifo = CreateTopicRequest {
        topic: "t".to_owned(),
        r#type: MessageType::Fifo as i32,
        retention: None,
    };
    for _ in 0..2 {
        let mut request = guest.request(fifo.clone());
        request.metadata_mut().insert("x-mq-namespace", "plant".parse().unwrap());
        let made = guest.grpc.create_topic(request).await.unwrap().into_inner();
        assert_eq!(made.status.unwrap().code(), Code::Ok);
        let gone = http::as_guest(server.ports().http, "DELETE", "/api/vhosts/plant", "");
        assert_eq!(gone.status, 204, "{}", gone.body);
        put(&server, "/api/vhosts/plant", "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_changes_what_is_logged_while_the_server_runs() {
    let server = Server::start_with(&["log.level=warn"]);
    let address = format!("http://127.0.0.1:{}", server.ports().rocketmq);
    let mut grpc = AdminClient::connect(address).await.unwrap();
    put(&server, "/api/users/ann", r#"{"password":"pw","tags":"monitoring"}"#);
    put(&server, "/api/permissions/%2F/ann", r#"{"configure":".*","write":".*","read":".*"}"#);
    let ann = Operator::of(&server, "ann", "pw").await;
    let guest = Operator::of(&server, "guest", "guest").await;
    let level = |level: Level| ChangeLogLevelRequest { level: level as i32 };
    let refused = grpc.change_log_level(ann.request(level(Level::Trace))).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    let is_told = |word: &str| server.log().iter().any(|line| line.contains(word));
    assert!(!is_told(" DEBUG ") && !is_told(" TRACE "));
    grpc.change_log_level(guest.request(level(Level::Debug))).await.unwrap();
    Deadline::seconds(20).until("a line of the level DEBUG", || {
        // It logs what its clients do.
        drop(std::net::TcpStream::connect(("127.0.0.1", server.ports().rocketmq)));
        is_told(" DEBUG ").then_some(())
    });
    grpc.change_log_level(guest.request(level(Level::Error))).await.unwrap();
    let lines = || server.log().iter().filter(|line| line.contains(" DEBUG ")).count();
    // What is under way may still be written.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let before = lines();
    for _ in 0..20 {
        drop(std::net::TcpStream::connect(("127.0.0.1", server.ports().rocketmq)));
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(lines(), before);
}
