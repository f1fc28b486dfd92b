//! The status in a response's body: business errors are never gRPC errors, because a client
//! takes a gRPC error for a broken endpoint.

use mainstem_broker::{LoginError, Refusal};

use super::proto::{Code, Status};

/// Why a request is refused, in the protocol's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub code: Code,
    pub message: String,
}

impl Fault {
    /// A fault with this code and text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The status that tells it.
    #[must_use]
    pub fn status(&self) -> Status {
        Status { code: self.code as i32, message: self.message.clone() }
    }

    /// The text of the reference for a topic that does not exist; clients' tests compare it.
    #[must_use]
    pub fn no_topic(topic: &str) -> Self {
        let text = "CODE: 17  DESC: No topic route info in name server for the topic: ";
        Self::new(Code::TopicNotFound, format!("{text}{topic}"))
    }
}

impl From<LoginError> for Fault {
    fn from(error: LoginError) -> Self {
        let code = match error {
            LoginError::BadCredentials | LoginError::LoopbackOnly => Code::Unauthorized,
            LoginError::NoNamespace | LoginError::NoAccess => Code::Forbidden,
            LoginError::Busy => Code::TooManyRequests,
            LoginError::Closed => Code::InternalServerError,
        };
        Self::new(code, error.to_string())
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::NoTopic(topic) => return Self::no_topic(topic),
            Refusal::Stale => Code::InvalidReceiptHandle,
            Refusal::TooLarge { .. } => Code::MessageBodyTooLarge,
            Refusal::DiskFull | Refusal::QueueFull(_) | Refusal::Limit { .. } => {
                Code::TooManyRequests
            }
            Refusal::Ranked(_) => Code::Unsupported,
            Refusal::Closed | Refusal::Unreadable(_) => Code::InternalServerError,
            Refusal::NoExchange(_)
            | Refusal::NoQueue(_)
            | Refusal::Locked(_)
            | Refusal::InUse(_)
            | Refusal::NotEmpty(_)
            | Refusal::ExclusiveConsumer(_)
            | Refusal::ConsumerExists(_)
            | Refusal::Internal(_)
            | Refusal::DefaultExchange
            | Refusal::Predeclared(_)
            | Refusal::BadArguments(_)
            | Refusal::Denied { .. } => Code::Forbidden,
        };
        Self::new(code, refusal.to_string())
    }
}

/// The status of success.
#[must_use]
pub fn ok() -> Status {
    Status { code: Code::Ok as i32, message: "OK".to_owned() }
}

/// The status of a batch: what all entries have, else `MULTIPLE_RESULTS`. A single entry never
/// gives `MULTIPLE_RESULTS`, which some clients take for an error.
#[must_use]
pub fn overall<'a>(entries: impl IntoIterator<Item = Option<&'a Status>>) -> Status {
    let mut entries = entries.into_iter().flatten();
    let Some(first) = entries.next() else { return ok() };
    if entries.all(|status| status.code == first.code) {
        return first.clone();
    }
    Fault::new(Code::MultipleResults, "multiple results").status()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_several_results_only_when_codes_differ() {
        let bad = Fault::new(Code::InvalidReceiptHandle, "x").status();
        assert_eq!(overall([Some(&bad)]).code, Code::InvalidReceiptHandle as i32);
        assert_eq!(overall([Some(&bad), Some(&bad)]).code, Code::InvalidReceiptHandle as i32);
        assert_eq!(overall([Some(&ok()), Some(&bad)]).code, Code::MultipleResults as i32);
    }
}
