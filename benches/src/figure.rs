//! A promise of the store beside what was measured and what the machine itself could do.

use std::{fmt::Write, time::Duration};

pub(crate) struct Figure {
    what: String,
    measured: String,
    limit: String,
    /// What was measured as a part of the limit.
    ratio: Option<f64>,
    bar: String,
    met: Option<bool>,
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, measured: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            measured: measured.into(),
            limit: String::new(),
            ratio: None,
            bar: String::new(),
            met: None,
        }
    }

    /// What the machine did, and our part of it.
    #[must_use]
    pub(crate) fn limit(mut self, limit: impl Into<String>, ratio: f64) -> Self {
        self.limit = limit.into();
        self.ratio = Some(ratio);
        self
    }

    #[must_use]
    pub(crate) fn bar(mut self, bar: impl Into<String>, met: bool) -> Self {
        self.bar = bar.into();
        self.met = Some(met);
        self
    }

    /// A promise without a measurement, and why.
    pub(crate) fn missing(what: impl Into<String>, bar: impl Into<String>, why: &str) -> Self {
        let mut figure = Self::new(what, format!("not measured: {why}"));
        figure.bar = bar.into();
        figure
    }

    pub(crate) fn line(&self) -> String {
        let mut text = format!("  {}: {}", self.what, self.measured);
        // Writing to a string cannot fail.
        if let Some(ratio) = self.ratio {
            let _ = write!(text, " | limit {} | ratio {ratio:.2}", self.limit);
        }
        if !self.bar.is_empty() {
            let _ = write!(text, " | bar {}: {}", self.bar, self.verdict());
        }
        text
    }

    pub(crate) fn row(&self) -> String {
        let ratio = self.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let Self { what, measured, limit, bar, .. } = self;
        let verdict = if bar.is_empty() { "" } else { self.verdict() };
        format!("| {what} | {measured} | {limit} | {ratio} | {bar} | {verdict} |")
    }

    fn verdict(&self) -> &'static str {
        match self.met {
            Some(true) => "met",
            Some(false) => "**not met**",
            None => "not measured",
        }
    }
}

pub(crate) const HEAD: &str = "| figure | measured | the machine's limit | ratio | bar | |\n\
                        | --- | --- | --- | --- | --- | --- |";

/// Counts per second.
pub(crate) fn per_second(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64().max(1e-9)
}

pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        many if many >= 1e6 => format!("{:.2} M/s", many / 1e6),
        some if some >= 1e3 => format!("{:.1} k/s", some / 1e3),
        few => format!("{few:.0} /s"),
    }
}

pub(crate) fn volume(bytes: f64) -> String {
    match bytes {
        many if many >= 1e9 => format!("{:.2} GB", many / 1e9),
        some if some >= 1e6 => format!("{:.1} MB", some / 1e6),
        few if few >= 1e3 => format!("{:.1} kB", few / 1e3),
        few => format!("{few:.0} B"),
    }
}

pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_whether_the_bar_is_met() {
        let figure = Figure::new("rate", rate(1.5e6)).limit("2.00 M/s", 0.75);
        let row = "| rate | 1.50 M/s | 2.00 M/s | 0.75 | at least 1 M/s | met |";
        assert_eq!(figure.bar("at least 1 M/s", true).row(), row);
        let figure = Figure::new("rate", rate(900.0)).bar("at least 1 M/s", false);
        assert_eq!(figure.row(), "| rate | 900 /s |  |  | at least 1 M/s | **not met** |");
    }
}
