//! `/api/bindings`, and the bindings of exchanges and queues.

use axum::{
    extract::Path,
    http::{StatusCode, header},
    response::IntoResponse,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use mainstem_amqp::topology;
use mainstem_broker::{Bind, BindingsOf};
use mainstem_schemas::{Table, value::encode_table};
use serde_json::{Value as Json, json};
use sha1::{Digest, Sha1};

use super::{
    answer::{self, Answer, Failure},
    body::Body,
    caller::Caller,
    exchanges, gathering,
    gathering::Gathering,
    queues, values,
};
use crate::http::normalize::percent_decode;

/// Namespace, source, `q` or `e`, destination.
type Between = (String, String, String, String);

pub(super) async fn list_all(caller: Caller) -> Answer {
    let mut all = Gathering::new(&caller.query)?;
    for namespace in caller.namespaces() {
        gather_implied(&caller, &namespace, &mut all).await?;
        gather(&caller, &namespace, &BindingsOf::default(), &mut all).await?;
    }
    all.answer()
}

pub(super) async fn list(caller: Caller, Path(vhost): Path<String>) -> Answer {
    caller.check_namespace(&vhost)?;
    let mut all = Gathering::new(&caller.query)?;
    gather_implied(&caller, &vhost, &mut all).await?;
    gather(&caller, &vhost, &BindingsOf::default(), &mut all).await?;
    all.answer()
}

pub(super) async fn from_exchange(caller: Caller, path: Path<(String, String)>) -> Answer {
    let (vhost, name) = path.0;
    caller.check_namespace(&vhost)?;
    let source = exchanges::name_of(name);
    exchanges::find(&caller, &vhost, &source).await?;
    let mut all = Gathering::new(&caller.query)?;
    if source.is_empty() {
        gather_implied(&caller, &vhost, &mut all).await?;
    } else {
        let of = BindingsOf { source: Some(source), destination: None };
        gather(&caller, &vhost, &of, &mut all).await?;
    }
    all.answer()
}

pub(super) async fn to_exchange(caller: Caller, path: Path<(String, String)>) -> Answer {
    let (vhost, name) = path.0;
    caller.check_namespace(&vhost)?;
    let name = exchanges::name_of(name);
    exchanges::find(&caller, &vhost, &name).await?;
    let of = BindingsOf { source: None, destination: Some((name, true)) };
    let mut all = Gathering::new(&caller.query)?;
    gather(&caller, &vhost, &of, &mut all).await?;
    all.answer()
}

pub(super) async fn to_queue(caller: Caller, path: Path<(String, String)>) -> Answer {
    let (vhost, name) = path.0;
    queues::find_queue(&caller, &vhost, &name).await?;
    let mut all = Gathering::new(&caller.query)?;
    all.add(&name, || shown(&vhost, &implied(&name)));
    let of = BindingsOf { source: None, destination: Some((name, false)) };
    gather(&caller, &vhost, &of, &mut all).await?;
    all.answer()
}

pub(super) async fn between(caller: Caller, Path(ends): Path<Between>) -> Answer {
    let found = find(&caller, &ends).await?;
    let mut all = Gathering::new(&caller.query)?;
    for bind in &found {
        all.add(&bind.source, || shown(&ends.0, bind));
    }
    all.answer()
}

pub(super) async fn bind(caller: Caller, Path(ends): Path<Between>, body: Body) -> Answer {
    let (vhost, source, kind, destination) = ends;
    let bind = Bind {
        source: exchanges::name_of(source),
        to_exchange: is_exchange(&kind)?,
        destination,
        key: body.text("routing_key")?.unwrap_or_default().to_owned().into(),
        arguments: body.table("arguments")?,
    };
    let (client, _inbox) = caller.enter(&vhost).await?;
    let bound = topology::bind(&client, bind.clone()).await;
    client.close().await;
    bound?;
    // From where it was posted, as RabbitMQ says it.
    let parts = [&*bind.destination, &*properties_key(&bind)];
    let location = parts.map(|part| quote(part.as_bytes())).join("/");
    Ok((StatusCode::CREATED, [(header::LOCATION, location)]).into_response())
}

pub(super) async fn show(
    caller: Caller,
    path: Path<(String, String, String, String, String)>,
) -> Answer {
    let (vhost, source, kind, destination, key) = path.0;
    let found = find_one(&caller, (vhost.clone(), source, kind, destination), &key).await?;
    gathering::show(&caller.query, shown(&vhost, &found))
}

pub(super) async fn unbind(
    caller: Caller,
    path: Path<(String, String, String, String, String)>,
) -> Answer {
    let (vhost, source, kind, destination, key) = path.0;
    let found = find_one(&caller, (vhost.clone(), source, kind, destination), &key).await?;
    let (client, _inbox) = caller.enter(&vhost).await?;
    let unbound = topology::unbind(&client, found).await;
    client.close().await;
    unbound?;
    Ok(answer::gone())
}

fn is_exchange(kind: &str) -> Result<bool, Failure> {
    match kind {
        "q" => Ok(false),
        "e" => Ok(true),
        _ => Err(Failure::not_found()),
    }
}

async fn find_one(caller: &Caller, ends: Between, key: &str) -> Result<Bind, Failure> {
    let found = find(caller, &ends).await?;
    let is_it = |bind: &Bind| {
        let its = properties_key(bind);
        // Some tools encode the key once more, as it is meant; others do not.
        its == key || percent_decode(&its.replace('+', " ")) == key.as_bytes()
    };
    found.into_iter().find(is_it).ok_or_else(Failure::not_found)
}

/// All bindings between two ends. Errors: there is no such end.
async fn find(caller: &Caller, ends: &Between) -> Result<Vec<Bind>, Failure> {
    let (vhost, source, kind, destination) = ends;
    caller.check_namespace(vhost)?;
    let (source, to_exchange) = (exchanges::name_of(source.clone()), is_exchange(kind)?);
    exchanges::find(caller, vhost, &source).await?;
    if to_exchange {
        exchanges::find(caller, vhost, destination).await?;
    } else {
        queues::find_queue(caller, vhost, destination).await?;
        if source.is_empty() {
            return Ok(vec![implied(destination)]);
        }
    }
    let destination = Some((destination.clone(), to_exchange));
    let of = BindingsOf { source: Some(source), destination };
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = caller.gate.broker.list_bindings(vhost, of.clone(), after).await?;
        found.extend(page.items);
        after = page.next;
        if after.is_none() {
            return Ok(found);
        }
    }
}

async fn gather(
    caller: &Caller,
    vhost: &str,
    of: &BindingsOf,
    all: &mut Gathering,
) -> Result<(), Failure> {
    let mut after = None;
    loop {
        let page = caller.gate.broker.list_bindings(vhost, of.clone(), after).await?;
        for bind in &page.items {
            all.add(&bind.source, || shown(vhost, bind));
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// The default exchange leads to every queue by its name.
async fn gather_implied(caller: &Caller, vhost: &str, all: &mut Gathering) -> Result<(), Failure> {
    let mut after = None;
    loop {
        let page = caller.gate.broker.list_queues(vhost, after).await?;
        for queue in &page.items {
            all.add("", || shown(vhost, &implied(&queue.def.name)));
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

fn implied(queue: &str) -> Bind {
    Bind {
        source: String::new(),
        destination: queue.to_owned(),
        to_exchange: false,
        key: queue.to_owned().into(),
        arguments: Table::new(),
    }
}

pub(super) fn shown(vhost: &str, bind: &Bind) -> Json {
    json!({
        "source": bind.source,
        "vhost": vhost,
        "destination": bind.destination,
        "destination_type": if bind.to_exchange { "exchange" } else { "queue" },
        "routing_key": String::from_utf8_lossy(&bind.key),
        "arguments": values::show_table(&bind.arguments),
        "properties_key": properties_key(bind),
    })
}

/// What tells a binding from the others between the same ends.
fn properties_key(bind: &Bind) -> String {
    let key = quote(&bind.key);
    if bind.arguments.is_empty() {
        return if key.is_empty() { "~".to_owned() } else { key };
    }
    let mut stored = Vec::new();
    encode_table(&bind.arguments, &mut stored);
    let digest = Sha1::digest(&stored);
    format!("{key}~{}", BASE64_URL_SAFE_NO_PAD.encode(digest))
}

/// As part of a path, without `~`, which has a meaning in keys.
fn quote(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                out.push(char::from(*byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use mainstem_schemas::Value;

    use super::*;

    #[test]
    fn a_properties_key_is_the_quoted_key_and_a_hash_of_arguments() {
        let bind = |key: &str, arguments: Table| {
            properties_key(&Bind { key: key.to_owned().into(), arguments, ..implied("q") })
        };
        assert_eq!(bind("", Table::new()), "~");
        assert_eq!(bind("a.*.#/~", Table::new()), "a.%2A.%23%2F%7E");
        let one = bind("", vec![("x".to_owned(), Value::Int(1))]);
        assert!(one.starts_with('~') && one.len() > 8, "{one}");
        assert_ne!(one, bind("", vec![("x".to_owned(), Value::Int(2))]));
    }
}
