//! Metric families and their samples, as text.
//!
//! A node full of RDMA hardware has some 60,000 samples. So what many samples share is formatted
//! once ([`Labels`]), and the rest is written straight into the text.
//!
//! Formats: OpenMetrics 1.0 and Prometheus' text format 0.0.4.

use std::fmt::Write as _;

/// What a reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics: a family's header has its name, its samples' names have a suffix.
    OpenMetrics,
    /// The older one, for readers that do not ask for OpenMetrics (`promtool check metrics`,
    /// `curl`): the header has the samples' name, and there are no infos, units and end mark.
    Classic,
}

/// A unit, the last part of a family's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Packets,
    Seconds,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Packets => "packets",
            Self::Seconds => "seconds",
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Info,
}

impl Kind {
    /// Its name, and what its samples' names end with.
    fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Counter => ("counter", "_total"),
            Self::Gauge => ("gauge", ""),
            Self::Info => ("info", "_info"),
        }
    }
}

/// A label: name and value.
pub(super) type Label<'a> = (&'static str, &'a str);

/// Labels as they are written: formatted once for many samples.
#[derive(Clone, Debug, Default)]
pub(super) struct Labels(String);

impl Labels {
    /// These labels.
    pub fn new<'a>(labels: impl IntoIterator<Item = Label<'a>>) -> Self {
        let mut text = String::new();
        for label in labels {
            write_label(&mut text, label);
        }
        Self(text)
    }
}

/// Writes a label, and a comma before it if it is not the first.
fn write_label(text: &mut String, (name, value): Label<'_>) {
    if !text.is_empty() && !text.ends_with('{') {
        text.push(',');
    }
    text.push_str(name);
    text.push_str("=\"");
    // Whoever makes an interface gives it nearly any name.
    let mut rest = value;
    while let Some(place) = rest.find(['\\', '"', '\n']) {
        text.push_str(&rest[..place]);
        text.push_str(match rest.as_bytes()[place] {
            b'\n' => "\\n",
            b'"' => "\\\"",
            _ => "\\\\",
        });
        rest = &rest[place + 1..];
    }
    text.push_str(rest);
    text.push('"');
}

/// Writes the families of one exposition, one after another.
pub(super) struct Families {
    text: String,
    format: Format,
    prefix: &'static str,
}

impl Families {
    /// An exposition of about this many bytes.
    pub fn new(format: Format, capacity: usize) -> Self {
        Self {
            text: String::with_capacity(capacity),
            format,
            prefix: "",
        }
    }

    /// What the names of further families begin with.
    pub fn set_prefix(&mut self, prefix: &'static str) {
        self.prefix = prefix;
    }

    /// Ends it.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    /// `NAME_total`.
    pub fn counter(&mut self, name: &str, help: &str, samples: Samples<'_>) {
        self.family(name, help, None, Kind::Counter, samples);
    }

    /// `NAME_packets_total`.
    pub fn packets(&mut self, name: &str, help: &str, samples: Samples<'_>) {
        self.family(name, help, Some(Unit::Packets), Kind::Counter, samples);
    }

    /// `NAME_bytes_total`.
    pub fn bytes(&mut self, name: &str, help: &str, samples: Samples<'_>) {
        self.family(name, help, Some(Unit::Bytes), Kind::Counter, samples);
    }

    /// `NAME_seconds_total`.
    pub fn duration(&mut self, name: &str, help: &str, samples: Samples<'_>) {
        self.family(name, help, Some(Unit::Seconds), Kind::Counter, samples);
    }

    /// `NAME`, or `NAME_UNIT`.
    pub fn gauge(&mut self, name: &str, help: &str, unit: Option<Unit>, samples: Samples<'_>) {
        self.family(name, help, unit, Kind::Gauge, samples);
    }

    /// `NAME_info`.
    pub fn info(&mut self, name: &str, help: &str, samples: Samples<'_>) {
        self.family(name, help, None, Kind::Info, samples);
    }

    fn family(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        kind: Kind,
        samples: Samples<'_>,
    ) {
        let (kind_name, suffix) = kind.name();
        let mut family = format!("{}{name}", self.prefix);
        if let Some(unit) = unit {
            family.push('_');
            family.push_str(unit.name());
        }
        let sample = format!("{family}{suffix}");
        let (named, kind_name) = match (self.format, kind) {
            (Format::OpenMetrics, _) => (&family, kind_name),
            (Format::Classic, Kind::Info) => (&sample, "gauge"),
            (Format::Classic, _) => (&sample, kind_name),
        };
        for part in ["# HELP ", named, " ", help, "\n# TYPE ", named, " "] {
            self.text.push_str(part);
        }
        for part in [kind_name, "\n"] {
            self.text.push_str(part);
        }
        if let (Format::OpenMetrics, Some(unit)) = (self.format, unit) {
            for part in ["# UNIT ", named, " ", unit.name(), "\n"] {
                self.text.push_str(part);
            }
        }
        samples(&mut Family {
            text: &mut self.text,
            name: sample,
            number: itoa::Buffer::new(),
        });
    }
}

/// Writes a family's samples.
pub(super) type Samples<'a> = &'a dyn Fn(&mut Family<'_>);

/// A family that has its header.
pub(super) struct Family<'a> {
    text: &'a mut String,
    /// Its samples' name.
    name: String,
    number: itoa::Buffer,
}

impl Family<'_> {
    /// One sample; an info's value is always 1. `base` and `extra` together are its labels.
    pub fn sample(&mut self, base: &Labels, extra: &[Label<'_>], value: u64) {
        self.series(&base.0, extra);
        self.text.push_str(self.number.format(value));
        self.text.push('\n');
    }

    /// One sample with these labels alone.
    pub fn value(&mut self, labels: &[Label<'_>], value: u64) {
        self.sample(&Labels::default(), labels, value);
    }

    /// As [`Family::sample`], of a value that is no whole number.
    pub fn fraction(&mut self, base: &Labels, extra: &[Label<'_>], value: f64) {
        self.series(&base.0, extra);
        // Writing into a string does not fail.
        let _ = writeln!(self.text, "{value}");
    }

    fn series(&mut self, base: &str, extra: &[Label<'_>]) {
        self.text.push_str(&self.name);
        if !base.is_empty() || !extra.is_empty() {
            self.text.push('{');
            self.text.push_str(base);
            for label in extra {
                write_label(self.text, *label);
            }
            self.text.push('}');
        }
        self.text.push(' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(format: Format) -> String {
        let mut families = Families::new(format, 0);
        families.set_prefix("x_");
        let base = Labels::new([("a", "1"), ("b", "")]);
        families.bytes("a", "What a is", &|family| {
            family.sample(&base, &[("c", "# TYPE \"b\\\n}")], 1);
            family.sample(&base, &[], u64::MAX);
        });
        families.info("b", "Info", &|family| family.value(&[("v", "1")], 1));
        families.gauge("c", "A gauge", None, &|family| family.value(&[], 2));
        families.duration("d", "Time", &|family| {
            family.fraction(&Labels::default(), &[("e", "3")], 2.5);
        });
        families.finish()
    }

    #[test]
    fn openmetrics_headers_have_the_familys_name() {
        let expected = r##"# HELP x_a_bytes What a is
# TYPE x_a_bytes counter
# UNIT x_a_bytes bytes
x_a_bytes_total{a="1",b="",c="# TYPE \"b\\\n}"} 1
x_a_bytes_total{a="1",b=""} 18446744073709551615
# HELP x_b Info
# TYPE x_b info
x_b_info{v="1"} 1
# HELP x_c A gauge
# TYPE x_c gauge
x_c 2
# HELP x_d_seconds Time
# TYPE x_d_seconds counter
# UNIT x_d_seconds seconds
x_d_seconds_total{e="3"} 2.5
# EOF
"##;
        assert_eq!(text(Format::OpenMetrics), expected);
    }

    #[test]
    fn classic_headers_have_the_samples_name() {
        let expected = r##"# HELP x_a_bytes_total What a is
# TYPE x_a_bytes_total counter
x_a_bytes_total{a="1",b="",c="# TYPE \"b\\\n}"} 1
x_a_bytes_total{a="1",b=""} 18446744073709551615
# HELP x_b_info Info
# TYPE x_b_info gauge
x_b_info{v="1"} 1
# HELP x_c A gauge
# TYPE x_c gauge
x_c 2
# HELP x_d_seconds_total Time
# TYPE x_d_seconds_total counter
x_d_seconds_total{e="3"} 2.5
"##;
        assert_eq!(text(Format::Classic), expected);
    }
}
