//! What `sluice roce watch` tells.

use std::net::IpAddr;

use serde::Serialize;

use crate::{
    api::{roce::SeenAt, types::PodName},
    cli::{clock, roce::table::short},
};

/// What is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A sender is told to slow down, many times a second.
    CnpBurst,
    /// Requests are refused, or the receiver has found one missing.
    Nak,
    /// A receiver has no buffer posted.
    ReceiverNotReady,
    /// A good part of the requests is sent again.
    RetryStorm,
    /// Few places are left in the GID table of a port.
    GidTable,
    /// A port came up or went down.
    PortState,
    /// The agent does not answer.
    NoAgent,
    /// More is told than can be read.
    LeftOut,
}

impl Kind {
    fn text(self) -> &'static str {
        match self {
            Self::CnpBurst => "CNP burst",
            Self::Nak => "NAK",
            Self::ReceiverNotReady => "receiver not ready",
            Self::RetryStorm => "retry storm",
            Self::GidTable => "GID table nearly full",
            Self::PortState => "port",
            Self::NoAgent => "agent",
            Self::LeftOut => "left out",
        }
    }
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// It has begun.
    Begins,
    /// It has not ended.
    GoesOn,
    /// It has ended.
    Over,
}

/// Whom it is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(untagged)]
pub(super) enum Subject {
    /// Two addresses, in one direction.
    Pair {
        #[serde(flatten)]
        seen_at: SeenAt,
        #[serde(skip_serializing_if = "Option::is_none")]
        pod: Option<PodName>,
        direction: String,
        local: IpAddr,
        peer: IpAddr,
        #[serde(skip_serializing_if = "Option::is_none")]
        peer_pod: Option<PodName>,
    },
    /// A port of an RDMA device.
    Port {
        device: String,
        port: u32,
        netns: String,
    },
    /// The node.
    Node {},
}

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Alarm {
    /// Seconds since 1970.
    pub time: f64,
    pub kind: Kind,
    pub stage: Stage,
    #[serde(flatten)]
    pub subject: Subject,
    /// Times a second, now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Times since it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Seconds since it began.
    pub seconds: f64,
    /// The queue pair that most of it goes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_qp: Option<u32>,
    /// What else is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Alarm {
    /// For people.
    pub fn line(&self) -> String {
        let mut text = format!("{} {}", clock(self.time), self.kind.text());
        if self.stage == Stage::Over {
            text.push_str(" is over");
        }
        match &self.subject {
            Subject::Pair {
                seen_at,
                pod,
                direction,
                local,
                peer,
                peer_pod,
            } => {
                let named = |pod: &Option<PodName>, address: &IpAddr| match pod {
                    Some(pod) => format!("{pod} ({address})"),
                    None => address.to_string(),
                };
                let local = match (pod, seen_at.endpoint) {
                    (None, Some(id)) => format!("endpoint {id} {} ({local})", seen_at.interface),
                    _ => named(pod, local),
                };
                let (from, to) = if direction == "egress" {
                    (local, named(peer_pod, peer))
                } else {
                    (named(peer_pod, peer), local)
                };
                text.push_str(&format!(": {from} -> {to}"));
            }
            Subject::Port {
                device,
                port,
                netns,
            } => {
                text.push_str(&format!(": {device}/{port}"));
                if netns != "host" {
                    text.push_str(&format!(" in {netns}"));
                }
            }
            Subject::Node {} => {}
        }
        if let Some(qp) = self.destination_qp {
            text.push_str(&format!(" qp {qp}"));
        }
        if let (Some(rate), true) = (self.rate, self.stage != Stage::Over) {
            text.push_str(&format!(", {}/s", short(rate)));
        }
        if let (Some(count), true) = (self.count, self.stage != Stage::Begins) {
            let seconds = short(self.seconds.round());
            text.push_str(&format!(", {} in {seconds} s", short(count as f64)));
        }
        if let Some(detail) = &self.detail {
            text.push_str(&format!(", {detail}"));
        }
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarm(stage: Stage) -> Alarm {
        Alarm {
            time: 3_723.5,
            kind: Kind::Nak,
            stage,
            subject: Subject::Pair {
                seen_at: SeenAt {
                    endpoint: Some(1),
                    interface: "net1".into(),
                },
                pod: "shop/web-0".parse().ok(),
                direction: "ingress".into(),
                local: [10, 0, 0, 1].into(),
                peer: [10, 0, 0, 2].into(),
                peer_pod: None,
            },
            rate: Some(12.0),
            count: Some(120),
            seconds: 10.0,
            destination_qp: Some(17),
            detail: Some("remote_access".into()),
        }
    }

    #[test]
    fn a_line_tells_who_whom_and_how_much() {
        assert_eq!(
            alarm(Stage::Begins).line(),
            "01:02:03.500Z NAK: 10.0.0.2 -> shop/web-0 (10.0.0.1) qp 17, 12/s, remote_access\n"
        );
        assert_eq!(
            alarm(Stage::Over).line(),
            "01:02:03.500Z NAK is over: 10.0.0.2 -> shop/web-0 (10.0.0.1) qp 17, 120 in 10 s, \
             remote_access\n"
        );
    }

    #[test]
    fn json_is_flat() {
        let json = serde_json::to_value(alarm(Stage::GoesOn)).unwrap();
        assert_eq!(json["kind"], "nak");
        assert_eq!(json["stage"], "goes_on");
        assert_eq!(json["pod"]["name"], "web-0");
        assert_eq!(json["endpoint"], 1);
        assert_eq!(json["destination_qp"], 17);
    }
}
