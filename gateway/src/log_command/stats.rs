//! `mainstem log stats`: what each file of the log holds, and how much of it is needed.

use std::{collections::BTreeMap, io::Write, ops::ControlFlow, path::Path};

use mainstem_broker::survey::{self, Live, Report, Seen};
use mainstem_schemas::{Position, UnixMillis};
use serde_json::{Value, json};

use super::{DAMAGED, Failure, SOUND, words};

/// What a file holds.
#[derive(Clone, Debug, Default)]
struct Held {
    bytes: u64,
    records: u64,
    kinds: BTreeMap<&'static str, u64>,
    times: Option<(UnixMillis, UnixMillis)>,
}

/// A file, by its name.
struct Segment {
    file: String,
    first: Position,
    held: Held,
}

impl Held {
    fn add(&mut self, seen: &Seen<'_>) {
        self.bytes += seen.size();
        self.records += u64::from(seen.carries_record());
        *self.kinds.entry(seen.kind()).or_default() += 1;
        if let Some(time) = seen.time() {
            let (oldest, newest) = self.times.unwrap_or((time, time));
            self.times = Some((oldest.min(time), newest.max(time)));
        }
    }

    fn add_all(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.records += other.records;
        for (kind, count) in &other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        if let Some((from, to)) = other.times {
            let (oldest, newest) = self.times.unwrap_or((from, to));
            self.times = Some((oldest.min(from), newest.max(to)));
        }
    }

    fn kinds(&self) -> String {
        let kind = |(kind, count): (&&str, &u64)| format!("{kind} {count}");
        self.kinds.iter().map(kind).collect::<Vec<_>>().join(", ")
    }

    fn times(&self) -> String {
        self.times.map_or_else(
            || "-".to_owned(),
            |(oldest, newest)| format!("{} to {}", words::time(oldest), words::time(newest)),
        )
    }

    fn object(&self, live_bytes: Option<u64>) -> Value {
        json!({
            "live_bytes": live_bytes,
            "bytes": self.bytes,
            "records": self.records,
            "entries": self.kinds,
            "oldest": self.times.map(|(oldest, _)| words::time(oldest)),
            "newest": self.times.map(|(_, newest)| words::time(newest)),
        })
    }
}

pub(super) fn run(data: &Path, json: bool, out: &mut dyn Write) -> Result<u8, Failure> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut on_entry = |seen: Seen<'_>| {
        if segments.last().is_none_or(|segment| segment.file != seen.place.file) {
            let (file, first) = (seen.place.file.to_owned(), seen.place.position);
            segments.push(Segment { file, first, held: Held::default() });
        }
        if let Some(segment) = segments.last_mut() {
            segment.held.add(&seen);
        }
        ControlFlow::Continue(())
    };
    let report = survey::walk(data, Position(0), &mut on_entry, &mut |_| {})?;
    let mut total = Held::default();
    segments.iter().for_each(|segment| total.add_all(&segment.held));
    let stats = Stats { report, segments, total, live: survey::live(data) };
    if json {
        stats.tell_json(out)?;
    } else {
        stats.tell(out)?;
    }
    Ok(if stats.report.findings == 0 { SOUND } else { DAMAGED })
}

struct Stats {
    report: Report,
    segments: Vec<Segment>,
    total: Held,
    live: Result<Live, String>,
}

impl Stats {
    /// Bytes of a file that somebody needs. Bodies are counted once for each queue that has them,
    /// so it is cut at the file's size.
    fn live_of(&self, segment: &Segment) -> Option<u64> {
        let live = self.live.as_ref().ok()?;
        let number = segment.first.0.checked_div(self.report.segment_bytes)?;
        let bytes = live.bytes.get(&number).copied().unwrap_or_default();
        Some(bytes.min(segment.held.bytes))
    }

    fn live_in_all(&self) -> Option<u64> {
        self.segments.iter().map(|segment| self.live_of(segment)).sum()
    }

    fn tell(&self, out: &mut dyn Write) -> std::io::Result<()> {
        for segment in &self.segments {
            let held = &segment.held;
            let live = self.live_of(segment).map_or_else(String::new, |live| {
                format!(", {} live", words::share(live, held.bytes))
            });
            writeln!(
                out,
                "{}: {}{live}, {} records, {}\n    {}",
                segment.file,
                words::size(held.bytes),
                held.records,
                held.times(),
                held.kinds()
            )?;
        }
        let total = &self.total;
        let files = self.report.files;
        let on_disk = words::size(files * self.report.segment_bytes);
        writeln!(
            out,
            "total: {} of entries in {files} files ({on_disk}), {} records, {}\n    {}",
            words::size(total.bytes),
            total.records,
            total.times(),
            total.kinds()
        )?;
        if let (Some(first), Some(last)) = (self.report.first, self.report.last) {
            writeln!(out, "positions: {} to {}", first.0, last.0)?;
        }
        match (&self.live, self.live_in_all()) {
            (Ok(live), Some(bytes)) => writeln!(
                out,
                "live: {} ({}), as the index on the disk knows, up to position {}",
                words::size(bytes),
                words::share(bytes, total.bytes),
                live.applied.0
            )?,
            (Err(error), _) => writeln!(out, "live: not known: {error}")?,
            (Ok(_), None) => {}
        }
        if self.report.findings > 0 {
            let findings = self.report.findings;
            writeln!(out, "DAMAGED: {findings} places (see mainstem log verify)")?;
        }
        Ok(())
    }

    fn tell_json(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let segments = self.segments.iter().map(|segment| {
            json!({ "file": segment.file, "holds": segment.held.object(self.live_of(segment)) })
        });
        let stats = json!({
            "segments": segments.collect::<Vec<_>>(),
            "total": self.total.object(self.live_in_all()),
            "files": self.report.files,
            "segment_bytes": self.report.segment_bytes,
            "first": self.report.first.map(|position| position.0),
            "last": self.report.last.map(|position| position.0),
            "live_up_to": self.live.as_ref().ok().map(|live| live.applied.0),
            "findings": self.report.findings,
        });
        writeln!(out, "{stats}")
    }
}
