//! How fast numbers grow that are looked at from time to time.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use mainstem_schemas::UnixMillis;

/// A rate is of at least this long, in milliseconds.
const SPAN_MS: u64 = 5000;
/// What nobody asked for in so many milliseconds is forgotten when room is wanted.
const KEPT_MS: u64 = 60_000;
/// Connections whose numbers are kept.
const KEPT_MAX: usize = 16_384;

#[derive(Clone, Copy)]
struct Seen<const N: usize> {
    at: UnixMillis,
    numbers: [u64; N],
    per_second: [f64; N],
}

/// The numbers of those that were asked for lately, by their own numbers.
pub(in crate::http) struct Rates<const N: usize>(Mutex<HashMap<u64, Seen<N>>>);

impl<const N: usize> Default for Rates<N> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<const N: usize> Rates<N> {
    /// By how much somebody's numbers grew by the second between the last two times that they were asked
    /// for; 0 the first time.
    pub(in crate::http) fn of(&self, id: u64, now: UnixMillis, numbers: [u64; N]) -> [f64; N] {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(&id) && all.len() >= KEPT_MAX {
            all.retain(|_, seen| now.since(seen.at) < KEPT_MS);
            if all.len() >= KEPT_MAX {
                return [0.0; N];
            }
        }
        let seen = all.entry(id).or_insert(Seen { at: now, numbers, per_second: [0.0; N] });
        let passed = now.since(seen.at);
        if passed >= SPAN_MS {
            let both = numbers.iter().zip(seen.numbers);
            for (rate, (new, old)) in seen.per_second.iter_mut().zip(both) {
                *rate = growth(old, *new, passed);
            }
            (seen.at, seen.numbers) = (now, numbers);
        }
        seen.per_second
    }
}

/// How fast a number went from one value to another, by the second.
#[expect(clippy::cast_precision_loss, reason = "rates are floating point")]
pub(super) fn growth(old: u64, new: u64, passed_ms: u64) -> f64 {
    if passed_ms == 0 { 0.0 } else { (new as f64 - old as f64) * 1000.0 / passed_ms as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_between_two_looks_that_are_far_enough_apart() {
        let rates = Rates::<1>::default();
        let look = |at: u64, number: u64| {
            let [rate] = rates.of(7, UnixMillis(at), [number]);
            rate
        };
        assert!(look(1000, 100).abs() < f64::EPSILON);
        assert!(look(2000, 200).abs() < f64::EPSILON, "too soon");
        assert!((look(6000, 600) - 100.0).abs() < f64::EPSILON);
        assert!((look(7000, 900) - 100.0).abs() < f64::EPSILON, "still the last one");
        assert!((look(11_000, 600)).abs() < f64::EPSILON);
    }

    #[test]
    fn those_that_were_forgotten_make_room() {
        let rates = Rates::<1>::default();
        for id in 0..=KEPT_MAX as u64 {
            rates.of(id, UnixMillis(1), [1]);
        }
        assert_eq!(rates.0.lock().unwrap().len(), KEPT_MAX);
        rates.of(u64::MAX, UnixMillis(1 + KEPT_MS), [1]);
        assert_eq!(rates.0.lock().unwrap().len(), 1);
    }
}
