//! The counters that a device keeps of itself: by port, and by sets of queue pairs.
//!
//! The name of a counter is the driver's.

use serde::{Deserialize, Serialize};

use super::{Rdma, RdmaError, wire};
use crate::netlink::decode::Malformed;

/// `RDMA_COUNTER_MODE_*` and `RDMA_COUNTER_MASK_*`.
const MODE_NONE: u32 = 0;
const MODE_AUTO: u32 = 1;
const MODE_MANUAL: u32 = 2;
const MASK_QP_TYPE: u32 = 1;
const MASK_PID: u32 = 2;

/// A counter. It wraps as the hardware does: some have 32 bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HwCounter {
    /// The driver's name for it.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// The counters of some queue pairs. When a set ends, the kernel adds its counts to the port's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

fn decode_counters(list: &[u8]) -> Result<Vec<HwCounter>, Malformed> {
    let mut counters = Vec::new();
    wire::each(list, |kind, entry| {
        if kind != wire::STAT_HWCOUNTER_ENTRY {
            return Ok(());
        }
        let (mut name, mut value) = (None, None);
        wire::each(entry, |kind, bytes| {
            match kind {
                wire::STAT_HWCOUNTER_ENTRY_NAME => name = Some(wire::text(bytes)?),
                wire::STAT_HWCOUNTER_ENTRY_VALUE => value = Some(wire::u64(bytes)?),
                _ => {}
            }
            Ok(())
        })?;
        counters.push(HwCounter {
            name: name.ok_or(Malformed)?,
            value: value.ok_or(Malformed)?,
        });
        Ok(())
    })?;
    Ok(counters)
}

pub(super) fn decode_port_counters(body: &[u8]) -> Result<Vec<HwCounter>, Malformed> {
    let mut counters = None;
    wire::each(body, |kind, value| {
        if kind == wire::STAT_HWCOUNTERS {
            counters = Some(decode_counters(value)?);
        }
        Ok(())
    })?;
    counters.ok_or(Malformed)
}

impl CounterSet {
    fn decode(entry: &[u8]) -> Result<Self, Malformed> {
        let (mut port, mut id, mut process) = (None, None, None);
        let (mut queue_pairs, mut counters) = (Vec::new(), None);
        wire::each(entry, |kind, value| {
            match kind {
                wire::PORT_INDEX => port = Some(wire::u32(value)?),
                wire::STAT_COUNTER_ID => id = Some(wire::u32(value)?),
                wire::RES_PID => process = Some(wire::u32(value)?),
                wire::STAT_HWCOUNTERS => counters = Some(decode_counters(value)?),
                wire::RES_QP => wire::each(value, |kind, entry| {
                    if kind != wire::RES_QP_ENTRY {
                        return Ok(());
                    }
                    wire::each(entry, |kind, number| {
                        if kind == wire::RES_LQPN {
                            queue_pairs.push(wire::u32(number)?);
                        }
                        Ok(())
                    })
                })?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(Self {
            port: port.ok_or(Malformed)?,
            id: id.ok_or(Malformed)?,
            process: process.filter(|&process| process != 0),
            queue_pairs,
            counters: counters.ok_or(Malformed)?,
        })
    }

    pub(super) fn decode_all(body: &[u8]) -> Result<Vec<Self>, Malformed> {
        let mut sets = Vec::new();
        wire::each_entry(
            body,
            wire::STAT_COUNTER,
            wire::STAT_COUNTER_ENTRY,
            |entry| {
                sets.push(Self::decode(entry)?);
                Ok(())
            },
        )?;
        Ok(sets)
    }
}

impl CounterMode {
    pub(super) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let (mut mode, mut mask) = (None, 0);
        wire::each(body, |kind, value| {
            match kind {
                wire::STAT_MODE => mode = Some(wire::u32(value)?),
                wire::STAT_AUTO_MODE_MASK => mask = wire::u32(value)?,
                _ => {}
            }
            Ok(())
        })?;
        match mode.ok_or(Malformed)? {
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
    let mut counters = Vec::new();
    wire::each_entry(
        body,
        wire::STAT_HWCOUNTERS,
        wire::STAT_HWCOUNTER_ENTRY,
        |entry| {
            let (mut index, mut name, mut enabled) = (None, None, None);
            wire::each(entry, |kind, value| {
                match kind {
                    wire::STAT_HWCOUNTER_INDEX => index = Some(wire::u32(value)?),
                    wire::STAT_HWCOUNTER_ENTRY_NAME => name = Some(wire::text(value)?),
                    wire::STAT_HWCOUNTER_DYNAMIC => enabled = Some(wire::byte(value)? != 0),
                    _ => {}
                }
                Ok(())
            })?;
            // Those that cannot be switched have no such flag.
            if let Some(enabled) = enabled {
                counters.push(OptionalCounter {
                    index: index.ok_or(Malformed)?,
                    name: name.ok_or(Malformed)?,
                    enabled,
                });
            }
            Ok(())
        },
    )?;
    Ok(counters)
}

impl Rdma {
    /// The counters of a port.
    ///
    /// # Errors
    /// [`RdmaError::Request`]: EOPNOTSUPP or EINVAL from a driver that has none.
    pub fn port_counters(&mut self, device: u32, port: u32) -> Result<Vec<HwCounter>, RdmaError> {
        let request = at_port(wire::CMD_STAT_GET, device, port);
        self.get(
            || format!("read the counters of port {port} of RDMA device {device}"),
            request,
            decode_port_counters,
        )
    }

    /// The counter sets of a port.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn counter_sets(&mut self, device: u32, port: u32) -> Result<Vec<CounterSet>, RdmaError> {
        let request = of_queue_pairs(at_port(wire::CMD_STAT_GET, device, port));
        let what = || format!("read the counter sets of port {port} of RDMA device {device}");
        let messages = self.dump(what, request, CounterSet::decode_all)?;
        Ok(messages.into_iter().flatten().collect())
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
    /// criterion, no more. Only a few drivers can (mlx5, ionic).
    ///
    /// # Errors
    /// [`RdmaError::Request`]: EBUSY while sets made otherwise exist, EOPNOTSUPP.
    pub fn set_auto_counters(
        &mut self,
        device: u32,
        port: u32,
        by_type: bool,
        by_process: bool,
    ) -> Result<(), RdmaError> {
        let mask = (u32::from(by_type) * MASK_QP_TYPE) | (u32::from(by_process) * MASK_PID);
        let request = of_queue_pairs(at_port(wire::CMD_STAT_SET, device, port))
            .u32(wire::STAT_MODE, MODE_AUTO)
            .u32(wire::STAT_AUTO_MODE_MASK, mask);
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
    let _ = decode_port_counters(body);
    let _ = CounterSet::decode_all(body);
    let _ = CounterMode::decode(body);
    let _ = decode_optional(body);
}
