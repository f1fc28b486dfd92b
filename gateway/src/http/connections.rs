//! `/api/connections`, `/api/channels`, `/api/consumers`: who is connected and what they read, in the
//! shapes of RabbitMQ's management API; a connection is ended by a DELETE.

mod shapes;

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, Uri},
    response::IntoResponse,
    routing::get,
};
use mainstem_broker::roll::{Channel, Consuming, Named, Standing};
use mainstem_schemas::ConsumerId;
use serde_json::Value;
use tokio::{
    task::yield_now,
    time::{Instant, timeout_at},
};

use super::{
    Gate,
    caller::Caller,
    management::{Answer, Failure, list},
};

/// How long connections may take to tell of their channels, all together. One that does not tell in
/// time has ended, or waits for the disk; its channels are left out.
const LOOK_WAIT: Duration = Duration::from_secs(5);
/// Consumers asked for at once.
const PAGE: usize = 1000;
/// Connections shown before others have their turn.
const AT_ONCE: usize = 256;
/// What an operator's tool gives when its user gives no reason.
const REASON: &str = "Closed via management plugin";

/// A connection that has told of its channels.
type Told = (Arc<Standing>, Vec<Channel>);

/// Everything here, without what keeps foreign pages out.
pub(super) fn router() -> Router<Gate> {
    Router::new()
        .route("/api/connections", get(connections))
        .route("/api/connections/{name}", get(connection).delete(end_connection))
        .route("/api/connections/{name}/channels", get(channels_of_connection))
        .route("/api/connections/username/{user}", get(connections_of).delete(end_connections_of))
        .route("/api/vhosts/{vhost}/connections", get(connections_in))
        .route("/api/channels", get(channels))
        .route("/api/channels/{name}", get(channel))
        .route("/api/vhosts/{vhost}/channels", get(channels_in))
        .route("/api/consumers", get(consumers))
        .route("/api/consumers/{vhost}", get(consumers_in))
}

/// Whether somebody may see a connection: their own, or all.
fn sees(caller: &Caller, standing: &Standing) -> bool {
    caller.monitors() || *standing.principal().name == *caller.name
}

/// The same of ending it.
fn may_end(caller: &Caller, standing: &Standing) -> bool {
    caller.must_administrate().is_ok() || *standing.principal().name == *caller.name
}

async fn connections(State(gate): State<Gate>, caller: Caller, uri: Uri) -> Answer {
    list(&uri, list_connections(&gate, |it| sees(&caller, it)).await)
}

async fn connection(State(gate): State<Gate>, caller: Caller, Path(name): Path<String>) -> Answer {
    let found = find(&gate, &name).into_iter().find(|it| sees(&caller, it));
    let found = found.ok_or_else(Failure::not_found)?;
    Ok(Json(shown(&gate, &found)).into_response())
}

/// Clients may share a socket, and with it the name: all of them end.
async fn end_connection(
    State(gate): State<Gate>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Answer {
    let mut found = find(&gate, &name);
    found.retain(|it| may_end(&caller, it));
    if found.is_empty() {
        return Err(Failure::not_found());
    }
    end(&found, &headers);
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn connections_of(
    State(gate): State<Gate>,
    caller: Caller,
    Path(user): Path<String>,
    uri: Uri,
) -> Answer {
    list(
        &uri,
        list_connections(&gate, |it| *it.principal().name == *user && sees(&caller, it)).await,
    )
}

async fn end_connections_of(
    State(gate): State<Gate>,
    caller: Caller,
    Path(user): Path<String>,
    headers: HeaderMap,
) -> StatusCode {
    let wanted = |it: &Standing| *it.principal().name == *user && may_end(&caller, it);
    end(&select(&gate, wanted), &headers);
    StatusCode::NO_CONTENT
}

async fn connections_in(
    State(gate): State<Gate>,
    caller: Caller,
    Path(vhost): Path<String>,
    uri: Uri,
) -> Answer {
    caller.must_see(&gate, &vhost)?;
    let wanted = |it: &Standing| *it.principal().namespace == *vhost && sees(&caller, it);
    list(&uri, list_connections(&gate, wanted).await)
}

async fn channels_of_connection(
    State(gate): State<Gate>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer {
    let mut found = find(&gate, &name);
    found.retain(|it| sees(&caller, it));
    if found.is_empty() {
        return Err(Failure::not_found());
    }
    Ok(Json(channel_values(&gate, found).await).into_response())
}

async fn channels(State(gate): State<Gate>, caller: Caller, uri: Uri) -> Answer {
    list(&uri, list_channels(&gate, |it| sees(&caller, it)).await)
}

async fn channels_in(
    State(gate): State<Gate>,
    caller: Caller,
    Path(vhost): Path<String>,
    uri: Uri,
) -> Answer {
    caller.must_see(&gate, &vhost)?;
    let wanted = |it: &Standing| *it.principal().namespace == *vhost && sees(&caller, it);
    list(&uri, list_channels(&gate, wanted).await)
}

/// The channel, with its consumers.
async fn channel(State(gate): State<Gate>, caller: Caller, Path(name): Path<String>) -> Answer {
    let parts = name.strip_suffix(')').and_then(|name| name.rsplit_once(" ("));
    let Some((connection, number)) = parts else { return Err(Failure::not_found()) };
    let Ok(number) = number.parse::<u16>() else { return Err(Failure::not_found()) };
    let mut found = find(&gate, connection);
    found.retain(|it| sees(&caller, it));
    for (standing, channels) in told(found).await {
        let Some(channel) = channels.iter().find(|channel| channel.number == number) else {
            continue;
        };
        let mut value = shapes::channel(node(&gate), &standing, channel);
        let namespace = standing.principal().namespace.to_string();
        let consumers = consumers_of(&gate, &namespace).await?;
        let its = consumers
            .iter()
            .filter(|it| it.connection == standing.number() && it.pool == number)
            .map(|it| shapes::consumer(node(&gate), &standing, Some(channel), it));
        let its: Vec<Value> = its.collect();
        if let Value::Object(fields) = &mut value {
            fields.insert("consumer_details".to_owned(), its.into());
        }
        return Ok(Json(value).into_response());
    }
    Err(Failure::not_found())
}

async fn consumers(State(gate): State<Gate>, caller: Caller, uri: Uri) -> Answer {
    list(&uri, list_consumers(&gate, |namespace| caller.sees(&gate, namespace)).await?)
}

async fn consumers_in(
    State(gate): State<Gate>,
    caller: Caller,
    Path(vhost): Path<String>,
    uri: Uri,
) -> Answer {
    caller.must_see(&gate, &vhost)?;
    list(&uri, list_consumers(&gate, |namespace| *namespace == *vhost).await?)
}

/// The connections that are wanted, by number.
async fn list_connections(gate: &Gate, is_wanted: impl Fn(&Standing) -> bool) -> Vec<Value> {
    let mut found = Vec::new();
    // There may be very many, and who passes messages on is not to wait for all of them.
    for some in select(gate, is_wanted).chunks(AT_ONCE) {
        found.extend(some.iter().map(|it| shown(gate, it)));
        yield_now().await;
    }
    found
}

/// The channels of the connections that are wanted, by connection and number.
async fn list_channels(gate: &Gate, is_wanted: impl Fn(&Standing) -> bool) -> Vec<Value> {
    channel_values(gate, select(gate, is_wanted)).await
}

async fn channel_values(gate: &Gate, connections: Vec<Arc<Standing>>) -> Vec<Value> {
    let told = told(connections).await;
    let each = told.iter().flat_map(|(standing, channels)| {
        channels.iter().map(|channel| shapes::channel(node(gate), standing, channel))
    });
    each.collect()
}

/// The consumers of queues in these namespaces, by connection.
async fn list_consumers(
    gate: &Gate,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Value>, Failure> {
    let wanted = |it: &Standing| is_wanted(&it.principal().namespace);
    let connections = select(gate, wanted);
    let mut namespaces: Vec<Arc<str>> =
        connections.iter().map(|it| it.principal().namespace.clone()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    let mut found = Vec::new();
    for namespace in namespaces {
        found.extend(consumers_of(gate, &namespace).await?);
    }
    let told: HashMap<u64, Told> =
        told(connections).await.into_iter().map(|it| (it.0.number(), it)).collect();
    let each = found.iter().filter_map(|consuming| {
        // Who has gone since, or does not tell what it calls its consumers, is left out.
        let (standing, channels) = told.get(&consuming.connection)?;
        let channel = channels.iter().find(|channel| channel.number == consuming.pool);
        let is_named = named(channel, consuming.consumer).is_some() || standing.channels_max() == 0;
        is_named.then(|| shapes::consumer(node(gate), standing, channel, consuming))
    });
    Ok(each.collect())
}

async fn consumers_of(gate: &Gate, namespace: &str) -> Result<Vec<Consuming>, Failure> {
    let (mut found, mut from) = (Vec::new(), None);
    loop {
        let (page, next) = gate.broker.consumers(namespace, from, PAGE).await?;
        found.extend(page);
        match next {
            Some(next) => from = Some(next),
            None => return Ok(found),
        }
    }
}

fn select(gate: &Gate, is_wanted: impl Fn(&Standing) -> bool) -> Vec<Arc<Standing>> {
    gate.broker.connections().into_iter().filter(|it| is_wanted(it)).collect()
}

/// The clients behind a connection of this name.
fn find(gate: &Gate, name: &str) -> Vec<Arc<Standing>> {
    // Compared as addresses, since there may be very many.
    let Some((peer, local)) = name.split_once(" -> ") else { return Vec::new() };
    let (Ok(peer), Ok(local)) = (peer.parse(), local.parse()) else { return Vec::new() };
    select(gate, |it| {
        let line = it.line();
        line.peer == peer && line.local == local
    })
}

fn end(connections: &[Arc<Standing>], headers: &HeaderMap) {
    let given = headers.get("x-reason").map(|reason| String::from_utf8_lossy(reason.as_bytes()));
    let reason = given.as_deref().filter(|reason| !reason.is_empty()).unwrap_or(REASON);
    for standing in connections {
        standing.end(reason);
    }
}

/// Those that tell of their channels. All are asked before the first one is waited for.
async fn told(connections: Vec<Arc<Standing>>) -> Vec<Told> {
    let asked: Vec<_> = connections
        .into_iter()
        .map(|standing| {
            let look = (standing.channels_max() > 0).then(|| standing.look());
            (standing, look)
        })
        .collect();
    let deadline = Instant::now() + LOOK_WAIT;
    let mut told = Vec::new();
    for (standing, look) in asked {
        let channels = match look {
            Some(look) => match timeout_at(deadline, look).await {
                Ok(Ok(channels)) => channels,
                Ok(Err(_)) | Err(_) => continue,
            },
            None => Vec::new(),
        };
        told.push((standing, channels));
    }
    told
}

/// What a channel's connection knows of a consumer.
fn named(channel: Option<&Channel>, consumer: ConsumerId) -> Option<&Named> {
    channel?.consumers.iter().find(|named| named.consumer == consumer)
}

fn shown(gate: &Gate, standing: &Standing) -> Value {
    let line = standing.line();
    let bytes = [line.received.bytes(), line.sent.bytes()];
    let rates = gate.node.lines.of(standing.number(), gate.broker.now(), bytes);
    shapes::connection(node(gate), standing, rates)
}

/// What this server is called among others.
fn node(gate: &Gate) -> &str {
    &gate.node.name
}
