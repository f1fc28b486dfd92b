//! Publishing to exchanges and getting from queues, one request at a time.

use axum::{Json as Answered, extract::Path, response::IntoResponse};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use mainstem_amqp::{
    message::{self, Got},
    session::Content,
};
use mainstem_broker::Client;
use mainstem_schemas::{Settlement, Verdict};
use serde_json::{Value as Json, json};

use super::{
    answer::{Answer, Failure},
    body::Body,
    caller::Caller,
    exchanges, values,
};

/// What one request gets at most: messages, and bytes of their bodies.
const GOT_MAX: i64 = 10_000;
const GOT_BYTES_MAX: usize = 64 << 20;

pub(super) async fn publish(caller: Caller, path: Path<(String, String)>, body: Body) -> Answer {
    let (vhost, exchange) = path.0;
    let payload = body.wanted_text("payload")?;
    let payload = match body.wanted_text("payload_encoding")? {
        "string" => Bytes::from(payload.to_owned()),
        "base64" => {
            let wrong = |_| Failure::bad("payload is not base64");
            BASE64_STANDARD.decode(payload).map_err(wrong)?.into()
        }
        other => return Err(Failure::bad(format!("unsupported payload_encoding '{other}'"))),
    };
    let content = Content {
        exchange: exchanges::name_of(exchange).into(),
        routing_key: body.wanted_text("routing_key")?.to_owned().into(),
        properties: message::properties(&body.table("properties")?)?,
        body: payload,
        reply_queue: None,
    };
    let (client, _inbox) = caller.enter(&vhost).await?;
    let published = message::publish(&client, &content).await;
    client.close().await;
    Ok(Answered(json!({ "routed": published? })).into_response())
}

/// What becomes of messages that were got.
fn verdict_of(body: &Body) -> Result<Verdict, Failure> {
    let word = match (body.text("ackmode")?, body.text("requeue")?) {
        (Some(word), _) => word,
        // As tools wrote it before 3.7.
        (None, Some("false")) => "ack_requeue_false",
        (None, _) => "ack_requeue_true",
    };
    match word {
        "ack_requeue_true" | "reject_requeue_true" => Ok(Verdict::Release),
        "ack_requeue_false" => Ok(Verdict::Accept),
        "reject_requeue_false" => Ok(Verdict::Reject),
        other => Err(Failure::bad(format!("unsupported ackmode '{other}'"))),
    }
}

pub(super) async fn get(caller: Caller, path: Path<(String, String)>, body: Body) -> Answer {
    let (vhost, queue) = path.0;
    let verdict = verdict_of(&body)?;
    let count = body.int("count")?.unwrap_or(1);
    if !(0..=GOT_MAX).contains(&count) {
        return Err(Failure::bad(format!("count is not from 0 to {GOT_MAX}")));
    }
    let encoding = body.text("encoding")?.unwrap_or("auto");
    if !matches!(encoding, "auto" | "base64") {
        return Err(Failure::bad(format!("unsupported encoding '{encoding}'")));
    }
    let truncate = body.int("truncate")?.and_then(|bytes| usize::try_from(bytes).ok());
    let (client, _inbox) = caller.enter(&vhost).await?;
    let got = get_all(&client, &queue, count, verdict).await;
    client.close().await;
    let shown = got?.iter().map(|got| shown(got, encoding == "base64", truncate)).collect();
    Ok(Answered(Json::Array(shown)).into_response())
}

async fn get_all(
    client: &Client,
    queue: &str,
    count: i64,
    verdict: Verdict,
) -> Result<Vec<Got>, Failure> {
    let (mut all, mut bytes) = (Vec::new(), 0);
    for _ in 0..count {
        let Some(got) = message::get(client, queue).await? else { break };
        bytes += got.content.body.len();
        all.push(got);
        if bytes >= GOT_BYTES_MAX {
            break;
        }
    }
    let settled = all.iter().map(|got| Settlement { id: got.id, verdict }).collect();
    client.settle_durably(settled).await?;
    Ok(all)
}

fn shown(got: &Got, is_base64: bool, truncate: Option<usize>) -> Json {
    let content = &got.content;
    let cut = truncate.and_then(|bytes| content.body.get(..bytes)).unwrap_or(&content.body);
    let text = std::str::from_utf8(cut).ok().filter(|_| !is_base64);
    let (payload, encoding) = match text {
        Some(text) => (text.to_owned(), "string"),
        None => (BASE64_STANDARD.encode(cut), "base64"),
    };
    json!({
        "payload_bytes": content.body.len(),
        "redelivered": got.redelivered,
        "exchange": String::from_utf8_lossy(&content.exchange),
        "routing_key": String::from_utf8_lossy(&content.routing_key),
        "message_count": got.left,
        "properties": values::show_table(&message::told_properties(&content.properties)),
        "payload": payload,
        "payload_encoding": encoding,
    })
}
