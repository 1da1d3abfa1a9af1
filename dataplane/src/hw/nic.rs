//! What of a NIC's own statistics tells of RoCE: pauses, discards, marks, and RDMA traffic where the
//! driver counts it there.
//!
//! Names come from the drivers: `mlx5/core/en_stats.c`, `bnxt/bnxt_ethtool.c`,
//! `ice/ice_ethtool.c`, `ionic/ionic_stats.c` under `drivers/net/ethernet`. A fixed list for each
//! driver, matched whole; everything else is passed over.

use crate::link::NicStatistics;

/// Families by their name in metrics (behind `nic_`) and their help.
macro_rules! families {
    ($($variant:ident $name:literal $help:literal,)*) => {
        /// A family of NIC counters.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)]
        pub enum NicFamily {
            $($variant,)*
        }

        impl NicFamily {
            /// All of them, in the order in which they are shown.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name, without its unit.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What it means.
            pub fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => $help,)*
                }
            }
        }
    };
}

families! {
    PauseFrames "pause_frames" "Pause frames, of priorities (PFC) or of all traffic",
    PauseTime "pause" "Time that pause frames stopped traffic for",
    PauseTransitions "pause_transitions" "Times that traffic was stopped by pause frames",
    PauseStorms "pause_storms" "Times that the device paused others for too long",
    Discarded "discarded" "Packets that the device had no room for",
    EcnMarked "ecn_marked" "Packets that the device itself marked (CE), its buffer being full",
    RdmaPackets "rdma" "RDMA packets that passed the NIC, which its other counters leave out",
    RdmaBytes "rdma" "Bytes of RDMA packets that passed the NIC",
}

/// One counter of a NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicSample {
    /// What it is.
    pub family: NicFamily,
    /// Names and values of its labels.
    pub labels: Vec<(&'static str, &'static str)>,
    /// Packets, frames, events or bytes; of [`NicFamily::PauseTime`] microseconds.
    pub value: u64,
}

/// Whether a driver's statistic is one of those that are shown.
pub fn wanted(driver: &str, name: &str) -> bool {
    read(driver, name).is_some()
}

/// The statistics that tell of RoCE.
pub fn samples(statistics: &NicStatistics) -> Vec<NicSample> {
    let values = statistics.values.iter().filter_map(|(name, value)| {
        let (family, labels) = read(&statistics.driver, name)?;
        Some(NicSample {
            family,
            labels,
            value: *value,
        })
    });
    values.collect()
}

type Read = (NicFamily, Vec<(&'static str, &'static str)>);

fn read(driver: &str, name: &str) -> Option<Read> {
    match driver {
        "mlx5_core" => mlx5(name),
        "bnxt_en" => bnxt(name),
        "ice" => ice(name),
        "ionic" => ionic(name),
        _ => None,
    }
}

/// `rx_...` and `tx_...`.
fn direction(name: &str) -> Option<(&'static str, &str)> {
    let received = name.strip_prefix("rx_").map(|rest| ("ingress", rest));
    received.or_else(|| name.strip_prefix("tx_").map(|rest| ("egress", rest)))
}

/// A number from 0 to 7, then the rest of the name.
fn priority(text: &str) -> Option<(&'static str, &str)> {
    const NUMBERS: [&str; 8] = ["0", "1", "2", "3", "4", "5", "6", "7"];
    let number = NUMBERS
        .into_iter()
        .find(|number| text.starts_with(number))?;
    Some((number, &text[1..]))
}

fn paused(family: NicFamily, direction: &'static str, priority: &'static str) -> Read {
    let labels = vec![("direction", direction), ("priority", priority)];
    (family, labels)
}

fn discarded(direction: &'static str, priority: &'static str, reason: &'static str) -> Read {
    let (family, mut labels) = paused(NicFamily::Discarded, direction, priority);
    labels.push(("reason", reason));
    (family, labels)
}

fn mlx5(name: &str) -> Option<Read> {
    use NicFamily::*;
    let storm = |severity| Some((PauseStorms, vec![("severity", severity)]));
    match name {
        "tx_pause_storm_warning_events" => return storm("warning"),
        "tx_pause_storm_error_events" => return storm("error"),
        _ => {}
    }
    let (direction, rest) = direction(name)?;
    if let Some((priority, rest)) = rest.strip_prefix("prio").and_then(priority) {
        return match rest {
            "_pause" => Some(paused(PauseFrames, direction, priority)),
            "_pause_duration" => Some(paused(PauseTime, direction, priority)),
            "_pause_transition" => Some(paused(PauseTransitions, direction, priority)),
            "_discards" => Some(discarded(direction, priority, "any")),
            "_buf_discard" => Some(discarded(direction, priority, "buffer")),
            "_cong_discard" => Some(discarded(direction, priority, "congestion")),
            "_marked" => Some((EcnMarked, vec![("priority", priority)])),
            _ => None,
        };
    }
    let rdma = |family, cast| Some((family, vec![("direction", direction), ("cast", cast)]));
    match rest {
        "pause_ctrl_phy" => Some(paused(PauseFrames, direction, "global")),
        "global_pause_duration" => Some(paused(PauseTime, direction, "global")),
        "global_pause_transition" => Some(paused(PauseTransitions, direction, "global")),
        "discards_phy" => Some(discarded(direction, "", "any")),
        "vport_rdma_unicast_packets" => rdma(RdmaPackets, "unicast"),
        "vport_rdma_unicast_bytes" => rdma(RdmaBytes, "unicast"),
        "vport_rdma_multicast_packets" => rdma(RdmaPackets, "multicast"),
        "vport_rdma_multicast_bytes" => rdma(RdmaBytes, "multicast"),
        _ => None,
    }
}

fn bnxt(name: &str) -> Option<Read> {
    use NicFamily::*;
    if let Some((priority, rest)) = name.strip_prefix("pfc_pri").and_then(priority) {
        return match rest {
            "_rx_duration_us" => Some(paused(PauseTime, "ingress", priority)),
            "_tx_duration_us" => Some(paused(PauseTime, "egress", priority)),
            "_rx_transitions" => Some(paused(PauseTransitions, "ingress", priority)),
            "_tx_transitions" => Some(paused(PauseTransitions, "egress", priority)),
            _ => None,
        };
    }
    let (direction, rest) = direction(name)?;
    if rest == "pause_frames" {
        return Some(paused(PauseFrames, direction, "global"));
    }
    match rest.strip_prefix("pfc_ena_frames_pri").and_then(priority) {
        Some((priority, "")) => Some(paused(PauseFrames, direction, priority)),
        _ => None,
    }
}

/// XOFF frames; those that end a pause (XON) are not counted.
fn ice(name: &str) -> Option<Read> {
    use NicFamily::*;
    match name {
        "link_xoff_rx.nic" => return Some(paused(PauseFrames, "ingress", "global")),
        "link_xoff_tx.nic" => return Some(paused(PauseFrames, "egress", "global")),
        _ => {}
    }
    let (direction, rest) = direction(name)?;
    match rest.strip_prefix("priority_").and_then(priority) {
        Some((priority, "_xoff.nic")) => Some(paused(PauseFrames, direction, priority)),
        _ => None,
    }
}

fn ionic(name: &str) -> Option<Read> {
    use NicFamily::*;
    match name {
        "frames_rx_pause" => return Some(paused(PauseFrames, "ingress", "global")),
        "frames_tx_pause" => return Some(paused(PauseFrames, "egress", "global")),
        "frames_rx_pripause" => return Some(paused(PauseFrames, "ingress", "any")),
        "frames_tx_pripause" => return Some(paused(PauseFrames, "egress", "any")),
        _ => {}
    }
    let (direction, rest) = direction(name)?;
    match rest.strip_prefix("pripause_").and_then(priority) {
        Some((priority, "_1us_count")) => Some(paused(PauseTime, direction, priority)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn label(driver: &str, name: &str) -> Option<String> {
        let (family, labels) = read(driver, name)?;
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        Some(format!("{family:?} {}", labels.join(" ")))
    }

    #[test]
    fn names_of_drivers_are_read() {
        for (driver, name, expected) in [
            (
                "mlx5_core",
                "rx_prio3_pause",
                "PauseFrames direction=ingress priority=3",
            ),
            (
                "mlx5_core",
                "tx_prio7_pause_duration",
                "PauseTime direction=egress priority=7",
            ),
            (
                "mlx5_core",
                "rx_prio0_buf_discard",
                "Discarded direction=ingress priority=0 reason=buffer",
            ),
            ("mlx5_core", "rx_prio3_marked", "EcnMarked priority=3"),
            (
                "mlx5_core",
                "rx_discards_phy",
                "Discarded direction=ingress priority= reason=any",
            ),
            (
                "mlx5_core",
                "tx_vport_rdma_unicast_bytes",
                "RdmaBytes direction=egress cast=unicast",
            ),
            (
                "mlx5_core",
                "tx_pause_storm_error_events",
                "PauseStorms severity=error",
            ),
            (
                "bnxt_en",
                "rx_pfc_ena_frames_pri5",
                "PauseFrames direction=ingress priority=5",
            ),
            (
                "bnxt_en",
                "pfc_pri3_tx_duration_us",
                "PauseTime direction=egress priority=3",
            ),
            (
                "ice",
                "tx_priority_4_xoff.nic",
                "PauseFrames direction=egress priority=4",
            ),
            (
                "ionic",
                "rx_pripause_2_1us_count",
                "PauseTime direction=ingress priority=2",
            ),
        ] {
            assert_eq!(label(driver, name).as_deref(), Some(expected), "{name}");
        }
    }

    #[test]
    fn other_names_are_passed_over() {
        for (driver, name) in [
            ("mlx5_core", "rx_prio8_pause"),
            ("mlx5_core", "rx_prio3_pause_"),
            ("mlx5_core", "rx_prio3_bytes"),
            ("mlx5_core", "rx_packets"),
            ("mlx5_core", ""),
            ("bnxt_en", "rx_prio3_pause"),
            ("veth", "rx_prio3_pause"),
        ] {
            assert_eq!(label(driver, name), None, "{driver} {name}");
        }
    }

    #[test]
    fn samples_of_a_family_have_the_same_labels() {
        let drivers = ["mlx5_core", "bnxt_en", "ice", "ionic"];
        let directions = ["rx", "tx"];
        let rests = [
            "prio1_pause",
            "pause_ctrl_phy",
            "pause_frames",
            "prio1_discards",
            "discards_phy",
        ];
        let mut labels = BTreeSet::new();
        for (driver, direction, rest) in drivers.iter().flat_map(|driver| {
            directions
                .iter()
                .flat_map(move |direction| rests.map(|rest| (driver, direction, rest)))
        }) {
            if let Some((family, names)) = read(driver, &format!("{direction}_{rest}")) {
                let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
                labels.insert((family, names));
            }
        }
        let families: BTreeSet<_> = labels.iter().map(|(family, _)| *family).collect();
        assert_eq!(labels.len(), families.len(), "{labels:?}");
    }
}
