//! Attaching an endpoint's entry programs to the TC hooks of its interface.

use std::{mem, path::Path};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier,
        links::{FdLink, PinnedLink},
        tc::{
            NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcHandle,
            qdisc_add_clsact,
        },
    },
};
use clap::ValueEnum;
use dataplane_ebpf::abi::Direction;
use nix::libc::{EEXIST, ENODEV, ENOENT, ENOLINK};
use serde::Deserialize;

use super::{
    Kernel,
    error::{KernelError, errno, refused},
    object::{ENDPOINT_ID, classifier},
    pins::remove,
    sys,
};
use crate::{
    api::types::TcMechanism,
    link::{Interface, Netlink, Netns},
};

/// How endpoints are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TcMode {
    /// TCX where the kernel has it, else clsact.
    #[default]
    Auto,
    /// Links that a pod cannot detach; Linux 6.6 and newer.
    Tcx,
    /// Filters on the clsact qdisc.
    Clsact,
}

/// Priority and handle of our clsact filters: fixed, so that a filter can be
/// found again, and first, so that no other filter decides before us.
const FILTER_PRIORITY: u16 = 1;
const FILTER_HANDLE: TcHandle = TcHandle::new(0, 0x51ce);

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

impl Kernel {
    /// The mechanism for new attachments.
    ///
    /// # Errors
    /// TCX is demanded and this kernel has none.
    pub fn mechanism(&self, mode: TcMode) -> Result<TcMechanism, KernelError> {
        match (mode, self.features().tcx) {
            (TcMode::Clsact, _) | (TcMode::Auto, false) => Ok(TcMechanism::Clsact),
            (_, true) => Ok(TcMechanism::Tcx),
            (TcMode::Tcx, false) => Err(KernelError::Unsupported(format!(
                "kernel {} has no TCX (Linux 6.6 and newer have); set tc to auto or clsact",
                self.features().release
            ))),
        }
    }

    /// Attaches both entry programs of an endpoint; whether it made a clsact
    /// qdisc for them. When one fails, neither stays.
    ///
    /// # Errors
    /// The interface is gone, or the kernel refuses.
    pub fn attach(
        &self,
        netns: &Netns,
        interface: &str,
        endpoint: u32,
        mechanism: TcMechanism,
    ) -> Result<bool, KernelError> {
        let mut object = self.instance(ENDPOINT_ID, endpoint)?;
        for direction in DIRECTIONS {
            load_entry(&mut object, direction)?;
        }
        let attached = self.attach_pair(netns, interface, |hook| {
            let program = classifier(&mut object, &entry_name(hook.direction))?;
            match mechanism {
                TcMechanism::Tcx => {
                    let pin = self.pins().endpoint_link(endpoint, hook.direction);
                    hook.attach_tcx_here(program, &pin).map(|()| false)
                }
                TcMechanism::Clsact => Ok(hook.attach_clsact_here(program, None)?.made_qdisc),
            }
        });
        if attached.is_err() {
            let _ = self.detach(Some(netns), interface, endpoint, mechanism);
        }
        attached
    }

    /// Puts filters on clsact in the place of the entry programs, until
    /// [`Kernel::hand_over`] has put those on TCX: a TCX attachment waits for
    /// RCU grace periods, which a pod's start need not wait for. When one
    /// fails, neither stays.
    ///
    /// # Errors
    /// As [`Kernel::attach`].
    pub fn stand_in(
        &self,
        netns: &Netns,
        interface: &str,
        endpoint: u32,
    ) -> Result<bool, KernelError> {
        let mut programs = self.stand_ins();
        let programs = &mut *programs;
        let attached = self.attach_pair(netns, interface, |hook| {
            let program = classifier(programs, &stand_in_name(hook.direction))?;
            Ok(hook.attach_clsact_here(program, Some(endpoint))?.made_qdisc)
        });
        if attached.is_err() {
            let _ = self.detach(Some(netns), interface, endpoint, TcMechanism::Clsact);
        }
        attached
    }

    /// Attaches the entry programs to TCX, unless they are, and only then
    /// takes their stand-ins away: no packet passes unseen, and none is seen
    /// twice.
    ///
    /// # Errors
    /// As [`Kernel::attach`]; the stand-ins are still there.
    pub fn hand_over(
        &self,
        netns: &Netns,
        interface: &Interface,
        endpoint: u32,
    ) -> Result<(), KernelError> {
        let name = &interface.name;
        if self.linked_interface(endpoint) != Some(interface.ifindex) {
            self.attach(netns, name, endpoint, TcMechanism::Tcx)?;
        }
        self.detach(Some(netns), name, endpoint, TcMechanism::Clsact)
    }

    /// Attaches to both hooks of an interface; whether that made a clsact
    /// qdisc.
    ///
    /// Both in one visit to the namespace and with nothing between them: a TCX
    /// attachment waits for an RCU grace period, and for two where one is
    /// under way, as the end of a thread or the release of a program begins it.
    fn attach_pair(
        &self,
        netns: &Netns,
        interface: &str,
        mut attach: impl FnMut(&Hook<'_>) -> Result<bool, KernelError> + Send,
    ) -> Result<bool, KernelError> {
        let mut made_qdisc = false;
        let attached = netns.run(|| {
            DIRECTIONS.into_iter().try_for_each(|direction| {
                made_qdisc |= attach(&Hook {
                    interface,
                    direction,
                })?;
                Ok(())
            })
        });
        let attached = attached
            .map_err(|error| refused(format!("attaching to {interface}"), &error))
            .flatten();
        if attached.is_err() && made_qdisc {
            self.release_clsact(netns, interface);
        }
        attached.map(|()| made_qdisc)
    }

    /// Takes both entry programs away. What is gone already is no error;
    /// `netns` is `None` when the namespace itself is.
    ///
    /// # Errors
    /// A pin cannot be removed or a filter not be deleted. The other direction
    /// is dealt with all the same.
    pub fn detach(
        &self,
        netns: Option<&Netns>,
        interface: &str,
        endpoint: u32,
        mechanism: TcMechanism,
    ) -> Result<(), KernelError> {
        let results = DIRECTIONS.map(|direction| match (mechanism, netns) {
            // The pin is all that holds the link.
            (TcMechanism::Tcx, _) => remove(&self.pins().endpoint_link(endpoint, direction)),
            (TcMechanism::Clsact, Some(netns)) => Hook {
                interface,
                direction,
            }
            .detach_clsact(netns),
            (TcMechanism::Clsact, None) => Ok(()),
        });
        results.into_iter().collect()
    }

    /// Removes the clsact qdisc that was made for an interface's filters, unless
    /// others have put theirs on it. One that stays does no harm.
    pub fn release_clsact(&self, netns: &Netns, interface: &str) {
        let released = Netlink::open(netns).and_then(|mut netlink| {
            let ifindex = netlink.interface(interface)?.ifindex;
            netlink.remove_unused_clsact(ifindex)
        });
        if let Err(error) = released {
            tracing::debug!("the clsact qdisc of {interface} stays: {error}");
        }
    }

    /// Puts back those of an endpoint's clsact filters that are missing;
    /// returns how many were.
    ///
    /// # Errors
    /// The interface is gone, or the kernel refuses.
    pub fn restore_filters(
        &self,
        netns: &Netns,
        interface: &str,
        endpoint: u32,
    ) -> Result<u64, KernelError> {
        let mut object = self.instance(ENDPOINT_ID, endpoint)?;
        let mut restored = 0;
        for direction in DIRECTIONS {
            let hook = Hook {
                interface,
                direction,
            };
            let program = load_entry(&mut object, direction)?;
            if hook.attach_clsact(netns, program)?.was_missing {
                restored += 1;
            }
        }
        Ok(restored)
    }

    /// The index of the interface that both of the endpoint's pinned links are
    /// on, in whichever namespace that is; `None` where a link is missing or
    /// its interface is gone. On clsact nothing is held that could be asked.
    pub fn linked_interface(&self, endpoint: u32) -> Option<u32> {
        let [ingress, egress] = DIRECTIONS.map(|direction| {
            let pin = self.pins().endpoint_link(endpoint, direction);
            sys::link_interface(&pin).ok()
        });
        ingress.filter(|ifindex| *ifindex != 0 && egress == Some(*ifindex))
    }

    /// Puts this version's entry programs behind an endpoint's links, each in
    /// one step.
    ///
    /// # Errors
    /// A link is missing or dead: the endpoint must be attached anew.
    pub fn refresh(&self, endpoint: u32) -> Result<(), KernelError> {
        let mut object = self.instance(ENDPOINT_ID, endpoint)?;
        DIRECTIONS.into_iter().try_for_each(|direction| {
            let pin = self.pins().endpoint_link(endpoint, direction);
            replace_link(load_entry(&mut object, direction)?, &pin)
        })
    }

    /// Tags of this version's entry programs: where an endpoint was attached
    /// with others, it wants a [`Kernel::refresh`].
    ///
    /// # Errors
    /// The kernel refuses them.
    pub fn entry_tags(&self) -> Result<[u64; 2], KernelError> {
        let mut object = self.instance(ENDPOINT_ID, 0)?;
        let mut tags = [0; 2];
        for (tag, direction) in tags.iter_mut().zip(DIRECTIONS) {
            let program = load_entry(&mut object, direction)?;
            *tag = program
                .info()
                .map_err(|error| refused("asking for an entry program", &error))?
                .tag();
        }
        Ok(tags)
    }
}

fn entry_name(direction: Direction) -> String {
    format!("entry_{}", direction.name())
}

pub(super) fn stand_in_name(direction: Direction) -> String {
    format!("standin_{}", direction.name())
}

fn load_entry(
    object: &mut Ebpf,
    direction: Direction,
) -> Result<&mut SchedClassifier, KernelError> {
    load_program(object, &entry_name(direction))
}

fn load_program<'a>(
    object: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, KernelError> {
    let program = classifier(object, name)?;
    program
        .load()
        .map_err(|error| refused(format!("loading {name}"), &error))?;
    Ok(program)
}

/// Puts a new program behind a pinned link, in one step.
pub(super) fn replace_link(program: &mut SchedClassifier, pin: &Path) -> Result<(), KernelError> {
    let what = || format!("replacing the program of {}", pin.display());
    let describe = |error: &(dyn std::error::Error + 'static)| match errno(error) {
        // The device was deleted under the link.
        Some(ENOLINK) => KernelError::InterfaceGone(pin.display().to_string()),
        _ => refused(what(), error),
    };
    let link: FdLink = PinnedLink::from_pin(pin)
        .map_err(|error| refused(what(), &error))?
        .into();
    let link = SchedClassifierLink::try_from(link).map_err(|error| refused(what(), &error))?;
    // The pin keeps the link when our descriptor is closed.
    program
        .attach_to_link(link)
        .map(drop)
        .map_err(|error| describe(&error))
}

/// What it took to put a filter in place.
pub(super) struct Filter {
    /// None of ours was there.
    was_missing: bool,
    /// Nor was the clsact qdisc.
    pub(super) made_qdisc: bool,
}

/// One TC hook of one interface.
pub(super) struct Hook<'a> {
    pub(super) interface: &'a str,
    pub(super) direction: Direction,
}

impl Hook<'_> {
    fn attach_type(&self) -> TcAttachType {
        match self.direction {
            Direction::Ingress => TcAttachType::Ingress,
            Direction::Egress => TcAttachType::Egress,
        }
    }

    fn what(&self) -> String {
        format!(
            "attaching to the {} hook of {}",
            self.direction.name(),
            self.interface
        )
    }

    fn describe(&self, error: &(dyn std::error::Error + 'static)) -> KernelError {
        match errno(error) {
            Some(ENODEV) => KernelError::InterfaceGone(self.interface.to_owned()),
            _ => refused(self.what(), error),
        }
    }

    /// Runs first on the hook, held by a pinned link.
    pub(super) fn attach_tcx(
        &self,
        netns: &Netns,
        program: &mut SchedClassifier,
        pin: &Path,
    ) -> Result<(), KernelError> {
        self.enter(netns, || self.attach_tcx_here(program, pin))
    }

    /// As [`Hook::attach_tcx`], from a thread that is in the namespace.
    fn attach_tcx_here(
        &self,
        program: &mut SchedClassifier,
        pin: &Path,
    ) -> Result<(), KernelError> {
        // A pin that is there belongs to an interface that is gone: the caller
        // has looked.
        remove(pin)?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let link = program
            .attach_with_options(self.interface, self.attach_type(), options)
            .and_then(|id| program.take_link(id))
            .map_err(|error| self.describe(&error))?;
        let link = FdLink::try_from(link).map_err(|error| refused(self.what(), &error))?;
        link.pin(pin)
            .map(drop)
            .map_err(|error| refused(format!("pinning {}", pin.display()), &error))
    }

    fn enter<T: Send>(
        &self,
        netns: &Netns,
        work: impl FnOnce() -> Result<T, KernelError> + Send,
    ) -> Result<T, KernelError> {
        netns
            .run(work)
            .map_err(|error| refused(self.what(), &error))?
    }

    /// A filter on the clsact qdisc, replacing one of ours that is there.
    pub(super) fn attach_clsact(
        &self,
        netns: &Netns,
        program: &mut SchedClassifier,
    ) -> Result<Filter, KernelError> {
        self.enter(netns, || self.attach_clsact_here(program, None))
    }

    /// As [`Hook::attach_clsact`], from a thread that is in the namespace.
    fn attach_clsact_here(
        &self,
        program: &mut SchedClassifier,
        class: Option<u32>,
    ) -> Result<Filter, KernelError> {
        self.add_filter(program, class)
            .map_err(|error| self.describe(&error))
    }

    fn add_filter(
        &self,
        program: &mut SchedClassifier,
        class: Option<u32>,
    ) -> Result<Filter, ProgramError> {
        let classid = class.map(TcHandle::from);
        let made_qdisc = match qdisc_add_clsact(self.interface) {
            Ok(()) => true,
            Err(error) if errno(&error) == Some(EEXIST) => false,
            Err(error) => return Err(error.into()),
        };
        let options = TcAttachOptions::Netlink(NlOptions {
            priority: FILTER_PRIORITY,
            handle: FILTER_HANDLE,
            classid,
        });
        let created = program.attach_with_options(self.interface, self.attach_type(), options);
        let (id, was_missing) = match created {
            Err(error) if errno(&error) == Some(EEXIST) => {
                (program.attach_to_link(self.filter(classid)?)?, false)
            }
            created => (created?, true),
        };
        // Dropping the link would delete the filter.
        mem::forget(program.take_link(id)?);
        Ok(Filter {
            was_missing,
            made_qdisc,
        })
    }

    fn filter(&self, classid: Option<TcHandle>) -> Result<SchedClassifierLink, ProgramError> {
        SchedClassifierLink::attached(
            self.interface,
            self.attach_type(),
            FILTER_PRIORITY,
            FILTER_HANDLE,
            classid,
        )
        .map_err(ProgramError::IOError)
    }

    pub(super) fn detach_clsact(&self, netns: &Netns) -> Result<(), KernelError> {
        let detached = netns.run(|| {
            use aya::programs::links::Link as _;
            self.filter(None)?.detach()
        });
        let gone = |error: &(dyn std::error::Error + 'static)| {
            matches!(errno(error), Some(ENODEV | ENOENT))
        };
        match detached {
            Ok(Err(error)) if !gone(&error) => Err(refused(
                format!("detaching from {}", self.interface),
                &error,
            )),
            _ => Ok(()),
        }
    }
}
