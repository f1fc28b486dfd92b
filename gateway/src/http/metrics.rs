//! What Prometheus reads: everything together at `/metrics`, each queue and exchange by itself at
//! `/metrics/per-object` and `/metrics/detailed`.

mod facts;
mod objects;
mod own;
mod page;
mod rabbitmq;
mod rocketmq;

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{Gate, normalize::percent_decode};
use crate::{config::Compat, metrics};
use facts::Facts;
use objects::{Family, Objects};
use page::Page;

/// What the metrics port serves. The names of queues are for whoever looks after the server, and so not
/// on the port that everybody uses.
pub(super) fn router(gate: Gate) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/metrics/per-object", get(per_object))
        .route("/metrics/detailed", get(detailed))
        .with_state(gate)
}

/// Everything together.
pub(super) async fn scrape(State(gate): State<Gate>) -> Response {
    match whole(&gate, Page::default(), true).await {
        Ok(page) => answer(page),
        Err(error) => error,
    }
}

/// The same, with each queue and exchange by itself.
async fn per_object(State(gate): State<Gate>) -> Response {
    let found = match Objects::find(&gate, None).await {
        Ok(found) => found,
        Err(refusal) => return unavailable(&refusal),
    };
    let mut page = Page::default();
    found.put(&gate, &mut page, &Family::ALL, "rabbitmq_");
    match whole(&gate, page, false).await {
        Ok(page) => answer(page),
        Err(error) => error,
    }
}

/// Only those families of queues and exchanges that are asked for, of the virtual hosts that are asked
/// for.
async fn detailed(State(gate): State<Gate>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let (mut families, mut namespaces) = (Vec::new(), Vec::new());
    for (name, value) in query.split('&').filter_map(|part| part.split_once('=')) {
        let value = String::from_utf8_lossy(&percent_decode(value)).into_owned();
        match name {
            "family" => match Family::ALL.into_iter().find(|family| family.word() == value) {
                Some(family) => families.push(family),
                None => return nonsense(&format!("there is no family '{value}'")),
            },
            "vhost" => namespaces.push(value),
            _ => {}
        }
    }
    if families.is_empty() {
        return nonsense("which families is not said");
    }
    let namespaces = (!namespaces.is_empty()).then_some(namespaces);
    match Objects::find(&gate, namespaces).await {
        Ok(found) => {
            let mut page = Page::default();
            found.put(&gate, &mut page, &families, "rabbitmq_detailed_");
            answer(page)
        }
        Err(refusal) => unavailable(&refusal),
    }
}

/// All that is told of everything together, behind what is on the page.
async fn whole(gate: &Gate, mut page: Page, with_queues: bool) -> Result<Page, Response> {
    let facts = Facts::gather(gate).await.map_err(IntoResponse::into_response)?;
    page.add(&metrics::render());
    own::put(&facts, &mut page);
    for compat in &gate.config.metrics.compat {
        match compat {
            Compat::Rabbitmq => rabbitmq::put(gate, &facts, &mut page, with_queues),
            Compat::Rocketmq => rocketmq::put(gate, &facts, &mut page),
        }
    }
    Ok(page)
}

fn answer(page: Page) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], page.into_text()).into_response()
}

fn nonsense(why: &str) -> Response {
    let known: Vec<_> = Family::ALL.into_iter().map(Family::word).collect();
    let text = format!("{why}; ask with family= for one or more of {}\n", known.join(", "));
    (StatusCode::BAD_REQUEST, text).into_response()
}

fn unavailable(refusal: &mainstem_broker::Refusal) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{refusal}\n")).into_response()
}
