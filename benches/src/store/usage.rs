//! What the threads of this process and the files of a store use, as the kernel counts it.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path, time::Duration};

/// Of all threads of one name together, since they began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub(super) cpu: Duration,
    pub(super) writes: u64,
    pub(super) written_bytes: u64,
}

impl Usage {
    pub(super) fn of_threads(name: &str) -> io::Result<Self> {
        let mut sum = Self::default();
        for task in fs::read_dir("/proc/self/task")? {
            let task = task?.path();
            let read = |file: &str| fs::read_to_string(task.join(file)).unwrap_or_default();
            if read("comm").trim() != name {
                continue;
            }
            let on_cpu = read("schedstat");
            sum.cpu += Duration::from_nanos(number(on_cpu.split(' ').next()));
            let io = read("io");
            let field = |name| number(io.lines().find_map(|line| line.strip_prefix(name)));
            sum.writes += field("syscw: ");
            sum.written_bytes += field("wchar: ");
        }
        Ok(sum)
    }

    /// What was used between an earlier look and this one.
    #[must_use]
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            writes: self.writes.saturating_sub(earlier.writes),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
        }
    }

    /// Mean size of one write.
    pub(super) fn write_bytes(&self) -> u64 {
        self.written_bytes / self.writes.max(1)
    }
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Bytes on disk of everything below a folder. Files may come and go meanwhile.
pub(super) fn disk_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use std::{io::Write, thread};

    use super::*;

    #[test]
    fn a_named_threads_writes_are_counted_and_nobody_elses() {
        let folder = std::env::temp_dir().join(format!("usage-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut file = fs::File::create(folder.join("file")).unwrap();
        let write = move || {
            let before = Usage::of_threads("busy").unwrap();
            (0..10).for_each(|_| file.write_all(&[7; 8192]).unwrap());
            file.sync_all().unwrap();
            Usage::of_threads("busy").unwrap().since(before)
        };
        let busy = thread::Builder::new().name("busy".to_owned()).spawn(write).unwrap();
        let used = busy.join().unwrap();
        assert_eq!((used.writes, used.written_bytes, used.write_bytes()), (10, 81_920, 8192));
        assert_eq!(disk_bytes(&folder), 81_920);
        fs::remove_dir_all(&folder).unwrap();
    }
}
