//! How a group is served, as far as an operator said so.

use std::time::Duration;

use mainstem_schemas::{Table, Value, value::find};

use super::settings::{duration, duration_ms};
use crate::{
    codec::{
        operator::{DeliveryOrder, GroupTerms as Message},
        proto::{Code, CustomizedBackoff, ExponentialBackoff, RetryPolicy, retry_policy::Strategy},
        status::Fault,
    },
    limits::Limits,
};

/// Times that a message of any group is given out.
const ATTEMPTS_MAX: i32 = 10_000;
/// Delays that are listed one by one.
const DELAYS_MAX: usize = 100;
/// By how much delays may grow each time.
const FACTOR_MAX: f64 = 1000.0;

/// When a message that failed comes again, in milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub enum Delays {
    /// After each attempt; the last one also after all further ones. Never empty.
    Listed(Vec<u64>),
    Growing {
        first_ms: u64,
        max_ms: u64,
        factor: f64,
    },
}

impl Delays {
    /// One by one, as many as there may be attempts.
    #[must_use]
    pub fn listed(&self, attempts_max: u32) -> Vec<u64> {
        match self {
            Self::Listed(delays) => delays.clone(),
            Self::Growing { first_ms, max_ms, factor } => {
                let count = usize::try_from(attempts_max).unwrap_or(DELAYS_MAX);
                let max = Duration::from_millis(*max_ms);
                let mut next = Duration::from_millis(*first_ms);
                let mut delays = Vec::new();
                for _ in 0..count.clamp(1, DELAYS_MAX) {
                    delays.push(u64::try_from(next.as_millis()).unwrap_or(*max_ms));
                    next = next.mul_f64(*factor).min(max);
                }
                delays
            }
        }
    }

    /// From the first one to the largest: what is between is lost where they were listed.
    #[must_use]
    pub fn growing(&self) -> (u64, u64, f64) {
        match self {
            Self::Listed(delays) => {
                let first = delays.first().copied().unwrap_or_default();
                (first, delays.iter().max().copied().unwrap_or(first), 2.0)
            }
            Self::Growing { first_ms, max_ms, factor } => (*first_ms, *max_ms, *factor),
        }
    }
}

/// What was said; `None` for what the configuration says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupTerms {
    pub ordered: Option<bool>,
    pub attempts_max: Option<u32>,
    pub delays: Option<Delays>,
    pub exclusive_lite: Option<bool>,
}

impl GroupTerms {
    /// What a request says. Errors: something is out of its bounds.
    pub fn read(message: &Message, limits: &Limits) -> Result<Self, Fault> {
        let bad = |why: &str| Fault::new(Code::BadRequest, why);
        let ordered = match DeliveryOrder::try_from(message.order) {
            Ok(DeliveryOrder::Unspecified) => None,
            Ok(DeliveryOrder::Concurrently) => Some(false),
            Ok(DeliveryOrder::Orderly) => Some(true),
            Err(_) => return Err(bad("there is no such order of delivery")),
        };
        let retry = message.retry.as_ref();
        let attempts_max = match retry.map_or(0, |retry| retry.max_attempts) {
            0 => None,
            attempts @ 1..=ATTEMPTS_MAX => u32::try_from(attempts).ok(),
            _ => return Err(bad("max_attempts is not in 1..=10000")),
        };
        let strategy = retry.and_then(|retry| retry.strategy.as_ref());
        let delays = strategy.map(|strategy| read_delays(strategy, limits)).transpose()?;
        Ok(Self { ordered, attempts_max, delays, exclusive_lite: message.exclusive_lite })
    }

    /// The same, over what was said before.
    #[must_use]
    pub fn over(self, before: Self) -> Self {
        Self {
            ordered: self.ordered.or(before.ordered),
            attempts_max: self.attempts_max.or(before.attempts_max),
            delays: self.delays.or(before.delays),
            exclusive_lite: self.exclusive_lite.or(before.exclusive_lite),
        }
    }

    /// As an answer tells it.
    #[must_use]
    pub fn message(&self) -> Message {
        let order = match self.ordered {
            None => DeliveryOrder::Unspecified,
            Some(false) => DeliveryOrder::Concurrently,
            Some(true) => DeliveryOrder::Orderly,
        };
        let strategy = self.delays.as_ref().map(|delays| match delays {
            Delays::Listed(delays) => {
                let next = delays.iter().map(|ms| duration(*ms)).collect();
                Strategy::CustomizedBackoff(CustomizedBackoff { next })
            }
            Delays::Growing { .. } => growing(delays),
        });
        let attempts = self.attempts_max.and_then(|attempts| i32::try_from(attempts).ok());
        let retry = (attempts.is_some() || strategy.is_some())
            .then(|| RetryPolicy { max_attempts: attempts.unwrap_or_default(), strategy });
        Message { order: order as i32, retry, exclusive_lite: self.exclusive_lite }
    }

    /// As it is kept.
    #[must_use]
    pub fn to_table(&self) -> Table {
        let int = |value: u64| Value::Int(i64::try_from(value).unwrap_or(i64::MAX));
        let mut table = Table::new();
        let mut put = |name: &str, value: Option<Value>| {
            table.extend(value.map(|value| (name.to_owned(), value)));
        };
        put("ordered", self.ordered.map(Value::Bool));
        put("attempts_max", self.attempts_max.map(|attempts| int(attempts.into())));
        put("exclusive_lite", self.exclusive_lite.map(Value::Bool));
        match &self.delays {
            None => {}
            Some(Delays::Listed(delays)) => {
                let delays = delays.iter().map(|ms| int(*ms)).collect();
                put("delays_ms", Some(Value::Array(delays)));
            }
            Some(Delays::Growing { first_ms, max_ms, factor }) => {
                put("delay_first_ms", Some(int(*first_ms)));
                put("delay_max_ms", Some(int(*max_ms)));
                put("delay_factor", Some(Value::Float(*factor)));
            }
        }
        table
    }

    /// What was kept.
    #[must_use]
    pub fn from_table(table: &Table) -> Self {
        let flag = |name| match find(table, name) {
            Some(Value::Bool(flag)) => Some(*flag),
            _ => None,
        };
        let int = |value: &Value| value.as_int().and_then(|int| u64::try_from(int).ok());
        let number = |name| find(table, name).and_then(int);
        let delays = match find(table, "delays_ms") {
            Some(Value::Array(delays)) => {
                Some(delays.iter().filter_map(int).collect()).filter(|it: &Vec<_>| !it.is_empty())
            }
            _ => None,
        };
        let growing = || {
            let Some(Value::Float(factor)) = find(table, "delay_factor") else { return None };
            let (first_ms, max_ms) = (number("delay_first_ms")?, number("delay_max_ms")?);
            Some(Delays::Growing { first_ms, max_ms, factor: *factor })
        };
        Self {
            ordered: flag("ordered"),
            attempts_max: number("attempts_max").and_then(|attempts| u32::try_from(attempts).ok()),
            delays: delays.map(Delays::Listed).or_else(growing),
            exclusive_lite: flag("exclusive_lite"),
        }
    }
}

/// In the protocol's words.
#[must_use]
pub fn growing(delays: &Delays) -> Strategy {
    let (first_ms, max_ms, factor) = delays.growing();
    #[expect(clippy::cast_possible_truncation, reason = "it was read as such")]
    let multiplier = factor as f32;
    Strategy::ExponentialBackoff(ExponentialBackoff {
        initial: Some(duration(first_ms)),
        max: Some(duration(max_ms)),
        multiplier,
    })
}

fn read_delays(strategy: &Strategy, limits: &Limits) -> Result<Delays, Fault> {
    let bad = |why: String| Fault::new(Code::BadRequest, why);
    // Clients ask for them as the time in which a message is not to be seen.
    let max_ms = limits.invisible_ms_max;
    let delay = |said: Option<&prost_types::Duration>| {
        let ms = said.and_then(duration_ms).filter(|ms| *ms <= max_ms);
        ms.ok_or_else(|| bad(format!("a delay is missing, or not in 0..={max_ms} ms")))
    };
    match strategy {
        Strategy::CustomizedBackoff(CustomizedBackoff { next }) => {
            if next.is_empty() || next.len() > DELAYS_MAX {
                return Err(bad(format!("there are not 1..={DELAYS_MAX} delays")));
            }
            let delays: Result<Vec<u64>, Fault> = next.iter().map(|it| delay(Some(it))).collect();
            Ok(Delays::Listed(delays?))
        }
        Strategy::ExponentialBackoff(ExponentialBackoff { initial, max, multiplier }) => {
            let (first_ms, max_ms) = (delay(initial.as_ref())?, delay(max.as_ref())?);
            let factor = f64::from(*multiplier);
            if first_ms > max_ms || !(1.0..=FACTOR_MAX).contains(&factor) {
                let why = "delays that grow need initial <= max, and a multiplier in 1..=1000";
                return Err(bad(why.to_owned()));
            }
            Ok(Delays::Growing { first_ms, max_ms, factor })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(max_attempts: i32, strategy: Option<Strategy>) -> Message {
        let retry = Some(RetryPolicy { max_attempts, strategy });
        Message { order: DeliveryOrder::Orderly as i32, retry, exclusive_lite: Some(true) }
    }

    fn customized(delays: &[u64]) -> Option<Strategy> {
        let next = delays.iter().map(|ms| duration(*ms)).collect();
        Some(Strategy::CustomizedBackoff(CustomizedBackoff { next }))
    }

    fn exponential(first_ms: u64, max_ms: u64, multiplier: f32) -> Option<Strategy> {
        let (initial, max) = (Some(duration(first_ms)), Some(duration(max_ms)));
        Some(Strategy::ExponentialBackoff(ExponentialBackoff { initial, max, multiplier }))
    }

    #[test]
    fn what_is_said_is_told_and_kept_as_it_is() {
        for said in [
            Message::default(),
            message(3, None),
            message(0, customized(&[1, 5000])),
            message(10_000, exponential(1000, 60_000, 1.5)),
        ] {
            let terms = GroupTerms::read(&said, &Limits::default()).unwrap();
            let told = terms.message();
            assert_eq!(GroupTerms::read(&told, &Limits::default()), Ok(terms.clone()));
            assert_eq!(GroupTerms::from_table(&terms.to_table()), terms);
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let day = 24 * 3_600_000;
        for bad in [
            Message { order: 7, ..Message::default() },
            message(-1, None),
            message(10_001, None),
            message(1, customized(&[])),
            message(1, customized(&[1; 101])),
            message(1, customized(&[day])),
            message(1, exponential(2, 1, 2.0)),
            message(1, exponential(1, 2, 0.5)),
            message(1, exponential(1, 2, f32::NAN)),
            message(1, exponential(1, day, 2.0)),
        ] {
            let refused = GroupTerms::read(&bad, &Limits::default());
            assert_eq!(refused.map_err(|fault| fault.code), Err(Code::BadRequest), "{bad:?}");
        }
    }

    #[test]
    fn delays_of_one_kind_are_those_of_the_other_too() {
        let grows = Delays::Growing { first_ms: 1000, max_ms: 5000, factor: 2.0 };
        assert_eq!(grows.listed(5), [1000, 2000, 4000, 5000, 5000]);
        assert_eq!(Delays::Listed(vec![7, 9, 8]).growing(), (7, 9, 2.0));
    }
}
