//! RabbitMQ's management API below `/api`: what its tools read and change, by its names and in its
//! shapes.

mod answer;
mod bindings;
mod body;
mod caller;
mod definitions;
mod exchanges;
mod gathering;
mod health;
mod limits;
mod messages;
mod node;
mod overview;
mod parameters;
mod policies;
mod queues;
mod rates;
mod statistics;
mod values;

use axum::{
    Router,
    extract::Path,
    http::StatusCode,
    middleware,
    response::IntoResponse,
    routing::{any, delete, get, post, put},
};

use mainstem_broker::Authority;

pub(super) use answer::{Answer, Failure};
pub(super) use gathering::list;
pub use node::Node;
pub(super) use node::{Totals, descriptors, disk_free_bytes, machine_bytes, memory_bytes, threads};
pub(super) use statistics::of as message_stats;

use super::{Gate, connections, identities, origin};
use caller::Caller;

/// All of it, kept from web pages.
pub(super) fn routes(gate: &Gate) -> Router<Gate> {
    let pages = middleware::from_fn_with_state(gate.clone(), origin::refuse_others);
    let shape = middleware::map_response(answer::shape);
    Router::new()
        .merge(of_the_server())
        .merge(of_exchanges())
        .merge(of_queues())
        .merge(of_bindings())
        .merge(of_rules())
        .merge(of_definitions())
        .merge(connections::router())
        .merge(identities::router())
        .route("/api/{*path}", any(|| async { Failure::not_found().into_response() }))
        .route_layer(shape)
        .route_layer(pages)
}

fn of_the_server() -> Router<Gate> {
    Router::new()
        .route("/api/overview", get(overview::overview))
        .route("/api/version", get(overview::version))
        .route("/api/cluster-name", get(overview::cluster_name))
        .route("/api/nodes", get(overview::nodes))
        .route("/api/nodes/{node}", get(overview::node))
        .route("/api/extensions", get(overview::extensions))
        .route("/api/feature-flags", get(overview::feature_flags))
        .route("/api/feature-flags/{name}/enable", put(overview::enable_feature))
        .route("/api/deprecated-features", get(overview::deprecated_features))
        .route("/api/deprecated-features/used", get(overview::deprecated_features))
        .route("/api/v1/stop", post(overview::stop))
        .route("/api/federation-links", get(overview::links))
        .route("/api/federation-links/{vhost}", get(overview::links_of))
        .route("/api/shovels", get(overview::links))
        .route("/api/shovels/{vhost}", get(overview::links_of))
        .route("/api/rebalance/queues", post(|_: Caller| async { StatusCode::NO_CONTENT }))
        .route("/api/aliveness-test/{vhost}", get(health::aliveness))
        .route("/api/health/checks/{check}", get(health::check))
        .route("/api/health/checks/{check}/{of}", get(health::check_of))
}

fn of_definitions() -> Router<Gate> {
    Router::new()
        .route("/api/definitions", get(definitions::export).post(definitions::import))
        .route(
            "/api/definitions/{vhost}",
            get(definitions::export_one).post(definitions::import_into),
        )
}

fn of_exchanges() -> Router<Gate> {
    let one = get(exchanges::show).put(exchanges::declare).delete(exchanges::delete);
    Router::new()
        .route("/api/exchanges", get(exchanges::list_all))
        .route("/api/exchanges/{vhost}", get(exchanges::list))
        .route("/api/exchanges/{vhost}/{name}", one)
        .route("/api/exchanges/{vhost}/{name}/bindings/source", get(bindings::from_exchange))
        .route("/api/exchanges/{vhost}/{name}/bindings/destination", get(bindings::to_exchange))
        .route("/api/exchanges/{vhost}/{name}/publish", post(messages::publish))
}

fn of_queues() -> Router<Gate> {
    let one = get(queues::show).put(queues::declare).delete(queues::delete);
    Router::new()
        .route("/api/queues", get(queues::list_all))
        .route("/api/queues/detailed", get(queues::list_all))
        .route("/api/queues/{vhost}", get(queues::list))
        .route("/api/queues/{vhost}/{name}", one)
        .route("/api/queues/{vhost}/{name}/contents", delete(queues::purge))
        .route("/api/queues/{vhost}/{name}/get", post(messages::get))
        .route("/api/queues/{vhost}/{name}/bindings", get(bindings::to_queue))
}

fn of_bindings() -> Router<Gate> {
    let between = get(bindings::between).post(bindings::bind);
    let one = get(bindings::show).delete(bindings::unbind);
    Router::new()
        .route("/api/bindings", get(bindings::list_all))
        .route("/api/bindings/{vhost}", get(bindings::list))
        .route("/api/bindings/{vhost}/e/{source}/{kind}/{destination}", between)
        .route("/api/bindings/{vhost}/e/{source}/{kind}/{destination}/{key}", one)
}

fn of_rules() -> Router<Gate> {
    let mut router = Router::new();
    for (path, of) in [("policies", Authority::User), ("operator-policies", Authority::Operator)] {
        let all = get(move |caller: Caller| policies::list_all(of, caller));
        let some = get(move |caller: Caller, Path(vhost)| policies::list(of, caller, vhost));
        let one = get(move |caller: Caller, path| policies::show(of, caller, path))
            .put(move |caller: Caller, path, body| policies::set(of, caller, path, body))
            .delete(move |caller: Caller, path| policies::delete(of, caller, path));
        router = router
            .route(&format!("/api/{path}"), all)
            .route(&format!("/api/{path}/{{vhost}}"), some)
            .route(&format!("/api/{path}/{{vhost}}/{{name}}"), one);
    }
    let parameter = get(parameters::show).put(parameters::set).delete(parameters::delete);
    let global =
        get(parameters::show_global).put(parameters::set_global).delete(parameters::delete_global);
    router
        .route("/api/vhost-limits", get(limits::list_all))
        .route("/api/vhost-limits/{vhost}", get(limits::list))
        .route("/api/vhost-limits/{vhost}/{limit}", put(limits::set).delete(limits::delete))
        .route("/api/user-limits", get(limits::list_all_users))
        .route("/api/user-limits/{user}", get(limits::list_user))
        .route("/api/user-limits/{user}/{limit}", put(limits::set_user).delete(limits::delete_user))
        .route("/api/parameters", get(parameters::list_all))
        .route("/api/parameters/{component}", get(parameters::list_component))
        .route("/api/parameters/{component}/{vhost}", get(parameters::list))
        .route("/api/parameters/{component}/{vhost}/{name}", parameter)
        .route("/api/global-parameters", get(parameters::list_global))
        .route("/api/global-parameters/{name}", global)
}
