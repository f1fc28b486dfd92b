//! Damaged files: they are refused, or read as they were written.

use std::path::PathBuf;

use super::*;

const PLACES: u64 = 200;

/// Everything an index says, by way of every kind's own reading, and the hash of its bytes.
fn read_whole(path: &Path) -> Result<(Position, u64), IndexError> {
    let index = Index::open(path)?;
    for item in index.scan::<QueueKey>() {
        let (key, _) = item?;
        for cursor in index.cursors(key.queue) {
            cursor?;
        }
        index.get(&QueueStateKey { queue: key.queue })?;
    }
    for item in index.scan::<BlockKey>() {
        let (key, _) = item?;
        index.block(key.queue, key.number)?;
    }
    Ok((index.applied(), index.state_hash()?))
}

/// A number that looks random and is the same in every run.
fn mix(seed: u64) -> u64 {
    let folded = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let folded = (folded ^ (folded >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    folded ^ (folded >> 31)
}

/// Three flushes, and what reading them gives.
fn written(dir: &Path) -> (Position, u64) {
    let index = Index::open(dir).unwrap();
    for position in 1..=3 {
        let mut batch = index.batch();
        for queue in 0..60 {
            put_queue(&mut batch, position * 50 + queue);
        }
        batch.delete_queue(QueueId(position * 50 + 3));
        index.commit(batch, Position(position)).unwrap();
        index.flush().unwrap();
    }
    (index.applied(), index.state_hash().unwrap())
}

/// Flips a bit, or garbles up to eight bytes in a row.
fn damage(file: &Path, seed: u64) {
    let mut noise = (1..).map(|n| mix(seed * 100 + n));
    let mut noise = move || noise.next().unwrap();
    let mut bytes = fs::read(file).unwrap();
    let at = usize::try_from(noise()).unwrap() % bytes.len();
    if seed.is_multiple_of(2) {
        bytes[at] ^= 1 << (noise() % 8);
    } else {
        let len = 1 + usize::try_from(noise() % 8).unwrap();
        for byte in bytes.iter_mut().skip(at).take(len) {
            *byte ^= noise().to_be_bytes()[0] | 1;
        }
    }
    fs::write(file, bytes).unwrap();
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|file| file.metadata().unwrap().len() > 0).collect();
    files.sort();
    files
}

/// Reads a copy whose file was damaged; `None` if that is refused.
fn read_damaged(dir: &Path, file: &Path, damage: impl FnOnce(&Path)) -> Option<(Position, u64)> {
    let copy = tempfile::tempdir().unwrap();
    copy_files(dir, copy.path()).unwrap();
    damage(&copy.path().join(file.file_name().unwrap()));
    read_whole(copy.path()).ok()
}

#[test]
fn damage_at_200_places_is_an_error_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let whole = written(dir.path());
    assert_eq!(read_whole(dir.path()).unwrap(), whole);
    let files = files(dir.path());
    let mut refused = 0;
    for seed in 0..PLACES {
        let file = &files[usize::try_from(mix(seed)).unwrap() % files.len()];
        match read_damaged(dir.path(), file, |path| damage(path, seed)) {
            Some(found) => assert_eq!(found, whole, "place {seed}, in {}", file.display()),
            None => refused += 1,
        }
    }
    assert!(refused > PLACES / 5, "{refused} refused");
}

/// A length that points past the end of the manifest looks like a write that was interrupted.
#[test]
fn a_manifest_that_seems_to_end_early_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = written(dir.path());
    let is_manifest = |file: &PathBuf| file.display().to_string().contains("MANIFEST");
    let manifest = files(dir.path()).into_iter().find(is_manifest).unwrap();
    let bytes = fs::read(&manifest).unwrap();
    // checksum: u32 | length: u16 | kind: u8 | record
    let mut lengths = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        lengths.push(at + 5);
        at += 7 + usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
    }
    assert!(lengths.len() > 3, "three flushes and what was before");
    for at in lengths {
        let found = read_damaged(dir.path(), &manifest, |path| {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x40;
            fs::write(path, bytes).unwrap();
        });
        assert!(found.is_none_or(|found| found == whole), "{found:?} by the length at {at}");
    }
}
