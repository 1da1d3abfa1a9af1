//! Policy: what it costs a packet, a connection, a change.

pub(crate) mod change;
pub(crate) mod packet;
mod rival;
pub(crate) mod scale;
pub(crate) mod traffic;

use std::net::Ipv4Addr;

use anyhow::Result;
use ipnet::Ipv4Net;

/// The prefix of this number, of up to 65,536 disjoint ones in 11.0.0.0/8.
fn prefix(number: u32) -> Result<Ipv4Net> {
    let [low, high, ..] = number.to_le_bytes();
    Ok(Ipv4Net::new(Ipv4Addr::new(11, low, high, 0), 24)?)
}
