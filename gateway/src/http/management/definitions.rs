//! `/api/definitions`: everything but messages, as one document that RabbitMQ's tools read and write.

mod import;

use axum::extract::Path;
use mainstem_amqp::session::type_word;
use mainstem_broker::{ApplyTo, Authority, BindingsOf, Rule, Scope};
use serde_json::{Map, Value as Json, json};

use super::{
    answer::{Answer, Failure},
    bindings,
    caller::Caller,
    gathering, parameters, policies, queues, values,
};
use crate::http::identities::{permissions, users, vhosts};

pub(super) use import::{import, import_into};

/// The component and the name that RabbitMQ keeps the limits of a virtual host under.
const VHOST_LIMITS: (&str, &str) = ("vhost-limits", "limits");

/// The lists of a document.
#[derive(Default)]
struct Lists {
    parameters: Vec<Json>,
    policies: Vec<Json>,
    queues: Vec<Json>,
    exchanges: Vec<Json>,
    bindings: Vec<Json>,
}

/// The whole server.
pub(super) async fn export(caller: Caller) -> Answer {
    caller.must_administrate()?;
    let gate = &caller.gate;
    let directory = gate.registry.directory();
    let mut lists = Lists::default();
    for vhost in directory.namespaces.keys() {
        lists.gather(&caller, vhost).await?;
    }
    let mut accounts = Vec::new();
    for (name, account) in &directory.users {
        let mut user = users::shown(name, account);
        let limits = limits(&caller, &Scope::User(name.clone())).await?;
        if let Some(user) = user.as_object_mut() {
            user.insert("limits".to_owned(), limits);
        }
        accounts.push(user);
    }
    let described = directory.namespaces.iter();
    let global = parameters::global(gate).await?.into_iter();
    let global = global.map(|(name, value)| json!({ "name": name, "value": values::show(&value) }));
    let version = &gate.config.interop.rabbitmq_version;
    let document = json!({
        "rabbit_version": version,
        "rabbitmq_version": version,
        "product_name": "Mainstem",
        "product_version": env!("CARGO_PKG_VERSION"),
        "users": accounts,
        "vhosts": described.map(|(name, one)| vhosts::shown(name, one)).collect::<Vec<_>>(),
        "permissions": permissions::all(&directory, |_, _| true),
        "topic_permissions": permissions::all_topics(&directory, |_, _| true),
        "global_parameters": global.collect::<Vec<_>>(),
        "parameters": lists.parameters,
        "policies": lists.policies,
        "queues": lists.queues,
        "exchanges": lists.exchanges,
        "bindings": lists.bindings,
    });
    gathering::show(&caller.query, document)
}

/// One virtual host, to be imported into any.
pub(super) async fn export_one(caller: Caller, Path(vhost): Path<String>) -> Answer {
    caller.must_make_policies()?;
    caller.check_namespace(&vhost)?;
    let mut lists = Lists::default();
    lists.gather(&caller, &vhost).await?;
    let all = [
        &mut lists.parameters,
        &mut lists.policies,
        &mut lists.queues,
        &mut lists.exchanges,
        &mut lists.bindings,
    ];
    for one in all.into_iter().flatten().filter_map(Json::as_object_mut) {
        one.remove("vhost");
    }
    let version = &caller.gate.config.interop.rabbitmq_version;
    let document = json!({
        "rabbit_version": version,
        "rabbitmq_version": version,
        "parameters": lists.parameters,
        "policies": lists.policies,
        "queues": lists.queues,
        "exchanges": lists.exchanges,
        "bindings": lists.bindings,
    });
    gathering::show(&caller.query, document)
}

impl Lists {
    async fn gather(&mut self, caller: &Caller, vhost: &str) -> Result<(), Failure> {
        let broker = &caller.gate.broker;
        let mut after = None;
        loop {
            let page = broker.list_queues(vhost, after).await?;
            let named = page.items.iter().filter(|queue| !queue.def.exclusive);
            self.queues.extend(named.map(|queue| {
                json!({
                    "name": queue.def.name,
                    "vhost": vhost,
                    "durable": queue.def.durable,
                    "auto_delete": queue.def.auto_delete,
                    "type": queues::kind(&queue.def),
                    "arguments": values::show_table(&queue.def.arguments),
                })
            }));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        self.gather_exchanges(caller, vhost).await?;
        self.gather_bindings(caller, vhost).await?;
        for rule in broker.list_policies(vhost, Authority::User).await? {
            self.policies.push(policies::shown(vhost, &rule));
        }
        for rule in broker.list_policies(vhost, Authority::Operator).await? {
            let mut value = policies::shown(vhost, &rule);
            if let Some(value) = value.as_object_mut() {
                value.remove("vhost");
                value.remove("name");
            }
            self.keep(vhost, "operator_policy", &rule.name, value);
        }
        let limits = limits(caller, &Scope::Namespace(vhost.to_owned())).await?;
        if limits.as_object().is_some_and(|limits| !limits.is_empty()) {
            self.keep(vhost, VHOST_LIMITS.0, VHOST_LIMITS.1, limits);
        }
        for (key, value) in parameters::kept(&caller.gate, vhost).await? {
            let Some((component, name)) = key.split_once(parameters::BETWEEN) else { continue };
            self.keep(vhost, component, name, values::show(&value));
        }
        Ok(())
    }

    fn keep(&mut self, vhost: &str, component: &str, name: &str, value: Json) {
        let (component, name) = (component.to_owned(), name.to_owned());
        self.parameters.push(json!({
            "vhost": vhost,
            "component": component,
            "name": name,
            "value": value,
        }));
    }

    /// Those that are everywhere are not told.
    async fn gather_exchanges(&mut self, caller: &Caller, vhost: &str) -> Result<(), Failure> {
        let mut after = None;
        loop {
            let page = caller.gate.broker.list_exchanges(vhost, after).await?;
            let named = page.items.iter().filter(|one| !one.def.name.starts_with("amq."));
            self.exchanges.extend(named.map(|exchange| {
                json!({
                    "name": exchange.def.name,
                    "vhost": vhost,
                    "type": type_word(&exchange.def),
                    "durable": exchange.def.durable,
                    "auto_delete": exchange.def.auto_delete,
                    "internal": exchange.def.internal,
                    "arguments": values::show_table(&exchange.def.arguments),
                })
            }));
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn gather_bindings(&mut self, caller: &Caller, vhost: &str) -> Result<(), Failure> {
        let mut after = None;
        loop {
            let of = BindingsOf::default();
            let page = caller.gate.broker.list_bindings(vhost, of, after).await?;
            for bind in &page.items {
                let mut shown = bindings::shown(vhost, bind);
                if let Some(shown) = shown.as_object_mut() {
                    shown.remove("properties_key");
                }
                self.bindings.push(shown);
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }
}

async fn limits(caller: &Caller, scope: &Scope) -> Result<Json, Failure> {
    let all = caller.gate.broker.list_limits(scope).await?;
    let all = all.into_iter().map(|(of, max)| (of.word().to_owned(), Json::from(max)));
    Ok(Json::Object(all.collect::<Map<_, _>>()))
}

/// The rule of a document, or of a parameter's value.
fn rule(name: &str, of: &super::body::Body, default: ApplyTo) -> Result<Rule, Failure> {
    let word = of.text("apply-to")?.unwrap_or_else(|| default.word());
    let unknown = || Failure::bad(format!("apply-to is '{word}', which is none of its words"));
    Ok(Rule {
        name: name.to_owned(),
        pattern: of.wanted_text("pattern")?.to_owned(),
        apply_to: ApplyTo::from_word(word).ok_or_else(unknown)?,
        priority: of.int("priority")?.unwrap_or(0),
        definition: of.table("definition")?,
    })
}
