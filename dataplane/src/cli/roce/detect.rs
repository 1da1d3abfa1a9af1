//! Finds what is worth telling in readings of flows and ports.
//!
//! Memory is bounded by the flows that the agent knows and by [`ONGOING_LIMIT`], whatever happens.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use super::{
    alarm::{Alarm, Kind, Stage, Subject},
    rated::{Interval, rated},
};
use crate::{
    api::{
        hardware::NodeRdma,
        roce::{FlowCounts, RoceFlow, RoceFlows},
        types::{Event, PodName},
    },
    rdma::PortState,
};

/// Troubles that are followed at once; further ones are only counted.
const ONGOING_LIMIT: usize = 1024;
/// Lines at one moment; what exceeds them is only counted.
const LINES_LIMIT: usize = 20;
/// Kinds of NAK that events have told of since the last reading.
const CODES_LIMIT: usize = 256;
/// From then on a trouble that has not come back is over.
const QUIET_SECONDS: f64 = 5.0;

/// From where on something is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thresholds {
    /// Congestion notifications a second between two addresses.
    pub cnps: f64,
    /// Retransmissions a second between two addresses, at the least, ...
    pub retries: f64,
    /// ... and as a part of the requests.
    pub retry_share: f64,
    /// Filled part of a GID table.
    pub gids: f64,
    /// Seconds between two lines about the same.
    pub repeat: f64,
}

/// What is followed from reading to reading.
pub(super) struct Detector {
    thresholds: Thresholds,
    before: Option<RoceFlows>,
    ongoing: BTreeMap<(Kind, Subject), Ongoing>,
    ports: HashMap<Subject, PortState>,
    codes: HashMap<(u32, IpAddr, IpAddr), String>,
    left_out: u64,
}

struct Ongoing {
    began: f64,
    last: f64,
    told: f64,
    count: u64,
    destination_qp: Option<u32>,
    detail: Option<String>,
}

/// A trouble as a reading shows it.
struct Seen {
    rate: f64,
    count: u64,
    destination_qp: Option<u32>,
    detail: Option<String>,
}

impl Detector {
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            before: None,
            ongoing: BTreeMap::new(),
            ports: HashMap::new(),
            codes: HashMap::new(),
            left_out: 0,
        }
    }

    /// An event of the agent's: of NAKs it alone tells the code.
    pub fn event(&mut self, event: &Event) {
        let (Some(source), Some(destination)) = (event.source, event.destination) else {
            return;
        };
        if !event.reason.starts_with("nak_") || self.codes.len() >= CODES_LIMIT {
            return;
        }
        let key = (event.endpoint, source, destination);
        let detail = format!("{} psn {}", event.reason, event.psn);
        self.codes.entry(key).or_insert(detail);
    }

    /// The flows now; `time` in seconds since 1970.
    pub fn flows(&mut self, time: f64, now: RoceFlows) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        if let Some(before) = self.before.take() {
            for (subject, pair) in pairs(rated(&before, now.clone())) {
                for (kind, seen) in self.troubles(&subject, &pair) {
                    alarms.extend(self.saw(time, kind, subject.clone(), seen));
                }
            }
        }
        self.before = Some(now);
        self.codes.clear();
        alarms.extend(self.ended(time));
        self.limit(time, alarms)
    }

    fn troubles(&self, subject: &Subject, pair: &Pair) -> Vec<(Kind, Seen)> {
        let Thresholds {
            cnps,
            retries,
            retry_share,
            ..
        } = self.thresholds;
        let counts = &pair.interval.counts;
        let seen = |count: u64, most: Option<(u64, u32)>, detail| Seen {
            rate: pair.interval.rate(count),
            count,
            destination_qp: most.map(|(_, qp)| qp),
            detail,
        };
        let mut troubles = Vec::new();
        if counts.cnps() > 0 && pair.interval.rate(counts.cnps()) >= cnps {
            troubles.push((Kind::CnpBurst, seen(counts.cnps(), pair.cnp_qp, None)));
        }
        if counts.naks > 0 {
            let code = self.code(subject);
            troubles.push((Kind::Nak, seen(counts.naks, pair.nak_qp, code)));
        }
        if counts.rnr_naks > 0 {
            let rnr = seen(counts.rnr_naks, pair.rnr_qp, None);
            troubles.push((Kind::ReceiverNotReady, rnr));
        }
        let requests = requests(counts);
        let share = counts.duplicates as f64 / requests.max(1) as f64;
        if pair.interval.rate(counts.duplicates) >= retries && share >= retry_share {
            let detail = format!("{:.1}% of the requests", share * 100.0);
            let storm = seen(counts.duplicates, pair.duplicate_qp, Some(detail));
            troubles.push((Kind::RetryStorm, storm));
        }
        troubles
    }

    fn code(&self, subject: &Subject) -> Option<String> {
        let Subject::Pair {
            seen_at,
            direction,
            local,
            peer,
            ..
        } = subject
        else {
            return None;
        };
        let (source, destination) = if direction == "egress" {
            (*local, *peer)
        } else {
            (*peer, *local)
        };
        let key = (seen_at.endpoint?, source, destination);
        self.codes.get(&key).cloned()
    }

    /// The node's RDMA ports now.
    pub fn rdma(&mut self, time: f64, node: &NodeRdma) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        let mut ports = HashMap::new();
        for device in &node.devices {
            for port in &device.ports {
                let subject = Subject::Port {
                    device: device.device.name.clone(),
                    port: port.port.port,
                    netns: device.netns.to_string(),
                };
                let state = port.port.state;
                let before = self.ports.get(&subject).copied();
                if before.is_some_and(|before| before != state) {
                    let from = before.map(|state| state.to_string()).unwrap_or_default();
                    let stage = match state {
                        PortState::Active => Stage::Over,
                        _ => Stage::Begins,
                    };
                    let detail = format!("{from} -> {state}");
                    alarms.push(plain(
                        time,
                        Kind::PortState,
                        stage,
                        subject.clone(),
                        Some(detail),
                    ));
                }
                ports.insert(subject.clone(), state);
                if port.gids.fill() >= self.thresholds.gids {
                    let detail = format!(
                        "{} of {} in use; a pod whose address finds no place has no RoCE",
                        port.gids.entries.len(),
                        port.gids.capacity
                    );
                    let seen = Seen {
                        rate: 0.0,
                        count: 0,
                        destination_qp: None,
                        detail: Some(detail),
                    };
                    alarms.extend(self.saw(time, Kind::GidTable, subject, seen));
                }
            }
        }
        // A device that has gone, or gone to a pod, takes its state with it.
        self.ports = ports;
        self.limit(time, alarms)
    }

    /// A trouble that a reading shows: a line when it begins, and one from time to time.
    fn saw(&mut self, time: f64, kind: Kind, subject: Subject, seen: Seen) -> Option<Alarm> {
        let full = self.ongoing.len() >= ONGOING_LIMIT;
        let key = (kind, subject);
        let (stage, ongoing) = match self.ongoing.get_mut(&key) {
            Some(ongoing) => (Stage::GoesOn, ongoing),
            None if full => {
                self.left_out += 1;
                return None;
            }
            None => (
                Stage::Begins,
                self.ongoing.entry(key.clone()).or_insert(Ongoing {
                    began: time,
                    last: time,
                    told: time,
                    count: 0,
                    destination_qp: None,
                    detail: None,
                }),
            ),
        };
        ongoing.count += seen.count;
        ongoing.last = time;
        ongoing.destination_qp = seen.destination_qp;
        if seen.detail.is_some() {
            ongoing.detail = seen.detail;
        }
        if stage == Stage::GoesOn && time - ongoing.told < self.thresholds.repeat {
            return None;
        }
        ongoing.told = time;
        let (_, subject) = key;
        let mut alarm = ongoing.alarm(kind, stage, subject, time);
        alarm.rate = (seen.count > 0).then_some(seen.rate);
        Some(alarm)
    }

    /// What has not come back for a while.
    fn ended(&mut self, time: f64) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        self.ongoing.retain(|(kind, subject), ongoing| {
            let goes_on = time - ongoing.last < QUIET_SECONDS;
            if !goes_on {
                let last = ongoing.last;
                alarms.push(ongoing.alarm(*kind, Stage::Over, subject.clone(), last));
            }
            goes_on
        });
        alarms
    }

    /// No more lines than can be read; those that begin something come first.
    fn limit(&mut self, time: f64, mut alarms: Vec<Alarm>) -> Vec<Alarm> {
        alarms.sort_by_key(|alarm| alarm.stage);
        if alarms.len() > LINES_LIMIT {
            self.left_out += (alarms.len() - LINES_LIMIT) as u64;
            alarms.truncate(LINES_LIMIT);
        }
        if self.left_out > 0 {
            let detail = format!("{} more lines; sluice roce flows shows all", self.left_out);
            let subject = Subject::Node {};
            alarms.push(plain(
                time,
                Kind::LeftOut,
                Stage::GoesOn,
                subject,
                Some(detail),
            ));
            self.left_out = 0;
        }
        alarms
    }
}

impl Ongoing {
    fn alarm(&self, kind: Kind, stage: Stage, subject: Subject, time: f64) -> Alarm {
        Alarm {
            time,
            kind,
            stage,
            subject,
            rate: None,
            count: (self.count > 0).then_some(self.count),
            seconds: time - self.began,
            destination_qp: self.destination_qp,
            detail: self.detail.clone(),
        }
    }
}

/// A line without numbers.
pub(super) fn plain(
    time: f64,
    kind: Kind,
    stage: Stage,
    subject: Subject,
    detail: Option<String>,
) -> Alarm {
    Alarm {
        time,
        kind,
        stage,
        subject,
        rate: None,
        count: None,
        seconds: 0.0,
        destination_qp: None,
        detail,
    }
}

/// Requests, of which retransmissions are a part.
fn requests(counts: &FlowCounts) -> u64 {
    const REQUESTS: [&str; 6] = [
        "send",
        "write",
        "read_request",
        "atomic",
        "flush",
        "atomic_write",
    ];
    let operations = REQUESTS
        .iter()
        .filter_map(|name| counts.operations.get(*name));
    operations.sum()
}

/// All that went between two addresses in one direction.
#[derive(Default)]
struct Pair {
    interval: Interval,
    /// The most by one queue pair, and which.
    cnp_qp: Option<(u64, u32)>,
    nak_qp: Option<(u64, u32)>,
    rnr_qp: Option<(u64, u32)>,
    duplicate_qp: Option<(u64, u32)>,
}

impl Pair {
    fn add(&mut self, flow: &RoceFlow, interval: &Interval) {
        let counts = &interval.counts;
        let most = |most: &mut Option<(u64, u32)>, count| {
            let candidate = Some((count, flow.destination_qp));
            if count > 0 && *most < candidate {
                *most = candidate;
            }
        };
        most(&mut self.cnp_qp, counts.cnps());
        most(&mut self.nak_qp, counts.naks);
        most(&mut self.rnr_qp, counts.rnr_naks);
        most(&mut self.duplicate_qp, counts.duplicates);
        self.interval.seconds = interval.seconds;
        self.interval.counts.add(counts);
    }
}

/// By pairs of addresses; of endpoints only, since uplinks see the same packets.
fn pairs(flows: Vec<super::rated::Rated>) -> BTreeMap<Subject, Pair> {
    let mut pairs = BTreeMap::<Subject, Pair>::new();
    for rated in &flows {
        let flow = &rated.flow;
        if flow.seen_at.endpoint.is_none() || rated.interval.counts.packets == 0 {
            continue;
        }
        let subject = Subject::Pair {
            seen_at: flow.seen_at.clone(),
            pod: flow.pod.clone(),
            direction: flow.direction.clone(),
            local: flow.local,
            peer: flow.peer,
            peer_pod: flow.peer_pod.clone(),
        };
        pairs.entry(subject).or_default().add(flow, &rated.interval);
    }
    // Between two pods of this node, the sender's side is told, and not the same once more.
    let sent: HashSet<_> = pairs
        .keys()
        .filter_map(|subject| way(subject, "egress"))
        .collect();
    pairs.retain(|subject, _| way(subject, "ingress").is_none_or(|way| !sent.contains(&way)));
    pairs
}

/// From whom to whom, of what goes in this direction.
fn way(
    subject: &Subject,
    wanted: &str,
) -> Option<(IpAddr, IpAddr, Option<PodName>, Option<PodName>)> {
    match subject {
        Subject::Pair {
            pod,
            direction,
            local,
            peer,
            peer_pod,
            ..
        } if direction == wanted => {
            let (local, peer) = ((*local, pod.clone()), (*peer, peer_pod.clone()));
            let (from, to) = if wanted == "egress" {
                (local, peer)
            } else {
                (peer, local)
            };
            Some((from.0, to.0, from.1, to.1))
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "detect/tests.rs"]
mod tests;
