//! Verifying: every frame of a log's files, and what is wrong at which byte. Only reads.

use std::{
    collections::BTreeMap,
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use mainstem_schemas::Position;

use crate::{
    disk::{Disk, DiskFile, RealDisk, read_upto_at},
    error::{Damage, LogError},
    frame::Frame,
    open::Cut,
    scan::{Scan, Step},
    segment::{Geometry, LogConfig, SEGMENT_HEADER_BYTES, Start, parse_base},
};

/// A place that does not verify although it was promised to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: PathBuf,
    pub offset: u64,
    pub position: Position,
    pub damage: Damage,
    /// Where frames verify again; `None` if nowhere, or if it is not frames that are damaged.
    pub resume: Option<Resume>,
}

/// The place behind a damaged one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    pub path: PathBuf,
    pub offset: u64,
    pub position: Position,
}

/// How much there is of one kind of frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    pub frames: u64,
    /// Headers included.
    pub bytes: u64,
}

/// What a log's files hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Size of every segment; 0 if no segment's header says so.
    pub segment_bytes: u64,
    /// Segment files, an empty one at the end included.
    pub files: u64,
    /// Frames that verify by kind, the log's own too (from [`crate::KINDS_MAX`] on).
    pub kinds: BTreeMap<u8, Kind>,
    /// The first and the last of the broker's frames.
    pub first: Option<Position>,
    pub last: Option<Position>,
    /// Where the log ends: the next start goes on there, unless there are findings.
    pub end: Position,
    /// So many findings there were.
    pub findings: u64,
    /// What the next start will cut: bytes behind the end that nobody was promised. While a
    /// server runs it may be the batch that is being written.
    pub torn: Option<Cut>,
}

impl Report {
    /// Frames that verify, the log's own left out.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.kinds.range(..crate::KINDS_MAX).map(|(_, kind)| kind.frames).sum()
    }
}

/// Where a frame is.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The name of the file in the log's directory.
    pub file: &'a str,
    pub offset: u64,
    pub position: Position,
}

/// Takes one of the broker's frames, and says whether to go on.
pub type OnFrame<'a> = dyn FnMut(Place<'_>, &Frame) -> ControlFlow<()> + 'a;

/// Reads every frame of the log in `dir`, whose size of segments stands in its headers, and hands
/// every damaged place to `on_finding`; goes on behind it. Writes nothing, and may run beside a
/// server that writes and trims. `known_durable` is an end known to have been synced, position 0
/// if none is: the log itself proves all but its last batches. Errors: the files cannot be read.
pub fn verify(
    dir: &Path,
    known_durable: Position,
    on_finding: &mut dyn FnMut(&Finding),
) -> Result<Report, LogError> {
    verify_on(&RealDisk::at(dir), known_durable, on_finding)
}

/// The same, handing out every frame that verifies, in order. Files that end before `from` are
/// passed over, and so not in the report.
pub fn walk(
    dir: &Path,
    from: Position,
    on_frame: &mut OnFrame<'_>,
    on_finding: &mut dyn FnMut(&Finding),
) -> Result<Report, LogError> {
    walk_on(&RealDisk::at(dir), from, Position(0), on_frame, on_finding)
}

/// The same on any disk.
pub fn verify_on(
    disk: &dyn Disk,
    known_durable: Position,
    on_finding: &mut dyn FnMut(&Finding),
) -> Result<Report, LogError> {
    let mut pass_over = |_: Place<'_>, _: &Frame| ControlFlow::Continue(());
    walk_on(disk, Position(0), known_durable, &mut pass_over, on_finding)
}

fn walk_on(
    disk: &dyn Disk,
    from: Position,
    known_durable: Position,
    on_frame: &mut OnFrame<'_>,
    on_finding: &mut dyn FnMut(&Finding),
) -> Result<Report, LogError> {
    let listed = disk.names().map_err(|error| LogError::io("list", disk.path(""), 0, error))?;
    let mut names: Vec<_> =
        listed.into_iter().filter_map(|name| Some((parse_base(&name)?, name))).collect();
    names.sort_unstable();
    // What most headers say: a file of another log is a finding, whatever it is called.
    let mut starts = BTreeMap::<_, u64>::new();
    for (base, name) in &names {
        if let Some((_, bytes)) = open(disk, name)?
            && let Some(start) = Start::decode(*base, &bytes)
        {
            *starts.entry(start).or_default() += 1;
        }
    }
    let start = starts.into_iter().max_by_key(|(_, count)| *count).map(|(start, _)| start);
    let (segment_bytes, salt) = match start {
        Some(Start::Known { segment_bytes, salt }) => (segment_bytes, salt),
        Some(Start::Unknown { format }) => {
            return Err(LogError::Format { path: disk.path(""), found: format });
        }
        None => (0, 0),
    };
    names.retain(|(base, _)| base.saturating_add(segment_bytes.max(1)) > from.0);
    let report = Report { segment_bytes, files: names.len() as u64, ..Report::default() };
    let geometry = Geometry::new(&LogConfig::new(segment_bytes)).ok();
    let mut walk = Walk {
        disk,
        geometry: geometry.unwrap_or(Geometry { segment_bytes: 1 }),
        salt,
        report,
        durable: known_durable.0,
        holes: Vec::new(),
        ends: Vec::new(),
        is_stopped: false,
        on_frame,
        on_finding,
    };
    let mut expected = None;
    for (base, name) in &names {
        if let Some(missing) = expected.filter(|missing| missing < base) {
            walk.found(missing, &format!("{missing:016x}.seg"), 0, Damage::Missing, None);
        }
        expected = Some(base + segment_bytes.max(1)).filter(|_| geometry.is_some());
        if !walk.segment(*base, name)? {
            expected = None;
        }
        if walk.is_stopped {
            return Ok(walk.report);
        }
    }
    walk.finish()
}

/// A file and its first bytes.
type Opened = (Arc<dyn DiskFile>, Bytes);

/// Opens a file; `None` if it was trimmed meanwhile.
fn open(disk: &dyn Disk, name: &str) -> Result<Option<Opened>, LogError> {
    let file = match disk.open_to_read(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LogError::io("open", disk.path(name), 0, error)),
    };
    let bytes = read_upto_at(&*file, SEGMENT_HEADER_BYTES, 0)
        .map_err(|error| LogError::io("read", disk.path(name), 0, error))?;
    Ok(Some((file, Bytes::from(bytes))))
}

/// A walk over all segments from front to back.
struct Walk<'a> {
    disk: &'a dyn Disk,
    geometry: Geometry,
    salt: u64,
    report: Report,
    /// Up to there the log is known to have been synced.
    durable: u64,
    /// Places that nothing promised yet.
    holes: Vec<Hole>,
    /// Behind the last thing that was found in each segment.
    ends: Vec<(u64, u64)>,
    is_stopped: bool,
    on_frame: &'a mut OnFrame<'a>,
    on_finding: &'a mut dyn FnMut(&Finding),
}

struct Hole {
    position: u64,
    resume: Option<u64>,
}

impl Walk<'_> {
    /// Walks through one file; `false` if it was trimmed meanwhile.
    fn segment(&mut self, base: u64, name: &str) -> Result<bool, LogError> {
        let Some((file, bytes)) = open(self.disk, name)? else { return Ok(false) };
        let start = Start::decode(base, &bytes);
        let Self { geometry, salt, .. } = *self;
        let same = Start::Known { segment_bytes: geometry.segment_bytes, salt };
        let damage = match start {
            Some(start) if start == same => None,
            Some(_) => Some(Damage::Foreign),
            None => Some(Damage::Header),
        };
        if let Some(damage) = damage {
            // A file that is used again loses its name first, its header then.
            if open(self.disk, name)?.is_none() {
                return Ok(false);
            }
            self.found(base, name, 0, damage, None);
        }
        if damage == Some(Damage::Foreign) || geometry.offset(base) != 0 || self.is_blind() {
            return Ok(true);
        }
        let number = geometry.number(base);
        let mut read = |offset, len| {
            read_upto_at(&*file, len, offset)
                .map(Bytes::from)
                .map_err(|error| LogError::io("read", self.disk.path(name), offset, error))
        };
        let mut scan = Scan::new(geometry, salt, number, &mut read);
        let mut offset = SEGMENT_HEADER_BYTES as u64;
        loop {
            let hole = match scan.step(offset)? {
                Step::End => break,
                Step::Frame(frame) => {
                    self.frame(
                        Place { file: name, offset, position: Position(base + offset) },
                        &frame,
                    )?;
                    if self.is_stopped {
                        return Ok(true);
                    }
                    offset += frame.size() as u64;
                    continue;
                }
                Step::Hole => offset,
            };
            let torn = scan.torn_end(hole)?;
            let found = scan.find(hole + 1)?.map(|(start, _)| start);
            // A file that was used again meanwhile has lost its header.
            if damage.is_none() && !self.is_still(base, name)? {
                return Ok(false);
            }
            self.holes.push(Hole { position: base + hole, resume: found.map(|at| base + at) });
            let Some(found) = found else {
                self.ends.push((number, torn.unwrap_or(hole)));
                return Ok(true);
            };
            offset = found;
        }
        self.ends.push((number, offset));
        Ok(true)
    }

    /// Whether no header said how large segments are: then there is nothing to look for.
    fn is_blind(&self) -> bool {
        self.report.segment_bytes == 0 || self.geometry.segment_bytes == 1
    }

    fn is_still(&self, base: u64, name: &str) -> Result<bool, LogError> {
        let found = open(self.disk, name)?;
        Ok(found.is_some_and(|(_, bytes)| Start::decode(base, &bytes).is_some()))
    }

    fn frame(&mut self, place: Place<'_>, frame: &Frame) -> Result<(), LogError> {
        let position = place.position.0;
        let kind = self.report.kinds.entry(frame.kind).or_default();
        kind.frames += 1;
        kind.bytes += frame.size() as u64;
        if frame.kind < crate::KINDS_MAX {
            self.report.first.get_or_insert(Position(position));
            self.report.last = Some(Position(position));
            self.is_stopped = (self.on_frame)(place, frame).is_break();
        }
        self.report.end = Position(position + frame.size() as u64);
        for hole in &mut self.holes {
            hole.resume.get_or_insert(position);
        }
        if let Some(synced) = frame.synced() {
            self.durable = self.durable.max(synced.0);
            self.judge()?;
        }
        Ok(())
    }

    /// Reports the holes that are known to have been synced.
    fn judge(&mut self) -> Result<(), LogError> {
        let (proven, open) = std::mem::take(&mut self.holes)
            .into_iter()
            .partition(|hole| hole.position < self.durable);
        self.holes = open;
        let proven: Vec<Hole> = proven;
        for hole in proven {
            let number = self.geometry.number(hole.position);
            // What was the end of the log when it was read may have been written to since.
            if self.is_hole(hole.position)? {
                let name = self.geometry.name(number);
                let offset = self.geometry.offset(hole.position);
                let damage = Damage::Middle { durable: Position(self.durable) };
                self.found(self.geometry.base(number), &name, offset, damage, hole.resume);
            }
        }
        Ok(())
    }

    /// Whether nothing verifies there, still; a trimmed place is no hole.
    fn is_hole(&self, position: u64) -> Result<bool, LogError> {
        let number = self.geometry.number(position);
        let name = self.geometry.name(number);
        let Some((file, _)) = open(self.disk, &name)? else { return Ok(false) };
        let mut read = |offset, len: usize| {
            read_upto_at(&*file, len, offset)
                .map(Bytes::from)
                .map_err(|error| LogError::io("read", self.disk.path(&name), offset, error))
        };
        let mut scan = Scan::new(self.geometry, self.salt, number, &mut read);
        let is_hole = matches!(scan.step(self.geometry.offset(position))?, Step::Hole);
        Ok(is_hole && open(self.disk, &name)?.is_some())
    }

    fn found(&mut self, base: u64, name: &str, offset: u64, damage: Damage, resume: Option<u64>) {
        self.report.findings += 1;
        let resume = resume.map(|position| Resume {
            path: self.geometry.path(self.disk, self.geometry.number(position)),
            offset: self.geometry.offset(position),
            position: Position(position),
        });
        let path = self.disk.path(name);
        let position = Position(base + offset);
        (self.on_finding)(&Finding { path, offset, position, damage, resume });
    }

    /// What no batch promised is the end of the log, torn or not.
    fn finish(mut self) -> Result<Report, LogError> {
        self.judge()?;
        let Some(hole) = self.holes.first() else { return Ok(self.report) };
        let hole = hole.position;
        let geometry = self.geometry;
        self.report.end = Position(hole);
        let torn = self.ends.iter().filter(|(number, _)| *number >= geometry.number(hole));
        let bytes = torn
            .map(|(number, end)| {
                let from = hole.max(geometry.first(*number)) - geometry.base(*number);
                end.saturating_sub(from)
            })
            .sum();
        self.report.torn = (bytes > 0).then(|| Cut {
            path: geometry.path(self.disk, geometry.number(hole)),
            offset: geometry.offset(hole),
            bytes,
        });
        Ok(self.report)
    }
}
