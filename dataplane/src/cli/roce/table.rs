//! Flows as a table.

use super::rated::Rated;
use crate::cli::table::Table;

/// A column: its heading, which starts with `#` over numbers, and its cell.
struct Column {
    heading: &'static str,
    cell: fn(&Rated) -> String,
}

const COLUMNS: [Column; 9] = [
    Column {
        heading: "LOCAL",
        cell: local,
    },
    Column {
        heading: "DIR",
        cell: |rated| match rated.flow.direction.as_str() {
            "ingress" => "in".into(),
            "egress" => "out".into(),
            other => other.into(),
        },
    },
    Column {
        heading: "PEER",
        cell: peer,
    },
    Column {
        heading: "#TO-QP",
        cell: |rated| rated.flow.destination_qp.to_string(),
    },
    Column {
        heading: "#BIT/S",
        cell: |rated| short(rated.interval.bits()),
    },
    Column {
        heading: "#PKT/S",
        cell: |rated| short(rated.interval.packets()),
    },
    Column {
        heading: "OPERATIONS",
        cell: operations,
    },
    Column {
        heading: "#RTT",
        cell: |rated| match &rated.flow.round_trip {
            Some(trip) => nanoseconds(trip.mean_ns),
            None => String::new(),
        },
    },
    Column {
        heading: "TROUBLE",
        cell: |rated| trouble(rated, false),
    },
];

/// In the place of the last one where room is scarce.
const BRIEF_TROUBLE: Column = Column {
    heading: "TROUBLE",
    cell: |rated| trouble(rated, true),
};

/// What a narrow terminal does without, first that which is missed least.
const DISPENSABLE: [&str; 3] = ["#PKT/S", "OPERATIONS", "#RTT"];

/// The flows as lines that are no longer than `width`, if that can be done without what matters.
pub(super) fn table(flows: &[Rated], width: Option<usize>) -> String {
    let mut left_out = DISPENSABLE.iter();
    let mut columns: Vec<&Column> = COLUMNS.iter().collect();
    loop {
        let headings: Vec<_> = columns.iter().map(|column| column.heading).collect();
        let mut table = Table::new(&headings);
        for rated in flows {
            table.row(columns.iter().map(|column| (column.cell)(rated)).collect());
        }
        let text = table.text();
        let longest = text.lines().map(|line| line.chars().count()).max();
        let fits = width.is_none_or(|width| longest.unwrap_or(0) <= width);
        match left_out.next() {
            Some(name) if !fits => {
                columns.retain(|column| column.heading != *name);
                columns.pop();
                columns.push(&BRIEF_TROUBLE);
            }
            _ => return text,
        }
    }
}

/// The pod, or the interface and the address where it is not known.
fn local(rated: &Rated) -> String {
    let flow = &rated.flow;
    match (&flow.pod, flow.seen_at.endpoint) {
        (Some(pod), Some(_)) => pod.to_string(),
        (Some(pod), None) => format!("{} {pod}", flow.seen_at.interface),
        (None, _) => format!("{} {}", flow.seen_at.interface, flow.local),
    }
}

fn peer(rated: &Rated) -> String {
    match &rated.flow.peer_pod {
        Some(pod) => pod.to_string(),
        None => rated.flow.peer.to_string(),
    }
}

/// The commonest operations, by their share of packets.
fn operations(rated: &Rated) -> String {
    let counts = &rated.flow.counts;
    let mut shares: Vec<_> = counts.operations.iter().collect();
    shares.sort_by_key(|(_, packets)| std::cmp::Reverse(**packets));
    let share = |(name, packets): &(&String, &u64)| {
        let percent = **packets as f64 * 100.0 / counts.packets.max(1) as f64;
        match percent {
            _ if percent > 99.5 => (*name).clone(),
            _ if percent < 0.5 => format!("{name} <1%"),
            _ => format!("{name} {percent:.0}%"),
        }
    };
    let named: Vec<_> = shares.iter().take(2).map(share).collect();
    named.join(" ")
}

/// What went wrong since the flow began, and of that what is going wrong now;
/// `brief`: one of the two.
fn trouble(rated: &Rated, brief: bool) -> String {
    let (all, now) = (&rated.flow.counts, &rated.interval.counts);
    // Congestion notifications are always of the direction that is to slow down.
    let kinds = [
        ("ce", all.ce_marked, now.ce_marked),
        ("cnp", all.cnps(), now.cnps()),
        ("nak", all.naks, now.naks),
        ("rnr", all.rnr_naks, now.rnr_naks),
        ("gap", all.gaps, now.gaps),
        ("miss", all.missing, now.missing),
        ("dup", all.duplicates, now.duplicates),
    ];
    let tell = |(name, all, now): (&str, u64, u64)| match (all, now) {
        (0, _) => None,
        (all, 0) => Some(format!("{name} {}", short(all as f64))),
        (all, now) => {
            let rate = short(rated.interval.rate(now));
            Some(if brief {
                format!("{name} {rate}/s")
            } else {
                format!("{name} {} ({rate}/s)", short(all as f64))
            })
        }
    };
    let told: Vec<_> = kinds.into_iter().filter_map(tell).collect();
    told.join(" ")
}

/// A number in at most five characters.
pub(super) fn short(number: f64) -> String {
    const UNITS: [&str; 5] = ["", "k", "M", "G", "T"];
    let mut number = number;
    let mut unit = 0;
    // What would be shown as 1000 belongs to the next unit.
    while number >= 999.5 && unit + 1 < UNITS.len() {
        number /= 1000.0;
        unit += 1;
    }
    match number {
        _ if unit == 0 && number.fract() == 0.0 => format!("{number:.0}"),
        _ if number < 9.95 => format!("{number:.1}{}", UNITS[unit]),
        _ => format!("{number:.0}{}", UNITS[unit]),
    }
}

fn nanoseconds(time: u64) -> String {
    match time {
        0..1_000 => format!("{time} ns"),
        1_000..1_000_000 => format!("{:.1} us", time as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", time as f64 / 1e6),
        _ => format!("{:.1} s", time as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::rated::{
            Interval,
            tests::{flow, packets},
        },
        *,
    };
    use crate::api::roce::RoundTrip;

    fn busy() -> Rated {
        let mut counts = packets(1000);
        counts.operations = [("write".to_owned(), 900), ("ack".to_owned(), 100)].into();
        counts.duplicates = 12;
        counts.ce_marked = 3;
        let mut now = packets(500);
        now.duplicates = 2;
        let mut flow = flow(2, 17, counts);
        flow.round_trip = Some(RoundTrip {
            samples: 3,
            mean_ns: 12_340,
            longest_ns: 50_000,
        });
        Rated {
            flow,
            interval: Interval {
                seconds: 2.0,
                counts: now,
            },
        }
    }

    #[test]
    fn a_line_tells_who_how_much_and_what_is_wrong() {
        assert_eq!(
            table(&[busy()], None),
            "LOCAL       DIR  PEER      TO-QP  BIT/S  PKT/S  OPERATIONS             RTT  TROUBLE\n\
             shop/web-0  out  10.0.0.2     17   2.0M    250  write 90% ack 10%  12.3 us  ce 3 dup 12 (1/s)\n"
        );
    }

    #[test]
    fn narrow_terminals_do_without_some_columns_but_never_without_trouble() {
        for width in [0, 40, 60, 80] {
            let text = table(&[busy()], Some(width));
            assert!(text.contains("dup 1/s"), "{text}");
            assert!(text.contains("10.0.0.2"), "{text}");
        }
        let text = table(&[busy()], Some(80));
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0.0, "0"),
            (3.0, "3"),
            (0.25, "0.2"),
            (999.0, "999"),
            (999.7, "1.0k"),
            (1234.0, "1.2k"),
            (12_345.0, "12k"),
            (99_400_000_000.0, "99G"),
            (1e15, "1000T"),
        ] {
            assert_eq!(short(number), text);
        }
        assert_eq!(nanoseconds(999), "999 ns");
        assert_eq!(nanoseconds(1_500_000), "1.5 ms");
        assert_eq!(nanoseconds(2_000_000_000), "2.0 s");
    }
}
