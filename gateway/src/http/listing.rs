//! `GET /topics/<topic>`: the names of the topics below a topic that have queues of their own, in
//! order; `after=<name>` and `max=<count>` ask for some of them.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use mainstem_schemas::Credentials;
use serde::Serialize;

use super::{
    Gate, Peer,
    normalize::percent_decode,
    publish::{Refused, login_refused, refused, secret},
};

/// Names in one answer, unless fewer are asked for.
const NAMES_MAX: usize = 1000;

/// Those behind the last one are the next page.
#[derive(Serialize)]
struct Listed {
    names: Vec<String>,
}

pub(super) async fn list(
    State(gate): State<Gate>,
    Extension(Peer(peer)): Extension<Peer>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let listed = async {
        let secret = secret(&headers)?;
        let credentials = Credentials { namespace: "/".to_owned(), secret, peer };
        let (topic, after, max) = asked(&uri)?;
        let (client, _inbox) = gate.broker.login(&credentials).await.map_err(login_refused)?;
        let names = client.list_branches(topic, after, max).await.map_err(refused)?;
        client.close().await;
        Ok::<_, Refused>(Listed { names })
    };
    listed.await.map_or_else(IntoResponse::into_response, |listed| Json(listed).into_response())
}

/// The topic, and which of the names below it.
fn asked(uri: &Uri) -> Result<(String, Option<String>, usize), Refused> {
    let bad = |why: &str| Refused(StatusCode::BAD_REQUEST, why.to_owned());
    let text = |text: &str| {
        String::from_utf8(percent_decode(text)).map_err(|_| bad("the query is not UTF-8"))
    };
    let topic = uri.path().strip_prefix("/topics/").unwrap_or_default();
    if topic.is_empty() || topic.contains('/') {
        return Err(bad("the path is not that of one topic"));
    }
    let (mut after, mut max) = (None, NAMES_MAX);
    for part in uri.query().unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("after", name)) => after = Some(text(name)?),
            Some(("max", count)) => {
                max = count.parse().map_err(|_| bad("max is not a number"))?;
            }
            _ => return Err(bad("the query asks for something else than after and max")),
        }
    }
    Ok((text(topic)?, after, max.min(NAMES_MAX)))
}
