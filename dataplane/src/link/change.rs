//! Changing interfaces: up and down, names, MTU, namespace, and their end.
//!
//! What is to go may be gone already: removals answer whether there was anything to remove.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::DefaultNla;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage, Prop},
};

use super::{
    IpvlanMode, LinkError, Mac, Netlink, Netns,
    create::{ChildKind, link_info},
};
use crate::netlink::{NetlinkError, Request};

/// The longest interface name (`IFNAMSIZ` - 1, uapi `linux/if.h`).
pub(super) const NAME_MAX: usize = libc::IFNAMSIZ - 1;
/// uapi `linux/rtnetlink.h`.
const RTM_NEWLINKPROP: u16 = 108;
/// uapi `linux/rtnetlink.h`.
const RTM_DELLINKPROP: u16 = 109;

/// Refuses a name that the kernel would (`dev_valid_name` in `net/core/dev.c`), or take for a
/// pattern (`%d`).
pub(super) fn check_name(name: &str) -> Result<(), LinkError> {
    let reason = if name.is_empty() || name.len() > NAME_MAX {
        "an interface's name has 1 to 15 bytes"
    } else if name == "." || name == ".." {
        "it would name a folder"
    } else if name
        .bytes()
        .any(|byte| matches!(byte, b'/' | b':' | b'%' | 0) || byte.is_ascii_whitespace())
    {
        "an interface's name has no blanks, '/', ':' or '%'"
    } else {
        return Ok(());
    };
    Err(LinkError::Invalid {
        thing: "interface name",
        value: name.to_owned(),
        reason: reason.to_owned(),
    })
}

impl Netlink {
    /// Deletes an interface; `false` when there is none.
    ///
    /// # Errors
    /// [`LinkError::Change`]: hardware cannot be deleted (EOPNOTSUPP).
    pub fn delete(&mut self, ifindex: u32) -> Result<bool, LinkError> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        let deleted = self.socket.change(RouteNetlinkMessage::DelLink(message), 0);
        self.removed(deleted, &[libc::ENODEV], || {
            format!("delete interface {ifindex}")
        })
    }

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// [`LinkError::NotFound`], [`LinkError::Change`].
    pub fn set_up(&mut self, ifindex: u32, up: bool) -> Result<(), LinkError> {
        let (what, remedy) = if up {
            (
                "up",
                "EADDRINUSE or EBUSY: a sibling or the master has the same Ethernet address",
            )
        } else {
            ("down", "")
        };
        let mut message = link(ifindex, Vec::new());
        if up {
            message.header.flags = LinkFlags::Up;
        }
        message.header.change_mask = LinkFlags::Up;
        self.set(
            message,
            || format!("set interface {ifindex} {what}"),
            remedy,
        )
    }

    /// Renames an interface. It must be down on kernels before 6.2.
    ///
    /// An alternative name of its own that is equal to `name` is dropped first: udev gives such
    /// names, and the kernel lets no name be taken twice, not even by the same interface.
    ///
    /// # Errors
    /// [`LinkError::Invalid`], [`LinkError::Exists`], [`LinkError::NotFound`],
    /// [`LinkError::Change`].
    pub fn rename(&mut self, ifindex: u32, name: &str) -> Result<(), LinkError> {
        check_name(name)?;
        let names = self.details(ifindex)?;
        if names.name == name {
            return Ok(());
        }
        if names.altnames.iter().any(|altname| altname == name) {
            self.remove_altname(ifindex, name)?;
        }
        self.set(
            link(ifindex, vec![LinkAttribute::IfName(name.to_owned())]),
            || format!("rename interface {} to {name}", names.name),
            "set it down first",
        )
        .map_err(|error| error.exists(libc::EEXIST, name, &self.netns))
    }

    /// Sets the MTU, in bytes.
    ///
    /// # Errors
    /// [`LinkError::NotFound`], [`LinkError::Change`].
    pub fn set_mtu(&mut self, ifindex: u32, mtu: u32) -> Result<(), LinkError> {
        self.set(
            link(ifindex, vec![LinkAttribute::Mtu(mtu)]),
            || format!("set the MTU of interface {ifindex} to {mtu}"),
            "a child cannot have more than its master",
        )
    }

    /// Sets the mode of an ipvlan interface, and so that of all on the same parent.
    ///
    /// # Errors
    /// [`LinkError::NotFound`], [`LinkError::Change`].
    pub fn set_ipvlan_mode(&mut self, ifindex: u32, mode: IpvlanMode) -> Result<(), LinkError> {
        let info = link_info(ChildKind::Ipvlan(mode));
        let message = link(ifindex, vec![LinkAttribute::LinkInfo(info)]);
        // SetLink accepts what belongs to a kind of interface, and passes it over.
        self.socket
            .change(RouteNetlinkMessage::NewLink(message), 0)
            .map_err(|source| {
                let change = format!("set interface {ifindex} to ipvlan mode {mode}");
                self.refused_link(ifindex, change, source, "")
            })
    }

    /// Sets the Ethernet address.
    ///
    /// # Errors
    /// [`LinkError::NotFound`], [`LinkError::Change`].
    pub fn set_mac(&mut self, ifindex: u32, mac: Mac) -> Result<(), LinkError> {
        self.set(
            link(ifindex, vec![LinkAttribute::Address(mac.0.to_vec())]),
            || format!("set the address of interface {ifindex} to {mac}"),
            "some drivers need the interface down; a VF may need its PF to trust it",
        )
    }

    /// Sets the free text that an interface carries along (`ifalias`), or removes it.
    ///
    /// # Errors
    /// [`LinkError::NotFound`], [`LinkError::Change`].
    pub fn set_alias(&mut self, ifindex: u32, alias: Option<&str>) -> Result<(), LinkError> {
        // The kernel takes no bytes at all for removal, which the library's own attribute never
        // sends.
        let bytes = alias.unwrap_or_default().as_bytes().to_vec();
        let attribute = LinkAttribute::Other(DefaultNla::new(libc::IFLA_IFALIAS, bytes));
        self.set(
            link(ifindex, vec![attribute]),
            || format!("set the alias of interface {ifindex}"),
            "",
        )
    }

    /// Gives an interface another name that it answers to.
    ///
    /// # Errors
    /// [`LinkError::Exists`] when anything in the namespace has the name, [`LinkError::NotFound`],
    /// [`LinkError::Change`].
    pub fn add_altname(&mut self, ifindex: u32, altname: &str) -> Result<(), LinkError> {
        let added = self.link_property(RTM_NEWLINKPROP, ifindex, altname);
        added
            .map_err(|source| {
                let change = format!("give interface {ifindex} the name {altname}");
                self.refused_link(ifindex, change, source, "")
            })
            .map_err(|error| error.exists(libc::EEXIST, altname, &self.netns))
    }

    /// Takes an alternative name away; `false` when the interface has no such name.
    ///
    /// # Errors
    /// [`LinkError::Change`].
    pub fn remove_altname(&mut self, ifindex: u32, altname: &str) -> Result<bool, LinkError> {
        let removed = self.link_property(RTM_DELLINKPROP, ifindex, altname);
        self.removed(removed, &[libc::ENOENT, libc::ENODEV], || {
            format!("take the name {altname} from interface {ifindex}")
        })
    }

    /// Moves an interface to another namespace, under `name` if one is given. The kernel sets it
    /// down, takes its addresses and may give it another index.
    ///
    /// # Errors
    /// [`LinkError::Exists`] when a name is taken there (then it may have been moved under its old
    /// name: look in both places), [`LinkError::NotFound`], [`LinkError::Change`].
    pub fn move_to(
        &mut self,
        ifindex: u32,
        target: &Netns,
        name: Option<&str>,
    ) -> Result<(), LinkError> {
        let mut attributes = vec![LinkAttribute::NetNsFd(target.as_fd().as_raw_fd())];
        if let Some(name) = name {
            check_name(name)?;
            attributes.push(LinkAttribute::IfName(name.to_owned()));
        }
        self.set(
            link(ifindex, attributes),
            || format!("move interface {ifindex} to network namespace {target}"),
            "EINVAL: this kind of interface is bound to its namespace",
        )
        .map_err(|error| {
            let name = name.map_or_else(|| format!("index {ifindex}"), str::to_owned);
            error.exists(libc::EEXIST, &name, &target.to_string())
        })
    }

    fn link_property(
        &mut self,
        kind: u16,
        ifindex: u32,
        altname: &str,
    ) -> Result<(), NetlinkError> {
        let names = vec![Prop::AltIfName(altname.to_owned())];
        let message = link(ifindex, vec![LinkAttribute::PropList(names)]);
        let flags = match kind {
            RTM_NEWLINKPROP => {
                netlink_packet_core::NLM_F_CREATE
                    | netlink_packet_core::NLM_F_EXCL
                    | netlink_packet_core::NLM_F_APPEND
            }
            _ => 0,
        };
        self.socket
            .change(Request::with_body(kind, &message), flags)
    }

    fn set(
        &mut self,
        message: LinkMessage,
        change: impl FnOnce() -> String,
        remedy: &'static str,
    ) -> Result<(), LinkError> {
        let ifindex = message.header.index;
        self.socket
            .change(RouteNetlinkMessage::SetLink(message), 0)
            .map_err(|source| self.refused_link(ifindex, change(), source, remedy))
    }

    fn refused_link(
        &mut self,
        ifindex: u32,
        change: String,
        source: NetlinkError,
        remedy: &'static str,
    ) -> LinkError {
        if source.is(libc::ENODEV) {
            return self.not_found(format!("index {ifindex}"));
        }
        self.refused(change, source, remedy)
    }

    /// The answer to a removal: `gone` are the error numbers that mean "nothing there".
    pub(super) fn removed(
        &self,
        outcome: Result<(), NetlinkError>,
        gone: &[i32],
        change: impl FnOnce() -> String,
    ) -> Result<bool, LinkError> {
        match outcome {
            Ok(()) => Ok(true),
            Err(error) if gone.iter().any(|&errno| error.is(errno)) => Ok(false),
            Err(source) => Err(self.refused(change(), source, "")),
        }
    }

    pub(super) fn refused(
        &self,
        change: String,
        source: NetlinkError,
        remedy: &'static str,
    ) -> LinkError {
        LinkError::Change {
            change,
            netns: self.netns.clone(),
            source,
            remedy,
        }
    }
}

fn link(ifindex: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.attributes = attributes;
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_refuse_or_change() {
        for name in ["net1", "a", "fifteen-bytes-x", "vf0.100", "ens1f0np0v12"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "sixteen-bytes-xx",
            "a b",
            "a/b",
            "a:b",
            "net%d",
            "a\tb",
            "a\0",
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}
