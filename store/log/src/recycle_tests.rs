//! Trimmed segments: which are used again, which are deleted, and what readers see of it.

use std::{sync::Arc, thread, time::Duration};

use mainstem_schemas::Position;

use crate::{
    Frame, Log, LogConfig, LogError, Opened, Planner, Spare, Writer,
    disk::{Disk, RealDisk},
    segment::{Geometry, SEGMENT_HEADER_BYTES},
    sim::{Faults, SimDisk},
    source::Source,
};

const START: Position = Position(0);
const SEGMENT_BYTES: u64 = 4096;
const FIRST: u64 = SEGMENT_HEADER_BYTES as u64;

fn open(disk: &SimDisk) -> (Opened, Vec<(Position, Frame)>) {
    let mut frames = Vec::new();
    let mut on_frame = |position, frame| frames.push((position, frame));
    let config = LogConfig::new(SEGMENT_BYTES);
    let disk = Arc::new(disk.clone());
    let opened = Log::open_on(disk, config, START, START, &mut on_frame).unwrap();
    (opened, frames)
}

/// Pushes, writes and syncs one frame as a batch of its own.
fn append(planner: &mut Planner, writer: &mut Writer, body: &[u8]) -> Position {
    planner.begin(planner.end());
    let position = planner.push(1, 7, &[body]).unwrap();
    writer.write(&planner.finish()).unwrap();
    writer.sync().unwrap();
    position
}

fn names(disk: &dyn Disk) -> Vec<String> {
    let mut names = disk.names().unwrap();
    names.sort();
    names
}

fn name(number: u64) -> String {
    format!("{:016x}.seg", number * SEGMENT_BYTES)
}

#[test]
fn one_trimmed_file_becomes_the_next_segment_and_the_rest_are_deleted() {
    let disk = SimDisk::new(1);
    let ((mut planner, mut writer, reader, _), _) = open(&disk);
    for n in 1..4 {
        append(&mut planner, &mut writer, &[n; 3900]);
    }
    let kept = append(&mut planner, &mut writer, &[4; 600]);
    assert_eq!(reader.segment_of(kept), 3);
    assert_eq!(names(&disk), [name(0), name(1), name(2), name(3)]);
    assert!(matches!(writer.spare(), Ok(Spare::Preparing)), "made before three eighths were full");
    assert_eq!((writer.files(), reader.files()), (4, 4));

    assert_eq!(writer.trim(kept).unwrap(), Position(3 * SEGMENT_BYTES + FIRST));
    assert_eq!(names(&disk), [name(3), name(4)]);
    assert!(matches!(writer.spare(), Ok(Spare::Ready)));
    assert_eq!(writer.files(), 2);
    let mut bytes = [0; 40];
    disk.open(&name(4)).unwrap().read_at(&mut bytes, 1000).unwrap();
    assert_eq!(bytes, [1; 40], "not the file of segment 0");

    drop(writer);
    disk.crash();
    let ((mut planner, mut writer, _, recovery), frames) = open(&disk);
    assert_eq!((frames.len(), recovery.cut, writer.files()), (1, None, 2));
    // With a next segment ready nothing is kept.
    append(&mut planner, &mut writer, &[5; 3900]);
    let last = append(&mut planner, &mut writer, &[6; 3900]);
    assert_eq!(names(&disk), [name(3), name(4), name(5), name(6)]);
    writer.trim(last).unwrap();
    assert_eq!(names(&disk), [name(5), name(6)]);
    assert_eq!(writer.files(), 2);
    drop(writer);
    disk.crash();
    let (_, frames) = open(&disk);
    assert_eq!(frames.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [last]);
}

#[test]
fn a_new_segment_of_a_real_disk_is_its_header_and_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
    let geometry = Geometry::new(&LogConfig::new(4 << 20)).unwrap();
    let source = Source::new(disk, geometry, 7, 0);
    let check = |number, bytes: usize| {
        let made = std::fs::read(source.path(number)).unwrap();
        let start = geometry.encode_header(number, 7);
        assert!(made.starts_with(&start));
        assert_eq!(made.len(), bytes);
        assert!(made.iter().skip(start.len()).all(|byte| *byte == 0));
    };
    source.make(1, &mut |_| true).unwrap().unwrap();
    check(1, 4 << 20);
    let (_, filled) = source.make_quickly(2).unwrap();
    check(2, usize::try_from(filled).unwrap());
    source.fill(2, filled, &mut |_| true).unwrap();
    check(2, 4 << 20);
}

#[test]
fn a_spare_is_kept_where_that_is_wanted_and_used_when_the_next_one_is() {
    let disk = SimDisk::new(1);
    let ((mut planner, mut writer, ..), _) = open(&disk);
    writer.keep_spares(1);
    for n in 1..4 {
        append(&mut planner, &mut writer, &[n; 3900]);
    }
    let kept = append(&mut planner, &mut writer, &[4; 600]);
    writer.trim(kept).unwrap();
    assert_eq!(names(&disk), [name(2), name(3), name(4)], "one is next, one is spare");
    assert_eq!(writer.files(), 3);
    append(&mut planner, &mut writer, &[5; 3900]);
    assert_eq!(names(&disk), [name(3), name(4), name(5)]);
    let mut bytes = [0; 40];
    disk.open(&name(5)).unwrap().read_at(&mut bytes, 1000).unwrap();
    assert_eq!(bytes, [3; 40], "not the file of segment 2");
    let last = append(&mut planner, &mut writer, &[6; 600]);
    writer.trim(last).unwrap();
    assert_eq!(names(&disk), [name(4), name(5), name(6)]);
    // Who wants it no longer, and an end, clear it away.
    writer.keep_spares(0);
    assert_eq!(names(&disk), [name(5), name(6)]);
    writer.keep_spares(1);
    append(&mut planner, &mut writer, &[7; 3900]);
    let last = append(&mut planner, &mut writer, &[8; 3000]);
    writer.trim(last).unwrap();
    assert_eq!(names(&disk).len(), 3);
    drop(writer);
    assert_eq!(names(&disk).len(), 2);
    let (_, frames) = open(&disk);
    assert!(frames.iter().any(|(at, _)| *at == last));
}

#[test]
fn zeros_are_written_once_three_eighths_are_full_and_nothing_was_trimmed() {
    let disk = SimDisk::new(1);
    let ((mut planner, mut writer, _, _), _) = open(&disk);
    append(&mut planner, &mut writer, &[1; 600]);
    assert_eq!(names(&disk), [name(0)]);
    append(&mut planner, &mut writer, &[1; 800]);
    assert!(planner.end().0 < SEGMENT_BYTES / 2);
    assert_eq!(names(&disk), [name(0), name(1)]);
    // A start finds out for itself.
    drop(writer);
    disk.remove(&name(1)).unwrap();
    let ((_, writer, _, _), _) = open(&disk);
    assert_eq!(names(&disk), [name(0), name(1)]);
    assert_eq!(writer.files(), 2);
}

#[test]
fn who_waited_for_zeros_has_the_next_ones_written_at_once_until_something_is_trimmed() {
    let disk = SimDisk::new(1);
    let ((mut planner, mut writer, reader, _), _) = open(&disk);
    let has = |number| names(&disk).contains(&name(number));
    let becomes = |is: &dyn Fn() -> bool| {
        (0..1000).any(|_| {
            is() || {
                thread::sleep(Duration::from_millis(10));
                false
            }
        })
    };
    // Later than this thread may be: it waits.
    disk.set_faults(Faults { beside_late_ms: 1000, ..Faults::default() });
    append(&mut planner, &mut writer, &[1; 3900]);
    disk.set_faults(Faults::default());
    append(&mut planner, &mut writer, &[2; 600]);
    assert!(becomes(&|| has(2)), "the first of them was waited for");
    append(&mut planner, &mut writer, &[3; 3900]);
    let kept = append(&mut planner, &mut writer, &[4; 600]);
    assert!(becomes(&|| has(4)), "it was ready, as the one before was begun early");
    writer.trim(kept).unwrap();
    assert!(becomes(&|| !has(2)), "what was trimmed is there");
    append(&mut planner, &mut writer, &[5; 3300]);
    let last = append(&mut planner, &mut writer, &[6; 600]);
    thread::sleep(Duration::from_millis(200));
    assert!(reader.segment_of(last) == 4 && !has(5), "a trim may give it");

    // The same where what was trimmed becomes the next one.
    disk.set_faults(Faults { beside_late_ms: 1000, ..Faults::default() });
    append(&mut planner, &mut writer, &[7; 3300]);
    append(&mut planner, &mut writer, &[8; 600]);
    writer.trim(last).unwrap();
    assert!(becomes(&|| has(6)) && !has(3), "it is not the file of segment 3");
    disk.set_faults(Faults::default());
    append(&mut planner, &mut writer, &[9; 3300]);
    let last = append(&mut planner, &mut writer, &[10; 600]);
    thread::sleep(Duration::from_millis(200));
    assert!(reader.segment_of(last) == 6 && !has(7), "a trim may give it");
}

#[test]
fn the_end_of_a_log_in_a_used_file_is_no_torn_tail_and_a_torn_one_is_counted() {
    let disk = SimDisk::new(1);
    let ((mut planner, mut writer, _, _), _) = open(&disk);
    // Frames of one size everywhere, so that old ones lie where new ones will.
    let mut last = START;
    for n in 0..40 {
        last = append(&mut planner, &mut writer, &[n; 456]);
        writer.trim(last).unwrap();
        let end = planner.end();
        drop(writer);
        disk.restart();
        let opened = open(&disk).0;
        assert_eq!((opened.3.end, opened.3.cut), (end, None));
        (planner, writer, _, _) = opened;
    }
    assert!(disk.renames_max() >= 5, "no file was used three times");
    planner.begin(planner.end());
    let torn = planner.push(1, 1, &[&[77; 456]]).unwrap();
    writer.write(&planner.finish()).unwrap();
    drop(writer);
    disk.restart();
    let (number, offset) = (torn.0 / SEGMENT_BYTES, torn.0 % SEGMENT_BYTES);
    disk.flip(&name(number), usize::try_from(offset).unwrap() + 300, 0);
    let ((_, _, reader, recovery), frames) = open(&disk);
    let cut = recovery.cut.unwrap();
    assert_eq!((cut.offset, cut.bytes), (offset, 480));
    assert_eq!(frames.last().unwrap().0, last);
    assert!(matches!(reader.read(torn, 480), Err(LogError::Corrupt { .. })));
}

#[test]
fn a_scan_hands_out_the_frames_between_two_places() {
    let disk = SimDisk::new(1);
    let ((mut planner, mut writer, reader, _), _) = open(&disk);
    let mut bodies = Vec::new();
    for n in 0..60_u8 {
        let body = vec![n; usize::from(n) * 20];
        bodies.push((append(&mut planner, &mut writer, &body), body));
    }
    let scan = |from, upto| {
        let mut found = Vec::new();
        let mut on_frame = |at, frame: Frame| {
            found.push((at, frame.body.to_vec()));
            true
        };
        reader.scan(from, upto, &mut on_frame).map(|()| found)
    };
    let end = reader.end();
    assert_eq!(end, planner.end());
    assert_eq!(scan(reader.first(), end).unwrap(), bodies);
    assert_eq!(scan(START, Position(u64::MAX)).unwrap(), bodies);
    assert_eq!(scan(bodies[7].0, bodies[41].0).unwrap(), bodies[7..41]);
    assert_eq!(scan(bodies[7].0, bodies[7].0).unwrap(), []);
    assert_eq!(scan(end, end).unwrap(), []);

    // Segment by segment it is the same.
    let last = reader.segment_of(end);
    let parts = (0..=last).map(|number| reader.segment_bounds(number));
    let found: Vec<_> = parts.flat_map(|(from, upto)| scan(from, upto).unwrap()).collect();
    assert!(last > 8 && found == bodies);
    assert_eq!(reader.segment_bounds(last + 9).0, reader.segment_bounds(last + 9).1);

    let mut count = 0;
    let mut on_frame = |_, _| {
        count += 1;
        count < 3
    };
    reader.scan(START, end, &mut on_frame).unwrap();
    assert_eq!(count, 3);

    // What is planned or half written is not seen.
    planner.push(1, 1, &[b"later"]).unwrap();
    let batch = planner.finish();
    assert_eq!(scan(bodies[59].0, batch.end()).unwrap().len(), 1);
    writer.write(&batch).unwrap();
    assert_eq!(scan(bodies[59].0, batch.end()).unwrap().len(), 2);

    // A frame that does not verify is named.
    let (number, offset) = (bodies[50].0.0 / SEGMENT_BYTES, bodies[50].0.0 % SEGMENT_BYTES);
    disk.flip(&name(number), usize::try_from(offset).unwrap() + 100, 0);
    assert_eq!(scan(START, bodies[50].0).unwrap().len(), 50);
    let error = scan(START, end).unwrap_err();
    let LogError::Corrupt { path, offset: found, .. } = error else { panic!("{error}") };
    assert_eq!((path, found), (disk.path(&name(number)), offset));
}

#[test]
fn who_reads_a_segment_that_is_trimmed_meanwhile_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    // More than a scan reads at once.
    let config = LogConfig::new(4 << 20);
    let opened = Log::open(dir.path(), config, START, START, &mut |_, _| ()).unwrap();
    let (mut planner, mut writer, reader, _) = opened;
    let body = vec![1; 100 << 10];
    let mut first = None;
    while reader.segment_of(planner.end()) == 0 {
        let position = append(&mut planner, &mut writer, &body);
        first = first.or(Some(position));
    }
    // The trimmed file is the next one, or the one after it if zeros were written already; and it is
    // written again.
    writer.keep_spares(1);
    let mut seen = 0;
    let mut on_frame = |_, _| {
        seen += 1;
        if seen == 1 {
            assert_eq!(writer.trim(planner.end()).unwrap().0, (4 << 20) + FIRST);
            while reader.segment_of(planner.end()) < 4 {
                append(&mut planner, &mut writer, &body);
            }
        }
        true
    };
    let error = reader.scan(START, reader.end(), &mut on_frame).unwrap_err();
    assert!(matches!(error, LogError::Trimmed { .. }), "{error}");
    assert!(seen > 1, "what was read ahead is handed out");
    assert!(matches!(reader.read(first.unwrap(), 0), Err(LogError::Trimmed { .. })));
    let disk = RealDisk::at(dir.path());
    assert!(!names(&disk).contains(&"0000000000000000.seg".to_owned()));
}
