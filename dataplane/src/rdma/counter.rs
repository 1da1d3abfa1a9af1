//! The counters that a device keeps of itself: by port, and by sets of queue pairs.
//!
//! The name of a counter is the driver's.

use std::{cell::RefCell, mem, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Rdma, RdmaError,
    wire::{self, optional, required},
};
use crate::netlink::decode::Malformed;

/// `RDMA_COUNTER_MODE_*` and `RDMA_COUNTER_MASK_*`.
const MODE_NONE: u32 = 0;
const MODE_AUTO: u32 = 1;
const MODE_MANUAL: u32 = 2;
const MASK_QP_TYPE: u32 = 1;
const MASK_PID: u32 = 2;

/// A counter. It wraps as the hardware does: some have 32 bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HwCounter {
    /// The driver's name for it, which the readings of a socket share.
    pub name: Arc<str>,
    /// Its value.
    pub value: u64,
}

/// The counters of some queue pairs. When a set ends, the kernel adds its counts to the port's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterSet {
    /// The port.
    pub port: u32,
    /// Unique at its port.
    pub id: u32,
    /// The process whose queue pairs these are, when sets are made by process.
    pub process: Option<u32>,
    /// The queue pairs in it.
    pub queue_pairs: Vec<u32>,
    /// Their counters.
    pub counters: Vec<HwCounter>,
}

/// How queue pairs come into counter sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CounterMode {
    /// There are no sets.
    Off,
    /// Each queue pair that a program makes from now on, by these criteria.
    Auto {
        /// A set for each type of queue pair.
        by_type: bool,
        /// A set for each process.
        by_process: bool,
    },
    /// By hand.
    Manual,
}

/// A counter that costs something and can be switched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptionalCounter {
    /// By this it is switched.
    pub index: u32,
    /// The driver's name for it.
    pub name: String,
    /// Whether it counts.
    pub enabled: bool,
}

/// Names of counters as they came last. A driver lists its counters in the same order each time, so
/// that each name is nearly always the one that was there before, and is not made anew.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<Arc<str>>);

impl Names {
    /// The name in an attribute, that of the counter at `place` of a list.
    fn read(&mut self, place: usize, value: &[u8]) -> Result<Arc<str>, Malformed> {
        if let Some(known) = self.0.get(place)
            && value.split_last() == Some((&0, known.as_bytes()))
        {
            return Ok(known.clone());
        }
        let name: Arc<str> = wire::text(value)?.into();
        match self.0.get_mut(place) {
            Some(known) => *known = name.clone(),
            None => self.0.push(name.clone()),
        }
        Ok(name)
    }
}

fn decode_counters(names: &RefCell<Names>, list: &[u8]) -> Result<Vec<HwCounter>, Malformed> {
    let mut names = names.borrow_mut();
    let mut counters = Vec::with_capacity(names.0.len());
    wire::each_of(list, wire::STAT_HWCOUNTER_ENTRY, |entry| {
        let [name, value] = wire::fields(
            entry,
            [
                wire::STAT_HWCOUNTER_ENTRY_NAME,
                wire::STAT_HWCOUNTER_ENTRY_VALUE,
            ],
        )?;
        let place = counters.len();
        counters.push(HwCounter {
            name: required(name, |name| names.read(place, name))?,
            value: required(value, wire::u64)?,
        });
        Ok(())
    })?;
    Ok(counters)
}

pub(super) fn decode_port_counters(
    names: &RefCell<Names>,
    body: &[u8],
) -> Result<Vec<HwCounter>, Malformed> {
    let [counters] = wire::fields(body, [wire::STAT_HWCOUNTERS])?;
    required(counters, |list| decode_counters(names, list))
}

impl CounterSet {
    fn decode(names: &RefCell<Names>, entry: &[u8]) -> Result<Self, Malformed> {
        let [port, id, process, pairs, counters] = wire::fields(
            entry,
            [
                wire::PORT_INDEX,
                wire::STAT_COUNTER_ID,
                wire::RES_PID,
                wire::RES_QP,
                wire::STAT_HWCOUNTERS,
            ],
        )?;
        let mut queue_pairs = Vec::new();
        wire::each_of(pairs.unwrap_or_default(), wire::RES_QP_ENTRY, |entry| {
            let [number] = wire::fields(entry, [wire::RES_LQPN])?;
            queue_pairs.extend(optional(number, wire::u32)?);
            Ok(())
        })?;
        Ok(Self {
            port: required(port, wire::u32)?,
            id: required(id, wire::u32)?,
            process: optional(process, wire::u32)?.filter(|&process| process != 0),
            queue_pairs,
            counters: required(counters, |list| decode_counters(names, list))?,
        })
    }

    pub(super) fn decode_all(names: &RefCell<Names>, body: &[u8]) -> Result<Vec<Self>, Malformed> {
        let (list, entry) = (wire::STAT_COUNTER, wire::STAT_COUNTER_ENTRY);
        wire::list(body, list, entry, |entry| Self::decode(names, entry))
    }
}

impl CounterMode {
    pub(super) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let [mode, mask] = wire::fields(body, [wire::STAT_MODE, wire::STAT_AUTO_MODE_MASK])?;
        let mask = optional(mask, wire::u32)?.unwrap_or_default();
        match required(mode, wire::u32)? {
            MODE_NONE => Ok(Self::Off),
            MODE_AUTO => Ok(Self::Auto {
                by_type: mask & MASK_QP_TYPE != 0,
                by_process: mask & MASK_PID != 0,
            }),
            MODE_MANUAL => Ok(Self::Manual),
            _ => Err(Malformed),
        }
    }
}

pub(super) fn decode_optional(body: &[u8]) -> Result<Vec<OptionalCounter>, Malformed> {
    let entries = wire::list(
        body,
        wire::STAT_HWCOUNTERS,
        wire::STAT_HWCOUNTER_ENTRY,
        |entry| {
            let [index, name, enabled] = wire::fields(
                entry,
                [
                    wire::STAT_HWCOUNTER_INDEX,
                    wire::STAT_HWCOUNTER_ENTRY_NAME,
                    wire::STAT_HWCOUNTER_DYNAMIC,
                ],
            )?;
            // Those that cannot be switched have no such flag.
            let Some(enabled) = optional(enabled, wire::byte)? else {
                return Ok(None);
            };
            Ok(Some(OptionalCounter {
                index: required(index, wire::u32)?,
                name: required(name, wire::text)?,
                enabled: enabled != 0,
            }))
        },
    )?;
    Ok(entries.into_iter().flatten().collect())
}

impl Rdma {
    /// The counters of a port.
    ///
    /// # Errors
    /// [`RdmaError::Request`]: EOPNOTSUPP or EINVAL from a driver that has none.
    pub fn port_counters(&mut self, device: u32, port: u32) -> Result<Vec<HwCounter>, RdmaError> {
        let request = at_port(wire::CMD_STAT_GET, device, port);
        let what = || format!("read the counters of port {port} of RDMA device {device}");
        let names = RefCell::new(mem::take(&mut self.port_names));
        let counters = self.get(what, request, |body| decode_port_counters(&names, body));
        self.port_names = names.into_inner();
        counters
    }

    /// The counter sets of a port.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn counter_sets(&mut self, device: u32, port: u32) -> Result<Vec<CounterSet>, RdmaError> {
        let request = of_queue_pairs(at_port(wire::CMD_STAT_GET, device, port));
        let what = || format!("read the counter sets of port {port} of RDMA device {device}");
        let names = RefCell::new(mem::take(&mut self.set_names));
        let messages = self.dump(what, request, |body| CounterSet::decode_all(&names, body));
        self.set_names = names.into_inner();
        Ok(messages?.into_iter().flatten().collect())
    }

    /// How queue pairs come into the counter sets of a port.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn counter_mode(&mut self, device: u32, port: u32) -> Result<CounterMode, RdmaError> {
        // The mode's value is not looked at; its presence is what asks for the mode.
        let request = of_queue_pairs(at_port(wire::CMD_STAT_GET, device, port))
            .u32(wire::STAT_MODE, MODE_NONE);
        self.get(
            || format!("read the counter mode of port {port} of RDMA device {device}"),
            request,
            CounterMode::decode,
        )
    }

    /// Makes counter sets for the queue pairs that programs make from now on; with neither
    /// criterion, no more. Only a few drivers can (mlx5, ionic). With `optional`, sets have optional
    /// counters too (mlx5's packets and bytes), which needs Linux 6.15: older ones refuse (EINVAL).
    ///
    /// # Errors
    /// [`RdmaError::Request`]: EBUSY while sets made otherwise exist, EOPNOTSUPP.
    pub fn set_auto_counters(
        &mut self,
        device: u32,
        port: u32,
        by_type: bool,
        by_process: bool,
        optional: bool,
    ) -> Result<(), RdmaError> {
        let mask = (u32::from(by_type) * MASK_QP_TYPE) | (u32::from(by_process) * MASK_PID);
        let request = of_queue_pairs(at_port(wire::CMD_STAT_SET, device, port))
            .u32(wire::STAT_MODE, MODE_AUTO)
            .u32(wire::STAT_AUTO_MODE_MASK, mask);
        let request = if optional {
            request.attribute(wire::STAT_OPCOUNTER_ENABLED, &[1])
        } else {
            request
        };
        self.change(
            || format!("set the counter mode of port {port} of RDMA device {device}"),
            request,
            |errno| match errno {
                libc::EBUSY => "counter sets made in another mode exist; wait until they end",
                libc::EOPNOTSUPP => "the driver has no counters of queue pairs",
                _ => "",
            },
        )
    }

    /// The counters of a port that can be switched.
    ///
    /// # Errors
    /// [`RdmaError::Request`]; before Linux 5.16 there were none.
    pub fn optional_counters(
        &mut self,
        device: u32,
        port: u32,
    ) -> Result<Vec<OptionalCounter>, RdmaError> {
        let request = at_port(wire::CMD_STAT_GET_STATUS, device, port);
        self.get(
            || format!("list the optional counters of port {port} of RDMA device {device}"),
            request,
            decode_optional,
        )
    }

    /// Switches optional counters on, those with these indices, and all others off.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn set_optional_counters(
        &mut self,
        device: u32,
        port: u32,
        indices: &[u32],
    ) -> Result<(), RdmaError> {
        let request =
            at_port(wire::CMD_STAT_SET, device, port).nested(wire::STAT_HWCOUNTERS, |list| {
                indices.iter().fold(list, |list, &index| {
                    list.u32(wire::STAT_HWCOUNTER_INDEX, index)
                })
            });
        self.change(
            || format!("set the optional counters of port {port} of RDMA device {device}"),
            request,
            |_| "",
        )
    }
}

fn at_port(command: u16, device: u32, port: u32) -> crate::netlink::Request {
    wire::request(command)
        .u32(wire::DEV_INDEX, device)
        .u32(wire::PORT_INDEX, port)
}

/// Says that queue pairs are meant (`STAT_RES` is the number of the attribute that lists them).
fn of_queue_pairs(request: crate::netlink::Request) -> crate::netlink::Request {
    request.u32(wire::STAT_RES, u32::from(wire::RES_QP))
}

/// Feeds any bytes to every decoder of this file, for the fuzzer.
pub(super) fn exercise(body: &[u8]) {
    let names = RefCell::default();
    let _ = decode_port_counters(&names, body);
    let _ = CounterSet::decode_all(&names, body);
    let _ = CounterMode::decode(body);
    let _ = decode_optional(body);
}
