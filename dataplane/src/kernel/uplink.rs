//! Attaching the programs of an uplink.

use std::path::Path;

use aya::{
    Ebpf,
    programs::{
        Xdp,
        links::{FdLink, PinnedLink},
        xdp::{XdpLink, XdpMode as AyaMode},
    },
};
use clap::ValueEnum;
use dataplane_ebpf::abi::Direction;
use serde::Deserialize;

use super::{
    Kernel,
    attach::{Hook, replace_link},
    error::{KernelError, refused},
    object::{UPLINK, classifier, xdp},
    pins::remove,
};
use crate::{
    api::types::{TcMechanism, XdpMode},
    link::Netns,
};

/// How XDP runs on uplinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum XdpPreference {
    /// In the driver where it can, else in the network stack.
    #[default]
    Auto,
    /// In the driver or not at all.
    Native,
    /// In the network stack: for drivers that reset their link for native XDP.
    Generic,
}

/// How to attach an uplink.
#[derive(Clone, Copy, Debug)]
pub struct UplinkSettings {
    /// TC mechanism.
    pub mechanism: TcMechanism,
    /// Wanted XDP mode.
    pub xdp: XdpPreference,
    /// The mode of a link that is pinned already; a link cannot be asked.
    pub attached_xdp: Option<XdpMode>,
}

/// How an uplink was attached.
#[derive(Clone, Copy, Debug)]
pub struct UplinkAttached {
    /// The XDP mode.
    pub xdp: XdpMode,
    /// A clsact qdisc was made for it.
    pub made_clsact: bool,
}

impl Kernel {
    /// Attaches the uplink's programs, or brings those that are there to this
    /// version without a gap. When one fails, neither stays.
    ///
    /// # Errors
    /// The interface is gone, or the kernel refuses.
    pub fn attach_uplink(
        &self,
        netns: &Netns,
        interface: &str,
        uplink: u32,
        settings: &UplinkSettings,
    ) -> Result<UplinkAttached, KernelError> {
        let attached = self.attach_both(netns, interface, uplink, settings);
        if attached.is_err() {
            let _ = self.detach_uplink(netns, interface, uplink, settings.mechanism);
        }
        attached
    }

    fn attach_both(
        &self,
        netns: &Netns,
        interface: &str,
        uplink: u32,
        settings: &UplinkSettings,
    ) -> Result<UplinkAttached, KernelError> {
        let mut object = self.instance(UPLINK, uplink)?;
        let program = classifier(&mut object, "uplink_egress")?;
        program
            .load()
            .map_err(|error| refused("loading uplink_egress", &error))?;
        let hook = Hook {
            interface,
            direction: Direction::Egress,
        };
        let mut made_clsact = false;
        match settings.mechanism {
            TcMechanism::Clsact => {
                made_clsact = hook.attach_clsact(netns, program)?.made_qdisc;
            }
            TcMechanism::Tcx => {
                let pin = self.pins().uplink_egress(uplink);
                if replace_link(program, &pin).is_err() {
                    hook.attach_tcx(netns, program, &pin)?;
                }
            }
        }
        let program = load_xdp(&mut object)?;
        let pin = self.pins().uplink_xdp(uplink);
        if let Some(mode) = settings.attached_xdp
            && replace_xdp(program, &pin)
        {
            return Ok(UplinkAttached {
                xdp: mode,
                made_clsact,
            });
        }
        remove(&pin)?;
        let attached = attach_xdp(netns, interface, program, &pin, settings.xdp);
        if attached.is_err() && made_clsact {
            hook.detach_clsact(netns)?;
            self.release_clsact(netns, interface);
        }
        Ok(UplinkAttached {
            xdp: attached?,
            made_clsact,
        })
    }

    /// Takes the uplink's programs away.
    ///
    /// # Errors
    /// A pin cannot be removed, or the filter not be deleted; the rest is dealt
    /// with all the same.
    pub fn detach_uplink(
        &self,
        netns: &Netns,
        interface: &str,
        uplink: u32,
        mechanism: TcMechanism,
    ) -> Result<(), KernelError> {
        let egress = match mechanism {
            TcMechanism::Tcx => remove(&self.pins().uplink_egress(uplink)),
            TcMechanism::Clsact => Hook {
                interface,
                direction: Direction::Egress,
            }
            .detach_clsact(netns),
        };
        remove(&self.pins().uplink_xdp(uplink)).and(egress)
    }
}

/// Loads the XDP program for frames in any number of buffers, or where the
/// kernel knows no such frames (before 5.18) the one for a single buffer.
fn load_xdp(object: &mut Ebpf) -> Result<&mut Xdp, KernelError> {
    let name = match xdp(object, "uplink_xdp")?.load() {
        Ok(()) => "uplink_xdp",
        Err(error) => {
            let fallback = "uplink_xdp_one";
            tracing::debug!("{error}; trying {fallback}");
            xdp(object, fallback)?
                .load()
                .map_err(|_| refused("loading uplink_xdp", &error))?;
            fallback
        }
    };
    xdp(object, name)
}

/// Puts the program behind the pinned link; false where none is there, or its
/// device is gone.
fn replace_xdp(program: &mut Xdp, pin: &Path) -> bool {
    let Ok(link) = PinnedLink::from_pin(pin) else {
        return false;
    };
    XdpLink::try_from(FdLink::from(link)).is_ok_and(|link| program.attach_to_link(link).is_ok())
}

fn attach_xdp(
    netns: &Netns,
    interface: &str,
    program: &mut Xdp,
    pin: &Path,
    preference: XdpPreference,
) -> Result<XdpMode, KernelError> {
    let tries: &[(AyaMode, XdpMode)] = match preference {
        XdpPreference::Auto => &[
            (AyaMode::Driver, XdpMode::Native),
            (AyaMode::Skb, XdpMode::Generic),
        ],
        XdpPreference::Native => &[(AyaMode::Driver, XdpMode::Native)],
        XdpPreference::Generic => &[(AyaMode::Skb, XdpMode::Generic)],
    };
    let what = || format!("attaching XDP to {interface}");
    let mut last = None;
    for (aya_mode, mode) in tries {
        let attached = netns
            .run(|| {
                program
                    .attach(interface, *aya_mode)
                    .and_then(|id| program.take_link(id))
            })
            .map_err(|error| refused(what(), &error))?;
        match attached {
            Ok(link) => {
                let link = FdLink::try_from(link).map_err(|error| refused(what(), &error))?;
                link.pin(pin)
                    .map_err(|error| refused(format!("pinning {}", pin.display()), &error))?;
                return Ok(*mode);
            }
            Err(error) => last = Some(refused(what(), &error)),
        }
    }
    Err(last.unwrap_or_else(|| KernelError::InterfaceGone(interface.to_owned())))
}
