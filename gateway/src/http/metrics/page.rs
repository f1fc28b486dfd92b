//! A page in Prometheus' text form.

use std::fmt::Write;

/// What a family's numbers mean.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// They only grow.
    Counter,
    Gauge,
    Histogram,
}

/// Text being written, family by family.
#[derive(Default)]
pub(super) struct Page(String);

/// Labels and their values.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    /// Adds what is in this form already.
    pub(super) fn add(&mut self, text: &str) {
        self.0.push_str(text);
    }

    /// Begins a family, whose samples follow.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing into memory does not fail.
        let _ok = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        self.0.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ok = write!(self.0, "{}{label}=\"{value}\"", if at == 0 { '{' } else { ',' });
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ok = writeln!(self.0, "{end} {value}");
    }

    /// A family of one sample.
    pub(super) fn one(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        labels: Labels<'_>,
        value: u64,
    ) {
        self.family(name, kind, help);
        self.sample(name, labels, number(value));
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

#[expect(clippy::cast_precision_loss, reason = "samples are floating point")]
pub(super) fn number(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_clients_gave_stay_inside_their_label() {
        let mut page = Page::default();
        page.one("a", Kind::Gauge, "what it is", &[("q", "x\"} 1\nb\\"), ("v", "/")], 7);
        page.sample("a", &[], 0.5);
        let expected = "# HELP a what it is\n# TYPE a gauge\n\
                        a{q=\"x\\\"} 1\\nb\\\\\",v=\"/\"} 7\na 0.5\n";
        assert_eq!(page.into_text(), expected);
    }
}
