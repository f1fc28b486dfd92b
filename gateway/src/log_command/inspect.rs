//! `mainstem log inspect`: one line for each entry.

use std::{io::Write, ops::ControlFlow, path::Path};

use mainstem_broker::{
    describe::Described,
    survey::{self, Finding, Seen},
};
use mainstem_schemas::{Position, QueueId, UnixMillis};
use serde_json::json;

use super::{
    DAMAGED, Failure, SOUND, Selection,
    words::{self, Names},
};

pub(super) fn run(
    data: &Path,
    selection: &Selection,
    json: bool,
    out: &mut dyn Write,
) -> Result<u8, Failure> {
    let mut teller = Teller {
        out,
        selection,
        json,
        names: Names::new(),
        queues: None,
        left: selection.limit.unwrap_or(u64::MAX),
        time: UnixMillis::NONE,
        told: Ok(()),
    };
    if let Some(name) = &selection.queue {
        // Entries may speak of a queue before one tells its name, if the log's beginning is gone.
        teller.names = names(data)?;
        let called = teller.names.iter().filter(|(_, known)| *known == name);
        let queues: Vec<_> = called.map(|(queue, _)| *queue).collect();
        if queues.is_empty() {
            return Err(Failure::NoQueue(name.clone()));
        }
        teller.queues = Some(queues);
    }
    let mut findings = Vec::new();
    let mut on_finding = |finding: &Finding| findings.push(finding.clone());
    let mut on_entry = |seen: Seen<'_>| teller.on_entry(seen);
    survey::walk(data, Position(selection.from), &mut on_entry, &mut on_finding)?;
    teller.told?;
    for finding in &findings {
        if json {
            writeln!(teller.out, "{}", words::finding_object(finding))?;
        } else {
            writeln!(teller.out, "{}", words::finding_text(finding))?;
        }
    }
    Ok(if findings.is_empty() { SOUND } else { DAMAGED })
}

/// Every queue that the log gives a name to.
fn names(data: &Path) -> Result<Names, Failure> {
    let mut names = Names::new();
    let mut on_entry = |seen: Seen<'_>| {
        if matches!(seen.kind(), "declare-queue" | "queue-image")
            && let Ok(Described { names: Some((queue, name)), .. }) = seen.describe()
        {
            names.insert(queue, name);
        }
        ControlFlow::Continue(())
    };
    survey::walk(data, Position(0), &mut on_entry, &mut |_| {})?;
    Ok(names)
}

/// Tells the entries that were asked for.
struct Teller<'a> {
    out: &'a mut dyn Write,
    selection: &'a Selection,
    json: bool,
    names: Names,
    /// Those asked for by name: one that was deleted and declared again has two numbers.
    queues: Option<Vec<QueueId>>,
    left: u64,
    /// The newest time that any entry told.
    time: UnixMillis,
    told: std::io::Result<()>,
}

impl Teller<'_> {
    fn on_entry(&mut self, seen: Seen<'_>) -> ControlFlow<()> {
        if self.left == 0 {
            return ControlFlow::Break(());
        }
        let described = seen.describe();
        if let Ok(Described { names: Some((queue, name)), .. }) = &described {
            self.names.insert(*queue, name.clone());
        }
        self.time = seen.time().unwrap_or_default().max(self.time);
        if !self.is_asked_for(&seen, described.as_ref().ok()) {
            return ControlFlow::Continue(());
        }
        self.left -= 1;
        self.told = if self.json {
            self.tell_json(&seen, &described)
        } else {
            self.tell(&seen, &described)
        };
        if self.told.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn is_asked_for(&self, seen: &Seen<'_>, described: Option<&Described>) -> bool {
        let Selection { from, kind, .. } = self.selection;
        let is_about =
            |queue: &QueueId| described.is_some_and(|described| described.is_about(*queue));
        seen.place.position.0 >= *from
            && kind.as_deref().is_none_or(|kind| kind == seen.kind())
            && self.queues.as_ref().is_none_or(|queues| queues.iter().any(is_about))
    }

    fn tell(
        &mut self,
        seen: &Seen<'_>,
        described: &Result<Described, String>,
    ) -> std::io::Result<()> {
        let time = match (seen.time(), self.time) {
            (Some(time), _) => format!(" {}", words::time(time)),
            (None, UnixMillis::NONE) => String::from(" -"),
            // It does not say when, but others before it do.
            (None, after) => format!("~{}", words::time(after)),
        };
        let says = match described {
            Ok(described) => words::text(described, &self.names),
            Err(error) => format!("MAKES NO SENSE: {error}"),
        };
        let place = seen.place;
        writeln!(
            self.out,
            "{:>12} {}+{:<9} {time:<25} {:<16} {says}",
            place.position.0,
            place.file,
            place.offset,
            seen.kind()
        )
    }

    fn tell_json(
        &mut self,
        seen: &Seen<'_>,
        described: &Result<Described, String>,
    ) -> std::io::Result<()> {
        let place = seen.place;
        let (says, error) = match described {
            Ok(described) => (Some(words::object(described, &self.names)), None),
            Err(error) => (None, Some(error)),
        };
        let object = json!({
            "position": place.position.0,
            "file": place.file,
            "file_offset": place.offset,
            "size": seen.size(),
            "time": seen.time().map(words::time),
            "kind": seen.kind(),
            "says": says,
            "error": error,
        });
        writeln!(self.out, "{object}")
    }
}
