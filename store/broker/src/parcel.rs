//! What a front-end leaves with a session.

use std::{any::Any, fmt};

/// Something a front-end leaves with a sleeping session: its deliveries in flight. It does not
/// survive a restart; the deliveries do, and are handed out anew.
pub struct Parcel(pub Box<dyn Any + Send>);

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parcel")
    }
}
