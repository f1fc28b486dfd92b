//! What a caller holds until its batch is kept.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

use crate::{command::Published, error::Refusal};

/// The outcomes of a batch, of publishes if nothing else is said, in the batch's order. It resolves
/// when the batch is as durable as the store's level says; dropping it takes nothing back.
#[derive(Debug)]
pub struct Receipt<T = Published> {
    pub(super) answer: oneshot::Receiver<Vec<T>>,
    /// What became of those that were not sent, by where they stood, ascending.
    pub(super) unsent: Vec<(usize, T)>,
}

impl<T> Unpin for Receipt<T> {}

impl<T> Future for Receipt<T> {
    type Output = Result<Vec<T>, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(cx));
        let mut outcomes = answer.map_err(|_| Refusal::Closed)?;
        for (at, outcome) in self.unsent.drain(..) {
            outcomes.insert(at, outcome);
        }
        Poll::Ready(Ok(outcomes))
    }
}
