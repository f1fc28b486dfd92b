//! `mqtt_statements.txt` names tests that exist, for every statement it lists.

#![allow(clippy::print_stdout, reason = "a test prints what it counted")]

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    path::{Path, PathBuf},
};

const TABLE: &str = include_str!("mqtt_statements.txt");

/// How many statements each version has.
const STATEMENTS: [(&str, usize); 2] = [("5.0", 251), ("3.1.1", 138)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs" || ext == "txt") {
            found.push(path);
        }
    }
}

/// The names of test functions and of cases.
fn tests() -> HashSet<String> {
    let mut found = Vec::new();
    files(&root().join("protocols/mqtt/src"), &mut found);
    files(&root().join("tests/e2e"), &mut found);
    let mut names = HashSet::new();
    for path in found {
        let text = fs::read_to_string(path).expect("a source file is text");
        let mut lines = text.lines().map(str::trim).peekable();
        while let Some(line) = lines.next() {
            if let Some(case) = line.strip_prefix("case ") {
                names.insert(case.to_owned());
            }
            let is_test = line == "#[test]" || line.starts_with("#[tokio::test");
            let name = lines.peek().filter(|_| is_test).and_then(|next| {
                let (_, rest) = next.split_once("fn ")?;
                Some(rest.split('(').next()?.to_owned())
            });
            names.extend(name);
        }
    }
    names
}

#[test]
fn every_statement_names_tests_that_exist() {
    let tests = tests();
    let (mut seen, mut missing) = (BTreeSet::new(), Vec::new());
    let (mut version, mut not_yet) = ("", Vec::new());
    let mut counts = STATEMENTS.map(|(version, _)| (version, 0, 0, 0, 0));
    for line in TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if let Some(name) = line.strip_prefix('[') {
            version = name.trim_end_matches(']');
            continue;
        }
        let (id, how) = line.split_once(' ').expect("a statement and how it is shown");
        let how = how.trim();
        assert!(id.starts_with("MQTT-") && seen.insert((version, id)), "{line}");
        let count = counts.iter_mut().find(|count| count.0 == version).expect("a version");
        if how == "client" {
            count.2 += 1;
        } else if how.starts_with("void: ") {
            count.3 += 1;
        } else if let Some(why) = how.strip_prefix("not yet: ") {
            count.4 += 1;
            not_yet.push(format!("{version} {id}: {why}"));
        } else {
            count.1 += 1;
            let named = how.split(',').map(str::trim);
            missing.extend(named.filter(|test| !tests.contains(*test)).map(|t| (id, t)));
        }
    }
    for (version, shown, client, void, open) in counts {
        println!(
            "MQTT {version}: {shown} shown, {client} the client's, {void} void, {open} not yet"
        );
    }
    println!("not yet:\n  {}", not_yet.join("\n  "));
    assert!(missing.is_empty(), "no such test: {missing:?}");
    let totals =
        counts.map(|(version, shown, client, void, open)| (version, shown + client + void + open));
    assert_eq!(totals, STATEMENTS, "a statement was lost");
}
