//! `sluice endpoints`.

use super::table::{Table, optional};
use crate::api::types::{Endpoint, Health, TcMechanism};

/// One line for each endpoint.
pub(super) fn table(endpoints: &[Endpoint]) -> String {
    let mut table = Table::new(&[
        "#ID",
        "POD",
        "NETNS",
        "INTERFACE",
        "KIND",
        "MAC",
        "ADDRESSES",
        "UPLINK",
        "TC",
        "STATE",
    ]);
    for endpoint in endpoints {
        let addresses: Vec<_> = endpoint
            .addresses
            .iter()
            .map(|address| address.addr().to_string())
            // Every interface has one; it tells nothing.
            .filter(|address| !address.starts_with("fe80:"))
            .collect();
        table.row(vec![
            endpoint.id.to_string(),
            optional(&endpoint.pod),
            endpoint.netns.to_string(),
            match &endpoint.beside {
                Some(beside) => format!("{} (beside {beside})", endpoint.interface),
                None => endpoint.interface.clone(),
            },
            endpoint.kind.clone(),
            optional(&endpoint.mac),
            addresses.join(","),
            optional(&endpoint.uplink),
            mechanism(endpoint.mechanism).into(),
            health(&endpoint.health),
        ]);
    }
    table.text()
}

pub(super) fn mechanism(mechanism: TcMechanism) -> &'static str {
    match mechanism {
        TcMechanism::Tcx => "tcx",
        TcMechanism::Clsact => "clsact",
    }
}

pub(super) fn health(health: &Health) -> String {
    match health {
        Health::Attached => "attached".into(),
        Health::Lost(reason) => format!("LOST: {reason}"),
    }
}
