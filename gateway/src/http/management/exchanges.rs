//! `/api/exchanges`.

use axum::{extract::Path, response::IntoResponse};
use mainstem_amqp::{
    session::type_word,
    topology::{self, ExchangeTerms},
};
use mainstem_broker::{ExchangeDef, ExchangeKind, ExchangeShown, Ruled};
use serde_json::{Value as Json, json};

use super::{
    answer::{self, Answer, Failure},
    body::Body,
    caller::Caller,
    gathering::{self, Gathering},
    statistics, values,
};

/// What some tools call the exchange without a name.
const DEFAULT_ALIAS: &str = "amq.default";

/// An exchange's name as it is in a path.
pub(super) fn name_of(given: String) -> String {
    if given == DEFAULT_ALIAS { String::new() } else { given }
}

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
    let nameless = default_exchange(caller, vhost).await?;
    all.add("", || shown(vhost, &nameless));
    let mut after = None;
    loop {
        let page = caller.gate.broker.list_exchanges(vhost, after).await?;
        for exchange in &page.items {
            all.add(&exchange.def.name, || shown(vhost, exchange));
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

pub(super) async fn show(caller: Caller, path: Path<(String, String)>) -> Answer {
    let (vhost, name) = path.0;
    caller.check_namespace(&vhost)?;
    let found = find(&caller, &vhost, &name_of(name)).await?;
    gathering::show(&caller.query, shown(&vhost, &found))
}

/// The exchange of that name. Errors: there is none.
pub(super) async fn find(
    caller: &Caller,
    vhost: &str,
    name: &str,
) -> Result<ExchangeShown, Failure> {
    if name.is_empty() {
        return default_exchange(caller, vhost).await;
    }
    let found = caller.gate.broker.show_exchange(vhost, name).await?;
    found.ok_or_else(Failure::not_found)
}

pub(super) async fn declare(caller: Caller, path: Path<(String, String)>, body: Body) -> Answer {
    let (vhost, name) = path.0;
    let terms = ExchangeTerms {
        name: name_of(name),
        kind: body.wanted_text("type")?.to_owned().into(),
        durable: body.flag("durable")?,
        auto_delete: body.flag("auto_delete")?,
        internal: body.flag("internal")?,
        arguments: body.table("arguments")?,
    };
    let (client, _inbox) = caller.enter(&vhost).await?;
    let declared = topology::declare_exchange(&client, terms).await;
    client.close().await;
    Ok(answer::put(declared?))
}

pub(super) async fn delete(caller: Caller, path: Path<(String, String)>) -> Answer {
    let (vhost, name) = path.0;
    let (client, _inbox) = caller.enter(&vhost).await?;
    let if_unused = caller.query.is_true("if-unused");
    let deleted = topology::delete_exchange(&client, &name_of(name), if_unused).await;
    client.close().await;
    deleted?;
    Ok(answer::gone().into_response())
}

async fn default_exchange(caller: &Caller, vhost: &str) -> Result<ExchangeShown, Failure> {
    let counts = caller.gate.broker.count_nameless(vhost).await?;
    let def = ExchangeDef {
        name: String::new(),
        kind: ExchangeKind::Direct,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Vec::new(),
    };
    Ok(ExchangeShown { def: def.into(), ruled: Ruled::default(), counts })
}

fn shown(vhost: &str, exchange: &ExchangeShown) -> Json {
    let ExchangeShown { def, ruled, counts } = exchange;
    let mut shown = json!({
        "name": def.name,
        "vhost": vhost,
        "type": type_word(def),
        "durable": def.durable,
        "auto_delete": def.auto_delete,
        "internal": def.internal,
        "arguments": values::show_table(&def.arguments),
        "user_who_performed_action": "",
    });
    let policy = ruled.user.as_deref().map(Json::from);
    if let Some(shown) = shown.as_object_mut() {
        let more = [("policy", policy), ("message_stats", statistics::of_exchange(*counts))];
        let more = more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        shown.extend(more);
    }
    shown
}
