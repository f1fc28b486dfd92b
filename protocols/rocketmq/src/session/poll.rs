//! How long a receive request may wait for messages.

use crate::{
    codec::{proto::Code, status::Fault},
    limits::Limits,
};

/// The answer to an empty poll must be under way this long before the client's own deadline, in
/// milliseconds.
const MARGIN_MS: u64 = 300;

/// What a client told about how long it waits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    /// What is left of the call's own deadline.
    pub deadline_ms: Option<u64>,
    /// `request_timeout` of the client's settings.
    pub request_timeout_ms: Option<u64>,
    /// Whether it knows `ILLEGAL_POLLING_TIME`.
    pub knows_code: bool,
}

/// Milliseconds after which an empty poll is answered: neither early, which makes clients spin,
/// nor late, which their own deadline answers. A wait that the client asked for is honoured
/// however short it is; only one that was derived from the deadline has a least length.
pub fn wait_ms(asked_ms: Option<u64>, patience: Patience, limits: &Limits) -> Result<u64, Fault> {
    let wait = match (asked_ms, patience.deadline_ms) {
        (Some(asked), _) => asked.min(limits.poll_ms_max),
        (None, Some(left)) => {
            let reserve = patience.request_timeout_ms.unwrap_or(0) / 2;
            left.saturating_sub(reserve).clamp(limits.poll_ms_min, limits.poll_ms_max)
        }
        (None, None) => limits.poll_ms_max,
    };
    match patience.deadline_ms {
        Some(left) if wait > left && left < limits.poll_ms_min => {
            let known = patience.knows_code;
            let code = if known { Code::IllegalPollingTime } else { Code::BadRequest };
            let text = "the deadline of the call leaves too little time to poll";
            Err(Fault::new(code, text))
        }
        Some(left) => Ok(wait.min(left.saturating_sub(MARGIN_MS))),
        None => Ok(wait),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(asked: Option<u64>, deadline_ms: Option<u64>) -> Result<u64, Code> {
        let patience = Patience { deadline_ms, request_timeout_ms: Some(3_000), knows_code: true };
        wait_ms(asked, patience, &Limits::default()).map_err(|fault| fault.code)
    }

    #[test]
    fn polls_are_as_long_as_clients_can_bear() {
        // Python; Node, whose polls are short; Rust, which asks for as long as its own deadline.
        assert_eq!(wait(Some(20_000), Some(23_100)), Ok(20_000));
        assert_eq!(wait(Some(3_000), Some(6_000)), Ok(3_000));
        assert_eq!(wait(Some(40_000), Some(40_000)), Ok(20_000));
        assert_eq!(wait(None, Some(13_000)), Ok(11_500));
        assert_eq!(wait(None, Some(60_000)), Ok(20_000));
        assert_eq!(wait(None, None), Ok(20_000));
        assert_eq!(wait(Some(10_000), Some(10_000)), Ok(9_700));
        assert_eq!(wait(Some(10_000), Some(8_000)), Ok(7_700));
        assert_eq!(wait(Some(10_000), Some(4_000)), Err(Code::IllegalPollingTime));
        assert_eq!(wait(Some(0), Some(4_000)), Ok(0));
    }

    #[test]
    fn old_clients_are_told_in_a_code_they_know() {
        let patience = Patience { deadline_ms: Some(1_000), ..Patience::default() };
        let fault = wait_ms(None, patience, &Limits::default()).unwrap_err();
        assert_eq!(fault.code, Code::BadRequest);
    }
}
