//! Exchanges, queues and bindings for somebody who has no connection: the rules of those who have one.

use mainstem_broker::{Bind, Client};

use crate::{
    serve::ask,
    session::{Answer, Code, Fault, Request, equivalence, topology},
};

pub use crate::session::topology::{ExchangeTerms, QueueTerms};

/// What fits in a short string of the protocol, in bytes.
const SHORT_MAX: usize = 255;

/// Declares an exchange, or finds one that fits; tells whether it was made.
pub async fn declare_exchange(client: &Client, terms: ExchangeTerms) -> Result<bool, Fault> {
    let vhost = &*client.principal().namespace;
    check_short("the name of an exchange", terms.name.as_bytes())?;
    let wanted = terms.def()?;
    let request = topology::exchange_request(&wanted);
    let answer = ask(client, request).await;
    let answer = answer.map_err(|refusal| Fault::refused(&refusal, "exchange", vhost))?;
    let created = matches!(&answer, Answer::Exchange(declared) if declared.created);
    topology::exchange_fits(&wanted.name, Some(&wanted), answer, vhost)?;
    Ok(created)
}

/// Deletes an exchange. Errors: there is none, or it may not go.
pub async fn delete_exchange(client: &Client, name: &str, if_unused: bool) -> Result<(), Fault> {
    let vhost = &*client.principal().namespace;
    let refused = |refusal| Fault::refused(&refusal, "exchange", vhost);
    let name = topology::deletable_exchange(name.as_bytes(), vhost)?;
    if client.find_exchange(name.clone()).await.map_err(refused)?.is_none() {
        return Err(Fault::no_exchange(&name, vhost));
    }
    client.delete_exchange(name, if_unused).await.map_err(refused)
}

/// Declares a queue, or finds one that fits; tells whether it was made.
pub async fn declare_queue(client: &Client, terms: QueueTerms) -> Result<bool, Fault> {
    let vhost = &*client.principal().namespace;
    check_short("the name of a queue", terms.name.as_bytes())?;
    if terms.name.is_empty() {
        return Err(Fault::new(Code::PreconditionFailed, "a queue needs a name"));
    }
    let wanted = terms.def(vhost)?;
    let reserved = topology::is_reserved(&wanted.name);
    let request = topology::queue_request(&wanted, reserved);
    match ask(client, request).await {
        Ok(Answer::Queue(found)) => {
            if !found.created {
                equivalence::queue(&wanted, &found.def, vhost)?;
            }
            Ok(found.created)
        }
        Ok(_) => Err(Fault::new(Code::InternalError, "the answer does not fit")),
        Err(refusal) => Err(topology::queue_refused(&refusal, &wanted.name, reserved, vhost)),
    }
}

/// Deletes a queue. Errors: there is none, or it may not go.
pub async fn delete_queue(
    client: &Client,
    name: &str,
    if_unused: bool,
    if_empty: bool,
) -> Result<(), Fault> {
    let vhost = &*client.principal().namespace;
    let refused = |refusal| Fault::refused(&refusal, "queue", vhost);
    client.find_queue(name.to_owned()).await.map_err(refused)?;
    let deleted = client.delete_queue(name.to_owned(), if_unused, if_empty).await;
    deleted.map(drop).map_err(refused)
}

/// Drops what is ready in a queue. Errors: there is none, or it is a stream.
pub async fn purge_queue(client: &Client, name: &str) -> Result<(), Fault> {
    let vhost = &*client.principal().namespace;
    let refused = |refusal| Fault::refused(&refusal, "queue", vhost);
    let found = client.find_queue(name.to_owned()).await.map_err(refused)?;
    let request = topology::purge_request(&found.def, vhost)?;
    ask(client, request).await.map(drop).map_err(refused)
}

/// Binds; a binding that is there already is no error.
pub async fn bind(client: &Client, bind: Bind) -> Result<(), Fault> {
    check_short("the routing key", &bind.key)?;
    change_binding(client, Request::Bind(bind)).await
}

/// Takes a binding back; one that is not there is no error.
pub async fn unbind(client: &Client, bind: Bind) -> Result<(), Fault> {
    change_binding(client, Request::Unbind(bind)).await
}

async fn change_binding(client: &Client, request: Request) -> Result<(), Fault> {
    let vhost = &*client.principal().namespace;
    ask(client, request).await.map(drop).map_err(|refusal| Fault::refused(&refusal, "queue", vhost))
}

/// Errors: nobody could name it by the protocol.
pub(crate) fn check_short(what: &str, text: &[u8]) -> Result<(), Fault> {
    if text.len() <= SHORT_MAX {
        return Ok(());
    }
    let text = format!("{what} is longer than {SHORT_MAX} bytes");
    Err(Fault::new(Code::PreconditionFailed, text))
}
