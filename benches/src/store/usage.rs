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
