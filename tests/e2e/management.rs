//! RabbitMQ's management API, as its tools call it.

use mainstem_tests::{Amqp, Server, http};
use serde_json::{Value as Json, json};

struct Api(u16);

impl Api {
    /// Asks, expects a status, and answers the body.
    fn ask(&self, method: &str, path: &str, body: &str, status: u16) -> Json {
        let answer = http::as_guest(self.0, method, &format!("/api{path}"), body);
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.body);
        serde_json::from_str(&answer.body).unwrap_or(Json::Null)
    }

    fn get(&self, path: &str) -> Json {
        self.ask("GET", path, "", 200)
    }

    fn put(&self, path: &str, body: &Json, status: u16) -> Json {
        self.ask("PUT", path, &body.to_string(), status)
    }

    fn post(&self, path: &str, body: &Json, status: u16) -> Json {
        self.ask("POST", path, &body.to_string(), status)
    }

    fn delete(&self, path: &str, status: u16) {
        self.ask("DELETE", path, "", status);
    }

    fn names(&self, path: &str) -> Vec<String> {
        let all = self.get(path);
        let all = all.as_array().unwrap_or_else(|| all["items"].as_array().unwrap());
        all.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_pages_and_nonsense_get_clear_errors() {
    let server = Server::start();
    let api = Api(server.ports().http);
    let missing = http::get(api.0, "/api/overview");
    assert_eq!(missing.status, 401);
    assert!(missing.head.contains("www-authenticate: Basic"), "{}", missing.head);
    let wrong = "GET /api/queues HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                 Authorization: Basic Z3Vlc3Q6bm8=\r\n\r\n";
    assert_eq!(http::request(api.0, wrong).status, 401);
    let page = "POST /api/rebalance/queues HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\nOrigin: http://evil.example\r\n\r\n";
    assert_eq!(http::request(api.0, page).status, 403);
    let not_found = json!({ "error": "Object Not Found", "reason": "Not Found" });
    for path in
        ["/nothing", "/queues/none", "/queues/%2F/none", "/exchanges/%2F/none/bindings/source"]
    {
        assert_eq!(api.ask("GET", path, "", 404), not_found, "{path}");
    }
    for body in ["{", "[]", "7", "{\"durable\":3}", "{\"arguments\":{\"x-max-length\":\"a\"}}"] {
        let refused = api.ask("PUT", "/queues/%2F/bad", body, 400);
        assert_eq!(refused["error"], "bad_request", "{body}");
        assert!(refused["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    }
    assert_eq!(api.ask("POST", "/overview", "", 405)["error"], "method_not_allowed");
    api.ask("GET", "/queues/%FF", "", 400);
    let long = format!("/queues/%2F/{}", "x".repeat(256));
    api.put(&long, &json!({}), 400);
    let overview = api.get("/overview");
    assert_eq!(overview["rabbitmq_version"], "3.13.7");
    assert_eq!(overview["product_name"], "Mainstem");
    assert_eq!(api.get("/version"), "3.13.7");
    assert_eq!(api.get("/cluster-name")["name"], "mainstem");
    let node = overview["node"].as_str().unwrap();
    assert_eq!(api.get(&format!("/nodes/{node}"))["running"], true);
    assert_eq!(api.get("/nodes")[0]["name"], node);
    assert_eq!(api.get("/feature-flags")[0]["state"], "enabled");
    for path in ["/extensions", "/deprecated-features"] {
        assert_eq!(api.get(path), json!([]));
    }
    api.post("/rebalance/queues", &json!({}), 204);
    for check in ["alarms", "local-alarms", "virtual-hosts", "is-in-service"] {
        assert_eq!(api.get(&format!("/health/checks/{check}"))["status"], "ok");
    }
    api.get(&format!("/health/checks/port-listener/{}", api.0));
    api.ask("GET", "/health/checks/port-listener/1", "", 503);
    api.get("/health/checks/protocol-listener/mqtt");
    api.ask("GET", "/health/checks/protocol-listener/stomp", "", 503);
    assert_eq!(api.get("/aliveness-test/%2F")["status"], "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_are_declared_listed_and_deleted() {
    let server = Server::start();
    let api = Api(server.ports().http);
    let amqp = Amqp::connect(server.ports().amqp).await;
    let durable = json!({ "durable": "true", "arguments": { "x-max-length": 9 } });
    api.put("/queues/%2F/a%2Fb", &durable, 201);
    api.put("/queues/%2F/a%2Fb", &durable, 204);
    let refused = api.put("/queues/%2F/a%2Fb", &json!({}), 400);
    assert!(refused["reason"].as_str().unwrap().starts_with("inequivalent arg 'durable'"));
    api.put("/queues/%2F/amq.mine", &json!({}), 400);
    let queue = api.get("/queues/%2F/a%2Fb");
    assert_eq!((&queue["name"], &queue["type"]), (&json!("a/b"), &json!("classic")));
    assert_eq!(queue["arguments"]["x-max-length"], 9);
    for n in 0..150 {
        let body = json!({ "durable": n % 2 == 0 });
        api.put(&format!("/queues/%2F/n{n:03}"), &body, 201);
    }
    amqp.publish("", "n007", b"12345").await;
    let page = api.get("/queues/%2F?page=2&page_size=60&name=%5En&use_regex=true&pagination=false");
    assert_eq!((&page["filtered_count"], &page["item_count"]), (&json!(150), &json!(60)));
    assert_eq!((&page["total_count"], &page["page_count"]), (&json!(151), &json!(3)));
    assert_eq!(page["items"][0]["name"], "n060");
    assert_eq!(api.names("/queues?sort=name&sort_reverse=true")[0], "n149");
    assert_eq!(api.names("/queues/detailed").len(), 151);
    let cut = api.get("/queues/%2F?columns=name,messages&name=n007");
    assert_eq!(cut, json!([{ "name": "n007", "messages": 1 }]));
    let queue = api.get("/queues/%2F/n007");
    assert_eq!((&queue["message_bytes"], &queue["durable"]), (&json!(5), &json!(false)));
    assert!(queue["head_message_timestamp"].as_u64().unwrap() > 1_700_000_000);
    api.ask("GET", "/queues?page=3&page_size=100", "", 400);
    api.ask("GET", "/queues?page=1&page_size=501", "", 400);
    assert_eq!(api.get("/overview")["object_totals"]["queues"], 151);
    api.delete("/queues/%2F/n007?if-empty=true", 400);
    api.delete("/queues/%2F/n007/contents", 204);
    api.delete("/queues/%2F/n007?if-empty=true&if-unused=true", 204);
    api.delete("/queues/%2F/n007", 404);
    assert_eq!(api.names("/queues/%2F").len(), 150);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_and_bindings_lead_messages_to_whoever_gets_them() {
    let server = Server::start();
    let api = Api(server.ports().http);
    api.put("/exchanges/%2F/x", &json!({ "durable": true }), 400);
    api.put("/exchanges/%2F/x", &json!({ "type": "topic", "durable": true }), 201);
    api.put("/exchanges/%2F/x", &json!({ "type": "topic", "durable": true }), 204);
    api.put("/exchanges/%2F/x", &json!({ "type": "direct", "durable": true }), 400);
    api.put("/exchanges/%2F/h", &json!({ "type": "headers" }), 201);
    assert_eq!(api.names("/exchanges/%2F")[0], "");
    assert_eq!(api.names("/exchanges").len(), 9);
    api.put("/queues/%2F/q", &json!({ "durable": true }), 201);
    let bound =
        http::as_guest(api.0, "POST", "/api/bindings/%2F/e/x/q/q", "{\"routing_key\":\"a/.*\"}");
    assert_eq!(bound.status, 201);
    assert!(bound.head.contains("location: q/a%252F.%252A"), "{}", bound.head);
    let arguments = json!({ "arguments": { "x-match": "all", "n": 1 } });
    api.post("/bindings/%2F/e/h/q/q", &arguments, 201);
    api.post("/bindings/%2F/e/h/e/x", &json!({ "routing_key": "" }), 201);
    let by_headers = api.get("/bindings/%2F/e/h/q/q");
    assert_eq!(by_headers[0]["arguments"]["n"], 1);
    let key = by_headers[0]["properties_key"].as_str().unwrap();
    assert!(key.starts_with('~') && key.len() > 5, "{key}");
    assert_eq!(api.get(&format!("/bindings/%2F/e/h/q/q/{key}")), by_headers[0]);
    assert_eq!(api.get("/bindings/%2F/e/h/e/x/~")["destination_type"], "exchange");
    let count = |path: &str| api.get(path).as_array().unwrap().len();
    assert_eq!((count("/bindings"), count("/bindings/%2F")), (4, 4));
    assert_eq!(count("/queues/%2F/q/bindings"), 3);
    assert_eq!(count("/exchanges/%2F/h/bindings/source"), 2);
    assert_eq!(count("/exchanges/%2F/x/bindings/destination"), 1);
    assert_eq!(count("/exchanges/%2F//bindings/source"), 1);
    let mut message = json!({
        "routing_key": "a/.b", "payload": "AP8=", "payload_encoding": "base64",
        "properties": { "delivery_mode": 2, "headers": { "list": [1, "x"] }, "type": "t" },
    });
    assert_eq!(api.post("/exchanges/%2F/x/publish", &message, 200)["routed"], true);
    message["payload_encoding"] = json!("string");
    message["payload"] = json!("text");
    message["routing_key"] = json!("nowhere");
    assert_eq!(api.post("/exchanges/%2F/x/publish", &message, 200)["routed"], false);
    message["routing_key"] = json!("q");
    assert_eq!(api.post("/exchanges/%2F/amq.default/publish", &message, 200)["routed"], true);
    api.post("/exchanges/%2F/none/publish", &message, 404);
    message["properties"] = json!({ "delivery_mode": "x" });
    api.post("/exchanges/%2F/x/publish", &message, 400);
    let get = |ackmode: &str, encoding: &str| {
        let wish = json!({ "count": "5", "ackmode": ackmode, "encoding": encoding, "truncate": 3 });
        api.post("/queues/%2F/q/get", &wish, 200)
    };
    let got = get("ack_requeue_true", "auto");
    assert_eq!(
        (&got[0]["payload"], &got[0]["payload_encoding"]),
        (&json!("AP8="), &json!("base64"))
    );
    assert_eq!((&got[1]["payload"], &got[1]["payload_bytes"]), (&json!("tex"), &json!(4)));
    assert_eq!(got[0]["properties"]["headers"]["list"], json!([1, "x"]));
    assert_eq!((&got[0]["exchange"], &got[0]["redelivered"]), (&json!("x"), &json!(false)));
    assert_eq!(get("reject_requeue_true", "base64")[1]["redelivered"], true);
    assert_eq!(get("ack_requeue_false", "auto").as_array().unwrap().len(), 2);
    assert_eq!(get("reject_requeue_false", "auto"), json!([]));
    api.post("/queues/%2F/q/get", &json!({ "ackmode": "no" }), 400);
    api.delete(&format!("/bindings/%2F/e/h/q/q/{key}"), 204);
    api.delete(&format!("/bindings/%2F/e/h/q/q/{key}"), 404);
    api.delete("/bindings/%2F/e/x/q/q/a%252F.%252A", 204);
    api.delete("/exchanges/%2F/h?if-unused=true", 400);
    api.delete("/exchanges/%2F/h", 204);
    api.delete("/exchanges/%2F/amq.topic", 400);
    assert_eq!(count("/bindings"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_limits_and_parameters_are_set_and_outlive_a_restart() {
    let mut server = Server::start();
    let api = Api(server.ports().http);
    let policy = json!({ "pattern": "^q", "definition": { "max-length": 1 }, "priority": "2" });
    api.put("/policies/%2F/short", &policy, 201);
    api.put("/policies/%2F/short", &policy, 204);
    api.put("/policies/%2F/bad", &json!({ "pattern": "(", "definition": {} }), 400);
    let operator =
        json!({ "pattern": "", "definition": { "max-length": 5 }, "apply-to": "queues" });
    api.put("/operator-policies/%2F/op", &operator, 201);
    api.put("/queues/%2F/q", &json!({ "durable": true }), 201);
    for payload in ["1", "2", "3"] {
        let message = json!({
            "routing_key": "q", "payload": payload, "payload_encoding": "string", "properties": {},
        });
        api.post("/exchanges/%2F/amq.default/publish", &message, 200);
    }
    api.put("/vhost-limits/%2F/max-queues", &json!({ "value": 1 }), 204);
    api.put("/vhost-limits/%2F/max-nonsense", &json!({ "value": 1 }), 400);
    api.put("/user-limits/guest/max-channels", &json!({ "value": 7 }), 204);
    api.put("/user-limits/nobody/max-channels", &json!({ "value": 7 }), 404);
    api.put("/parameters/shovel/%2F/s", &json!({ "value": { "a": [null, 1.5] } }), 201);
    api.put("/global-parameters/g", &json!({ "value": "v" }), 201);
    server.restart();
    let api = Api(server.ports().http);
    let queue = api.get("/queues/%2F/q");
    assert_eq!((&queue["policy"], &queue["operator_policy"]), (&json!("short"), &json!("op")));
    assert_eq!(queue["effective_policy_definition"], json!({ "max-length": 1 }));
    assert_eq!(queue["messages"], 1);
    assert_eq!(api.get("/policies")[0]["apply-to"], "all");
    assert_eq!(api.get("/policies/%2F/short")["priority"], 2);
    assert_eq!(api.names("/operator-policies/%2F"), ["op"]);
    let refused = api.put("/queues/%2F/more", &json!({}), 400);
    assert!(refused["reason"].as_str().unwrap().contains("queue limit"), "{refused}");
    let limits = json!([{ "vhost": "/", "value": { "max-queues": 1 } }]);
    assert_eq!((&api.get("/vhost-limits"), &api.get("/vhost-limits/%2F")), (&limits, &limits));
    assert_eq!(api.get("/user-limits/guest")[0]["value"]["max-channels"], 7);
    assert_eq!(api.get("/parameters/shovel/%2F/s")["value"], json!({ "a": [null, 1.5] }));
    assert_eq!(
        (api.names("/parameters"), api.names("/parameters/other")),
        (vec!["s".to_owned()], vec![])
    );
    assert_eq!(api.get("/global-parameters/g")["value"], "v");
    api.delete("/vhost-limits/%2F/max-queues", 204);
    api.delete("/user-limits/guest/max-channels", 204);
    api.delete("/parameters/shovel/%2F/s", 204);
    api.delete("/parameters/shovel/%2F/s", 404);
    api.delete("/global-parameters/g", 204);
    api.delete("/operator-policies/%2F/op", 204);
    api.delete("/policies/%2F/short", 204);
    api.delete("/policies/%2F/short", 404);
    assert_eq!(api.get("/queues/%2F/q").get("policy"), None);
    assert_eq!(api.get("/user-limits"), json!([]));
}
