//! Crashes by seed: what was synced comes back, what was not comes back as a prefix.
//!
//! `SEED=n cargo test -p mainstem-log crash` runs one seed; a failure prints its own.

use std::{cell::Cell, sync::Arc};

use fastrand::Rng;

use mainstem_schemas::Position;

use crate::{
    Damage, Frame, Log, LogConfig, LogError, Opened, Planner, Writer,
    disk::Disk,
    sim::{Faults, SimDisk},
};

const SEGMENT_BYTES: u64 = 8 << 10;

/// What was planned and not yet known to be lost, in order.
#[derive(Default)]
struct Model {
    frames: Vec<(Position, Frame)>,
    /// All that was ever planned.
    planned: Vec<(Position, Frame)>,
    /// So many of them were covered by a successful sync.
    synced: usize,
    /// The end that was synced.
    durable: Position,
    /// What lies before may be gone.
    trimmed: Position,
    sequence: u64,
}

impl Model {
    /// Opens the log and checks what it replays.
    fn open(&mut self, disk: &SimDisk, rng: &mut Rng) -> Result<Opened, LogError> {
        let skip = if rng.bool() { 0 } else { rng.usize(..=self.synced) };
        let scan_from = match self.frames.get(skip) {
            Some((position, _)) if skip > 0 && skip < self.synced => *position,
            _ => Position(0),
        };
        let known = if rng.bool() { self.durable } else { Position(0) };
        let mut replayed = Vec::new();
        let opened = open(disk, scan_from, known, &mut replayed)?;
        assert!(opened.3.first <= self.trimmed.max(Position(48)), "trimmed too much");
        self.forget(opened.3.first);
        let expected: Vec<_> =
            self.frames.iter().filter(|(at, _)| *at >= scan_from).cloned().collect();
        let skipped = self.frames.len() - expected.len();
        assert!(skipped + replayed.len() >= self.synced, "a synced frame was lost");
        assert!(replayed.len() <= expected.len(), "a frame came from nowhere");
        assert_eq!(replayed, expected[..replayed.len()], "a frame changed");
        self.frames.truncate(skipped + replayed.len());
        self.synced = self.frames.len();
        self.durable = opened.3.end;
        Ok(opened)
    }

    fn push(&mut self, planner: &mut Planner, rng: &mut Rng) {
        let len = match rng.u8(..20) {
            0 => rng.usize(..=planner.body_bytes_max()),
            1 => 0,
            _ => rng.usize(..200),
        };
        let body: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
        self.sequence += 1;
        let expected = planner.next_position(len);
        let (left, right) = body.split_at(len / 2);
        let position = planner.push(3, self.sequence, &[left, right]).unwrap();
        assert_eq!(position, expected);
        let frame = Frame { kind: 3, writer: 1, sequence: self.sequence, body: body.into() };
        self.planned.push((position, frame.clone()));
        self.frames.push((position, frame));
    }

    /// Writes and syncs batches until something fails.
    fn run(&mut self, planner: &mut Planner, writer: &mut Writer, rng: &mut Rng, batches: usize) {
        for _ in 0..batches {
            planner.begin(self.durable);
            for _ in 0..rng.usize(..8) {
                self.push(planner, rng);
            }
            let batch = planner.finish();
            let pushed = self.frames.len();
            if writer.write(&batch).is_err() {
                return;
            }
            if rng.u8(..3) > 0 {
                if writer.sync().is_err() {
                    assert!(writer.sync().is_err(), "a failed sync was forgotten");
                    return;
                }
                (self.synced, self.durable) = (pushed, batch.end());
            }
            if rng.u8(..6) == 0 && !self.trim(writer, rng) {
                return;
            }
        }
    }

    /// Trims somewhere in what is synced; whether the log goes on.
    fn trim(&mut self, writer: &mut Writer, rng: &mut Rng) -> bool {
        let Some((below, _)) = self.frames.get(rng.usize(..=self.synced)) else { return true };
        self.trimmed = self.trimmed.max(*below);
        let trimmed = writer.trim(*below).map(|first| self.forget(first));
        trimmed.is_ok()
    }

    fn forget(&mut self, first: Position) {
        let before = self.frames.len();
        self.frames.retain(|(position, _)| *position >= first);
        self.synced -= before - self.frames.len();
    }
}

fn open(
    disk: &SimDisk,
    scan_from: Position,
    known: Position,
    replayed: &mut Vec<(Position, Frame)>,
) -> Result<Opened, LogError> {
    let config = LogConfig::new(SEGMENT_BYTES);
    let mut on_frame = |position, frame| replayed.push((position, frame));
    Log::open_on(Arc::new(disk.clone()), config, scan_from, known, &mut on_frame)
}

/// Runs a property for one seed from the environment, or for `count` of them.
fn for_seeds(count: u64, property: impl Fn(&mut Rng, SimDisk)) {
    struct Print(u64);
    impl Drop for Print {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed with SEED={}", self.0);
            }
        }
    }
    let one = std::env::var("SEED").ok().map(|seed| seed.parse().unwrap());
    for seed in one.map_or(0..count, |seed: u64| seed..seed + 1) {
        let _print = Print(seed);
        property(&mut Rng::with_seed(seed), SimDisk::new(seed));
    }
}

#[test]
fn whatever_crashes_the_synced_frames_come_back_and_nothing_but_a_prefix_more() {
    let used_thrice = Cell::new(0);
    for_seeds(2000, |rng, disk| {
        let mut model = Model::default();
        for _ in 0..rng.usize(1..12) {
            let faults = Faults {
                calls_left: rng.bool().then(|| rng.u64(..400)),
                syncs_to_fail: u64::from(rng.u8(..8) == 0),
                short_writes: rng.bool(),
                ..Faults::default()
            };
            disk.set_faults(Faults { syncs_to_fail: 0, ..faults });
            match model.open(&disk, rng) {
                Ok((mut planner, mut writer, _, _)) => {
                    let calls_left = disk.faults().calls_left;
                    disk.set_faults(Faults { calls_left, ..faults });
                    let batches = rng.usize(..90);
                    model.run(&mut planner, &mut writer, rng, batches);
                }
                Err(error) => {
                    assert!(disk.faults().calls_left == Some(0), "{error}");
                }
            }
            if rng.u8(..4) == 0 { disk.restart() } else { disk.crash() }
        }
        model.open(&disk, rng).unwrap_or_else(|error| panic!("{error}"));
        // Made, and then used again twice: one renaming, and two for each later use.
        used_thrice.set(used_thrice.get() + u64::from(disk.renames_max() >= 5));
    });
    let alone = std::env::var("SEED").is_ok();
    assert!(alone || used_thrice.get() > 200, "files were seldom used again: {used_thrice:?}");
}

#[test]
fn a_flipped_bit_is_refused_or_cuts_only_what_nothing_later_covers() {
    for_seeds(400, |rng, disk| {
        let mut model = Model::default();
        let (mut planner, mut writer, _, recovery) = model.open(&disk, rng).unwrap();
        let covered = loop {
            let covered = model.durable;
            planner.begin(covered);
            (0..rng.usize(1..8)).for_each(|_| model.push(&mut planner, rng));
            let batch = planner.finish();
            writer.write(&batch).unwrap();
            writer.sync().unwrap();
            (model.synced, model.durable) = (model.frames.len(), batch.end());
            if rng.u8(..16) == 0 {
                break covered;
            }
        };
        let closed = rng.bool();
        if closed {
            writer.close(planner).unwrap();
        } else {
            drop(writer);
        }
        disk.restart();

        let index = rng.usize(..model.frames.len());
        let (position, frame) = &model.frames[index];
        let offset = position.0 % SEGMENT_BYTES;
        let name = format!("{:016x}.seg", position.0 - offset);
        let at = usize::try_from(offset).unwrap() + rng.usize(..frame.size());
        disk.flip(&name, at, rng.u32(..8));

        let known = if rng.bool() { model.durable } else { recovery.end };
        let mut replayed = Vec::new();
        let opened = open(&disk, Position(0), known, &mut replayed);
        assert_eq!(replayed, model.frames[..index]);
        match opened {
            Ok((_, _, _, recovery)) => {
                assert!(!closed && *position >= covered && known <= *position, "cut what was kept");
                assert_eq!(recovery.end, *position);
                assert!(recovery.cut.is_some_and(|cut| cut.bytes > 0 && cut.offset == offset));
            }
            Err(LogError::Corrupt { path, offset: found, damage: Damage::Middle { .. } }) => {
                assert!(closed || *position < covered || known > *position, "refused a torn tail");
                assert_eq!((path, found), (disk.path(&name), offset));
                // Refusing changes nothing: with the bit turned back all is there again.
                let bit_back = open(&disk, Position(0), known, &mut Vec::new());
                assert!(bit_back.is_err());
            }
            Err(error) => panic!("{error}"),
        }
    });
}

#[test]
fn a_refused_log_is_left_as_it_is() {
    for_seeds(20, |rng, disk| {
        let mut model = Model::default();
        let (mut planner, mut writer, _, _) = model.open(&disk, rng).unwrap();
        model.run(&mut planner, &mut writer, rng, 20);
        model.push(&mut planner, rng);
        writer.close(planner).unwrap();
        model.synced = model.frames.len();
        disk.restart();
        let (position, _) = &model.frames[rng.usize(..model.frames.len())];
        let offset = position.0 % SEGMENT_BYTES;
        let name = format!("{:016x}.seg", position.0 - offset);
        let at = usize::try_from(offset).unwrap();
        disk.flip(&name, at, 0);
        assert!(open(&disk, Position(0), Position(0), &mut Vec::new()).is_err());
        disk.flip(&name, at, 0);
        let frames = model.frames.len();
        model.open(&disk, rng).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(model.frames.len(), frames);
    });
}

#[test]
fn what_a_lying_disk_loses_is_missing_or_refused_and_never_something_else() {
    let harmed = Cell::new(0);
    for_seeds(300, |rng, disk| {
        let mut model = Model::default();
        for _ in 0..rng.usize(1..8) {
            let mut replayed = Vec::new();
            let opened = open(&disk, Position(0), Position(0), &mut replayed);
            let is_known = |frame| model.planned.contains(frame);
            assert!(replayed.iter().all(is_known), "a frame came from nowhere");
            assert!(replayed.is_sorted_by(|(a, _), (b, _)| a < b));
            harmed.set(harmed.get() + u64::from(opened.is_err() || replayed.len() < model.synced));
            let Ok((mut planner, mut writer, _, recovery)) = opened else { break };
            model.frames = replayed;
            (model.synced, model.durable) = (model.frames.len(), recovery.end);
            let lies = if rng.bool() { rng.u64(..20) } else { u64::MAX };
            disk.set_faults(Faults { lies, ..Faults::default() });
            model.run(&mut planner, &mut writer, rng, 40);
            drop(writer);
            disk.crash();
        }
    });
    let alone = std::env::var("SEED").is_ok();
    assert!(alone || harmed.get() > 50, "the disk told no lies: {harmed:?}");
}
