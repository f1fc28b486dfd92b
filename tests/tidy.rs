//! The house rules as tests: which crate may know which, what must not be written where, and what
//! every file says first.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Every crate's folder, its package, and which of our crates its code may import.
const CRATES: [(&str, &str, &[&str]); 8] = [
    ("schemas", "mainstem-schemas", &[]),
    ("store/log", "mainstem-log", &["schemas"]),
    ("store/index", "mainstem-index", &["schemas"]),
    ("store/broker", "mainstem-broker", &["schemas", "log", "index"]),
    ("protocols/amqp", "mainstem-amqp", &["schemas", "broker"]),
    ("protocols/mqtt", "mainstem-mqtt", &["schemas", "broker"]),
    ("protocols/rocketmq", "mainstem-rocketmq", &["schemas", "broker"]),
    ("gateway", "mainstem", &["schemas", "broker", "amqp", "mqtt", "rocketmq"]),
];

/// What may stand at the top of the repository.
const TOP_LEVEL: [&str; 25] = [
    ".cargo",
    ".ci",
    ".clippy.toml",
    ".dockerignore",
    ".github",
    ".gitignore",
    ".rustfmt.toml",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "DECISIONS.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "benches",
    "deploy",
    "docs",
    "gateway",
    "protocols",
    "rust-toolchain.toml",
    "schemas",
    "store",
    "tests",
];

const FILE_LINES_MAX: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate is a folder of the repository")
}

/// The files of the repository below `folder`, by their path from the root. Hidden folders, build
/// output and data are not the repository's.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join(folder)];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let outside = name.starts_with('.') && name != ".ci"
                || matches!(name, "target" | "data" | "node_modules" | "__pycache__" | "corpus");
            if outside {
                continue;
            } else if path.is_dir() {
                waiting.push(path);
            } else {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn rust_files(folder: &str) -> Vec<(PathBuf, String)> {
    let is_rust = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    files(folder).into_iter().filter(is_rust).map(|path| (path.clone(), read(path))).collect()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Fails with every complaint, one on a line.
fn expect_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The names after `mainstem_` or `mainstem-` in a text.
fn ours_in(text: &str) -> BTreeSet<&str> {
    let names = text.split("mainstem_").skip(1).chain(text.split("mainstem-").skip(1));
    names.map(|rest| rest.split(|c: char| !c.is_ascii_lowercase()).next().unwrap()).collect()
}

/// The lines of a manifest's `[dependencies]` and `[build-dependencies]`; what tests use is free.
fn dependencies(manifest: &str) -> String {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = matches!(line, "[dependencies]" | "[build-dependencies]");
        } else if inside {
            lines.push(line);
        }
    }
    lines.join("\n")
}

#[test]
fn every_crate_of_the_workspace_is_judged() {
    let judged: BTreeSet<_> = CRATES.iter().map(|(folder, ..)| *folder).collect();
    let manifest = read("Cargo.toml");
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    let members: BTreeSet<_> = members.split('"').skip(1).step_by(2).collect();
    let free = BTreeSet::from(["tests", "benches"]);
    assert_eq!(members, judged.union(&free).copied().collect());
}

#[test]
fn imports_point_one_way() {
    let mut complaints = Vec::new();
    for (folder, package, allowed) in CRATES {
        let manifest = read(format!("{folder}/Cargo.toml"));
        assert!(manifest.contains(&format!("name = \"{package}\"")), "{folder} is {package}");
        for name in ours_in(&dependencies(&manifest)) {
            if !allowed.contains(&name) {
                complaints.push(format!("{folder}/Cargo.toml depends on mainstem-{name}"));
            }
        }
        for (path, text) in rust_files(&format!("{folder}/src")) {
            for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
                for name in line.match_indices("mainstem_").filter_map(|(at, _)| import(line, at)) {
                    if !allowed.contains(&name) && format!("mainstem-{name}") != package {
                        complaints.push(format!("{} imports mainstem_{name}", path.display()));
                    }
                }
            }
        }
    }
    expect_none(&complaints);
}

/// The crate named at `at`, when it is used as one: `use mainstem_x` or `mainstem_x::`.
fn import(line: &str, at: usize) -> Option<&str> {
    let (before, rest) = line.split_at(at);
    let rest = rest.strip_prefix("mainstem_")?;
    let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    (before.trim_end().ends_with("use") || after.starts_with("::")).then_some(name)
}

#[test]
fn the_store_has_never_heard_of_a_protocol() {
    let mut complaints = Vec::new();
    for folder in ["store/log/src", "store/index/src", "store/broker/src"] {
        for (path, text) in rust_files(folder) {
            for (number, line) in text.lines().enumerate() {
                // The root exchange and the reply queue keep the names that records address them
                // by; the origins are named by schemas.
                let line = line
                    .replace("amq.", "")
                    .replace("Origin::Amqp", "")
                    .replace("Address::amqp", "")
                    .replace("Dialect::Amqp", "")
                    .replace("Dialect::Mqtt", "")
                    .to_lowercase();
                for word in ["amqp", "mqtt", "rocketmq", "vhost"] {
                    if line.contains(word) {
                        complaints.push(format!("{}:{}: {word}", path.display(), number + 1));
                    }
                }
            }
        }
    }
    expect_none(&complaints);
}

#[test]
fn blocking_crates_have_no_async() {
    let mut complaints = Vec::new();
    for folder in ["schemas", "store/log", "store/index"] {
        if dependencies(&read(format!("{folder}/Cargo.toml"))).contains("tokio") {
            complaints.push(format!("{folder}/Cargo.toml depends on tokio"));
        }
        for (path, text) in rust_files(&format!("{folder}/src")) {
            if text.contains("async fn") || text.contains("tokio::") {
                complaints.push(format!("{} is async", path.display()));
            }
        }
    }
    expect_none(&complaints);
}

#[test]
fn only_the_index_names_rocksdb_and_only_the_log_opens_files() {
    let mut complaints = Vec::new();
    for (folder, ..) in CRATES {
        for (path, text) in rust_files(&format!("{folder}/src")) {
            let code = || text.lines().filter(|line| !line.trim_start().starts_with("//"));
            if folder != "store/index" && code().any(|line| line.contains("rocksdb::")) {
                complaints.push(format!("{} names RocksDB", path.display()));
            }
            let files = ["std::fs", "fs::File", "tokio::fs", "File::open", "OpenOptions"];
            let opens = code().any(|line| files.iter().any(|word| line.contains(word)));
            if opens && (folder.starts_with("protocols") || folder == "schemas") {
                complaints.push(format!("{} opens files", path.display()));
            }
        }
    }
    expect_none(&complaints);
}

#[test]
fn pure_rooms_do_no_io_and_read_no_clock() {
    let mut complaints = Vec::new();
    for protocol in ["amqp", "mqtt", "rocketmq"] {
        for room in ["codec", "session", "normalize"] {
            let folder = format!("protocols/{protocol}/src");
            for (path, text) in rust_files(&folder) {
                let inside = path.starts_with(format!("{folder}/{room}"))
                    || path == Path::new(&format!("{folder}/{room}.rs"));
                let impure =
                    ["tokio::", "std::net::Tcp", "Instant::now", "SystemTime::now", "async fn"];
                for word in impure.iter().filter(|word| inside && text.contains(**word)) {
                    complaints.push(format!("{}: {word}", path.display()));
                }
            }
        }
    }
    expect_none(&complaints);
}

#[test]
fn every_protocol_has_its_four_rooms() {
    let mut complaints = Vec::new();
    for protocol in ["amqp", "mqtt", "rocketmq"] {
        for room in ["codec", "session", "normalize", "serve"] {
            let file = format!("protocols/{protocol}/src/{room}.rs");
            if !root().join(&file).is_file() {
                complaints.push(format!("{file} is missing"));
            }
        }
    }
    expect_none(&complaints);
}

#[test]
fn every_file_says_first_what_it_is() {
    let mut complaints = Vec::new();
    for (path, text) in rust_files("") {
        // An integration test may open with the lints it takes exception to.
        let first = text.lines().find(|line| !line.starts_with("#!") && !line.is_empty());
        if !first.is_some_and(|line| line.starts_with("//! ") && line.len() > 12) {
            complaints.push(format!("{} does not open with a //! sentence", path.display()));
        }
        if text.lines().count() > FILE_LINES_MAX {
            complaints.push(format!("{} is over {FILE_LINES_MAX} lines", path.display()));
        }
        if path.file_name().is_some_and(|name| name == "mod.rs") {
            complaints.push(format!("{}: foo.rs and foo/, not mod.rs", path.display()));
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap();
        if matches!(stem, "common" | "util" | "utils" | "helpers" | "manager" | "misc") {
            complaints.push(format!("{}: a file is a noun", path.display()));
        }
    }
    expect_none(&complaints);
}

#[test]
fn nothing_is_left_over() {
    // Put together here, so that this file does not name what it looks for.
    let words: Vec<_> =
        [["FIX", "ME"], ["TO", "DO"], ["XX", "X:"], ["#[ign", "ore"], ["should_", "panic"]]
            .map(|halves| halves.concat())
            .into();
    let mut complaints = Vec::new();
    for (path, text) in rust_files("") {
        for (number, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(word.as_str())) {
                complaints.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    expect_none(&complaints);
}

#[test]
fn the_top_level_holds_only_what_it_should() {
    let mut complaints = Vec::new();
    // Data and build output are made by running, and git does not track them.
    let ignored = ["data", "target", ".git"];
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !TOP_LEVEL.contains(&name.as_str()) && !ignored.contains(&name.as_str()) {
            complaints.push(format!("{name} at the top level"));
        }
    }
    expect_none(&complaints);
}

#[test]
fn the_pages_are_short_and_whole() {
    let lines = |path: &str| read(path).lines().count();
    assert!(lines("README.md") <= 120, "README.md is one screen and its reference");
    assert!(lines("ARCHITECTURE.md") <= 200, "ARCHITECTURE.md stays under 200 lines");
    let mut complaints = Vec::new();
    for page in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "schemas/MAPPING.md",
        "docs/metrics.md",
        "docs/operating.md",
    ] {
        for path in paths_named_in(&read(page)) {
            if !root().join(&path).exists() {
                complaints.push(format!("{page} names {path}, which does not exist"));
            }
        }
    }
    expect_none(&complaints);
}

/// The paths a page names: words in back quotes that begin with one of our folders.
fn paths_named_in(text: &str) -> Vec<String> {
    let folders = ["schemas/", "store/", "protocols/", "gateway/", "tests/", "benches/", "deploy/"];
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| folders.iter().any(|folder| word.starts_with(folder)))
        .filter(|word| !word.contains([' ', '*', '<', '{']))
        .map(|word| word.split("::").next().unwrap().to_owned())
        .collect()
}

#[test]
fn every_invariant_names_a_test_that_exists() {
    let page = read("ARCHITECTURE.md");
    let section = page.split("## Invariants").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.contains("---"));
    let mut sources = BTreeMap::new();
    for (folder, ..) in CRATES {
        sources.extend(rust_files(folder));
    }
    sources.extend(rust_files("tests"));
    let mut complaints = Vec::new();
    let mut seen = 0;
    for row in rows.skip(1) {
        seen += 1;
        let kept_by = row.trim_end_matches(['|', ' ']).rsplit('|').next().unwrap();
        let tests: Vec<_> = kept_by.split('`').skip(1).step_by(2).collect();
        if tests.is_empty() {
            complaints.push(format!("no test in: {row}"));
        }
        for test in tests {
            let needle = format!("fn {test}(");
            if !sources.values().any(|text| text.contains(&needle)) {
                complaints.push(format!("no test '{test}', which keeps: {row}"));
            }
        }
    }
    assert_eq!(seen, 10, "the design has ten invariants");
    expect_none(&complaints);
}
