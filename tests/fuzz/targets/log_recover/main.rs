//! Log recovery: arbitrary bytes as a segment, and a real log that is written, crashed, damaged
//! and opened again as the input says.

#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mainstem_log::{
    Disk, Frame, Log, LogConfig, LogError, Opened, recover_bytes,
    sim::{Faults, SimDisk},
};
use mainstem_schemas::Position;

const SEGMENT_BYTES: u64 = 4 << 10;
const OPERATIONS_MAX: usize = 60;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    if first % 2 == 0 {
        let (salt, segment) = rest.split_at(rest.len().min(8));
        let salt = salt.iter().fold(0, |salt, byte| salt << 8 | u64::from(*byte));
        let _recovered = recover_bytes(&LogConfig::new(SEGMENT_BYTES), salt, &Bytes::copy_from_slice(segment));
    } else {
        Life::new(u64::from(*first)).run(rest);
    }
});

/// A log on a simulated disk, and what it must still hold.
struct Life {
    disk: SimDisk,
    /// Everything pushed since the last open that found less.
    frames: Vec<(Position, Frame)>,
    /// So many of them were synced.
    synced: usize,
    /// A bit was turned: what is behind it may be refused or missing, but never altered.
    damaged: bool,
    sequence: u64,
}

impl Life {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        Self { disk, frames: Vec::new(), synced: 0, damaged: false, sequence: 0 }
    }

    fn run(&mut self, input: &[u8]) {
        let mut operations = input.chunks(3).take(OPERATIONS_MAX);
        while let Some(opened) = self.open() {
            let (mut planner, mut writer, _reader, recovery) = opened;
            let mut durable = recovery.end;
            let alive = operations.by_ref().try_for_each(|operation| {
                let [verb, high, low] = [0, 1, 2].map(|at| operation.get(at).copied().unwrap_or(0));
                let number = usize::from(high) << 8 | usize::from(low);
                match verb % 6 {
                    0 | 1 => self.push(&mut planner, number),
                    2 => {
                        planner.begin(durable);
                        let batch = planner.finish();
                        writer.write(&batch).ok().filter(|()| writer.sync().is_ok())?;
                        (self.synced, durable) = (self.frames.len(), batch.end());
                    }
                    3 => {
                        let calls_left = Some(u64::from(low % 16));
                        self.disk.set_faults(Faults { calls_left, ..Faults::default() });
                    }
                    4 => {
                        self.flip(high, number);
                        return None;
                    }
                    _ => return None,
                }
                Some(())
            });
            self.disk.crash();
            if alive.is_some() {
                self.open();
                return;
            }
        }
    }

    fn push(&mut self, planner: &mut mainstem_log::Planner, size: usize) {
        let body = vec![size.to_le_bytes()[0]; size % (planner.body_bytes_max() + 1)];
        self.sequence += 1;
        let position = planner.push(3, self.sequence, &[&body]).expect("a body that fits");
        let frame = Frame { kind: 3, writer: 1, sequence: self.sequence, body: body.into() };
        self.frames.push((position, frame));
    }

    fn flip(&mut self, which: u8, at: usize) {
        let mut names = self.disk.names().unwrap_or_default();
        names.sort();
        let count = names.len().max(1);
        if let Some(name) = names.get(usize::from(which) % count) {
            self.disk.flip(name, at % SEGMENT_BYTES as usize, u32::from(which));
            self.damaged = true;
        }
    }

    /// Opens the log and compares what it replays; `None` when it refuses, as only damage allows.
    fn open(&mut self) -> Option<Opened> {
        let mut replayed = Vec::new();
        let mut on_frame = |position, frame| replayed.push((position, frame));
        let disk = Arc::new(self.disk.clone());
        let config = LogConfig::new(SEGMENT_BYTES);
        let opened = Log::open_on(disk, config, Position(0), Position(0), &mut on_frame);
        let opened: Result<Opened, LogError> = opened;
        assert!(opened.is_ok() || self.damaged, "an undamaged log was refused: {:?}", opened.err());
        let opened = opened.ok()?;
        assert!(replayed.len() >= self.synced || self.damaged, "a synced frame was lost");
        assert!(replayed.len() <= self.frames.len(), "a frame came from nowhere");
        let expected = self.frames.get(..replayed.len()).unwrap_or_default();
        assert_eq!(replayed, expected, "a frame changed");
        self.frames.truncate(replayed.len());
        self.synced = replayed.len();
        Some(opened)
    }
}
