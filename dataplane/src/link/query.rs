//! Reading interfaces and their addresses from one namespace.

use std::{io, path::PathBuf};

use netlink_packet_route::{
    RouteNetlinkMessage,
    address::AddressMessage as AddressRequest,
    link::{LinkAttribute, LinkExtentMask, LinkMessage as LinkRequest},
};

use super::{
    Details, Interface, LinkError, Netlink,
    change::NAME_MAX,
    decode::{AddressMessage, LinkMessage},
};
use crate::netlink::NetlinkError;

impl Netlink {
    /// Reads from another sysfs than `/sys`.
    #[must_use]
    pub fn with_sysfs(mut self, root: impl Into<PathBuf>) -> Self {
        self.sysfs = root.into();
        self
    }

    /// Reads one interface by its name or alternative name.
    ///
    /// # Errors
    /// [`LinkError::NotFound`], which lists those that are there, or [`LinkError::Request`].
    pub fn interface(&mut self, name: &str) -> Result<Interface, LinkError> {
        // The kernel answers a name that cannot be with other errors than "no such device".
        if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
            return Err(self.not_found(name.to_owned()));
        }
        let mut request = link_request();
        request
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        self.one_interface(request, || name.to_owned())
    }

    /// Reads one interface by its index.
    ///
    /// # Errors
    /// As [`Netlink::interface`].
    pub fn interface_by_index(&mut self, ifindex: u32) -> Result<Interface, LinkError> {
        let name = || format!("index {ifindex}");
        if ifindex == 0 || i32::try_from(ifindex).is_err() {
            return Err(self.not_found(name()));
        }
        let mut request = link_request();
        request.header.index = ifindex;
        self.one_interface(request, name)
    }

    /// Reads all interfaces, in the order of their indices.
    ///
    /// # Errors
    /// [`LinkError::Request`].
    pub fn interfaces(&mut self) -> Result<Vec<Interface>, LinkError> {
        let links = self.links()?;
        let addresses = self
            .addresses(0)
            .map_err(|source| self.failed("list addresses", source))?;
        let mut interfaces: Vec<_> = links
            .into_iter()
            .map(|link| Interface::from_message(link, &self.sysfs))
            .collect();
        interfaces.sort_by_key(|interface| interface.ifindex);
        for AddressMessage {
            ifindex, address, ..
        } in addresses
        {
            let position = interfaces.binary_search_by_key(&ifindex, |other| other.ifindex);
            // Not found: an interface that came between the two dumps.
            if let Some(interface) = position.ok().and_then(|at| interfaces.get_mut(at)) {
                interface.addresses.push(address);
            }
        }
        Ok(interfaces)
    }

    /// Reads what an interface is called and whether it can carry traffic.
    ///
    /// # Errors
    /// As [`Netlink::interface`].
    pub fn details(&mut self, ifindex: u32) -> Result<Details, LinkError> {
        let mut request = link_request();
        request.header.index = ifindex;
        let read = self.get(RouteNetlinkMessage::GetLink(request), |message| {
            LinkMessage::decode(message.body).map(Some)
        });
        match read {
            Ok(Some(link)) => Ok(Details::from(link)),
            Err(error) if !error.is(libc::ENODEV) => Err(self.failed("read an interface", error)),
            _ => Err(self.not_found(format!("index {ifindex}"))),
        }
    }

    fn one_interface(
        &mut self,
        request: LinkRequest,
        name: impl Fn() -> String,
    ) -> Result<Interface, LinkError> {
        let read = self.try_one_interface(request);
        match read {
            Ok(Some(interface)) => Ok(interface),
            Err(error) if error.is(libc::ENODEV) => Err(self.not_found(name())),
            Ok(None) => {
                let source = io::Error::other("the kernel acknowledged but described nothing");
                Err(self.failed("read an interface", source))
            }
            Err(source) => Err(self.failed("read an interface", source)),
        }
    }

    fn try_one_interface(
        &mut self,
        request: LinkRequest,
    ) -> Result<Option<Interface>, NetlinkError> {
        let message = RouteNetlinkMessage::GetLink(request);
        let link = self.get(message, |message| {
            LinkMessage::decode(message.body).map(Some)
        })?;
        let Some(link) = link else { return Ok(None) };
        let mut interface = Interface::from_message(link, &self.sysfs);
        let addresses = self.addresses(interface.ifindex)?;
        interface
            .addresses
            .extend(addresses.into_iter().map(|message| message.address));
        Ok(Some(interface))
    }

    /// Addresses of one interface, or of all when `ifindex` is 0.
    pub(super) fn addresses(&mut self, ifindex: u32) -> Result<Vec<AddressMessage>, NetlinkError> {
        let mut request = AddressRequest::default();
        request.header.index = ifindex;
        self.dump(RouteNetlinkMessage::GetAddress(request), |message| {
            let address = AddressMessage::decode(message.body)?;
            Ok(address.filter(|address| ifindex == 0 || address.ifindex == ifindex))
        })
    }

    fn links(&mut self) -> Result<Vec<LinkMessage>, LinkError> {
        self.dump(RouteNetlinkMessage::GetLink(link_request()), |message| {
            LinkMessage::decode(message.body).map(Some)
        })
        .map_err(|source| self.failed("list interfaces", source))
    }

    pub(super) fn not_found(&mut self, interface: String) -> LinkError {
        match self.links() {
            Ok(links) => LinkError::NotFound {
                interface,
                netns: self.netns.clone(),
                present: links.into_iter().map(|link| link.name).collect(),
            },
            Err(error) => error,
        }
    }
}

/// A request for links, without the counters that nobody here reads.
fn link_request() -> LinkRequest {
    let mut request = LinkRequest::default();
    request
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    request
}
