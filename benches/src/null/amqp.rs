//! One AMQP connection of the bare server: answers what the load generator says, and no more.

use std::{collections::VecDeque, io, ops::Range};

use crate::{
    amqp::{
        PREFETCH,
        frame::{self, Frame, Method},
    },
    intake::Intake,
};

const NO_ACK: u8 = 0b10;

#[derive(Default)]
pub(super) struct Amqp {
    greeted: bool,
    confirmed: u64,
    delivered: u64,
    acked: u64,
    /// Its consumer acknowledges nothing.
    is_unbounded: bool,
}

/// What a turn's reading left for the end of the turn.
#[derive(Default)]
pub(super) struct Arrived {
    /// Bodies in the bytes that were appended to the log.
    pub(super) bodies: Vec<Range<usize>>,
    pub(super) consumes: bool,
}

impl Amqp {
    pub(super) fn read(
        &mut self,
        intake: &mut Intake,
        out: &mut Vec<u8>,
        log: &mut Vec<u8>,
    ) -> io::Result<Arrived> {
        let mut arrived = Arrived::default();
        if !self.greeted {
            if intake.bytes().len() < 8 {
                return Ok(arrived);
            }
            intake.consume(8);
            self.greeted = true;
            let start = [&[0, 9], &[0; 4][..], &frame::long("PLAIN"), &frame::long("en_US")];
            frame::method(out, 0, frame::START, &start.concat());
        }
        let before = self.confirmed;
        while let Some((frame, length)) = frame::first(intake.bytes())? {
            match frame {
                Frame::Body(body) => {
                    arrived.bodies.push(log.len()..log.len() + body.len());
                    log.extend_from_slice(body);
                    self.confirmed += 1;
                }
                Frame::Method(frame::ACK, _) => self.acked += 1,
                Frame::Method(frame::CONSUME, arguments) => {
                    arrived.consumes = true;
                    let (_queue, rest) = frame::split_short(arguments.get(2..).unwrap_or_default());
                    let (_tag, rest) = frame::split_short(rest);
                    self.is_unbounded = rest.first().is_some_and(|flags| flags & NO_ACK != 0);
                    answer(out, frame::CONSUME, arguments);
                }
                Frame::Method(method, arguments) => answer(out, method, arguments),
                Frame::Header(_) | Frame::Other => {}
            }
            intake.consume(length);
        }
        if self.confirmed > before {
            let ack = [&self.confirmed.to_be_bytes()[..], &[1]].concat();
            frame::method(out, frame::CHANNEL, frame::ACK, &ack);
        }
        Ok(arrived)
    }

    /// As many of the waiting bodies as the prefetch allows.
    pub(super) fn deliver(&mut self, waiting: &mut VecDeque<Box<[u8]>>, out: &mut Vec<u8>) {
        while self.is_unbounded || self.delivered - self.acked < u64::from(PREFETCH) {
            let Some(body) = waiting.pop_front() else { return };
            self.delivered += 1;
            let tag = self.delivered.to_be_bytes();
            let deliver =
                [&frame::short("c")[..], &tag, &[0], &frame::short(""), &frame::short("q")]
                    .concat();
            frame::method(out, frame::CHANNEL, frame::DELIVER, &deliver);
            frame::content(out, 2, None, &body);
        }
    }
}

fn answer(out: &mut Vec<u8>, method: Method, arguments: &[u8]) {
    const LIMITS: [u8; 8] = [0, 1, 0, 2, 0, 0, 0, 0];
    let (channel, method, arguments) = match method {
        frame::START_OK => (0, frame::TUNE, LIMITS.to_vec()),
        frame::OPEN => (0, frame::OPEN_OK, vec![0]),
        frame::CHANNEL_OPEN => (frame::CHANNEL, frame::CHANNEL_OPEN_OK, vec![0; 4]),
        frame::DECLARE => {
            let (name, _) = frame::split_short(arguments.get(2..).unwrap_or_default());
            let name = frame::short(&String::from_utf8_lossy(name));
            (frame::CHANNEL, frame::DECLARE_OK, [&name[..], &[0; 8]].concat())
        }
        frame::BIND => (frame::CHANNEL, frame::BIND_OK, Vec::new()),
        frame::EXCHANGE_DECLARE => (frame::CHANNEL, frame::EXCHANGE_DECLARE_OK, Vec::new()),
        frame::EXCHANGE_DELETE => (frame::CHANNEL, frame::EXCHANGE_DELETE_OK, Vec::new()),
        frame::SELECT => (frame::CHANNEL, frame::SELECT_OK, Vec::new()),
        frame::QOS => (frame::CHANNEL, frame::QOS_OK, Vec::new()),
        frame::CONSUME => (frame::CHANNEL, frame::CONSUME_OK, frame::short("c")),
        frame::DELETE => (frame::CHANNEL, frame::DELETE_OK, vec![0; 4]),
        _ => return,
    };
    frame::method(out, channel, method, &arguments);
}
