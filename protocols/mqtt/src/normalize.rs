//! MQTT's column of `MAPPING.md`: messages to records, records to messages, records to views.
//!
//! The native block of a record that came by MQTT:
//!
//! ```text
//! empty                       MQTT 3.1 and 3.1.1
//! u8 1 | property bytes       MQTT 5; without topic alias, subscription identifiers and message
//!                             expiry, which are the connection's or stand in the record's header
//! ```

pub mod message;
pub mod outgoing;
pub mod testament;
pub mod time;
pub mod view;

#[cfg(test)]
mod tests;

pub use message::{Message, Sender};
pub use outgoing::{Foreign, expiry_left_s};
pub use view::view;

/// The first byte of a native block that holds MQTT 5 properties. Persisted: never renumber.
const NATIVE_V5: u8 = 1;

/// The MQTT 5 property bytes of a native block.
#[must_use]
pub fn native_properties(native: &[u8]) -> &[u8] {
    match native.split_first() {
        Some((&NATIVE_V5, properties)) => properties,
        _ => &[],
    }
}

/// A hash that is the same in every process (FNV-1a, 64 bits) and never zero.
#[must_use]
pub fn publisher_hash(namespace: &str, client_id: &str) -> u64 {
    let bytes = namespace.bytes().chain([0]).chain(client_id.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.max(1)
}
