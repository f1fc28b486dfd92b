//! Damage anywhere: found, named, and nothing else is touched.

use std::{fs, sync::Arc, thread};

use fastrand::Rng;

use mainstem_schemas::Position;

use crate::{
    Damage, Finding, Frame, Log, LogConfig, LogError, Opened, Reader, Report,
    disk::{Disk, read_upto_at},
    scan::{Scan, Step},
    segment::{Geometry, SEGMENT_HEADER_BYTES, Start},
    sim::SimDisk,
    verify, verify_on,
};

const START: Position = Position(0);
const SEGMENT_BYTES: u64 = 16 << 10;
const CONFIG: LogConfig = LogConfig { segment_bytes: SEGMENT_BYTES, writer: 1 };

type Frames = Vec<(Position, Frame)>;

fn open(disk: &SimDisk) -> (Result<Opened, LogError>, Frames) {
    let mut frames = Vec::new();
    let mut on_frame = |position, frame| frames.push((position, frame));
    let disk = Arc::new(disk.clone());
    let opened = Log::open_on(disk, CONFIG, START, START, &mut on_frame);
    (opened, frames)
}

fn check(disk: &dyn Disk) -> (Report, Vec<Finding>) {
    let mut findings = Vec::new();
    let report =
        verify_on(disk, START, &mut |finding: &Finding| findings.push(finding.clone())).unwrap();
    assert_eq!(report.findings, findings.len() as u64);
    (report, findings)
}

/// A log of several segments in files that were used before, with a next segment behind them.
fn write_log(seed: u64, close: bool) -> SimDisk {
    let disk = SimDisk::new(seed);
    let mut rng = Rng::with_seed(seed);
    let (mut planner, mut writer, reader, _) = open(&disk).0.unwrap();
    let mut positions = Vec::new();
    while reader.segment_of(planner.end()) < 12 || planner.end().0 % SEGMENT_BYTES < 8000 {
        planner.begin(planner.end());
        for _ in 0..rng.usize(1..6) {
            let body: Vec<u8> = (0..rng.usize(..900)).map(|_| rng.u8(..)).collect();
            let sequence = positions.len() as u64;
            positions.push(planner.push(3, sequence, &[&body]).unwrap());
        }
        writer.write(&planner.finish()).unwrap();
        writer.sync().unwrap();
        // Keeps seven segments, trimming when none is prepared.
        let old = reader.segment_of(planner.end()).saturating_sub(6);
        writer.trim(Position(old * SEGMENT_BYTES)).unwrap();
    }
    assert!(disk.renames_max() >= 3, "no file was used again");
    assert!(writer.files() >= 7);
    if close {
        writer.close(planner).unwrap();
    }
    disk.restart();
    disk
}

/// What a log's files hold: every segment header and frame, the log's own too, in order.
struct Map {
    /// Position, bytes, and whether it is one of the broker's.
    items: Vec<(u64, u64, bool)>,
    end: u64,
}

impl Map {
    fn new(disk: &SimDisk) -> Self {
        let geometry = Geometry::new(&CONFIG).unwrap();
        let mut map = Self { items: Vec::new(), end: 0 };
        let mut names = disk.names().unwrap();
        names.sort();
        for name in names {
            let Some(number) = geometry.parse_name(disk, &name).unwrap() else { continue };
            let base = geometry.base(number);
            let file = disk.open(&name).unwrap();
            let mut read = |offset, len| Ok(read_upto_at(&*file, len, offset).unwrap().into());
            let Some(Start::Known { salt, .. }) = Start::decode(base, &read(0, 48).unwrap()) else {
                panic!("no header")
            };
            map.items.push((base, SEGMENT_HEADER_BYTES as u64, false));
            let mut scan = Scan::new(geometry, salt, number, &mut read);
            let mut offset = SEGMENT_HEADER_BYTES as u64;
            while let Step::Frame(frame) = scan.step(offset).unwrap() {
                map.items.push((base + offset, frame.size() as u64, frame.kind == 3));
                offset += frame.size() as u64;
                map.end = base + offset;
            }
            let is_end = matches!(scan.step(offset).unwrap(), Step::End);
            if is_end && SEGMENT_BYTES - offset >= 24 {
                map.items.push((base + offset, 24, false));
            }
        }
        map
    }

    /// The item that these bytes belong to.
    fn find(&self, position: u64) -> Option<usize> {
        self.items.iter().position(|(at, len, _)| (*at..at + len).contains(&position))
    }

    /// The next frame behind an item.
    fn next(&self, index: usize) -> Option<u64> {
        let is_frame = |at: u64| !at.is_multiple_of(SEGMENT_BYTES);
        self.items[index + 1..].iter().map(|(at, ..)| *at).find(|at| is_frame(*at))
    }
}

fn read_all(reader: &Reader, frames: &Frames) -> Vec<(Position, LogError)> {
    let read = |(position, frame): &(Position, Frame)| {
        let found = reader.read(*position, frame.size());
        found.map(|found| assert_eq!(found, *frame)).err().map(|error| (*position, error))
    };
    frames.iter().filter_map(read).collect()
}

fn is_corrupt(error: &LogError, disk: &SimDisk, position: u64) {
    let LogError::Corrupt { path, offset, .. } = error else { panic!("{error}") };
    let offset_wanted = position % SEGMENT_BYTES;
    let name = format!("{:016x}.seg", position - offset_wanted);
    assert_eq!((path, *offset), (&disk.path(&name), offset_wanted));
}

/// What became of a log with a flipped bit.
struct Outcome {
    disk: SimDisk,
    /// As it was before it was opened.
    before: SimDisk,
    map: Map,
    /// What the log holds without the flipped bit.
    frames: Frames,
    opened: Result<Opened, LogError>,
    replayed: Frames,
    /// What could not be read one by one.
    damaged: Vec<(Position, LogError)>,
    report: Report,
    findings: Vec<Finding>,
}

impl Outcome {
    fn check_refused(self, hit: usize, is_header: bool) -> usize {
        let Self { disk, map, report, findings, damaged, .. } = self;
        let (start, _, is_frame) = map.items[hit];
        is_corrupt(&self.opened.map(drop).unwrap_err(), &disk, start);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].position, Position(start));
        let resume = findings[0].resume.as_ref().map(|resume| resume.position.0);
        assert_eq!(resume, if is_header { None } else { map.next(hit) });
        assert_eq!(matches!(findings[0].damage, Damage::Header), is_header);
        assert_eq!((report.end.0, &report.torn), (map.end, &None));
        assert_eq!(self.frames.len() as u64 - report.frames(), u64::from(is_frame));
        assert_eq!(damaged.len(), usize::from(is_frame));
        damaged.iter().for_each(|(_, error)| is_corrupt(error, &disk, start));
        for name in disk.names().unwrap() {
            let bytes =
                |disk: &SimDisk| read_upto_at(&*disk.open(&name).unwrap(), 1 << 20, 0).unwrap();
            assert!(bytes(&disk) == bytes(&self.before), "refusing changed {name}");
        }
        0
    }

    fn check_cut(self, hit: usize, is_closed: bool) -> usize {
        let (start, _, is_frame) = self.map.items[hit];
        assert!(!is_closed, "a closed log lost a frame");
        let cut = self.opened.unwrap().3.cut.unwrap();
        assert_eq!(cut.offset, start % SEGMENT_BYTES);
        assert_eq!((self.report.end.0, self.findings.len()), (start, 0));
        assert_eq!(self.report.torn, Some(cut));
        let kept = self.frames.iter().filter(|(at, _)| at.0 < start).count();
        assert_eq!(self.replayed, self.frames[..kept]);
        assert_eq!(self.damaged.len(), usize::from(is_frame));
        1
    }

    fn check_harmless(self, position: u64) -> usize {
        let end = self.map.end;
        assert_eq!(self.replayed, self.frames);
        assert_eq!((self.findings.len(), self.damaged.len(), self.report.end.0), (0, 0, end));
        assert_eq!(self.opened.unwrap().3.cut, self.report.torn);
        let in_tail = (end..end + 24).contains(&position);
        assert_eq!(self.report.torn.is_some(), in_tail);
        if in_tail { 2 } else { 3 }
    }
}

#[test]
fn a_thousand_flipped_bits_are_each_refused_or_found_and_named() {
    let mut rng = Rng::with_seed(9);
    let mut hits = [0_u32; 4];
    for round in 0..1000 {
        let closed = round % 2 == 0;
        let disk = write_log(round / 50, closed);
        let map = Map::new(&disk);
        let (opened, frames) = open(&disk.fork());
        let (_, writer, ..) = opened.unwrap();
        assert_eq!(check(&disk).0.frames(), frames.len() as u64);
        drop(writer);

        let names: Vec<_> =
            disk.names().unwrap().into_iter().filter(|name| name.ends_with(".seg")).collect();
        let name = &names[rng.usize(..names.len())];
        let base = u64::from_str_radix(name.trim_end_matches(".seg"), 16).unwrap();
        let at = if rng.u8(..8) == 0 { rng.u64(..48) } else { rng.u64(..SEGMENT_BYTES) };
        let position = base + at;
        let reading = disk.fork();
        let (_, _writer, reader, _) = open(&reading).0.unwrap();
        let bit = rng.u32(..8);
        for disk in [&disk, &reading] {
            disk.flip(name, usize::try_from(at).unwrap(), bit);
        }
        let (report, findings) = check(&disk);
        let before = disk.fork();
        let (opened, replayed) = open(&disk);
        let damaged = read_all(&reader, &frames);
        let hit = map.find(position);
        let is_last = hit.is_some_and(|hit| map.items[hit].0 >= map.end - 24);
        let last_batch = map.items.iter().rposition(|(at, len, is_frame)| {
            *len == 32 && !is_frame && at % SEGMENT_BYTES != 0 && *at < map.end
        });
        // Nothing later says that the last batch was synced.
        let is_header = hit.is_some_and(|hit| map.items[hit].0 == base);
        let promised = |hit: usize| hit < last_batch.unwrap() || is_header;
        let outcome =
            Outcome { disk, before, map, frames, opened, replayed, damaged, report, findings };
        let case = match hit {
            Some(hit) if promised(hit) => outcome.check_refused(hit, is_header),
            Some(hit) => outcome.check_cut(hit, closed && !is_last),
            None => outcome.check_harmless(position),
        };
        hits[case] += 1;
    }
    assert!(hits[0] > 600 && hits[1] > 0 && hits[3] > 20, "{hits:?}");
}

#[test]
fn every_damaged_place_is_named_and_what_is_behind_it_is_read() {
    let disk = write_log(3, true);
    let map = Map::new(&disk);
    let whole = check(&disk).0;
    assert_eq!(whole.files, disk.names().unwrap().len() as u64);
    assert_eq!((whole.segment_bytes, whole.end.0), (SEGMENT_BYTES, map.end));
    let frames: Vec<_> = map.items.iter().filter(|(.., is_frame)| *is_frame).collect();
    assert_eq!(whole.first, frames.first().map(|(at, ..)| Position(*at)));
    assert_eq!(whole.last, frames.last().map(|(at, ..)| Position(*at)));
    let bytes: u64 = frames.iter().map(|(_, len, _)| len).sum();
    assert_eq!((whole.kinds[&3].frames, whole.kinds[&3].bytes), (frames.len() as u64, bytes));

    let mut hit = Vec::new();
    for index in [5, 6, 30, 31, 90] {
        let (at, len, _) = *frames[index];
        let name = format!("{:016x}.seg", at - at % SEGMENT_BYTES);
        disk.flip(&name, usize::try_from(at % SEGMENT_BYTES + len - 1).unwrap(), 1);
        hit.push(Position(at));
    }
    let missing = frames[60].0 / SEGMENT_BYTES + 1;
    let gone = format!("{:016x}.seg", missing * SEGMENT_BYTES);
    let lost = frames.iter().filter(|(at, ..)| at / SEGMENT_BYTES == missing).count();
    disk.remove(&gone).unwrap();
    let (report, findings) = check(&disk);
    let places = |wanted: fn(&Damage) -> bool| {
        let mut places: Vec<_> = findings
            .iter()
            .filter(|found| wanted(&found.damage))
            .map(|found| found.position)
            .collect();
        places.sort_unstable();
        places
    };
    let is_in_gone = |at: &Position| at.0 / SEGMENT_BYTES == missing;
    hit.retain(|at| !is_in_gone(at));
    // Two damaged frames in a row, without a frame between them, are one place.
    let middle = places(|damage| matches!(damage, Damage::Middle { .. }));
    assert!(
        middle.iter().all(|at| hit.contains(at)) && middle.len() + 2 >= hit.len(),
        "{findings:?}"
    );
    assert_eq!(places(|damage| *damage == Damage::Missing), [Position(missing * SEGMENT_BYTES)]);
    let found = whole.frames() - report.frames();
    assert_eq!(found, (hit.len() + lost) as u64);
    assert_eq!(report.end, whole.end);
}

#[test]
fn damage_behind_which_nothing_is_promised_is_a_torn_tail_unless_the_caller_knows_better() {
    let disk = write_log(4, false);
    let map = Map::new(&disk);
    let (at, ..) = *map.items.iter().rfind(|(.., is_frame)| *is_frame).unwrap();
    let name = format!("{:016x}.seg", at - at % SEGMENT_BYTES);
    disk.flip(&name, usize::try_from(at % SEGMENT_BYTES + 5).unwrap(), 1);
    let (report, findings) = check(&disk);
    assert!(findings.is_empty());
    assert_eq!((report.end.0, report.torn.unwrap().path), (at, disk.path(&name)));
    let mut findings = Vec::new();
    let known = Position(map.end);
    verify_on(&disk, known, &mut |finding: &Finding| findings.push(finding.clone())).unwrap();
    assert_eq!((findings.len(), findings[0].position.0, &findings[0].resume), (1, at, &None));
}

#[test]
fn files_without_a_single_header_are_named_and_none_is_no_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut findings = 0;
    let mut verified = || verify(dir.path(), START, &mut |_| findings += 1);
    assert_eq!(verified().unwrap(), Report::default());
    fs::write(dir.path().join("0000000000000000.seg"), [7; 5000]).unwrap();
    fs::write(dir.path().join("0000000000001000.seg"), []).unwrap();
    fs::write(dir.path().join("next.tmp"), []).unwrap();
    let report = verified().unwrap();
    assert_eq!((report.files, report.findings, report.segment_bytes), (2, 2, 0));
    assert_eq!(findings, 2);
    assert!(verify(&dir.path().join("none"), START, &mut |_| ()).is_err());
}

#[test]
fn beside_a_server_that_writes_and_trims_nothing_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig::new(256 << 10);
    let (mut planner, mut writer, reader, _) =
        Log::open(dir.path(), config, START, START, &mut |_, _| ()).unwrap();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            for n in 0..1500_u64 {
                planner.begin(planner.end());
                for _ in 0..8 {
                    planner.push(3, n, &[&[1; 1000]]).unwrap();
                }
                writer.write(&planner.finish()).unwrap();
                if n % 8 == 0 {
                    writer.sync().unwrap();
                }
                let number = reader.segment_of(planner.end());
                writer.trim(reader.segment_bounds(number.saturating_sub(2)).0).unwrap();
            }
        });
        let mut rounds = 0;
        while !server.is_finished() {
            verify(dir.path(), START, &mut |finding: &Finding| panic!("{finding:?}")).unwrap();
            rounds += 1;
        }
        assert!(rounds > 1);
    });
    let report = verify(dir.path(), START, &mut |finding| panic!("{finding:?}")).unwrap();
    assert!(report.frames() > 200 && report.torn.is_none());
}

#[test]
fn a_file_of_another_log_is_named() {
    let disk = write_log(5, true);
    let other = write_log(6, true);
    let whole = check(&disk).0;
    let mut names = disk.names().unwrap();
    names.sort();
    let name = &names[0];
    let bytes = read_upto_at(&*other.open(name).unwrap(), 1 << 20, 0).unwrap();
    disk.open(name).unwrap().write_at(&bytes, 0).unwrap();
    let (report, findings) = check(&disk);
    assert_eq!(findings.len(), 1);
    assert_eq!((&findings[0].path, findings[0].damage), (&disk.path(name), Damage::Foreign));
    assert!(report.frames() < whole.frames() && report.end == whole.end);
}
