//! Metric families and their samples, on top of prometheus-client's encoder.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, MetricEncoder},
    metrics::MetricType,
    registry::Unit,
};

/// Labels of a sample: names and values.
pub(super) type Labels<'a> = [(&'static str, &'a str)];

/// Starts the families of one exposition, one after another.
pub(super) struct Families<'a> {
    encoder: DescriptorEncoder<'a>,
    packets: Unit,
}

impl<'a> Families<'a> {
    pub fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self {
            encoder,
            packets: Unit::Other("packets".into()),
        }
    }

    /// `NAME_total`.
    pub fn counter(&mut self, name: &str, help: &str, samples: Samples<'_>) -> fmt::Result {
        self.family(name, help, None, MetricType::Counter, samples)
    }

    /// `NAME_packets_total`.
    pub fn packets(&mut self, name: &str, help: &str, samples: Samples<'_>) -> fmt::Result {
        let unit = self.packets.clone();
        self.family(name, help, Some(&unit), MetricType::Counter, samples)
    }

    /// `NAME_bytes_total`.
    pub fn bytes(&mut self, name: &str, help: &str, samples: Samples<'_>) -> fmt::Result {
        self.family(name, help, Some(&Unit::Bytes), MetricType::Counter, samples)
    }

    /// `NAME_seconds_total`.
    pub fn duration(&mut self, name: &str, help: &str, samples: Samples<'_>) -> fmt::Result {
        self.family(
            name,
            help,
            Some(&Unit::Seconds),
            MetricType::Counter,
            samples,
        )
    }

    /// `NAME`, or `NAME_UNIT`.
    pub fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        samples: Samples<'_>,
    ) -> fmt::Result {
        self.family(name, help, unit, MetricType::Gauge, samples)
    }

    /// `NAME_info`.
    pub fn info(&mut self, name: &str, help: &str, samples: Samples<'_>) -> fmt::Result {
        self.family(name, help, None, MetricType::Info, samples)
    }

    fn family(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        kind: MetricType,
        samples: Samples<'_>,
    ) -> fmt::Result {
        let encoder = self.encoder.encode_descriptor(name, help, unit, kind)?;
        samples(&mut Family { encoder, kind })
    }
}

/// Writes a family's samples.
pub(super) type Samples<'a> = &'a dyn Fn(&mut Family<'_>) -> fmt::Result;

/// A family that has its header.
pub(super) struct Family<'a> {
    encoder: MetricEncoder<'a>,
    kind: MetricType,
}

impl Family<'_> {
    /// One sample; an info's value is always 1. `base` and `extra` together
    /// are its labels.
    pub fn sample(&mut self, base: &Labels<'_>, extra: &Labels<'_>, value: u64) -> fmt::Result {
        let labels = (base, extra);
        match self.kind {
            MetricType::Info => self.encoder.encode_info(&labels),
            // Without labels there would be an empty pair of braces.
            _ if base.is_empty() && extra.is_empty() => {
                Self::value(&mut self.encoder, self.kind, value)
            }
            kind => Self::value(&mut self.encoder.encode_family(&labels)?, kind, value),
        }
    }

    /// As [`Family::sample`], of a counter that is no whole number.
    pub fn fraction(&mut self, base: &Labels<'_>, extra: &Labels<'_>, value: f64) -> fmt::Result {
        let labels = (base, extra);
        let mut family = self.encoder.encode_family(&labels)?;
        family.encode_counter::<[(&str, &str); 0], _, f64>(&value, None)
    }

    /// The only sample, without labels, of a gauge in seconds.
    pub fn seconds(&mut self, value: f64) -> fmt::Result {
        self.encoder.encode_gauge(&value)
    }

    fn value(encoder: &mut MetricEncoder<'_>, kind: MetricType, value: u64) -> fmt::Result {
        match kind {
            MetricType::Counter => {
                encoder.encode_counter::<[(&str, &str); 0], _, u64>(&value, None)
            }
            _ => encoder.encode_gauge(&value),
        }
    }
}
