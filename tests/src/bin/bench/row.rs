//! Results: rows, and how samples become one.

use serde::{Deserialize, Serialize};

/// One measurement, with what it is held against.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Row {
    /// Benchmark and case, `packet/tcp4`.
    pub(crate) name: String,
    /// Unit of the percentiles and the baseline.
    pub(crate) unit: String,
    /// Median of the samples.
    pub(crate) p50: f64,
    /// Nine in ten samples are at most this.
    pub(crate) p90: f64,
    /// 99 in a hundred samples are at most this; of fewer samples, the largest.
    pub(crate) p99: f64,
    /// Median of what was measured beside it in the same run.
    pub(crate) baseline: Option<f64>,
    /// `p50` over `baseline`; of samples taken in pairs, the median of the pairs' ratios, which a
    /// machine that is busier now than then does not move.
    pub(crate) ratio: Option<f64>,
    /// What `p50` has to keep, where a bar is set.
    pub(crate) bar: Option<String>,
    /// Whether it does.
    pub(crate) holds: Option<bool>,
}

/// What a median has to keep.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    /// Nothing: for information.
    None,
    /// At most so much, in the row's unit.
    AtMost(f64),
    /// At most so many times the baseline.
    TimesBaseline(f64),
    /// At most so much, which was computed from what the text says.
    Computed(f64, &'static str),
    /// At most so much above the baseline, in the row's unit.
    AboveBaseline(f64),
    /// At least this part of the baseline.
    PartOfBaseline(f64),
}

impl Row {
    /// A row of samples with nothing beside them.
    pub(crate) fn alone(
        name: impl Into<String>,
        unit: &'static str,
        samples: &[f64],
        bar: Bar,
    ) -> Self {
        Self::new(name.into(), unit, samples, None, bar)
    }

    /// A row of samples and of those that were taken in turn with them.
    pub(crate) fn beside(
        name: impl Into<String>,
        unit: &'static str,
        samples: &[f64],
        baseline: &[f64],
        bar: Bar,
    ) -> Self {
        Self::new(
            name.into(),
            unit,
            samples,
            Some(percentile(baseline, 50)),
            bar,
        )
    }

    /// A row of samples, each taken shortly before or after the one of the same number in
    /// `baseline`.
    pub(crate) fn paired(
        name: impl Into<String>,
        unit: &'static str,
        samples: &[f64],
        baseline: &[f64],
        bar: Bar,
    ) -> Self {
        let pairs = samples.iter().zip(baseline);
        let ratios: Vec<_> = pairs.map(|(sample, base)| sample / base).collect();
        let mut row = Self::beside(name, unit, samples, baseline, bar);
        let ratio = percentile(&ratios, 50);
        row.ratio = Some(ratio);
        if let Bar::PartOfBaseline(part) = bar {
            row.holds = Some(ratio >= part);
        }
        row
    }

    fn new(
        name: String,
        unit: &'static str,
        samples: &[f64],
        baseline: Option<f64>,
        bar: Bar,
    ) -> Self {
        let p50 = percentile(samples, 50);
        let ratio = baseline.filter(|base| *base > 0.0).map(|base| p50 / base);
        let base = baseline.unwrap_or_default();
        let (text, holds) = match bar {
            Bar::None => (None, None),
            Bar::AtMost(limit) => (Some(format!("≤ {limit}")), Some(p50 <= limit)),
            Bar::TimesBaseline(times) => (
                Some(format!("≤ {times} × baseline")),
                Some(p50 <= base * times),
            ),
            Bar::Computed(limit, text) => {
                (Some(format!("{text} = {limit:.1}")), Some(p50 <= limit))
            }
            Bar::AboveBaseline(extra) => (
                Some(format!("≤ baseline + {extra}")),
                Some(p50 <= base + extra),
            ),
            Bar::PartOfBaseline(part) => (
                Some(format!("≥ {part} × baseline")),
                Some(p50 >= base * part),
            ),
        };
        Self {
            name,
            unit: unit.to_owned(),
            p50,
            p90: percentile(samples, 90),
            p99: percentile(samples, 99),
            baseline,
            ratio,
            bar: text,
            holds,
        }
    }
}

/// Nearest rank; 0 of no samples.
pub(crate) fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<_> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(
            [50, 90, 99].map(|p| percentile(&samples, p)),
            [100.0, 180.0, 198.0]
        );
        assert_eq!(
            [50, 90, 99].map(|p| percentile(&[3.0, 1.0, 2.0], p)),
            [2.0, 3.0, 3.0]
        );
    }

    #[test]
    fn pairs_are_compared_one_by_one() {
        // The machine became three times as fast; what is compared did not.
        let row = Row::paired(
            "x",
            "1/s",
            &[98.0, 97.0, 294.0],
            &[100.0, 100.0, 300.0],
            Bar::PartOfBaseline(0.97),
        );
        assert_eq!((row.ratio, row.holds), (Some(0.98), Some(true)));
    }

    #[test]
    fn bars_hold_up_to_their_edge() {
        let holds = |value: f64, bar| Row::beside("x", "ns", &[value], &[100.0], bar).holds;
        assert_eq!(holds(140.0, Bar::AboveBaseline(40.0)), Some(true));
        assert_eq!(holds(141.0, Bar::AboveBaseline(40.0)), Some(false));
        assert_eq!(holds(97.0, Bar::PartOfBaseline(0.97)), Some(true));
        assert_eq!(holds(96.0, Bar::PartOfBaseline(0.97)), Some(false));
        assert_eq!(holds(31.0, Bar::AtMost(30.0)), Some(false));
        assert_eq!(holds(150.0, Bar::TimesBaseline(1.5)), Some(true));
        assert_eq!(holds(151.0, Bar::TimesBaseline(1.5)), Some(false));
        assert_eq!(holds(61.0, Bar::Computed(60.0, "x")), Some(false));
        assert_eq!(holds(31.0, Bar::None), None);
    }
}
