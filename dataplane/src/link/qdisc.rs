//! The clsact qdisc, which carries TC filters where the kernel has no TCX.

use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcHandle, TcMessage},
};

use super::{LinkError, Netlink};

/// Handle of a clsact qdisc, and `TC_H_CLSACT`, its parent (uapi `linux/pkt_sched.h`).
const HANDLE: TcHandle = handle(0);
const CLSACT: TcHandle = handle(0xfff1);
/// `TC_H_MIN_INGRESS` and `TC_H_MIN_EGRESS`, below the handle: where its filters hang.
const HOOKS: [TcHandle; 2] = [handle(0xfff2), handle(0xfff3)];
/// uapi `linux/rtnetlink.h`.
const RTM_NEWTFILTER: u16 = 44;

const fn handle(minor: u16) -> TcHandle {
    TcHandle {
        major: 0xffff,
        minor,
    }
}

impl Netlink {
    /// Deletes the clsact qdisc of an interface if nothing hangs on it; whether it did.
    ///
    /// # Errors
    /// [`LinkError::Request`], [`LinkError::Change`].
    pub fn remove_unused_clsact(&mut self, ifindex: u32) -> Result<bool, LinkError> {
        for hook in HOOKS {
            let filters = self
                .socket
                .dump(
                    RouteNetlinkMessage::GetTrafficFilter(request(ifindex, hook)),
                    |message| Ok((message.kind == RTM_NEWTFILTER).then_some(())),
                )
                .map_err(|source| self.failed("list filters", source))?;
            if !filters.is_empty() {
                return Ok(false);
            }
        }
        let mut message = request(ifindex, CLSACT);
        message.header.handle = HANDLE;
        let removed = self
            .socket
            .change(RouteNetlinkMessage::DelQueueDiscipline(message), 0);
        self.removed(removed, &[libc::ENOENT, libc::EINVAL, libc::ENODEV], || {
            format!("delete the clsact qdisc of interface {ifindex}")
        })
    }
}

fn request(ifindex: u32, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = ifindex.cast_signed();
    message.header.parent = parent;
    message
}
