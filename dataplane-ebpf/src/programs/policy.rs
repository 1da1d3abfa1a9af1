//! Policy: the second stage, for the packets of endpoints that have one.

use core::ptr;

use aya_ebpf::{
    bindings::TC_ACT_SHOT, btf_maps::lpm_trie::Key, macros::classifier, programs::TcContext,
};
use dataplane_ebpf::{
    abi::{
        Address, Counter, Direction, DropKey, DropReason, EndpointConfig, EventKind, Fault, Flow,
        FlowCounter, FlowKey, FragmentKey, MAX_RULES, PolicyKey, Standing, identity, policy_index,
    },
    flow::{self, Class, Role},
    parse::{Fragment, Packet as _, ether_type, join, protocol},
    roce,
};

use super::{
    clock::now_ns,
    count,
    event::{self, Subject},
    flow as table,
    maps::{ENDPOINT_CONFIGS, IDENTITY, IDENTITY_CIDR, POLICY, RULE_HITS, SCRATCH, WOULD_DROP},
    packet::{InPlace, Parsed},
    pipeline::{pass, pull_and_restart, refuse, subject},
};

/// Packets to pods.
#[classifier]
pub fn policy_ingress(context: TcContext) -> i32 {
    run(&context, Direction::Ingress)
}

/// Packets from pods.
#[classifier]
pub fn policy_egress(context: TcContext) -> i32 {
    run(&context, Direction::Egress)
}

#[inline(always)]
fn run(context: &TcContext, direction: Direction) -> i32 {
    // What the pipeline has just parsed, on this processor.
    let Some(parsed) = SCRATCH.get_ptr(0) else {
        return TC_ACT_SHOT;
    };
    // SAFETY: from a map lookup; nothing writes to it until the program ends.
    let parsed = unsafe { &*parsed };
    let subject = subject(context, direction, &parsed.headers);
    let Some(config) = ENDPOINT_CONFIGS.get(subject.port) else {
        return refuse(context, &subject, DropReason::PolicyMissing, &parsed.roce);
    };
    // Read once, and before the policy is: what is judged by the old policy must
    // not be remembered as judged by the new one. The agent raises the epoch
    // after the policy is in place.
    // SAFETY: from a map lookup.
    let epoch = unsafe { ptr::read_volatile(&raw const config.policy_epoch) };
    let case = Case {
        context,
        subject: &subject,
        parsed,
        config,
        epoch,
        now_ns: now_ns(),
    };
    let refused = case.judge_packet();
    join();
    match refused {
        None => case.pass(),
        Some(reason) if case.is_audit() => {
            case.tell_would_drop(reason);
            pass(&subject, &parsed.roce)
        }
        Some(reason) => refuse(context, &subject, reason, &parsed.roce),
    }
}

/// A packet before its judge.
struct Case<'a> {
    context: &'a TcContext,
    subject: &'a Subject<'a>,
    parsed: &'a Parsed,
    config: &'a EndpointConfig,
    /// Of the policy that judges it.
    epoch: u32,
    now_ns: u64,
}

/// What the policy is asked about: the direction of a connection's first
/// packet, its peer, protocol and destination port (host byte order).
struct Question {
    direction: Direction,
    remote: Address,
    protocol: u8,
    port: u16,
}

impl Case<'_> {
    /// Why the packet must not pass, if so.
    #[inline(always)]
    fn judge_packet(&self) -> Option<DropReason> {
        let headers = self.subject.headers;
        match flow::classify(headers) {
            Class::Always => None,
            Class::NonIp if !self.is_enforced() => None,
            Class::NonIp => Some(DropReason::NonIp),
            Class::LaterPiece if !self.is_enforced() => None,
            Class::LaterPiece => {
                let passed = table::first_piece_passed(&self.pieces(), self.epoch, self.now_ns);
                if passed {
                    None
                } else {
                    Some(DropReason::FragmentUntracked)
                }
            }
            Class::IcmpError if self.quotes_known_flow() => None,
            Class::IcmpError | Class::Alone => self.judge(&self.alone()).err(),
            Class::Connection(role) => self.judge_connection(role),
        }
    }

    /// Whether policy has a say in the packet's own direction.
    #[inline(always)]
    fn is_enforced(&self) -> bool {
        self.config.flags & EndpointConfig::enforce(self.subject.direction) != 0
    }

    /// Lets the packet pass, and the pieces that follow it.
    #[inline(always)]
    fn pass(&self) -> i32 {
        if matches!(self.subject.headers.fragment, Fragment::First) && self.is_enforced() {
            table::admit_pieces(&self.pieces(), self.epoch, self.now_ns);
        }
        pass(self.subject, &self.parsed.roce)
    }

    #[inline(always)]
    fn pieces(&self) -> FragmentKey {
        let headers = self.subject.headers;
        FragmentKey {
            source: headers.source,
            destination: headers.destination,
            endpoint: self.subject.port,
            identification: headers.identification,
            protocol: if headers.ether_type == ether_type::IPV4 {
                headers.protocol
            } else {
                0
            },
            direction: self.subject.direction.code(),
            pad: 0,
        }
    }

    /// The question that a packet without a connection raises.
    #[inline(always)]
    fn alone(&self) -> Question {
        let headers = self.subject.headers;
        Question {
            direction: self.subject.direction,
            remote: match self.subject.direction {
                Direction::Ingress => headers.source,
                Direction::Egress => headers.destination,
            },
            protocol: headers.protocol,
            port: headers.destination_port,
        }
    }

    /// Whether an ICMP error speaks of a connection that the policy in force
    /// has allowed.
    #[inline(always)]
    fn quotes_known_flow(&self) -> bool {
        let Subject {
            headers,
            direction,
            port,
            ..
        } = *self.subject;
        let packet = InPlace::skb(self.context);
        let Some(key) = flow::quoted(&packet, headers, direction, port) else {
            pull_and_restart(self.context, direction);
            return false;
        };
        let found = table::find(&key, Role::Any);
        let (standing, known) = found.standing(&key, self.config, self.now_ns);
        known && standing.policy_epoch == self.epoch && !standing.is_refused()
    }

    #[inline(always)]
    fn judge_connection(&self, role: Role) -> Option<DropReason> {
        let direction = self.subject.direction;
        let key = self.flow_key();
        let opens = matches!(role, Role::Opens);
        let found = table::find(&key, role);
        join();
        let (mut standing, mut known) = found.standing(&key, self.config, self.now_ns);
        // A SYN of the answering side opens another connection.
        known &= !opens || standing.initiator() == direction;
        if known && standing.policy_epoch == self.epoch {
            return self.follow(&key, &found, standing);
        }
        join();
        let initiator = if known {
            standing.initiator()
        } else {
            direction
        };
        let refused = self
            .judge(&Question {
                direction: initiator,
                remote: key.remote,
                protocol: key.protocol,
                port: key.judged_port(initiator),
            })
            .err();
        join();
        if known {
            standing.policy_epoch = self.epoch;
            standing.flags &= !Standing::REFUSED;
            table::tell(FlowCounter::Rejudged);
            if refused.is_some() {
                table::tell(FlowCounter::Refused);
                standing.flags |= Standing::REFUSED;
            }
            found.write(standing);
            return self.follow(&key, &found, standing);
        }
        // Audit mode remembers what it would drop, so that answers to it do
        // not look like connections of the other side.
        let remembered = refused.is_none() || self.is_audit();
        if remembered && !matches!(role, Role::Answers) {
            let mut standing = Standing::open(key.check(), direction, self.epoch);
            if refused.is_some() {
                standing.flags |= Standing::REFUSED;
            }
            let flow = Flow {
                packets: self.subject.packets,
                bytes: self.subject.bytes,
                last_seen_ns: self.now_ns,
                standing,
            };
            if found.flow.is_null() {
                table::enter(&key, &flow, self.config, self.now_ns);
            } else {
                found.replace(&flow);
            }
        }
        refused
    }

    /// A packet of a connection that is known and judged.
    #[inline(always)]
    fn follow(
        &self,
        key: &FlowKey,
        found: &table::Found,
        standing: Standing,
    ) -> Option<DropReason> {
        let from_initiator = standing.initiator() == self.subject.direction;
        if standing.is_refused() {
            // But for audit mode there would be no answer to speak of.
            let told = from_initiator || !self.is_audit();
            return told.then_some(DropReason::PolicyDenied);
        }
        found.follow(key, self.subject, standing, self.now_ns);
        None
    }

    #[inline(always)]
    fn is_audit(&self) -> bool {
        self.config.flags & EndpointConfig::AUDIT != 0
    }

    /// The connection that the packet belongs to.
    #[inline(always)]
    fn flow_key(&self) -> FlowKey {
        let headers = self.subject.headers;
        let mut identifier = 0;
        if matches!(headers.protocol, protocol::ICMP | protocol::ICMPV6) {
            // Behind type, code and checksum.
            let packet = InPlace::skb(self.context);
            match packet.read(headers.transport as usize + 4) {
                Some(found) => identifier = found,
                None => pull_and_restart(self.context, self.subject.direction),
            }
        }
        let is_roce = matches!(self.parsed.roce.found, roce::Found::Yes);
        flow::key(
            headers,
            self.subject.direction,
            self.subject.port,
            identifier,
            is_roce,
        )
    }

    /// Asks the policy; counts the hit of the rule that allows it.
    #[inline(always)]
    fn judge(&self, question: &Question) -> Result<(), DropReason> {
        let config = self.config;
        if config.flags & EndpointConfig::enforce(question.direction) == 0 {
            return Ok(());
        }
        // Fetched once, so that both lookups are made in one and the same policy,
        // and before the identity: the agent waits for who goes by an old policy
        // before addresses move, and puts a new one in place when they have.
        let policy = POLICY.get(policy_index(self.subject.port, question.direction));
        let peer = identity_of(&question.remote);
        if identity::is_node(peer)
            && config.flags & EndpointConfig::ALLOW_NODE != 0
            && matches!(question.direction, Direction::Ingress)
        {
            return Ok(());
        }
        let policy = policy.ok_or(DropReason::PolicyMissing)?;
        let look = |peer| {
            let key = PolicyKey::of_packet(peer, question.protocol, question.port);
            policy.get(&Key::new(key.prefix_len, key.data))
        };
        let mut rule = look(peer);
        if rule.is_none() && peer != identity::ANY {
            rule = look(identity::ANY);
        }
        let rule = rule.ok_or(DropReason::PolicyDenied)?.rule;
        if rule < MAX_RULES
            && let Some(hits) = RULE_HITS.get_ptr_mut(rule)
        {
            // SAFETY: from a map lookup.
            unsafe { count::add_shared(hits, 1) };
        }
        Ok(())
    }

    /// Counts and reports what audit mode lets pass.
    #[inline(always)]
    fn tell_would_drop(&self, reason: DropReason) {
        let key = DropKey {
            port: self.subject.port,
            direction: self.subject.direction.code(),
            reason: reason.code(),
            pad: 0,
        };
        let counter = WOULD_DROP.get_ptr_mut(key).or_else(|| {
            let none = Counter::default();
            let _ = WOULD_DROP.insert(key, none, aya_ebpf::bindings::BPF_NOEXIST.into());
            WOULD_DROP.get_ptr_mut(key)
        });
        match counter {
            // SAFETY: from a map lookup, aligned.
            Some(counter) => unsafe {
                count::add_shared(&raw mut (*counter).packets, self.subject.packets);
                count::add_shared(&raw mut (*counter).bytes, self.subject.bytes);
            },
            None => count::fault(Fault::WouldDropFull),
        }
        event::report(
            self.subject,
            EventKind::WouldDrop,
            reason as u8,
            &self.parsed.roce,
        );
    }
}

/// A peer's identity: of its address, else of the longest prefix it is in.
#[inline(always)]
fn identity_of(address: &Address) -> u32 {
    // SAFETY: an integer, copied at once.
    if let Some(identity) = unsafe { IDENTITY.get(address) } {
        return *identity;
    }
    IDENTITY_CIDR
        .get(&Key::new(128, *address))
        .map_or(identity::ANY, |identity| *identity)
}
