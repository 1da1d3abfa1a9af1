//! Link events, and how they are decoded from netlink datagrams.

use std::collections::VecDeque;

use ipnet::IpNet;

use super::decode::{AddressMessage, LinkMessage, decode_nsid, decode_tc_ifindex};
use crate::netlink::decode::{Malformed, Message, messages};

/// A change in one of the namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEvent {
    /// The namespace, by the id from [`Netlink::ensure_nsid`](super::Netlink::ensure_nsid); `None` for the monitor's own.
    pub nsid: Option<i32>,
    /// What changed.
    pub change: LinkChange,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkChange {
    /// An interface is new, or something about it is.
    LinkChanged {
        /// Its index in its namespace.
        ifindex: u32,
        /// Its name, now.
        name: String,
    },
    /// An interface was deleted, or moved to another namespace.
    LinkRemoved {
        /// Its index in its namespace.
        ifindex: u32,
        /// Its last name.
        name: String,
    },
    /// An address is new, or its flags or lifetime are.
    AddressAdded {
        /// The interface that has it.
        ifindex: u32,
        /// The address and its prefix length.
        address: IpNet,
    },
    /// An address was deleted.
    AddressRemoved {
        /// The interface that had it.
        ifindex: u32,
        /// The address and its prefix length.
        address: IpNet,
    },
    /// A TC filter or qdisc was deleted.
    FilterRemoved {
        /// The interface that had it.
        ifindex: u32,
    },
    /// The namespace is gone, and its id may go to another one. The kernel takes the id away before
    /// it deletes the interfaces: no event of theirs comes.
    NamespaceRemoved,
    /// Events were lost, of any namespace: read all interfaces anew.
    Overrun,
}

/// Turns datagrams into events.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// Not yet handed out.
    pub(super) events: VecDeque<LinkEvent>,
    /// How many datagrams to throw away at most, after an overflow.
    discard: usize,
    pub(super) malformed: u64,
    pub(super) overruns: u64,
}

impl Decoder {
    /// Notes that the queue overflowed. From then on the kernel drops every event until the queue
    /// has been empty once (`NETLINK_S_CONGESTED` in `net/netlink/af_netlink.c`): what is in it is
    /// discarded first, since a caller who read the interfaces before would miss those.
    pub(super) fn queue_overflowed(&mut self, queue_length: usize) {
        self.overruns += 1;
        self.discard = queue_length;
    }

    /// Notes that the queue is empty.
    pub(super) fn queue_empty(&mut self) {
        if std::mem::take(&mut self.discard) > 0 {
            self.tell_overrun();
        }
    }

    /// Notes that events were lost, but not by an overflow.
    pub(super) fn overrun(&mut self) {
        self.overruns += 1;
        self.tell_overrun();
    }

    fn tell_overrun(&mut self) {
        self.events.push_back(LinkEvent {
            nsid: None,
            change: LinkChange::Overrun,
        });
    }

    /// Decodes a datagram that came with this namespace id.
    pub(super) fn decode(&mut self, datagram: &[u8], nsid: Option<i32>) {
        if self.discard > 0 {
            self.discard -= 1;
            if self.discard == 0 {
                self.tell_overrun();
            }
            return;
        }
        for message in messages(datagram) {
            if message
                .and_then(|message| self.decode_message(&message, nsid))
                .is_err()
            {
                self.malformed += 1;
            }
        }
    }

    fn decode_message(
        &mut self,
        message: &Message<'_>,
        nsid: Option<i32>,
    ) -> Result<(), Malformed> {
        let (nsid, change) = match message.kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => {
                let link = LinkMessage::decode(message.body)?;
                // A bridge reports its ports under its own family: leaving the bridge is not the
                // end of the interface.
                if i32::from(link.family) != libc::AF_UNSPEC {
                    return Ok(());
                }
                let LinkMessage { ifindex, name, .. } = link;
                let change = match message.kind {
                    libc::RTM_NEWLINK => LinkChange::LinkChanged { ifindex, name },
                    _ => LinkChange::LinkRemoved { ifindex, name },
                };
                (nsid, change)
            }
            libc::RTM_NEWADDR | libc::RTM_DELADDR => {
                let Some(AddressMessage {
                    ifindex, address, ..
                }) = AddressMessage::decode(message.body)?
                else {
                    return Ok(());
                };
                let change = match message.kind {
                    libc::RTM_NEWADDR => LinkChange::AddressAdded { ifindex, address },
                    _ => LinkChange::AddressRemoved { ifindex, address },
                };
                (nsid, change)
            }
            libc::RTM_DELTFILTER | libc::RTM_DELQDISC => {
                let ifindex = decode_tc_ifindex(message.body)?;
                (nsid, LinkChange::FilterRemoved { ifindex })
            }
            // The id tables of other namespaces are their own business.
            libc::RTM_DELNSID if nsid.is_none() => {
                let Some(gone) = decode_nsid(message.body)? else {
                    return Ok(());
                };
                (Some(gone), LinkChange::NamespaceRemoved)
            }
            kind if i32::from(kind) == libc::NLMSG_OVERRUN => {
                self.overrun();
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.events.push_back(LinkEvent { nsid, change });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
    use netlink_packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkMessage},
        nsid::{NsidAttribute, NsidMessage},
    };
    use proptest::prelude::*;

    use super::*;

    /// A datagram as another library writes it.
    fn datagram(message: RouteNetlinkMessage) -> Vec<u8> {
        let payload = NetlinkPayload::InnerMessage(message);
        let mut message = NetlinkMessage::new(Default::default(), payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn link(index: u32, name: &str) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Mtu(1500));
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        message
    }

    fn address(index: u32, address: IpNet, peer: Option<IpNet>) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = address.prefix_len();
        message.header.family = match address {
            IpNet::V4(_) => AddressFamily::Inet,
            IpNet::V6(_) => AddressFamily::Inet6,
        };
        let peer = peer.unwrap_or(address).addr();
        message.attributes.push(AddressAttribute::Address(peer));
        message
            .attributes
            .push(AddressAttribute::Local(address.addr()));
        message
    }

    fn nsid(id: i32) -> NsidMessage {
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Id(id));
        message
    }

    fn decode(bytes: &[u8], nsid: Option<i32>) -> Decoder {
        let mut decoder = Decoder::default();
        decoder.decode(bytes, nsid);
        decoder
    }

    fn event(nsid: Option<i32>, change: LinkChange) -> VecDeque<LinkEvent> {
        VecDeque::from([LinkEvent { nsid, change }])
    }

    #[test]
    fn links_and_addresses() {
        let (ifindex, name) = (7, "net1".to_owned());
        let new = datagram(RouteNetlinkMessage::NewLink(link(7, "net1")));
        let changed = LinkChange::LinkChanged {
            ifindex,
            name: name.clone(),
        };
        assert_eq!(
            decode(&new, Some(3)).events,
            event(Some(3), changed.clone())
        );
        assert_eq!(decode(&new, None).events, event(None, changed));

        let del = datagram(RouteNetlinkMessage::DelLink(link(7, "net1")));
        assert_eq!(
            decode(&del, None).events,
            event(None, LinkChange::LinkRemoved { ifindex, name })
        );

        for text in ["10.1.2.3/24", "2001:db8::1/64"] {
            let net: IpNet = text.parse().unwrap();
            let new = datagram(RouteNetlinkMessage::NewAddress(address(7, net, None)));
            let added = LinkChange::AddressAdded {
                ifindex,
                address: net,
            };
            assert_eq!(decode(&new, Some(0)).events, event(Some(0), added));
            let del = datagram(RouteNetlinkMessage::DelAddress(address(7, net, None)));
            let removed = LinkChange::AddressRemoved {
                ifindex,
                address: net,
            };
            assert_eq!(decode(&del, None).events, event(None, removed));
        }
    }

    #[test]
    fn the_own_address_of_a_point_to_point_interface() {
        let own: IpNet = "10.0.0.1/32".parse().unwrap();
        let peer = Some("10.0.0.2/32".parse().unwrap());
        let new = datagram(RouteNetlinkMessage::NewAddress(address(1, own, peer)));
        let added = LinkChange::AddressAdded {
            ifindex: 1,
            address: own,
        };
        assert_eq!(decode(&new, None).events, event(None, added));
    }

    #[test]
    fn a_name_need_not_be_utf8() {
        let mut bytes = datagram(RouteNetlinkMessage::NewLink(link(7, "net1")));
        let at = bytes
            .windows(4)
            .position(|window| window == b"net1")
            .unwrap();
        bytes[at] = 0xff;
        let name = "\u{fffd}et1".to_owned();
        let changed = LinkChange::LinkChanged { ifindex: 7, name };
        assert_eq!(decode(&bytes, None).events, event(None, changed));
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_gone() {
        let mut port = link(7, "net1");
        port.header.interface_family = AddressFamily::Bridge;
        let decoder = decode(&datagram(RouteNetlinkMessage::DelLink(port)), None);
        assert!(decoder.events.is_empty() && decoder.malformed == 0);
    }

    #[test]
    fn namespace_ids_of_the_own_table_only() {
        let gone = datagram(RouteNetlinkMessage::DelNsId(nsid(4)));
        assert_eq!(
            decode(&gone, None).events,
            event(Some(4), LinkChange::NamespaceRemoved)
        );
        assert!(decode(&gone, Some(3)).events.is_empty());
    }

    #[test]
    fn a_bad_message_does_not_take_the_good_one_before_it() {
        let mut bytes = datagram(RouteNetlinkMessage::NewLink(link(7, "net1")));
        let second = bytes.clone();
        bytes.extend_from_slice(&second[..second.len() - 4]);
        let decoder = decode(&bytes, None);
        assert_eq!((decoder.events.len(), decoder.malformed), (1, 1));
    }

    #[test]
    fn an_overrun_message_is_an_overrun() {
        let mut bytes = vec![16, 0, 0, 0];
        bytes.extend_from_slice(&u16::try_from(libc::NLMSG_OVERRUN).unwrap().to_ne_bytes());
        bytes.resize(16, 0);
        let decoder = decode(&bytes, Some(3));
        assert_eq!(decoder.events, event(None, LinkChange::Overrun));
        assert_eq!(decoder.overruns, 1);
    }

    #[test]
    fn an_overflow_is_told_when_the_queue_was_emptied() {
        let new = datagram(RouteNetlinkMessage::NewLink(link(7, "net1")));
        let mut decoder = Decoder::default();
        decoder.queue_empty();
        assert!(decoder.events.is_empty());

        decoder.queue_overflowed(5);
        decoder.decode(&new, None);
        assert!(decoder.events.is_empty());
        decoder.queue_empty();
        assert_eq!(decoder.events, event(None, LinkChange::Overrun));
        decoder.decode(&new, None);
        assert_eq!((decoder.events.len(), decoder.overruns), (2, 1));
    }

    #[test]
    fn an_overflow_is_told_even_when_events_keep_coming() {
        let new = datagram(RouteNetlinkMessage::NewLink(link(7, "net1")));
        let mut decoder = Decoder::default();
        decoder.queue_overflowed(2);
        for _ in 0..3 {
            decoder.decode(&new, None);
        }
        assert_eq!(decoder.events[0].change, LinkChange::Overrun);
        assert_eq!(decoder.events.len(), 2);
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            // Each message yields at most one event or one complaint, and takes 16 bytes.
            let decoder = decode(&bytes, None);
            let messages = decoder.events.len() as u64 + decoder.malformed;
            prop_assert!(messages <= bytes.len() as u64 / 16 + 1);
        }

        /// Past the outer header, which random bytes hardly ever get right.
        #[test]
        fn no_body_can_make_it_panic(
            kind in prop::sample::select(vec![
                libc::RTM_NEWLINK, libc::RTM_DELLINK, libc::RTM_NEWADDR, libc::RTM_DELADDR,
                libc::RTM_NEWNSID, libc::RTM_DELNSID,
            ]),
            body in prop::collection::vec(prop_oneof![0..12_u8, any::<u8>()], 0..128),
        ) {
            let mut bytes = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.resize(16, 0);
            bytes.extend_from_slice(&body);
            let decoder = decode(&bytes, None);
            prop_assert!(decoder.events.len() as u64 + decoder.malformed <= 1);
        }

        #[test]
        fn a_message_cut_short_is_counted(cut in 1_usize..60, nsid in prop::option::of(0..9)) {
            let bytes = datagram(RouteNetlinkMessage::NewLink(link(7, "net1")));
            let cut = cut.min(bytes.len() - 1);
            let decoder = decode(&bytes[..bytes.len() - cut], nsid);
            prop_assert_eq!((decoder.events.len(), decoder.malformed), (0, 1));
        }
    }
}
