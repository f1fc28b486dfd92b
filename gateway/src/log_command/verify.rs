//! `mainstem log verify`: every damaged place, and what the rest holds.

use std::{io::Write, path::Path};

use mainstem_broker::survey::{self, Report};
use serde_json::json;

use super::{DAMAGED, Failure, SOUND, words};

pub(super) fn run(data: &Path, json: bool, out: &mut dyn Write) -> Result<u8, Failure> {
    let mut told = Ok(());
    let mut on_finding = |finding: &survey::Finding| {
        let line = if json {
            words::finding_object(finding).to_string()
        } else {
            words::finding_text(finding)
        };
        if told.is_ok() {
            told = writeln!(out, "{line}");
        }
    };
    let report = survey::verify(data, &mut on_finding)?;
    told?;
    if json {
        tell_json(&report, out)?;
    } else {
        tell(&report, out)?;
    }
    Ok(if report.findings == 0 { SOUND } else { DAMAGED })
}

fn tell(report: &Report, out: &mut dyn Write) -> Result<(), Failure> {
    if let Some(torn) = &report.torn {
        writeln!(
            out,
            "torn tail: {} at byte {}, {}: no damage. Nobody was promised it; the next start cuts \
             it, and while a server runs it may be what is being written",
            torn.path.display(),
            torn.offset,
            words::size(torn.bytes)
        )?;
    }
    let bytes = report.kinds.values().map(|kind| kind.bytes).sum();
    writeln!(
        out,
        "{}: {} verified entries, {} in {} files of {}; the log ends at position {}",
        if report.findings == 0 { "the log is sound".to_owned() } else { damaged(report) },
        report.frames(),
        words::size(bytes),
        report.files,
        words::size(report.segment_bytes),
        report.end.0
    )?;
    Ok(())
}

fn damaged(report: &Report) -> String {
    match report.findings {
        1 => "1 damaged place".to_owned(),
        more => format!("{more} damaged places"),
    }
}

fn tell_json(report: &Report, out: &mut dyn Write) -> Result<(), Failure> {
    let torn = report.torn.as_ref().map(|torn| {
        json!({
            "path": torn.path.display().to_string(), "offset": torn.offset, "bytes": torn.bytes,
        })
    });
    let summary = json!({
        "sound": report.findings == 0,
        "findings": report.findings,
        "entries": report.frames(),
        "files": report.files,
        "segment_bytes": report.segment_bytes,
        "first": report.first.map(|position| position.0),
        "last": report.last.map(|position| position.0),
        "end": report.end.0,
        "torn": torn,
    });
    writeln!(out, "{summary}")?;
    Ok(())
}
