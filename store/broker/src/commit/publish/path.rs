//! Where a path leads in the exchange graph.

use mainstem_schemas::{Dialect, Doors, Path, UnixMillis, address::ROOT_EXCHANGE};

use crate::{
    exchange::{Exchange, Keys, Led, Said},
    namespace::Namespace,
};

/// A record that came by path enters at the root exchange with its whole path as the key, and at
/// the exchange its first segment names with the rest as the key. They count it if there is a time.
pub(super) fn route_path(
    space: &Namespace,
    path: &Path,
    said: &Said<'_>,
    doors: Doors,
    now: Option<UnixMillis>,
    led: &mut Led,
) {
    let mut route = |exchange: &Exchange, key: &[u8]| {
        let before = led.queues.len();
        space.exchanges.route(exchange, Keys { key, further: &[], said }, led);
        if let Some(now) = now {
            exchange.note(now, led.queues.len() - before);
        }
    };
    if let Some(root) = space.exchanges.get(ROOT_EXCHANGE)
        && doors != Doors::Named
        && !root.bindings.is_empty()
    {
        let key = path.render(Dialect::Amqp);
        route(root, &key);
    }
    let Some((first, rest)) = path.split_first(Dialect::Amqp) else { return };
    if doors == Doors::Root {
        return;
    }
    let named = std::str::from_utf8(first).ok().and_then(|name| space.exchanges.get(name));
    if let Some(exchange) = named
        && exchange.def.name != ROOT_EXCHANGE
        && !exchange.def.internal
    {
        route(exchange, &rest);
    }
}
