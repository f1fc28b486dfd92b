//! Every stage of a batch's way is measured, and `/metrics` shows it.

use mainstem_tests::{Amqp, Deadline, Server, http};

const STAGES: [&str; 9] = [
    "mainstem_append_seconds",
    "mainstem_write_seconds",
    "mainstem_sync_seconds",
    "mainstem_batch_bytes",
    "mainstem_apply_seconds",
    "mainstem_checkpoint_seconds",
    "mainstem_flush_seconds",
    "mainstem_deliver_seconds",
    "mainstem_confirm_seconds",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stage_is_a_histogram_that_fills() {
    let server = Server::start_with(&["store.checkpoint_bytes=65536"]);
    let port = server.ports().http;
    let amqp = Amqp::connect(server.ports().amqp).await;
    amqp.queue("q", None).await;
    let body = vec![7; 30_000];
    let deadline = Deadline::seconds(20);
    let mut page = String::new();
    let is_filled = |page: &str, stage: &str| {
        let count = page.lines().find_map(|line| line.strip_prefix(&format!("{stage}_count ")));
        count.is_some_and(|count| count != "0")
    };
    while !STAGES.iter().all(|stage| is_filled(&page, stage)) {
        assert!(!deadline.passed(), "not all stages are there:\n{page}");
        amqp.publish("", "q", &body).await;
        assert_eq!(amqp.take("q").await.as_deref(), Some(body.as_slice()));
        page = http::get(port, "/metrics").body;
    }
    for stage in STAGES {
        let bucket = if stage.ends_with("_bytes") { "65536" } else { "0.00005" };
        let bucket = format!("{stage}_bucket{{le=\"{bucket}\"}}");
        assert!(page.contains(&bucket), "no {bucket}:\n{page}");
        assert!(page.contains(&format!("# TYPE {stage} histogram")), "{stage} is no histogram");
    }
    let sum = |stage: &str| http::metric(port, &format!("{stage}_sum")).unwrap();
    assert!(sum("mainstem_batch_bytes") >= 30_000.0);
}
