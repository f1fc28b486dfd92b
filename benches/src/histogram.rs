//! Latencies in log-linear buckets: 32 per power of two, so any quantile is right within 3 %.

use std::time::Duration;

const SUB_BITS: u32 = 5;
const SUB: u64 = 1 << SUB_BITS;
const BUCKETS: usize = 64 << SUB_BITS;

#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Histogram {
    pub fn record(&mut self, nanos: u64) {
        if let Some(count) = self.counts.get_mut(bucket(nanos)) {
            *count += 1;
            self.total += 1;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    /// The upper end of the bucket in which `percent` of all values are reached; zero when empty.
    pub fn percentile(&self, percent: u64) -> Duration {
        let wanted = (self.total * percent).div_ceil(100);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return Duration::from_nanos(upper_end(index));
            }
        }
        Duration::ZERO
    }
}

fn bucket(value: u64) -> usize {
    let index = if value < SUB {
        value
    } else {
        let exponent = 63 - value.leading_zeros();
        let sub = (value >> (exponent - SUB_BITS)) & (SUB - 1);
        u64::from(exponent - SUB_BITS + 1) * SUB + sub
    };
    usize::try_from(index).unwrap_or(BUCKETS)
}

fn upper_end(index: usize) -> u64 {
    let index = u64::try_from(index).unwrap_or(0);
    let (octave, sub) = (index / SUB, index % SUB);
    if octave == 0 { sub } else { ((SUB + sub + 1) << (octave - 1)) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_ends_within_a_thirtieth_of_its_values() {
        for value in [0, 1, 31, 32, 33, 1_000, 123_456, 987_654_321, u64::from(u32::MAX) * 1000] {
            let end = upper_end(bucket(value));
            assert!(end >= value && end - value <= value / 30, "{value} in a bucket up to {end}");
        }
    }

    #[test]
    fn percentiles_of_one_to_a_thousand() {
        let mut latencies = Histogram::default();
        (1..=1000).for_each(|micros| latencies.record(micros * 1000));
        let p50 = latencies.percentile(50).as_micros();
        let p99 = latencies.percentile(99).as_micros();
        assert!((500..=516).contains(&p50), "{p50}");
        assert!((990..=1022).contains(&p99), "{p99}");
    }
}
