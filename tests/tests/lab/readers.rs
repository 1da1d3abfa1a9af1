//! Four readers of the RoCE packets between two pods: Sluice's wire counters, the soft-RoCE device's
//! own (by Sluice's netlink client, `rdma` being its witness), tshark on a capture, and perftest,
//! which tells how many messages there were.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use dataplane::rdma::Rdma;
use sluice_tests::{
    agent::TestAgent,
    netns::TestNetns,
    node::pings,
    poll::{wait_for, wait_until},
};

use crate::rxe::{Capture, Rxe, succeeded};

const ADDRESSES: [&str; 2] = ["10.98.0.11", "10.98.0.12"];
const SERVER: usize = 0;
const CLIENT: usize = 1;

/// Packets by direction and kind, as an endpoint has them.
pub(crate) type Counts = BTreeMap<(String, String), u64>;
/// A device's counters by their names.
pub(crate) type Hardware = BTreeMap<String, u64>;

/// What is said of one end after a run.
#[derive(Debug)]
pub(crate) struct End {
    /// Sluice's counters.
    pub(crate) wire: Counts,
    /// The device's.
    pub(crate) hw: Hardware,
    /// What tshark read.
    pub(crate) captured: Counts,
}

impl End {
    /// Packets that Sluice counted.
    pub(crate) fn wire(&self, direction: &str, kind: &str) -> u64 {
        let key = (direction.to_owned(), kind.to_owned());
        self.wire.get(&key).copied().unwrap_or_default()
    }

    /// One of the device's counters.
    ///
    /// # Errors
    /// It has none of that name.
    pub(crate) fn hw(&self, name: &str) -> Result<u64> {
        self.hw
            .get(name)
            .copied()
            .with_context(|| format!("no {name}"))
    }

    /// What holds whatever happens: what tshark read is what Sluice counted.
    fn readers_agree(&self) -> Result<()> {
        let counted = self.wire.iter().filter(|(_, count)| **count > 0);
        let wire: Counts = counted.map(|(key, count)| (key.clone(), *count)).collect();
        ensure!(
            wire == self.captured,
            "Sluice {wire:?}, tshark {:?}",
            self.captured
        );
        Ok(())
    }

    /// Counters of the device that tell of trouble, and have moved.
    pub(crate) fn trouble(&self) -> Vec<&str> {
        const ORDINARY: [&str; 7] = [
            "sent_pkts",
            "rcvd_pkts",
            "sent_bytes",
            "rcvd_bytes",
            "ack_deferred",
            "rdma_sends",
            "rdma_recvs",
        ];
        let moved = self.hw.iter().filter(|(_, count)| **count > 0);
        moved
            .map(|(name, _)| name.as_str())
            .filter(|name| !ORDINARY.contains(name))
            .collect()
    }

    /// Marks that Sluice has counted.
    pub(crate) fn marks(&self) -> Vec<String> {
        const OPERATIONS: [&str; 2] = ["send", "write"];
        self.wire
            .iter()
            .filter(|((_, kind), count)| {
                **count > 0 && kind != "ack" && !OPERATIONS.contains(&kind.as_str())
            })
            .map(|((direction, kind), _)| format!("{direction} {kind}"))
            .collect()
    }
}

/// Both ends and the messages that perftest has counted.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The passive side.
    pub(crate) server: End,
    /// The active side, which sends.
    pub(crate) client: End,
    /// Messages that perftest has counted.
    pub(crate) messages: u64,
}

impl Outcome {
    /// Packets of an operation that left the client, and that reached the server.
    pub(crate) fn requests(&self, kind: &str) -> (u64, u64) {
        (
            self.client.wire("egress", kind),
            self.server.wire("ingress", kind),
        )
    }

    /// How many packets of its messages of 2048 bytes there are at RoCE's MTU of 1024 bytes, each
    /// sent once.
    pub(crate) fn first_time(&self) -> u64 {
        2 * self.messages
    }
}

/// Two nodes' worth of uplinks, wired by a switch, a pod on each.
pub(crate) struct Lab {
    agent: TestAgent,
    pods: [TestNetns; 2],
    ids: [u64; 2],
    switch: TestNetns,
    node: TestNetns,
}

impl Lab {
    /// Makes it, with an agent and both pods attached.
    ///
    /// # Errors
    /// Not in the lab.
    pub(crate) fn new() -> Result<Self> {
        let node = TestNetns::initial()?;
        let switch = TestNetns::new()?;
        let pods = [TestNetns::new()?, TestNetns::new()?];
        switch.ip("link add br0 up type bridge")?;
        let agent = TestAgent::start(&node, &["--metrics-address", "off"])?;
        let mut ids = [0; 2];
        for (number, pod) in pods.iter().enumerate() {
            let (uplink, port) = (format!("up{number}"), format!("sw{number}"));
            node.add_veth(&uplink, &switch, &port)?;
            switch.ip(&format!("link set {port} master br0"))?;
            node.add_macvlan(&uplink, pod, "net1", "bridge")?;
            pod.set_sysctl("ipv6/conf/net1/disable_ipv6", "1")?;
            pod.add_address("net1", &format!("{}/24", ADDRESSES[number]))?;
            ids[number] = agent.attach(pod, "net1")?;
        }
        wait_until("the pods to reach each other", || {
            pings(&pods[CLIENT], ADDRESSES[SERVER])
        })?;
        Ok(Self {
            agent,
            pods,
            ids,
            switch,
            node,
        })
    }

    /// Runs perftest between the pods; what has moved since before, all readers agreeing.
    ///
    /// # Errors
    /// A tool fails, or two readers do not have the same packets.
    pub(crate) fn run(&self, tool: &str) -> Result<Outcome> {
        let make = |n: usize| Rxe::new(&self.node, &self.pods[n], "net1", ADDRESSES[n]);
        // New devices: their counters start at zero.
        let devices = [make(0)?, make(1)?];
        let before = [self.wire(0)?, self.wire(1)?];
        let captures = [
            Capture::start(&self.pods[0], "net1")?,
            Capture::start(&self.pods[1], "net1")?,
        ];
        let serving = devices[SERVER].serve(tool)?;
        let called = devices[CLIENT].call(tool, ADDRESSES[SERVER])?;
        succeeded(&called)?;
        serving.finish()?;
        let messages = messages(&String::from_utf8_lossy(&called.stdout))?;
        let mut ends = Vec::new();
        for (number, capture) in captures.into_iter().enumerate() {
            let (wire, hw) = self.settled(number, &devices[number], &before[number])?;
            let captured = captured(capture, ADDRESSES[number])?;
            ends.push(End { wire, hw, captured });
        }
        for device in devices {
            device.remove(&self.node)?;
        }
        let client = ends.pop().context("no client")?;
        let server = ends.pop().context("no server")?;
        for (name, end) in [("server", &server), ("client", &client)] {
            end.readers_agree().context(name)?;
        }
        Ok(Outcome {
            server,
            client,
            messages,
        })
    }

    /// An endpoint's counters.
    fn wire(&self, number: usize) -> Result<Counts> {
        let stats = self.agent.stats(self.ids[number])?;
        let mut counts = Counts::new();
        for count in stats["roce"].as_array().context("no list")? {
            let text = |field: &str| count[field].as_str().unwrap_or_default().to_owned();
            let packets = count["packets"].as_u64().context("no packets")?;
            *counts.entry((text("direction"), text("kind"))).or_default() += packets;
        }
        Ok(counts)
    }

    /// What an endpoint and its device have counted, once they have the same packets: the last
    /// acknowledgement may be under way.
    fn settled(
        &self,
        number: usize,
        device: &Rxe<'_>,
        before: &Counts,
    ) -> Result<(Counts, Hardware)> {
        let mut last = String::new();
        wait_for("Sluice's counters to agree with the device's", || {
            let hw = hardware(device)?;
            let mut wire = self.wire(number)?;
            for (key, count) in &mut wire {
                *count -= before.get(key).copied().unwrap_or_default();
            }
            let total = |wanted: &str| -> u64 {
                let of = wire.iter().filter(|((direction, kind), _)| {
                    direction == wanted && ["ack", "send", "write"].contains(&kind.as_str())
                });
                of.map(|(_, count)| count).sum()
            };
            let same = hw == witnessed(device)?
                && hw.get("rcvd_pkts") == Some(&total("ingress"))
                && hw.get("sent_pkts") == Some(&total("egress"));
            last = format!("device {hw:?}, Sluice {wire:?}");
            Ok(same.then_some((wire, hw)))
        })
        .with_context(|| last)
    }

    /// Runs a command where the switch is.
    ///
    /// # Errors
    /// It fails.
    pub(crate) fn at_switch(&self, command: &str) -> Result<String> {
        let mut words = command.split_whitespace();
        let program = words.next().context("no command")?;
        self.switch.run(program, &words.collect::<Vec<_>>())
    }
}

/// A device's counters by Sluice's own netlink client.
fn hardware(device: &Rxe<'_>) -> Result<Hardware> {
    let mut rdma = Rdma::open(&device.pod.open()?)?;
    let index = rdma.device(&device.name)?.index;
    let counters = rdma.port_counters(index, 1)?;
    let numbers = counters
        .into_iter()
        .map(|counter| (counter.name.to_string(), counter.value));
    Ok(numbers.collect())
}

/// The same by `rdma`.
fn witnessed(device: &Rxe<'_>) -> Result<Hardware> {
    let counters = device.counters()?;
    let counters = counters.as_object().context("no counters")?;
    let numbers = counters
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "ifname" | "port"))
        .filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)));
    Ok(numbers.collect())
}

/// The second column of perftest's one row of numbers: its messages.
fn messages(printed: &str) -> Result<u64> {
    let row = printed
        .lines()
        .skip_while(|line| !line.contains("#bytes"))
        .nth(1)
        .with_context(|| format!("no row in {printed}"))?;
    let column = row.split_whitespace().nth(1).context("no second column")?;
    Ok(column.parse()?)
}

/// What tshark reads in a capture at the pod with this address, as Sluice counts: operations, CE
/// marks, NAKs, and how each request stands to the ones before it.
fn captured(capture: Capture, address: &str) -> Result<Counts> {
    let fields = [
        "ip.src",
        "infiniband.bth.opcode",
        "infiniband.bth.psn",
        "infiniband.bth.destqp",
        "infiniband.aeth.syndrome",
        "ip.dsfield.ecn",
    ];
    let mut counts = Counts::new();
    // By direction and queue pair: the PSN that comes next.
    let mut expected: BTreeMap<(String, u32), u32> = BTreeMap::new();
    for row in capture.rows(&fields)? {
        let [source, opcode, psn, queue_pair, syndrome, ecn] = &row[..] else {
            anyhow::bail!("not six columns: {row:?}");
        };
        let direction = if source == address {
            "egress"
        } else {
            "ingress"
        };
        let mut count = |kind: &str, number: u32| {
            *counts
                .entry((direction.to_owned(), kind.to_owned()))
                .or_default() += u64::from(number);
        };
        if number(ecn)? == 3 {
            count("ce_marked", 1);
        }
        match number(opcode)? {
            // InfiniBand Architecture, volume 1, tables 38 and 46.
            17 => {
                count("ack", 1);
                match number(syndrome)? {
                    0..0x20 => {}
                    0x20..0x40 => count("rnr_nak", 1),
                    0x60 => count("nak_sequence", 1),
                    other => anyhow::bail!("syndrome {other}"),
                }
                continue;
            }
            0..=5 => count("send", 1),
            6..=11 => count("write", 1),
            other => anyhow::bail!("opcode {other}"),
        }
        let psn = number(psn)?;
        let next = expected
            .entry((direction.to_owned(), number(queue_pair)?))
            .or_insert(psn);
        // Of 2^24 numbers half are ahead.
        let ahead = psn.wrapping_sub(*next) & 0x00ff_ffff;
        if ahead >= 1 << 23 {
            count("duplicate", 1);
            continue;
        }
        if ahead > 0 {
            count("gap", 1);
            count("missing", ahead);
        }
        *next = (psn + 1) & 0x00ff_ffff;
    }
    Ok(counts)
}

/// A number as tshark prints it, decimal or hexadecimal.
fn number(text: &str) -> Result<u32> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.with_context(|| format!("{text:?} is no number"))
}
