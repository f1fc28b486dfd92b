//! The data directory: whose it is, how much room it has, and how fast what is written there is kept.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    time::{Duration, Instant},
};

use super::{Finding, io_words};
use crate::{Config, config::DurabilityLevel};

/// Segments that a server needs room for, to begin with.
const SEGMENTS_MIN: u64 = 4;
/// Syncs that are tried.
const SYNCS: usize = 21;
/// From when on a sync is slow, and very slow: disks with a cache that survives a power cut take far below a
/// millisecond, others a few, rotating ones about ten.
const SLOW: Duration = Duration::from_millis(5);
const VERY_SLOW: Duration = Duration::from_millis(25);

const DIRECTORY: &str = "data_dir";
const ROOM: &str = "disk room";
const SYNC: &str = "fsync";

pub(super) fn look(config: &Config) -> Vec<Finding> {
    let data = &config.data_dir;
    // One that is not there yet is made by the first start, where its nearest folder lets it.
    let Some(folder) =
        data.ancestors().find(|folder| folder.is_dir() || folder.as_os_str().is_empty())
    else {
        return vec![Finding::bad(DIRECTORY, format!("{} is in no folder", data.display()))];
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if data.exists() && !data.is_dir() {
        return vec![Finding::bad(DIRECTORY, format!("{} is no directory", data.display()))];
    }
    let mut findings = vec![directory(data, folder)];
    findings.push(room(config, folder));
    findings.push(match syncs(folder) {
        Ok(took) => judge_syncs(&took, config.store.durability),
        Err(error) => Finding::bad(
            SYNC,
            format!("cannot write to {}: {}", folder.display(), io_words(&error)),
        ),
    });
    findings
}

/// Whether it can be written by us, and not by everybody.
fn directory(data: &Path, folder: &Path) -> Finding {
    let bad = |words: String| Finding::bad(DIRECTORY, words);
    if let Err(error) = probe(folder).and_then(|(path, _)| fs::remove_file(path)) {
        return bad(format!("cannot write to {}: {}", folder.display(), io_words(&error)));
    }
    if !data.exists() {
        return Finding::fine(DIRECTORY, format!("{} will be made", data.display()));
    }
    let secret = ["operator.json", "tls/key.pem"].map(|name| data.join(name));
    for (path, mode, who) in
        [(data, 0o002, "write to"), (&secret[0], 0o044, "read"), (&secret[1], 0o044, "read")]
    {
        let Ok(found) = fs::metadata(path) else { continue };
        if found.mode() & mode != 0 {
            return bad(format!(
                "others may {who} {} (mode {:o}): take that from them with chmod",
                path.display(),
                found.mode() & 0o777
            ));
        }
    }
    for name in ["LOCK", "log", "index"] {
        let path = data.join(name);
        let opened = match path.is_dir() {
            true => path.read_dir().map(drop),
            false if path.exists() => OpenOptions::new().write(true).open(&path).map(drop),
            false => Ok(()),
        };
        if let Err(error) = opened {
            let words = format!("cannot use {}: {}", path.display(), io_words(&error));
            return bad(format!("{words}; does it belong to another user?"));
        }
    }
    Finding::fine(DIRECTORY, format!("{} can be written", data.display()))
}

fn room(config: &Config, folder: &Path) -> Finding {
    match rustix::fs::statvfs(folder) {
        Ok(found) => {
            judge_room(found.f_bavail.saturating_mul(found.f_frsize), config.store.segment_bytes)
        }
        Err(error) => Finding::bad(ROOM, format!("cannot tell: {error}")),
    }
}

fn judge_room(free: u64, segment_bytes: u64) -> Finding {
    let mib = |bytes: u64| bytes >> 20;
    let least = segment_bytes.saturating_mul(SEGMENTS_MIN);
    if free < least {
        let words = format!(
            "the disk is full: {} MiB are free, and the log takes {} MiB at a time (store.segment_bytes)",
            mib(free),
            mib(segment_bytes)
        );
        return Finding::bad(ROOM, words);
    }
    let words = format!("{} MiB are free", mib(free));
    match free < least.saturating_mul(4) {
        true => {
            Finding::doubtful(ROOM, format!("only {words}; publishes are refused when none are"))
        }
        false => Finding::fine(ROOM, words),
    }
}

/// A new file of our own.
fn probe(folder: &Path) -> io::Result<(std::path::PathBuf, fs::File)> {
    let path = folder.join(format!(".doctor-{}", std::process::id()));
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path)?;
    Ok((path, file))
}

/// How long each of some writes took to be kept.
fn syncs(folder: &Path) -> io::Result<Vec<Duration>> {
    let (path, mut file) = probe(folder)?;
    let measured = (0..SYNCS).map(|_| {
        #[expect(clippy::disallowed_methods, reason = "what is measured is real time")]
        let begin = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        Ok(begin.elapsed())
    });
    let measured = measured.collect();
    fs::remove_file(path)?;
    measured
}

fn judge_syncs(took: &[Duration], durability: DurabilityLevel) -> Finding {
    let mut took = took.to_vec();
    took.sort();
    let median = took.get(took.len() / 2).copied().unwrap_or_default();
    let worst = took.last().copied().unwrap_or_default();
    let words =
        format!("a sync takes {median:.1?}, the slowest of {} took {worst:.1?}", took.len());
    // Publishers that nobody makes wait for the disk do not mind.
    if durability != DurabilityLevel::Fsync || median < SLOW {
        return Finding::fine(SYNC, words);
    }
    let words =
        format!("{words}: every confirm waits for one (store.durability); use a faster disk");
    match median < VERY_SLOW {
        true => Finding::doubtful(SYNC, words),
        false => Finding::bad(SYNC, words),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{super::Verdict, *};

    #[test]
    fn a_full_disk_is_told() {
        let found = judge_room(100 << 20, 64 << 20);
        assert_eq!(found.verdict, Verdict::Bad);
        assert!(found.words.starts_with("the disk is full: 100 MiB are free"), "{found:?}");
        assert_eq!(judge_room(500 << 20, 64 << 20).verdict, Verdict::Doubtful);
        assert_eq!(judge_room(5000 << 20, 64 << 20).verdict, Verdict::Fine);
    }

    #[test]
    fn a_slow_sync_is_told_where_confirms_wait_for_it() {
        let mut took = vec![Duration::from_millis(1); 10];
        took.extend([Duration::from_millis(30); 11]);
        let found = judge_syncs(&took, DurabilityLevel::Fsync);
        assert_eq!(found.verdict, Verdict::Bad);
        assert!(found.words.starts_with("a sync takes 30.0ms"), "{found:?}");
        assert_eq!(judge_syncs(&took, DurabilityLevel::Interval).verdict, Verdict::Fine);
        // A single slow one makes no slow disk.
        took.truncate(11);
        assert_eq!(judge_syncs(&took, DurabilityLevel::Fsync).verdict, Verdict::Fine);
    }

    #[test]
    fn a_directory_that_is_not_ours_or_everybodys_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let verdict = |words: &str| {
            let found = directory(data, data);
            assert!(found.words.contains(words), "{found:?}");
            found.verdict
        };
        assert_eq!(verdict("can be written"), Verdict::Fine);
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        mode(data, 0o777).unwrap();
        assert_eq!(verdict("others may write to "), Verdict::Bad);
        mode(data, 0o755).unwrap();
        fs::create_dir(data.join("tls")).unwrap();
        fs::write(data.join("tls/key.pem"), "key").unwrap();
        mode(&data.join("tls/key.pem"), 0o644).unwrap();
        assert_eq!(verdict("others may read "), Verdict::Bad);
        // Nobody may write there, not even root.
        let nowhere = directory(Path::new("/proc/mainstem"), Path::new("/proc"));
        assert_eq!(nowhere.verdict, Verdict::Bad);
        assert!(nowhere.words.starts_with("cannot write to /proc: "), "{nowhere:?}");
        let left = data.read_dir().unwrap().count();
        assert_eq!(left, 1, "what was tried is gone");
    }
}
