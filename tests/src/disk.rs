//! A file system of the test's own, mounted through FUSE, that forgets on demand what was not
//! synced and fails syncs on demand.
//!
//! It keeps everything in this process's memory and speaks the kernel's protocol over `/dev/fuse`
//! by itself (linux/fuse.h, 7.31). It is stricter than most: bytes outlive a power cut only if
//! their file was synced after they were written, a name only if its directory was synced after it
//! was given or taken.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

use tempfile::TempDir;

use crate::untried;

const ROOT: u64 = 1;
const PAGE: usize = 4096;
const WRITE_BYTES_MAX: u32 = 128 << 10;
/// More than the kernel sends at once: a write and its headers.
const REQUEST_BYTES_MAX: usize = (128 << 10) + PAGE;
const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_644;

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const ENOSYS: i32 = 38;
const ENOTEMPTY: i32 = 39;

/// A disk, whether mounted or not.
pub struct Disk {
    state: Arc<Mutex<State>>,
    at: TempDir,
    is_mounted: bool,
}

impl Disk {
    /// An empty disk, mounted. Mounting needs root and `/dev/fuse`: where there is neither, `None`, which
    /// is said aloud, or where it is demanded a failure.
    #[must_use]
    pub fn mount() -> Option<Self> {
        let state = Arc::new(Mutex::new(State::new()));
        let mut disk = Self { state, at: TempDir::new().unwrap(), is_mounted: false };
        let Err(why) = disk.attach() else { return Some(disk) };
        untried::without_disk(&why);
        None
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.at.path()
    }

    /// Forgets everything that was not synced, as a power cut does. No process may have a file of
    /// it open any more.
    pub fn cut_power(&mut self) {
        self.detach();
        self.state().cut_power();
        self.attach().unwrap();
    }

    /// From now on syncing a file whose name ends so fails.
    pub fn fail_syncs(&self, ending: &'static str) {
        self.state().failing = Some(ending);
    }

    /// How many syncs have failed.
    #[must_use]
    pub fn failed_syncs(&self) -> u64 {
        self.state().failed
    }

    /// Pages that a cut would undo, so far.
    #[must_use]
    pub fn unsynced_pages(&self) -> usize {
        self.state().nodes.values().map(|node| node.undo.len()).sum()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn attach(&mut self) -> Result<(), String> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let device = device.map_err(|error| format!("/dev/fuse: {error}"))?;
        let mut mount = Command::new("mount");
        mount.args(["--internal-only", "-t", "fuse", "-o"]);
        mount.arg("fd=0,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions");
        mount.arg("mainstem-test").arg(self.at.path());
        let status = mount.stdin(Stdio::from(device.try_clone().unwrap())).status().unwrap();
        if !status.success() {
            return Err("mounting needs root (CAP_SYS_ADMIN)".to_owned());
        }
        self.is_mounted = true;
        let state = self.state.clone();
        thread::spawn(move || serve(device, &state));
        Ok(())
    }

    fn detach(&mut self) {
        let status = Command::new("umount").arg("--lazy").arg(self.at.path()).status().unwrap();
        assert!(status.success(), "cannot unmount {}", self.at.path().display());
        self.is_mounted = false;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted && !thread::panicking() {
            self.detach();
        } else if self.is_mounted {
            let _ended = Command::new("umount").arg("--lazy").arg(self.at.path()).status();
        }
    }
}

/// Answers the kernel until the file system is unmounted.
fn serve(mut device: File, state: &Mutex<State>) {
    let mut bytes = vec![0; REQUEST_BYTES_MAX];
    loop {
        let len = match device.read(&mut bytes) {
            Ok(len) => len,
            // A request that was taken back before it was read, or a signal.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Interrupted) => {
                continue;
            }
            Err(_) => return,
        };
        let request = Request(&bytes[..len]);
        let Some(answer) = state.lock().unwrap().answer(&request) else { continue };
        let (error, body) = match answer {
            Ok(body) => (0, body.0),
            Err(errno) => (-errno, Vec::new()),
        };
        let mut reply = Reply::default();
        reply.u32(u32::try_from(16 + body.len()).unwrap());
        reply.0.extend(error.to_le_bytes());
        reply.u64(request.u64(8));
        reply.0.extend(body);
        // An error means that whoever asked has gone.
        let _gone = device.write_all(&reply.0);
    }
}

struct Request<'a>(&'a [u8]);

impl Request<'_> {
    /// Where a request's own fields begin, behind the header that all have.
    const BODY: usize = 40;

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn usize(&self, at: usize) -> usize {
        usize::try_from(self.u64(at)).unwrap()
    }

    /// The texts from this place of the body on, each ended by a zero.
    fn names(&self, at: usize) -> Vec<String> {
        let texts = self.0[Self::BODY + at..].split(|byte| *byte == 0);
        texts.map(|text| String::from_utf8(text.to_vec()).unwrap()).collect()
    }
}

#[derive(Default)]
struct Reply(Vec<u8>);

impl Reply {
    fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }
}

/// A file or a directory, and how to undo what was not synced.
#[derive(Default)]
struct Node {
    is_directory: bool,
    data: Vec<u8>,
    /// Pages as they were when the file was last synced.
    undo: BTreeMap<usize, Vec<u8>>,
    synced_len: usize,
    names: BTreeMap<String, u64>,
    synced_names: BTreeMap<String, u64>,
}

impl Node {
    /// Remembers what pages were before their first change since the last sync.
    fn before_change(&mut self, from: usize, to: usize) {
        for page in from / PAGE..to.min(self.data.len()).div_ceil(PAGE) {
            let end = ((page + 1) * PAGE).min(self.data.len());
            self.undo.entry(page).or_insert_with(|| self.data[page * PAGE..end].to_vec());
        }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.before_change(offset, end);
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[offset..end].copy_from_slice(bytes);
    }

    fn resize(&mut self, len: usize) {
        self.before_change(len, self.data.len());
        self.data.resize(len, 0);
    }

    fn sync(&mut self) {
        self.undo.clear();
        self.synced_len = self.data.len();
    }

    fn cut_power(&mut self) {
        for (page, bytes) in std::mem::take(&mut self.undo) {
            let end = page * PAGE + bytes.len();
            if self.data.len() < end {
                self.data.resize(end, 0);
            }
            self.data[page * PAGE..end].copy_from_slice(&bytes);
        }
        self.data.resize(self.synced_len, 0);
        self.names = self.synced_names.clone();
    }
}

struct State {
    /// None is ever forgotten: a power cut may bring a deleted one back.
    nodes: BTreeMap<u64, Node>,
    failing: Option<&'static str>,
    failed: u64,
}

type Answer = Result<Reply, i32>;

impl State {
    fn new() -> Self {
        let root = Node { is_directory: true, ..Node::default() };
        Self { nodes: BTreeMap::from([(ROOT, root)]), failing: None, failed: 0 }
    }

    fn cut_power(&mut self) {
        self.nodes.values_mut().for_each(Node::cut_power);
    }

    fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("the kernel names nodes that we named to it")
    }

    /// What to answer; `None` for what wants no answer. Numbers are those of linux/fuse.h.
    fn answer(&mut self, request: &Request<'_>) -> Option<Answer> {
        let (body, id) = (Request::BODY, request.u64(16));
        Some(match request.u32(4) {
            2 | 36 | 42 => return None,
            26 => Ok(init(request.u32(body + 8))),
            1 => self.lookup(id, &request.names(0)[0]),
            3 => Ok(self.attributes(id)),
            4 => {
                const SIZE: u32 = 1 << 3;
                if request.u32(body) & SIZE != 0 {
                    self.node(id).resize(request.usize(body + 16));
                }
                Ok(self.attributes(id))
            }
            8 => self.make(id, &request.names(16)[0], false),
            9 => self.make(id, &request.names(8)[0], true),
            10 | 11 => self.remove(id, &request.names(0)[0]),
            12 => self.rename(id, request.u64(body), &request.names(8)),
            45 => match request.u32(body + 8) {
                0 => self.rename(id, request.u64(body), &request.names(16)),
                _ => Err(EINVAL),
            },
            13 => self.link(request.u64(body), id, &request.names(8)[0]),
            14 | 27 => Ok(opened()),
            15 => Ok(self.read(id, request)),
            16 => {
                let size = usize::try_from(request.u32(body + 16)).unwrap();
                let bytes = &request.0[body + 40..body + 40 + size];
                self.node(id).write(request.usize(body + 8), bytes);
                let mut reply = Reply::default();
                reply.u32(request.u32(body + 16));
                reply.u32(0);
                Ok(reply)
            }
            17 => Ok(space()),
            18 | 25 | 29 | 34 => Ok(Reply::default()),
            20 => self.sync(id),
            28 => Ok(self.list(id, request)),
            30 => {
                let directory = self.node(id);
                directory.synced_names = directory.names.clone();
                Ok(Reply::default())
            }
            35 => self.make(id, &request.names(16)[0], false).map(|mut reply| {
                reply.0.extend(opened().0);
                reply
            }),
            _ => Err(ENOSYS),
        })
    }

    fn lookup(&mut self, id: u64, name: &str) -> Answer {
        let found = self.node(id).names.get(name).copied().ok_or(ENOENT)?;
        Ok(self.entry(found))
    }

    fn make(&mut self, id: u64, name: &str, is_directory: bool) -> Answer {
        if self.node(id).names.contains_key(name) {
            return Err(EEXIST);
        }
        let made = self.nodes.keys().next_back().unwrap() + 1;
        self.nodes.insert(made, Node { is_directory, ..Node::default() });
        self.node(id).names.insert(name.to_owned(), made);
        Ok(self.entry(made))
    }

    fn remove(&mut self, id: u64, name: &str) -> Answer {
        let found = *self.node(id).names.get(name).ok_or(ENOENT)?;
        if !self.node(found).names.is_empty() {
            return Err(ENOTEMPTY);
        }
        self.node(id).names.remove(name);
        Ok(Reply::default())
    }

    fn rename(&mut self, from: u64, to: u64, names: &[String]) -> Answer {
        let moved = self.node(from).names.remove(&names[0]).ok_or(ENOENT)?;
        self.node(to).names.insert(names[1].clone(), moved);
        Ok(Reply::default())
    }

    fn link(&mut self, linked: u64, id: u64, name: &str) -> Answer {
        self.node(id).names.insert(name.to_owned(), linked);
        Ok(self.entry(linked))
    }

    fn read(&mut self, id: u64, request: &Request<'_>) -> Reply {
        let data = &self.node(id).data;
        let from = request.usize(Request::BODY + 8).min(data.len());
        let size = usize::try_from(request.u32(Request::BODY + 16)).unwrap();
        Reply(data[from..(from + size).min(data.len())].to_vec())
    }

    fn sync(&mut self, id: u64) -> Answer {
        let fails = self.failing.is_some_and(|ending| {
            let mut names = self.nodes.values().flat_map(|node| &node.names);
            names.any(|(name, named)| *named == id && name.ends_with(ending))
        });
        if fails {
            self.failed += 1;
            return Err(EIO);
        }
        self.node(id).sync();
        Ok(Reply::default())
    }

    fn list(&mut self, id: u64, request: &Request<'_>) -> Reply {
        let from = request.usize(Request::BODY + 8);
        let room = usize::try_from(request.u32(Request::BODY + 16)).unwrap();
        let names = self.node(id).names.clone();
        let mut reply = Reply::default();
        for (index, (name, named)) in names.iter().enumerate().skip(from) {
            let padded = (24 + name.len()).next_multiple_of(8);
            if reply.0.len() + padded > room {
                break;
            }
            let end = reply.0.len() + padded;
            reply.u64(*named);
            reply.u64(index as u64 + 1);
            reply.u32(u32::try_from(name.len()).unwrap());
            reply.u32(self.mode(*named) >> 12);
            reply.0.extend(name.as_bytes());
            reply.0.resize(end, 0);
        }
        reply
    }

    fn mode(&self, id: u64) -> u32 {
        if self.nodes[&id].is_directory { DIRECTORY } else { REGULAR }
    }

    fn entry(&mut self, id: u64) -> Reply {
        let mut reply = Reply::default();
        reply.u64(id);
        // A generation, and how long the kernel may remember: not at all.
        (0..3).for_each(|_| reply.u64(0));
        reply.u64(0);
        self.put_attributes(id, &mut reply);
        reply
    }

    fn attributes(&mut self, id: u64) -> Reply {
        let mut reply = Reply::default();
        reply.u64(0);
        reply.u64(0);
        self.put_attributes(id, &mut reply);
        reply
    }

    fn put_attributes(&mut self, id: u64, reply: &mut Reply) {
        let len = self.node(id).data.len() as u64;
        reply.u64(id);
        reply.u64(len);
        reply.u64(len.div_ceil(512));
        // Times of access, change and status, then their nanoseconds.
        (0..3).for_each(|_| reply.u64(0));
        (0..3).for_each(|_| reply.u32(0));
        reply.u32(self.mode(id));
        reply.u32(1);
        // Owner, group, device.
        (0..3).for_each(|_| reply.u32(0));
        reply.u32(4096);
        reply.u32(0);
    }
}

fn init(readahead: u32) -> Reply {
    let mut reply = Reply::default();
    reply.u32(7);
    reply.u32(31);
    reply.u32(readahead);
    const BIG_WRITES: u32 = 1 << 5;
    reply.u32(BIG_WRITES);
    reply.u16(16);
    reply.u16(12);
    reply.u32(WRITE_BYTES_MAX);
    reply.u32(1);
    reply.u16(32);
    reply.u16(0);
    (0..8).for_each(|_| reply.u32(0));
    reply
}

fn opened() -> Reply {
    Reply(vec![0; 16])
}

/// A disk of a GiB with room on it.
fn space() -> Reply {
    let mut reply = Reply::default();
    for value in [1 << 18, 1 << 17, 1 << 17, 1 << 20, 1 << 20] {
        reply.u64(value);
    }
    for value in [4096, 255, 4096, 0] {
        reply.u32(value);
    }
    (0..6).for_each(|_| reply.u32(0));
    reply
}
