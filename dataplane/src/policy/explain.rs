//! Why a connection passes, or does not: read off the tables by the lookup
//! that packets take, not evaluated anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
};

use dataplane_ebpf::abi::{Direction, EndpointConfig, has_ports, identity};

use super::{
    compile::{Key, Ports},
    model::Protocol,
};

/// What is asked of tables; the kernel's, or what is compiled for it.
pub trait Lookup {
    /// Why a lookup fails.
    type Error;

    /// An address's identity.
    ///
    /// # Errors
    /// The kernel refuses; so for every function here.
    fn identity(&self, address: IpAddr) -> Result<u32, Self::Error>;
    /// The flags of an endpoint ([`EndpointConfig`]).
    fn flags(&self, endpoint: u32) -> Result<u32, Self::Error>;
    /// The rule under which a table lets a packet of this very identity pass;
    /// `None` for an endpoint without a table.
    fn rule(
        &self,
        endpoint: u32,
        direction: Direction,
        identity: u32,
        what: &Service,
    ) -> Result<Option<Option<u32>>, Self::Error>;
    /// All entries of a table.
    fn entries(&self, endpoint: u32, direction: Direction) -> Result<Vec<(Key, u32)>, Self::Error>;
}

/// Protocol and port of a connection, such as `443/tcp`, `icmp` or `47`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// IP protocol (IANA number).
    pub protocol: u8,
    /// Destination port, for protocols with ports.
    pub port: Option<u16>,
}

/// Protocols without ports that have a name here (IANA numbers).
const NAMED: [(&str, u8); 4] = [("icmp", 1), ("icmpv6", 58), ("gre", 47), ("esp", 50)];

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "'{text}' is no service; write PORT/tcp, PORT/udp, PORT/sctp, icmp, or a protocol number"
            )
        };
        if let Some((port, protocol)) = text.split_once('/') {
            let protocol = Protocol::from_str(protocol).map_err(|_| wrong())?;
            let port: u16 = port.parse().map_err(|_| wrong())?;
            return Ok(Self {
                protocol: protocol.number(),
                port: Some(port),
            });
        }
        let named = NAMED
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text));
        let protocol = match named {
            Some((_, number)) => *number,
            None => text.parse().map_err(|_| wrong())?,
        };
        if has_ports(protocol) {
            return Err(wrong());
        }
        let port = None;
        Ok(Self { protocol, port })
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{port}/{}", protocol_name(self.protocol)),
            None => f.write_str(&protocol_name(self.protocol)),
        }
    }
}

fn protocol_name(number: u8) -> String {
    let with_ports = Protocol::ALL
        .into_iter()
        .map(|one| (one.to_string(), one.number()));
    let named = NAMED
        .iter()
        .map(|(name, number)| ((*name).to_owned(), *number));
    let mut all = with_ports.chain(named);
    all.find(|(_, known)| *known == number)
        .map_or_else(|| format!("protocol {number}"), |(name, _)| name)
}

/// What an endpoint says to one direction of a connection's first packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The peer's identity.
    pub identity: u32,
    /// What happens.
    pub answer: Answer,
    /// What would be dropped passes, and is only counted.
    pub audit: bool,
}

/// What happens to a packet, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No policy isolates the endpoint in this direction.
    Open,
    /// It comes from the node, which may always reach its pods.
    Node,
    /// This rule allows it.
    Allowed(u32),
    /// No rule does.
    Denied {
        /// Rules that are for this peer, and the services that they allow.
        for_peer: BTreeMap<u32, BTreeSet<Ports>>,
        /// Rules that allow this service, to others.
        for_service: BTreeSet<u32>,
    },
    /// The endpoint is isolated and has no table.
    Missing,
}

impl Finding {
    /// Whether the packet passes.
    pub fn passes(&self) -> bool {
        self.audit || self.is_allowed()
    }

    /// Whether policy wants it to pass.
    pub fn is_allowed(&self) -> bool {
        !matches!(self.answer, Answer::Denied { .. } | Answer::Missing)
    }
}

/// Looks at a connection at one endpoint.
///
/// # Errors
/// A lookup fails.
pub fn explain<L: Lookup>(
    tables: &L,
    endpoint: u32,
    direction: Direction,
    peer: IpAddr,
    what: &Service,
) -> Result<Finding, L::Error> {
    let flags = tables.flags(endpoint)?;
    let identity = tables.identity(peer)?;
    let finding = |answer| Finding {
        identity,
        answer,
        audit: flags & EndpointConfig::AUDIT != 0,
    };
    if flags & EndpointConfig::enforce(direction) == 0 {
        return Ok(finding(Answer::Open));
    }
    let from_node = identity::is_node(identity) && direction == Direction::Ingress;
    if from_node && flags & EndpointConfig::ALLOW_NODE != 0 {
        return Ok(finding(Answer::Node));
    }
    for identity in [identity, identity::ANY] {
        match tables.rule(endpoint, direction, identity, what)? {
            None => return Ok(finding(Answer::Missing)),
            Some(Some(rule)) => return Ok(finding(Answer::Allowed(rule))),
            Some(None) => {}
        }
    }
    let mut for_peer = BTreeMap::<_, BTreeSet<_>>::new();
    let mut for_service = BTreeSet::new();
    for (key, rule) in tables.entries(endpoint, direction)? {
        if key.identity == identity || key.identity == identity::ANY {
            for_peer.entry(rule).or_default().insert(key.ports);
        } else if Ports::candidates(what.protocol, what.port).any(|ports| ports == key.ports) {
            for_service.insert(rule);
        }
    }
    for_service.retain(|rule| !for_peer.contains_key(rule));
    Ok(finding(Answer::Denied {
        for_peer,
        for_service,
    }))
}

/// Ports as people write them: `tcp/80`, `udp/8000-8007`, `tcp`, `any`.
pub fn describe_ports(ports: &Ports) -> String {
    match *ports {
        Ports::All => "any".into(),
        Ports::Protocol(protocol) => protocol_name(protocol),
        Ports::Prefix {
            protocol,
            port,
            bits,
        } => {
            let last = port | u16::MAX.checked_shr(bits.into()).unwrap_or(0);
            let protocol = protocol_name(protocol);
            match last == port {
                true => format!("{port}/{protocol}"),
                false => format!("{port}-{last}/{protocol}"),
            }
        }
    }
}
