//! The columns of the endpoints' table: what they show and how they sort.

use std::cmp::Ordering;

use super::rates::{EndpointRates, human};

/// A line of the table.
#[derive(Clone, Debug)]
pub(super) struct EndpointRow {
    /// Endpoint id.
    pub id: u32,
    /// The pod, or where that is not known the network namespace.
    pub owner: String,
    /// Interface name.
    pub interface: String,
    /// Uplink, or empty.
    pub uplink: String,
    /// The programs are attached.
    pub attached: bool,
    /// `None` before there are two readings.
    pub rates: Option<EndpointRates>,
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Id,
    Owner,
    Interface,
    Uplink,
    InPackets,
    InBits,
    OutPackets,
    OutBits,
    Drops,
    Roce,
    Ce,
    Cnp,
    Naks,
    Gaps,
}

/// Least width of the column that takes what the others leave.
const OWNER_WIDTH: u16 = 16;
/// Space between two columns.
pub(super) const SPACING: u16 = 1;

impl Column {
    /// From left to right.
    pub const ALL: [Self; 14] = [
        Self::Id,
        Self::Owner,
        Self::Interface,
        Self::Uplink,
        Self::InPackets,
        Self::InBits,
        Self::OutPackets,
        Self::OutBits,
        Self::Drops,
        Self::Roce,
        Self::Ce,
        Self::Cnp,
        Self::Naks,
        Self::Gaps,
    ];

    /// What a narrow terminal does without, first things first.
    const EXPENDABLE: [Self; 12] = [
        Self::Uplink,
        Self::Interface,
        Self::OutPackets,
        Self::InPackets,
        Self::Ce,
        Self::Gaps,
        Self::Cnp,
        Self::Naks,
        Self::Id,
        Self::Roce,
        Self::OutBits,
        Self::Drops,
    ];

    /// The columns that fit, and what is left to the owner's.
    pub fn visible(width: u16) -> (Vec<Self>, u16) {
        let mut columns = Self::ALL.to_vec();
        let mut expendable = Self::EXPENDABLE.into_iter();
        loop {
            // One heading has an arrow besides.
            let needed = columns
                .iter()
                .map(|column| column.width() + SPACING)
                .sum::<u16>()
                + 1
                - SPACING;
            let spare = width.checked_sub(needed);
            match (spare, expendable.next()) {
                (None, Some(expendable)) => columns.retain(|column| *column != expendable),
                (spare, _) => return (columns, OWNER_WIDTH + spare.unwrap_or(0)),
            }
        }
    }

    /// Characters, at least.
    pub fn width(self) -> u16 {
        match self {
            Self::Id => 5,
            Self::Owner => OWNER_WIDTH,
            Self::Interface | Self::Uplink => 10,
            Self::InPackets | Self::InBits | Self::OutPackets | Self::OutBits => 9,
            _ => 7,
        }
    }

    /// The name in the heading.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Id => "ID",
            Self::Owner => "POD",
            Self::Interface => "INTERFACE",
            Self::Uplink => "UPLINK",
            Self::InPackets => "IN pkt/s",
            Self::InBits => "IN bit/s",
            Self::OutPackets => "OUT pkt/s",
            Self::OutBits => "OUT bit/s",
            Self::Drops => "DROP/s",
            Self::Roce => "ROCE/s",
            Self::Ce => "CE/s",
            Self::Cnp => "CNP/s",
            Self::Naks => "NAK/s",
            Self::Gaps => "GAP/s",
        }
    }

    /// Whether it shows a number, and so aligns to the right.
    pub fn is_number(self) -> bool {
        self == Self::Id || self.rate(&EndpointRates::default()).is_some()
    }

    /// Whether more of it is worse.
    pub fn is_trouble(self) -> bool {
        matches!(self, Self::Drops | Self::Ce | Self::Naks | Self::Gaps)
    }

    /// What it shows, if that is a rate.
    pub fn rate(self, rates: &EndpointRates) -> Option<f64> {
        Some(match self {
            Self::Id | Self::Owner | Self::Interface | Self::Uplink => return None,
            Self::InPackets => rates.in_packets,
            Self::InBits => rates.in_bits,
            Self::OutPackets => rates.out_packets,
            Self::OutBits => rates.out_bits,
            Self::Drops => rates.drops,
            Self::Roce => rates.roce,
            Self::Ce => rates.ce,
            Self::Cnp => rates.cnp,
            Self::Naks => rates.naks,
            Self::Gaps => rates.gaps,
        })
    }

    /// The cell's text; `owner` is the width of the owner's column.
    pub fn text(self, row: &EndpointRow, owner: u16) -> String {
        match self {
            Self::Id => row.id.to_string(),
            Self::Owner => shorten(&row.owner, owner.into()),
            Self::Interface => row.interface.clone(),
            Self::Uplink if row.uplink.is_empty() => "-".into(),
            Self::Uplink => row.uplink.clone(),
            _ => row
                .rates
                .and_then(|rates| self.rate(&rates))
                .map_or_else(|| "-".into(), human),
        }
    }

    /// Names ascend; numbers of packets descend, since the busiest matter.
    pub fn compare(self, a: &EndpointRow, b: &EndpointRow) -> Ordering {
        match self {
            Self::Id => a.id.cmp(&b.id),
            Self::Owner => a.owner.cmp(&b.owner),
            Self::Interface => a.interface.cmp(&b.interface),
            Self::Uplink => a.uplink.cmp(&b.uplink),
            _ => {
                let rate = |row: &EndpointRow| row.rates.and_then(|rates| self.rate(&rates));
                // What has no rate yet comes last.
                let (a, b) = (rate(a).unwrap_or(-1.0), rate(b).unwrap_or(-1.0));
                b.total_cmp(&a)
            }
        }
    }
}

/// A name in so many characters: its two ends, since pods of one owner differ at
/// the end.
pub(super) fn shorten(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return name.to_owned();
    }
    let kept = width.saturating_sub(1);
    let (head, tail) = (kept.div_ceil(2), kept / 2);
    let ends = [
        name.chars().take(head).collect(),
        "…".to_owned(),
        name.chars().skip(length - tail).collect(),
    ];
    ends.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_keeps_the_columns_that_matter() {
        let needed = |columns: &[Column]| -> u16 {
            let widths = columns.iter().map(|column| column.width() + SPACING);
            widths.sum::<u16>() + 1 - SPACING
        };
        let wide = needed(&Column::ALL);
        assert_eq!(Column::visible(wide).0, Column::ALL);
        assert!(!Column::visible(wide - 1).0.contains(&Column::Uplink));
        let (columns, owner) = Column::visible(80);
        assert_eq!(needed(&columns) - OWNER_WIDTH + owner, 80);
        for column in [
            Column::Owner,
            Column::InBits,
            Column::OutBits,
            Column::Drops,
            Column::Roce,
        ] {
            assert!(columns.contains(&column), "{columns:?}");
        }
        for width in 30..200 {
            assert!(needed(&Column::visible(width).0) <= width, "{width}");
        }
        assert_eq!(Column::visible(0).0, [Column::Owner, Column::InBits]);
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(shorten("training/worker-1", 17), "training/worker-1");
        assert_eq!(shorten("training/worker-1", 10), "train…er-1");
        assert_eq!(shorten("training/worker-1", 1), "…");
    }
}
