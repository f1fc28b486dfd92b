//! The log's behaviours one by one, on the real and on the simulated disk.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc, thread};

use bytes::Bytes;

use mainstem_schemas::Position;

use crate::{
    Batch, Damage, Frame, Log, LogConfig, LogError, Opened, Planner, PushError, Recovered, Spare,
    Writer,
    disk::Disk,
    plan::{CHUNK_BYTES, ZEROS_MAX},
    recover_bytes,
    segment::{Geometry, SEGMENT_HEADER_BYTES, TAIL_BYTES},
    sim::{Faults, SimDisk},
};

const START: Position = Position(0);
const CONFIG: LogConfig = LogConfig { segment_bytes: 4096, writer: 1 };
const FIRST: Position = Position(SEGMENT_HEADER_BYTES as u64);
const BATCH: u64 = 32;

fn open(disk: &SimDisk) -> Result<(Opened, Vec<(Position, Frame)>), LogError> {
    open_from(disk, CONFIG, START, START)
}

fn open_from(
    disk: &SimDisk,
    config: LogConfig,
    scan_from: Position,
    known: Position,
) -> Result<(Opened, Vec<(Position, Frame)>), LogError> {
    let mut frames = Vec::new();
    let mut on_frame = |position, frame| frames.push((position, frame));
    let disk = Arc::new(disk.clone());
    let opened = Log::open_on(disk, config, scan_from, known, &mut on_frame)?;
    Ok((opened, frames))
}

fn open_real(dir: &Path, config: LogConfig) -> (Opened, Vec<(Position, Frame)>) {
    let mut frames = Vec::new();
    let mut on_frame = |position, frame| frames.push((position, frame));
    let opened = Log::open(dir, config, START, START, &mut on_frame).unwrap();
    (opened, frames)
}

/// Pushes, writes and syncs one frame as a batch of its own.
fn append(planner: &mut Planner, writer: &mut Writer, body: &[u8]) -> Result<Position, LogError> {
    planner.begin(planner.end());
    let position = planner.push(1, 7, &[body]).unwrap();
    writer.write(&planner.finish())?;
    writer.sync()?;
    Ok(position)
}

fn name(number: u64) -> String {
    format!("{:016x}.seg", number * CONFIG.segment_bytes)
}

#[test]
fn a_log_on_a_real_disk_is_replayed_and_read_by_many_threads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let config = LogConfig::new(8 << 20);
    let body = |n: usize| vec![n.to_le_bytes()[0]; n * 1000];
    let mut written = Vec::new();
    {
        let ((mut planner, mut writer, _, recovery), frames) = open_real(&path, config);
        assert!(frames.is_empty() && recovery.cut.is_none() && recovery.end == FIRST);
        for n in 0..220 {
            written.push(append(&mut planner, &mut writer, &body(n)).unwrap());
        }
        writer.close(planner).unwrap();
    }
    let ((_, _writer, reader, recovery), frames) = open_real(&path, config);
    assert_eq!((recovery.frames, recovery.cut), (220, None));
    assert!(recovery.end.0 > 2 * config.segment_bytes, "three segments were used");
    assert_eq!(frames.iter().map(|(position, _)| *position).collect::<Vec<_>>(), written);
    assert!(frames.iter().enumerate().all(|(n, (_, frame))| frame.body == body(n)));
    thread::scope(|scope| {
        for size_hint in [0, 24, 5000, 1 << 20] {
            let (reader, frames) = (reader.clone(), &frames);
            scope.spawn(move || {
                for (position, frame) in frames {
                    assert_eq!(reader.read(*position, size_hint).unwrap(), *frame);
                }
            });
        }
    });
}

#[test]
fn segments_have_their_full_size_before_they_are_needed() {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig::new(4 << 20);
    let ((mut planner, mut writer, _, _), _) = open_real(dir.path(), config);
    append(&mut planner, &mut writer, &vec![1; 3 << 20]).unwrap();
    append(&mut planner, &mut writer, &vec![2; 3 << 20]).unwrap();
    for number in 0..2_u64 {
        let file = dir.path().join(format!("{:016x}.seg", number * config.segment_bytes));
        assert_eq!(fs::metadata(file).unwrap().len(), config.segment_bytes);
    }
}

#[test]
fn a_batch_is_cut_into_chunks_whose_memory_serves_again() {
    let disk = SimDisk::new(1);
    let ((mut planner, mut writer, _, _), _) = open(&disk).unwrap();
    let mut written = 0;
    let mut known: Vec<usize> = Vec::new();
    for round in 0..5 {
        for _ in 0..8 {
            planner.push(1, 1, &[&[round; 100]]).unwrap();
            written += 1;
        }
        let batch = planner.finish();
        assert!(batch.chunks().len() > 1);
        assert!(batch.chunks().iter().all(|chunk| chunk.bytes.len() <= CHUNK_BYTES + ZEROS_MAX));
        let places: Vec<usize> =
            batch.chunks().iter().map(|chunk| chunk.bytes.as_ptr().addr()).collect();
        assert!(round == 0 || places.iter().any(|place| known.contains(place)), "{round}");
        known = places;
        writer.write(&batch).unwrap();
        writer.sync().unwrap();
        planner.recycle(batch);
    }
    drop(writer);
    disk.crash();
    let end = planner.end();
    let (_, frames) = open_from(&disk, CONFIG, START, end).unwrap();
    assert_eq!(frames.len(), written);
}

#[test]
fn a_frame_that_does_not_fit_goes_to_the_next_segment() {
    let disk = SimDisk::new(1);
    let ((mut planner, mut writer, _, _), _) = open(&disk).unwrap();
    assert_eq!(planner.next_position(10), Position(FIRST.0 + BATCH));
    let body_bytes_max = planner.body_bytes_max();
    let long = vec![5; body_bytes_max];
    assert_eq!(planner.push(1, 1, &[&long]), Ok(Position(FIRST.0 + BATCH)));
    assert_eq!(planner.next_position(1000), Position(4096 + FIRST.0));
    assert_eq!(planner.push(1, 2, &[&long]), Ok(Position(4096 + FIRST.0)));
    assert_eq!(
        planner.push(1, 3, &[&long, &[0]]),
        Err(PushError::TooLong { body_bytes: body_bytes_max + 1, body_bytes_max })
    );
    assert_eq!(planner.push(0xf1, 3, &[]), Err(PushError::Reserved(0xf1)));
    let batch = planner.finish();
    let bases = batch.chunks().iter().map(|chunk| chunk.base.0 / CONFIG.segment_bytes);
    assert_eq!(bases.collect::<BTreeSet<_>>().len(), 2);
    assert!(planner.finish().is_empty());
    writer.write(&batch).unwrap();
    writer.sync().unwrap();
    drop(writer);
    disk.crash();
    let (_, frames) = open_from(&disk, CONFIG, START, batch.end()).unwrap();
    assert_eq!(frames.len(), 2);
    assert!(frames.iter().all(|(_, frame)| frame.body == long));
}

#[test]
fn a_frame_may_end_exactly_where_its_segment_ends() {
    for spare in [0, 1, 23, 24, 25, 80] {
        let disk = SimDisk::new(1);
        let ((mut planner, mut writer, reader, _), _) = open(&disk).unwrap();
        let len = 4096 - FIRST.0 - BATCH - 24 - spare;
        let body = vec![9; usize::try_from(len).unwrap().min(planner.body_bytes_max())];
        append(&mut planner, &mut writer, &body).unwrap();
        let end = planner.end();
        for n in 0..4 {
            let position = append(&mut planner, &mut writer, &[n; 40]).unwrap();
            assert_eq!(reader.read(position, 64).unwrap().body, vec![n; 40]);
        }
        drop(writer);
        disk.crash();
        let (opened, frames) = open_from(&disk, CONFIG, START, planner.end()).unwrap();
        assert_eq!((frames.len(), opened.3.end), (5, planner.end()));
        // An end is a place to scan from, wherever it lies.
        drop(opened);
        assert_eq!(open_from(&disk, CONFIG, end, end).unwrap().1.len(), 4);
    }
}

#[test]
fn a_failed_sync_poisons_the_writer_for_ever() {
    for for_ever in [false, true] {
        let disk = SimDisk::new(1);
        let ((mut planner, mut writer, _, _), _) = open(&disk).unwrap();
        planner.push(1, 1, &[b"x"]).unwrap();
        writer.write(&planner.finish()).unwrap();
        let syncs_to_fail = if for_ever { u64::MAX } else { 1 };
        disk.set_faults(Faults { syncs_to_fail, ..Faults::default() });
        let first = writer.sync().unwrap_err().to_string();
        assert!(first.contains("cannot sync sim/0000000000000000.seg at byte 0"), "{first}");
        disk.set_faults(Faults::default());
        assert_eq!(writer.sync().unwrap_err().to_string(), first);
        planner.push(1, 1, &[b"y"]).unwrap();
        assert_eq!(writer.write(&planner.finish()).unwrap_err().to_string(), first);
        assert_eq!(writer.trim(START).unwrap_err().to_string(), first);
    }
}

#[test]
fn a_failed_write_poisons_and_says_where() {
    let disk = SimDisk::new(1);
    let ((mut planner, mut writer, _, _), _) = open(&disk).unwrap();
    append(&mut planner, &mut writer, b"kept").unwrap();
    let end = planner.end();
    planner.push(1, 1, &[b"x"]).unwrap();
    disk.set_faults(Faults { calls_left: Some(0), ..Faults::default() });
    let first = writer.write(&planner.finish()).unwrap_err().to_string();
    assert!(first.contains(&format!("write sim/{} at byte {}", name(0), end.0)), "{first}");
    disk.set_faults(Faults::default());
    assert_eq!(writer.sync().unwrap_err().to_string(), first);
}

#[test]
fn a_full_disk_is_told_apart_and_the_batch_may_be_written_again_after_a_trim() {
    let disk = SimDisk::new(1);
    let ((mut planner, mut writer, reader, _), _) = open(&disk).unwrap();
    disk.set_faults(Faults { space_bytes: Some(3 * 4096), ..Faults::default() });
    let body = vec![3; 3000];
    let first = append(&mut planner, &mut writer, &body).unwrap();
    assert!(matches!(writer.spare(), Ok(Spare::Ready)));
    append(&mut planner, &mut writer, &body).unwrap();
    let third = append(&mut planner, &mut writer, &body).unwrap();
    assert!(matches!(writer.spare(), Ok(Spare::DiskFull(_))));

    planner.push(1, 1, &[&[8; 500]]).unwrap();
    let fourth = planner.push(1, 1, &[&body]).unwrap();
    let batch = planner.finish();
    let error = writer.write(&batch).unwrap_err();
    assert!(error.is_disk_full() && error.to_string().contains(&name(3)), "{error}");
    writer.sync().unwrap();
    assert_eq!(writer.trim(third).unwrap(), Position(2 * 4096 + FIRST.0));
    assert!(matches!(reader.read(first, 0), Err(LogError::Trimmed { .. })));
    writer.write(&batch).unwrap();
    writer.sync().unwrap();
    assert_eq!(reader.read(fourth, 0).unwrap().body, body);

    drop(writer);
    disk.crash();
    let (opened, frames) = open_from(&disk, CONFIG, START, batch.end()).unwrap();
    assert_eq!((frames.len(), opened.3.first), (3, Position(2 * 4096 + FIRST.0)));
}

#[test]
fn a_torn_tail_is_cut_counted_and_never_seen_again() {
    let disk = SimDisk::new(1);
    let ((mut planner, mut writer, _, _), _) = open(&disk).unwrap();
    append(&mut planner, &mut writer, b"kept").unwrap();
    let end = planner.end();
    planner.begin(end);
    let torn = planner.push(1, 1, &[&[1; 100]]).unwrap();
    let behind = planner.push(1, 2, &[b"behind"]).unwrap();
    let batch = planner.finish();
    writer.write(&batch).unwrap();
    drop(writer);
    disk.flip(&name(0), usize::try_from(torn.0).unwrap() + 50, 3);
    disk.restart();
    let ((mut planner, mut writer, reader, recovery), frames) = open(&disk).unwrap();
    assert_eq!(frames.len(), 1);
    let cut = recovery.cut.unwrap();
    assert_eq!((cut.path, cut.offset), (disk.path(&name(0)), torn.0));
    assert_eq!(cut.bytes, batch.end().0 - torn.0);
    // Or a sector that is lost behind a later batch would let it in again.
    assert!(matches!(reader.read(behind, 0), Err(LogError::Corrupt { .. })), "not zeroed");
    // A batch of the same length leads up to where the lost frame was.
    planner.begin(recovery.end);
    let pad = usize::try_from(behind.0 - torn.0 - BATCH - 24).unwrap();
    planner.push(1, 3, &[&vec![0; pad]]).unwrap();
    writer.write(&planner.finish()).unwrap();
    writer.sync().unwrap();
    assert!(matches!(reader.read(behind, 0), Err(LogError::Corrupt { .. })));
    drop(writer);
    disk.restart();
    assert_eq!(open(&disk).unwrap().1.len(), 2);
}

#[test]
fn whole_frames_at_another_place_do_not_verify() {
    let disk = SimDisk::new(1);
    let ((mut planner, mut writer, reader, _), _) = open(&disk).unwrap();
    planner.push(1, 1, &[b"only once"]).unwrap();
    let batch = planner.finish();
    writer.write(&batch).unwrap();
    writer.sync().unwrap();
    drop(writer);
    let file = disk.open(&name(0)).unwrap();
    file.write_at(&batch.chunks()[0].bytes, batch.end().0).unwrap();
    assert!(reader.read(batch.end(), 0).is_err());
    let ((_, _, _, recovery), frames) = open(&disk).unwrap();
    assert_eq!(frames.len(), 1);
    assert_eq!(recovery.cut.unwrap().offset, batch.end().0);
}

#[test]
fn a_missing_file_is_named() {
    let disk = SimDisk::new(1);
    let ((mut planner, mut writer, _, _), _) = open(&disk).unwrap();
    for _ in 0..4 {
        append(&mut planner, &mut writer, &[0; 3000]).unwrap();
    }
    drop(writer);
    disk.remove(&name(1)).unwrap();
    let error = open(&disk).map(drop).unwrap_err();
    let LogError::Corrupt { path, damage, .. } = error else { panic!("{error}") };
    assert_eq!((path, damage), (disk.path(&name(1)), Damage::Missing));
    assert_eq!(open_from(&disk, CONFIG, Position(2 * 4096), START).unwrap().1.len(), 2);
}

#[test]
fn a_log_that_is_gone_is_refused_when_the_caller_knew_better() {
    let disk = SimDisk::new(1);
    let result = open_from(&disk, CONFIG, START, Position(4096 * 7));
    assert!(matches!(result, Err(LogError::Corrupt { damage: Damage::Missing, .. })));
}

#[test]
fn another_segment_size_or_an_unusable_one_is_refused() {
    let disk = SimDisk::new(1);
    let ((mut planner, mut writer, _, _), _) = open(&disk).unwrap();
    append(&mut planner, &mut writer, b"x").unwrap();
    drop(writer);
    for segment_bytes in [8192, 16384] {
        let result = open_from(&disk, LogConfig { segment_bytes, ..CONFIG }, START, START);
        let Err(LogError::SegmentBytes { found, .. }) = result else { panic!("not refused") };
        assert_eq!(found, 4096);
    }
    for segment_bytes in [0, 5000, 2048, 1 << 40] {
        let result = open_from(&disk, LogConfig { segment_bytes, ..CONFIG }, START, START);
        assert!(matches!(result, Err(LogError::Config(_))));
    }
}

#[test]
fn a_damaged_segment_header_is_refused() {
    for at in 0..SEGMENT_HEADER_BYTES {
        let disk = SimDisk::new(1);
        let ((mut planner, mut writer, _, _), _) = open(&disk).unwrap();
        append(&mut planner, &mut writer, b"x").unwrap();
        drop(writer);
        disk.flip(&name(0), at, 5);
        let result = open(&disk);
        let Err(LogError::Corrupt { offset, damage, .. }) = result else { panic!("taken in") };
        assert_eq!((offset, damage), (0, Damage::Header));
    }
}

#[test]
fn an_unreadable_medium_is_an_error_with_file_and_offset() {
    let disk = SimDisk::new(1);
    let ((mut planner, mut writer, reader, _), _) = open(&disk).unwrap();
    let position = append(&mut planner, &mut writer, b"x").unwrap();
    disk.set_faults(Faults { reads_to_fail: 1, ..Faults::default() });
    let error = reader.read(position, 0).unwrap_err().to_string();
    assert!(error.contains(&format!("read sim/{} at byte {}", name(0), position.0)), "{error}");
    assert_eq!(reader.read(position, 0).unwrap().body, "x");
    drop(writer);
    disk.restart();
    disk.set_faults(Faults { reads_to_fail: 1, ..Faults::default() });
    assert!(matches!(open(&disk), Err(LogError::Io { action: "read", .. })));
}

#[test]
fn a_body_that_imitates_a_batch_frame_does_not_make_a_torn_tail_corruption() {
    let disk = SimDisk::new(1);
    let ((mut planner, mut writer, _, _), _) = open(&disk).unwrap();
    append(&mut planner, &mut writer, b"kept").unwrap();
    let position = planner.next_position(200);
    // What a sender can know: the format and the position, but not this log's salt.
    let mut forger =
        Planner::new(&CONFIG, Geometry::new(&CONFIG).unwrap(), 0, Position(position.0 + 24));
    let mut forged = forger.seal().chunks()[0].bytes.to_vec();
    forged.resize(200, 0);
    planner.push(1, 1, &[&forged]).unwrap();
    writer.write(&planner.finish()).unwrap();
    drop(writer);
    disk.flip(&name(0), usize::try_from(position.0).unwrap(), 0);
    assert_eq!(open(&disk).unwrap().1.len(), 1);
}

#[test]
fn arbitrary_bytes_are_recovered_without_files() {
    let geometry = Geometry::new(&CONFIG).unwrap();
    let mut planner = Planner::new(&CONFIG, geometry, 77, FIRST);
    let position = planner.push(4, 9, &[b"bo", b"dy"]).unwrap();
    let mut file = geometry.encode_header(0, 77).to_vec();
    let put = |file: &mut Vec<u8>, batch: Batch| {
        file.truncate(usize::try_from(batch.chunks()[0].base.0).unwrap());
        file.extend_from_slice(&batch.chunks()[0].bytes);
        let zeros = file.split_off(usize::try_from(batch.end().0).unwrap());
        assert!(zeros.len() >= TAIL_BYTES && zeros.iter().all(|zero| *zero == 0), "{zeros:?}");
    };
    put(&mut file, planner.finish());
    let hole = Position(file.len() as u64);
    planner.begin(planner.end());
    planner.push(4, 10, &[b"later"]).unwrap();
    put(&mut file, planner.finish());
    put(&mut file, planner.seal());
    let durable = Position(file.len() as u64 - BATCH);
    file[usize::try_from(hole.0).unwrap() + 30] ^= 1;

    let recovered = recover_bytes(&CONFIG, 77, &Bytes::from(file.clone())).unwrap();
    let body = Bytes::from_static(b"body");
    let frames = vec![(position, Frame { kind: 4, writer: 1, sequence: 9, body })];
    assert_eq!(recovered, Recovered { frames, hole: Some(hole), durable: Some(durable) });
    // Under another salt nothing of it verifies.
    let recovered = recover_bytes(&CONFIG, 78, &Bytes::from(file)).unwrap();
    assert_eq!(recovered, Recovered { hole: Some(FIRST), ..Recovered::default() });
}

#[test]
fn a_simulated_disk_that_is_full_makes_no_files_and_lets_none_grow() {
    let disk = SimDisk::new(1);
    let full = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    };
    disk.set_faults(Faults { space_bytes: Some(100), ..Faults::default() });
    let file = disk.create("a").unwrap();
    file.write_at(&[1; 100], 0).unwrap();
    full(file.write_at(&[2; 2], 99).map(drop));
    full(disk.create("b").map(drop));
    file.write_at(&[3; 100], 0).unwrap();
    disk.rename("a", "b").unwrap();
    let mut bytes = [0; 100];
    disk.open("b").unwrap().read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [3; 100]);
    disk.remove("b").unwrap();
    disk.create("c").unwrap();
}
