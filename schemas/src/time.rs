//! Time as the records carry it: milliseconds since 1970-01-01T00:00:00Z.

/// A point in time in milliseconds since the Unix epoch. Zero means "not set" wherever a field is
/// optional on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// "Not set".
    pub const NONE: Self = Self(0);

    /// This time plus `ms` milliseconds, held at the largest representable time.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this time; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whether a time is set at all.
    #[must_use]
    pub fn is_set(self) -> bool {
        self.0 != 0
    }

    /// Whether this is a deadline that `now` has reached. An unset deadline is never reached.
    #[must_use]
    pub fn reached(self, now: Self) -> bool {
        self.is_set() && self <= now
    }
}
