//! `/api/queues`.

use axum::extract::Path;
use mainstem_amqp::topology::{self, QueueTerms};
use mainstem_broker::{QueueDef, QueueShown, Retention};
use mainstem_schemas::{Value, value::find};
use serde_json::{Value as Json, json};

use super::{
    answer::{self, Answer, Failure},
    body::Body,
    caller::Caller,
    gathering::{self, Gathering},
    statistics, values,
};

pub(super) async fn list_all(caller: Caller) -> Answer {
    let mut all = Gathering::new(&caller.query)?;
    for namespace in caller.namespaces() {
        gather(&caller, &namespace, &mut all).await?;
    }
    all.answer()
}

pub(super) async fn list(caller: Caller, Path(vhost): Path<String>) -> Answer {
    caller.check_namespace(&vhost)?;
    let mut all = Gathering::new(&caller.query)?;
    gather(&caller, &vhost, &mut all).await?;
    all.answer()
}

async fn gather(caller: &Caller, vhost: &str, all: &mut Gathering) -> Result<(), Failure> {
    let mut after = None;
    loop {
        let page = caller.gate.broker.list_queues(vhost, after).await?;
        for queue in &page.items {
            all.add(&queue.def.name, || shown(&caller.gate.node.name, vhost, queue));
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

pub(super) async fn show(caller: Caller, path: Path<(String, String)>) -> Answer {
    let (vhost, name) = path.0;
    let found = find_queue(&caller, &vhost, &name).await?;
    let mut queue = shown(&caller.gate.node.name, &vhost, &found);
    if let Some(queue) = queue.as_object_mut() {
        let details = [("consumer_details", json!([])), ("deliveries", json!([]))];
        queue.extend(details.map(|(name, value)| (name.to_owned(), value)));
        queue.insert("incoming".to_owned(), json!([]));
    }
    gathering::show(&caller.query, queue)
}

/// The queue of that name. Errors: there is none.
pub(super) async fn find_queue(
    caller: &Caller,
    vhost: &str,
    name: &str,
) -> Result<QueueShown, Failure> {
    caller.check_namespace(vhost)?;
    let found = caller.gate.broker.show_queue(vhost, name).await?;
    found.ok_or_else(Failure::not_found)
}

pub(super) async fn declare(caller: Caller, path: Path<(String, String)>, body: Body) -> Answer {
    let (vhost, name) = path.0;
    let terms = QueueTerms {
        name,
        durable: body.flag("durable")?,
        exclusive: false,
        auto_delete: body.flag("auto_delete")?,
        arguments: body.table("arguments")?,
    };
    let (client, _inbox) = caller.enter(&vhost).await?;
    let declared = topology::declare_queue(&client, terms).await;
    client.close().await;
    Ok(answer::put(declared?))
}

pub(super) async fn delete(caller: Caller, path: Path<(String, String)>) -> Answer {
    let (vhost, name) = path.0;
    let (client, _inbox) = caller.enter(&vhost).await?;
    let is_true = |name| caller.query.is_true(name);
    let (if_unused, if_empty) = (is_true("if-unused"), is_true("if-empty"));
    let deleted = topology::delete_queue(&client, &name, if_unused, if_empty).await;
    client.close().await;
    deleted?;
    Ok(answer::gone())
}

pub(super) async fn purge(caller: Caller, path: Path<(String, String)>) -> Answer {
    let (vhost, name) = path.0;
    let (client, _inbox) = caller.enter(&vhost).await?;
    let purged = topology::purge_queue(&client, &name).await;
    client.close().await;
    purged?;
    Ok(answer::gone())
}

/// RabbitMQ's word for what kind of queue it is.
pub(super) fn kind(def: &QueueDef) -> &str {
    let asked = find(&def.arguments, "x-queue-type").and_then(Value::as_text);
    match def.retention {
        Retention::Time => "stream",
        Retention::Unsettled | Retention::Cursors => asked.unwrap_or("classic"),
    }
}

fn shown(node: &str, vhost: &str, queue: &QueueShown) -> Json {
    let QueueShown { def, stats, ready_bytes, unsettled_bytes, head, ruled, counts } = queue;
    let kind = kind(def);
    let messages = stats.ready.saturating_add(stats.unsettled);
    let bytes = ready_bytes.saturating_add(*unsettled_bytes);
    let mut shown = json!({
        "name": def.name,
        "vhost": vhost,
        "type": kind,
        "durable": def.durable,
        "auto_delete": def.auto_delete,
        "exclusive": def.exclusive,
        "arguments": values::show_table(&def.arguments),
        "node": node,
        "state": "running",
        "effective_policy_definition": values::show_table(&ruled.definition),
        "consumers": stats.consumers,
        "messages": messages,
        "messages_ready": stats.ready,
        "messages_unacknowledged": stats.unsettled,
        "message_bytes": bytes,
        "message_bytes_ready": ready_bytes,
        "message_bytes_unacknowledged": unsettled_bytes,
    });
    let Some(fields) = shown.as_object_mut() else { return shown };
    // Some tools cannot read a null.
    let mut add = |name: &str, value: Option<Json>| {
        fields.extend(value.map(|value| (name.to_owned(), value)));
    };
    add("policy", ruled.user.as_deref().map(Json::from));
    add("operator_policy", ruled.operator.as_deref().map(Json::from));
    add("head_message_timestamp", head.is_set().then(|| Json::from(head.0 / 1000)));
    add("message_stats", counts.map(|counts| statistics::of(&counts.did)));
    let (ready, unsettled) = counts
        .map_or((0.0, 0.0), |counts| (counts.ready.per_second(), counts.unsettled.per_second()));
    for (name, rate) in [
        ("messages_details", ready + unsettled),
        ("messages_ready_details", ready),
        ("messages_unacknowledged_details", unsettled),
    ] {
        add(name, Some(json!({ "rate": rate })));
    }
    if kind != "classic" {
        add("leader", Some(json!(node)));
        add("members", Some(json!([node])));
        add("online", Some(json!([node])));
        // Attempts are one more than returns.
        let limit = def.policy.delivery.attempts_max.map(|attempts| attempts.saturating_sub(1));
        add("delivery_limit", limit.map(Json::from));
    }
    shown
}
