//! One run of one scenario: what it is asked to do and what came of it.

use std::{io, time::Duration};

use crate::{
    clock::{now_nanos, since},
    histogram::Histogram,
    process::Pid,
};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Clone, Copy)]
pub struct Load {
    pub port: u16,
    /// The process whose cost is measured.
    pub pid: Pid,
    pub duration: Duration,
    /// Distinguishes the queues and sessions of this run from those of any other.
    pub run: u32,
    /// What a declared AMQP queue asks to be, if the server has kinds of them.
    pub queue_type: Option<&'static str>,
}

#[derive(Default)]
pub struct Outcome {
    pub published: u64,
    pub delivered: u64,
    pub confirm: Histogram,
    pub delivery: Histogram,
}

/// An outcome with what it cost. The time ends with the last confirm or delivery, so a backlog
/// is paid for.
pub struct Measured {
    pub outcome: Outcome,
    pub elapsed: Duration,
    pub server_cpu: Duration,
    pub client_cpu: Duration,
    pub peak_mib: u64,
}

impl Measured {
    /// Deliveries where the scenario has readers, otherwise confirmed messages.
    #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
    pub fn messages(&self) -> f64 {
        let Outcome { published, delivered, .. } = self.outcome;
        if delivered > 0 { delivered as f64 } else { published as f64 }
    }

    pub fn rate(&self) -> f64 {
        self.messages() / self.elapsed.as_secs_f64().max(1e-9)
    }

    pub fn server_cpu_per_million(&self) -> f64 {
        self.server_cpu.as_secs_f64() / self.messages().max(1.0) * 1e6
    }

    pub fn client_cpu_per_million(&self) -> f64 {
        self.client_cpu.as_secs_f64() / self.messages().max(1.0) * 1e6
    }
}

/// Runs from the moment everything is connected to the last message.
pub struct Meter {
    pid: Pid,
    start_nanos: u64,
    server_cpu: Duration,
    client_cpu: Duration,
}

impl Meter {
    pub fn start(pid: Pid) -> Result<Self> {
        pid.forget_peak()?;
        let (server_cpu, client_cpu) = (pid.cpu()?, Pid::own().cpu()?);
        Ok(Self { pid, start_nanos: now_nanos(), server_cpu, client_cpu })
    }

    pub fn finish(self, outcome: Outcome) -> Result<Measured> {
        Ok(Measured {
            outcome,
            elapsed: since(self.start_nanos, now_nanos()),
            server_cpu: self.pid.cpu()?.saturating_sub(self.server_cpu),
            client_cpu: Pid::own().cpu()?.saturating_sub(self.client_cpu),
            peak_mib: self.pid.peak_mib()?,
        })
    }
}

/// The messages of a run that wait for their confirm, and since when. Confirms may arrive in
/// any order; sequences are those of the publisher, from 0.
pub struct Unconfirmed {
    sent_nanos: Vec<u64>,
    floor: u64,
    next: u64,
    pub latency: Histogram,
}

impl Unconfirmed {
    pub fn new(window: usize) -> Self {
        Self { sent_nanos: vec![0; window], floor: 0, next: 0, latency: Histogram::default() }
    }

    pub fn room(&self) -> u64 {
        self.window() - (self.next - self.floor)
    }

    pub fn is_empty(&self) -> bool {
        self.floor == self.next
    }

    pub fn published(&self) -> u64 {
        self.next
    }

    /// The oldest sequence that is not confirmed.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    pub fn push(&mut self, now_nanos: u64) -> u64 {
        let sequence = self.next;
        self.next += 1;
        if let Some(slot) = self.slot(sequence) {
            *slot = now_nanos;
        }
        sequence
    }

    pub fn confirm(&mut self, sequence: u64, now_nanos: u64) {
        if !(self.floor..self.next).contains(&sequence) {
            return;
        }
        let sent = self.slot(sequence).map_or(0, std::mem::take);
        if sent != 0 {
            self.latency.record(now_nanos.saturating_sub(sent));
        }
        while self.floor < self.next && self.slot(self.floor).is_none_or(|sent| *sent == 0) {
            self.floor += 1;
        }
    }

    /// Where nothing is confirmed, what is sent is done with.
    pub fn forget(&mut self) {
        self.floor = self.next;
    }

    pub fn confirm_through(&mut self, sequence: u64, now_nanos: u64) {
        for each in self.floor..(sequence + 1).min(self.next) {
            self.confirm(each, now_nanos);
        }
    }

    fn window(&self) -> u64 {
        u64::try_from(self.sent_nanos.len()).unwrap_or(u64::MAX)
    }

    fn slot(&mut self, sequence: u64) -> Option<&mut u64> {
        let index = usize::try_from(sequence % self.window()).ok()?;
        self.sent_nanos.get_mut(index)
    }
}

pub fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_opens_in_order_though_confirms_come_in_any() {
        let mut unconfirmed = Unconfirmed::new(4);
        (0..4).for_each(|sequence| assert_eq!(unconfirmed.push(1), sequence));
        assert_eq!(unconfirmed.room(), 0);
        unconfirmed.confirm(1, 2);
        assert_eq!(unconfirmed.room(), 0);
        unconfirmed.confirm(0, 2);
        assert_eq!(unconfirmed.room(), 2);
        unconfirmed.confirm_through(3, 2);
        assert!(unconfirmed.is_empty());
    }
}
