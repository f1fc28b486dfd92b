//! Taking a document in. What is there already stays as it is; the rest is made, in an order in which
//! everything finds what it needs.

use std::sync::Arc;

use axum::extract::Path;
use mainstem_amqp::{
    session::Fault,
    topology::{self, ExchangeTerms, QueueTerms},
};
use mainstem_broker::{ApplyTo, Authority, Bind, Bounded, Client, Scope};
use serde_json::Value as Json;
use tokio::task::JoinSet;

use super::{VHOST_LIMITS, rule};
use crate::{
    access::grant::{Permission, TopicPermission},
    http::{
        Gate,
        identities::{users, vhosts},
        management::{
            answer::{self, Answer, Failure},
            body::Body,
            caller::Caller,
            parameters, values,
        },
    },
};

/// Things that are made at a time: they share syncs of the disk.
const AT_ONCE: usize = 64;

pub(crate) async fn import(caller: Caller, body: Body) -> Answer {
    caller.must_administrate()?;
    take_in(&caller.gate, None, &body).await?;
    Ok(answer::gone())
}

/// Into one virtual host, which the document does not name.
pub(crate) async fn import_into(caller: Caller, Path(vhost): Path<String>, body: Body) -> Answer {
    caller.must_administrate()?;
    caller.check_namespace(&vhost)?;
    take_in(&caller.gate, Some(&vhost), &body).await?;
    Ok(answer::gone())
}

/// What a list of the document has, with the virtual host each is in.
struct Item {
    vhost: String,
    of: Body,
}

/// A list of the document; what is not there is empty.
fn list(document: &Body, key: &str) -> Result<Vec<Body>, Failure> {
    let Some(list) = document.given(key) else { return Ok(Vec::new()) };
    let odd = || Failure::bad(format!("{key} is no list of objects"));
    let list = list.as_array().ok_or_else(odd)?;
    list.iter().map(|one| one.as_object().cloned().map(Body::of).ok_or_else(odd)).collect()
}

/// The same where each is in a virtual host.
fn items(document: &Body, key: &str, vhost: Option<&str>) -> Result<Vec<Item>, Failure> {
    let all = list(document, key)?.into_iter().map(|of| {
        let vhost = match vhost {
            Some(vhost) => vhost.to_owned(),
            None => of.wanted_text("vhost")?.to_owned(),
        };
        Ok(Item { vhost, of })
    });
    all.collect()
}

async fn take_in(gate: &Gate, vhost: Option<&str>, document: &Body) -> Result<(), Failure> {
    if vhost.is_none() {
        take_in_identities(gate, document).await?;
    }
    for Item { vhost, of } in items(document, "parameters", vhost)? {
        take_in_parameter(gate, &vhost, &of).await?;
    }
    for Item { vhost, of } in items(document, "policies", vhost)? {
        check_vhost(gate, &vhost)?;
        let rule = rule(of.wanted_text("name")?, &of, ApplyTo::All)?;
        gate.broker.set_policy(&vhost, Authority::User, rule).await?;
    }
    let clients = Clients::new(gate);
    clients.make(items(document, "exchanges", vhost)?, Made::Exchange).await?;
    clients.make(items(document, "queues", vhost)?, Made::Queue).await?;
    clients.make(items(document, "bindings", vhost)?, Made::Binding).await
}

async fn take_in_identities(gate: &Gate, document: &Body) -> Result<(), Failure> {
    for of in list(document, "users")? {
        let name = of.wanted_text("name")?.to_owned();
        if let Some(limits) = of.given("limits").and_then(Json::as_object) {
            for (word, max) in limits {
                limit(gate, &Scope::User(name.clone()), word, max).await?;
            }
        }
        users::put(gate, &name, of.read()?).await?;
    }
    for of in list(document, "vhosts")? {
        vhosts::put(gate, of.wanted_text("name")?, of.read()?).await?;
    }
    for of in list(document, "permissions")? {
        let text = |key: &str| of.wanted_text(key).map(str::to_owned);
        let (configure, write, read) = (text("configure")?, text("write")?, text("read")?);
        let permission = Permission { configure, write, read };
        gate.registry.set_permission(&text("vhost")?, &text("user")?, &permission).await?;
    }
    for of in list(document, "topic_permissions")? {
        let text = |key: &str| of.wanted_text(key).map(str::to_owned);
        let topic = TopicPermission { write: text("write")?, read: text("read")? };
        let (vhost, user, exchange) = (text("vhost")?, text("user")?, text("exchange")?);
        gate.registry.set_topic_permission(&vhost, &user, &exchange, &topic).await?;
    }
    for of in list(document, "global_parameters")? {
        let value = values::value(of.value("value")?)?;
        let name = of.wanted_text("name")?;
        parameters::keep(gate, parameters::GLOBAL, name, value).await?;
    }
    Ok(())
}

async fn take_in_parameter(gate: &Gate, vhost: &str, of: &Body) -> Result<(), Failure> {
    check_vhost(gate, vhost)?;
    let (component, name) = (of.wanted_text("component")?, of.wanted_text("name")?);
    let value = of.value("value")?;
    match component {
        "operator_policy" => {
            let odd = || Failure::bad("an operator policy is no object");
            let of = value.as_object().cloned().map(Body::of).ok_or_else(odd)?;
            let rule = rule(name, &of, ApplyTo::Queues)?;
            gate.broker.set_policy(vhost, Authority::Operator, rule).await?;
        }
        component if component == VHOST_LIMITS.0 => {
            for (word, max) in value.as_object().into_iter().flatten() {
                limit(gate, &Scope::Namespace(vhost.to_owned()), word, max).await?;
            }
        }
        _ => {
            let key = parameters::key(component, name)?;
            parameters::keep(gate, vhost, &key, values::value(value)?).await?;
        }
    }
    Ok(())
}

/// A limit below zero is none.
async fn limit(gate: &Gate, scope: &Scope, word: &str, max: &Json) -> Result<(), Failure> {
    let unknown = || Failure::bad(format!("unrecognised limit '{word}'"));
    let bounded = Bounded::from_word(word).ok_or_else(unknown)?;
    Ok(gate.broker.set_limit(scope, bounded, max.as_u64()).await?)
}

fn check_vhost(gate: &Gate, vhost: &str) -> Result<(), Failure> {
    let is_known = gate.registry.directory().namespaces.contains_key(vhost);
    let unknown = || Failure::bad(format!("there is no virtual host '{vhost}'"));
    is_known.then_some(()).ok_or_else(unknown)
}

/// What is made in virtual hosts.
#[derive(Clone, Copy)]
enum Made {
    Exchange,
    Queue,
    Binding,
}

/// Makes things in virtual hosts, many at a time.
struct Clients<'a> {
    gate: &'a Gate,
}

impl<'a> Clients<'a> {
    fn new(gate: &'a Gate) -> Self {
        Self { gate }
    }

    async fn make(&self, mut items: Vec<Item>, made: Made) -> Result<(), Failure> {
        // A stable order within each; documents have them by virtual host already.
        items.sort_by(|one, other| one.vhost.cmp(&other.vhost));
        let mut rest = items.into_iter().peekable();
        while let Some(first) = rest.peek() {
            let vhost = first.vhost.clone();
            check_vhost(self.gate, &vhost)?;
            let (client, _inbox) = self.gate.broker.own_client(&vhost).await?;
            let client = Arc::new(client);
            let mut done = Ok(());
            while done.is_ok() && rest.peek().is_some_and(|item| item.vhost == vhost) {
                let mut some = JoinSet::new();
                while some.len() < AT_ONCE
                    && let Some(item) = rest.next_if(|item| item.vhost == vhost)
                {
                    let (gate, client) = (self.gate.clone(), client.clone());
                    some.spawn(async move { make(&gate, &client, &item, made).await });
                }
                for one in some.join_all().await {
                    done = done.and(one);
                }
            }
            if let Some(client) = Arc::into_inner(client) {
                client.close().await;
            }
            done?;
        }
        Ok(())
    }
}

async fn make(gate: &Gate, client: &Client, item: &Item, made: Made) -> Result<(), Failure> {
    let Item { vhost, of } = item;
    match made {
        Made::Exchange => {
            let name = of.wanted_text("name")?.to_owned();
            if gate.broker.show_exchange(vhost, &name).await?.is_some() {
                return Ok(());
            }
            let terms = ExchangeTerms {
                name: name.clone(),
                kind: of.wanted_text("type")?.to_owned().into(),
                durable: of.flag("durable")?,
                auto_delete: of.flag("auto_delete")?,
                internal: of.flag("internal")?,
                arguments: of.table("arguments")?,
            };
            named(&name, topology::declare_exchange(client, terms).await)
        }
        Made::Queue => {
            let name = of.wanted_text("name")?.to_owned();
            if gate.broker.show_queue(vhost, &name).await?.is_some() {
                return Ok(());
            }
            let terms = QueueTerms {
                name: name.clone(),
                durable: of.flag("durable")?,
                exclusive: false,
                auto_delete: of.flag("auto_delete")?,
                arguments: of.table("arguments")?,
            };
            named(&name, topology::declare_queue(client, terms).await)
        }
        Made::Binding => {
            let destination = of.wanted_text("destination")?.to_owned();
            let bind = Bind {
                source: of.wanted_text("source")?.to_owned(),
                to_exchange: of.wanted_text("destination_type")? == "exchange",
                destination: destination.clone(),
                key: of.text("routing_key")?.unwrap_or_default().to_owned().into(),
                arguments: of.table("arguments")?,
            };
            if bind.source.is_empty() {
                // The default exchange leads to every queue already.
                return Ok(());
            }
            named(&destination, topology::bind(client, bind).await.map(|()| true))
        }
    }
}

/// Says what it was about.
fn named(name: &str, done: Result<bool, Fault>) -> Result<(), Failure> {
    done.map(drop).map_err(|fault| Failure::bad(format!("'{name}': {}", fault.text)))
}
