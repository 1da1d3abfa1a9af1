//! Results: rows, and how samples become one.

use serde::{Deserialize, Serialize};

/// A sample, and the baseline of that moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) sample: f64,
    /// The mean of the baseline's samples before and after: what the machine does faster or slower
    /// meanwhile, it does with both.
    pub(crate) beside: f64,
}

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
    /// How far from that median of ratios the true one may lie, with 95 % confidence.
    #[serde(default)]
    pub(crate) spread: Option<f64>,
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

impl Pair {
    /// A sample taken between two of the baseline.
    pub(crate) fn between(before: f64, sample: f64, after: f64) -> Self {
        let beside = (before + after) / 2.0;
        Self { sample, beside }
    }
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

    /// A row of samples, each with what was measured right before and after it.
    pub(crate) fn paired(
        name: impl Into<String>,
        unit: &'static str,
        pairs: &[Pair],
        bar: Bar,
    ) -> Self {
        let each = |value: fn(&Pair) -> f64| pairs.iter().map(value).collect::<Vec<_>>();
        let ratios = each(|pair| pair.sample / pair.beside);
        let (samples, beside) = (each(|pair| pair.sample), each(|pair| pair.beside));
        let mut row = Self::beside(name, unit, &samples, &beside, bar);
        let ratio = percentile(&ratios, 50);
        row.ratio = Some(ratio);
        row.spread = Some(spread_of_median(&ratios));
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
            spread: None,
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

/// Half of the interval in which the median of what the samples are taken of lies with 95 %
/// confidence, whatever their distribution: between the samples of ranks n/2 ± 0.98 √n (the binomial
/// distribution's normal approximation).
fn spread_of_median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let reach = 0.98 * (sorted.len() as f64).sqrt();
    let middle = last as f64 / 2.0;
    let low = (middle - reach).floor().max(0.0) as usize;
    let high = ((middle + reach).ceil() as usize).min(last);
    (sorted[high] - sorted[low]) / 2.0
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

    fn pairs(samples: &[f64], beside: &[f64]) -> Vec<Pair> {
        let pairs = samples.iter().zip(beside);
        pairs
            .map(|(&sample, &beside)| Pair { sample, beside })
            .collect()
    }

    #[test]
    fn pairs_are_compared_one_by_one() {
        // The machine became three times as fast; what is compared did not.
        let pairs = pairs(&[98.0, 97.0, 294.0], &[100.0, 100.0, 300.0]);
        let row = Row::paired("x", "1/s", &pairs, Bar::PartOfBaseline(0.97));
        assert_eq!((row.ratio, row.holds), (Some(0.98), Some(true)));
    }

    #[test]
    fn more_pairs_tell_the_median_more_closely() {
        let of = |count: u32| {
            let samples: Vec<_> = (0..count).map(|n| f64::from(n % 11)).collect();
            spread_of_median(&samples)
        };
        // Of few samples nothing is known but that the median is among them.
        assert_eq!(of(3), 1.0);
        assert_eq!(of(11), 4.0);
        assert!(of(1100) < 0.6);
        assert_eq!(spread_of_median(&[0.97; 20]), 0.0);
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
