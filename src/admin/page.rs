//! Writing the text format of Prometheus.

use std::fmt::Display;

use metrics::{Key, Label};
use metrics_exporter_prometheus::LabelSet;
use metrics_exporter_prometheus::formatting::{
    write_help_line, write_metric_line, write_type_line,
};

use crate::stats::HistogramSum;

/// What kind of number a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by size.
    Histogram,
}

impl Kind {
    /// The name in the text format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Numbers of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// The name, with its unit.
    pub name: &'static str,
    /// What kind of number.
    pub kind: Kind,
    /// The names of the labels.
    pub labels: &'static [&'static str],
    /// What it counts.
    pub help: &'static str,
}

/// Declares families: name of the constant, kind, name, labels, help. All of them are in
/// `FAMILIES`, in the order of the page.
macro_rules! families {
    ($($id:ident $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(const $id: Family = Family {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*
        /// Every family of numbers, in the order of the page.
        pub const FAMILIES: &[Family] = &[$($id),*];
    };
}
pub(super) use families;

/// Checks that the table of metrics at the end of a page of `docs` has these families,
/// or writes it (`UPDATE_DOCS=1`).
#[cfg(test)]
pub(super) fn check_table(page: &str, families: &[Family], with_labels: bool) {
    const BEGIN: &str = "<!-- The table below is written by `UPDATE_DOCS=1 cargo test`. -->\n\n";
    let (heads, rule) = if with_labels {
        (" labels |", "---|")
    } else {
        ("", "")
    };
    let mut table = format!("| name | kind |{heads} what it counts |\n|---|---|{rule}---|\n");
    for family in families {
        let (name, kind, help) = (family.name, family.kind.name(), family.help);
        let labels = match with_labels {
            true => format!(" {} |", family.labels.join(", ")),
            false => String::new(),
        };
        table += &format!("| `{name}` | {kind} |{labels} {help} |\n");
    }
    let path = format!("{}/docs/{page}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, after) = text.split_once(BEGIN).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{table}")).unwrap();
        return;
    }
    assert_eq!(after, table, "docs/{page}: UPDATE_DOCS=1 cargo test");
}

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// Begins a family; its samples follow.
    pub fn family(&mut self, family: &Family) -> Samples<'_> {
        write_help_line(&mut self.text, family.name, None, None, family.help);
        write_type_line(&mut self.text, family.name, None, None, family.kind.name());
        Samples {
            text: &mut self.text,
            family: *family,
        }
    }

    /// The page.
    pub fn finish(self) -> String {
        self.text
    }
}

/// The samples of a family.
#[derive(Debug)]
pub struct Samples<'a> {
    text: &'a mut String,
    family: Family,
}

impl Samples<'_> {
    fn labels(&self, values: &[&str]) -> LabelSet {
        debug_assert_eq!(values.len(), self.family.labels.len());
        let labels: Vec<_> = self
            .family
            .labels
            .iter()
            .zip(values)
            .map(|(name, value)| Label::new(*name, (*value).to_owned()))
            .collect();
        let key = Key::from_parts(self.family.name, labels);
        LabelSet::from_key_and_global(&key, &Default::default())
    }

    /// A number, with the values of the family's labels.
    pub fn sample(&mut self, labels: &[&str], value: impl Display) {
        let labels = self.labels(labels);
        let no_label = None::<(&'static str, u64)>;
        write_metric_line(
            self.text,
            self.family.name,
            None,
            &labels,
            no_label,
            value,
            None,
        );
    }

    /// A histogram in seconds, with the values of the family's labels.
    pub fn histogram(&mut self, labels: &[&str], sum: &HistogramSum) {
        let labels = self.labels(labels);
        let name = self.family.name;
        // Below 16 us and above 17 s the buckets are of no use.
        for (bound, count) in sum.cumulative().skip(3).take(21) {
            let bound = Some(("le", seconds(bound)));
            write_metric_line(self.text, name, Some("bucket"), &labels, bound, count, None);
        }
        let all = Some(("le", "+Inf"));
        write_metric_line(
            self.text,
            name,
            Some("bucket"),
            &labels,
            all,
            sum.count(),
            None,
        );
        let no_label = None::<(&'static str, u64)>;
        let total = seconds(sum.sum_micros());
        write_metric_line(self.text, name, Some("sum"), &labels, no_label, total, None);
        write_metric_line(
            self.text,
            name,
            Some("count"),
            &labels,
            no_label,
            sum.count(),
            None,
        );
    }
}

/// Seconds from microseconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "a sum of microseconds is exact up to 285 years"
)]
pub fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Histogram;

    const FAMILY: Family = Family {
        name: "ketch_test_seconds",
        kind: Kind::Histogram,
        labels: &["pool"],
        help: "a test",
    };

    #[test]
    fn a_page_is_in_the_text_format() {
        let histogram = Histogram::default();
        [10, 100, 1_000_000]
            .into_iter()
            .for_each(|micros| histogram.record(micros));
        let mut sum = HistogramSum::default();
        sum.add(&histogram);
        let mut page = Page::default();
        page.family(&FAMILY).histogram(&["a\"b"], &sum);
        let text = page.finish();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "# HELP ketch_test_seconds a test");
        assert_eq!(lines[1], "# TYPE ketch_test_seconds histogram");
        assert_eq!(
            lines[2],
            "ketch_test_seconds_bucket{pool=\"a\\\"b\",le=\"0.000016\"} 1"
        );
        assert!(text.contains("{pool=\"a\\\"b\",le=\"+Inf\"} 3\n"));
        assert!(text.contains("ketch_test_seconds_sum{pool=\"a\\\"b\"} 1.00011\n"));
        assert!(text.ends_with("ketch_test_seconds_count{pool=\"a\\\"b\"} 3\n"));
    }
}
