//! The steps, in their order. Each says what it does, does it, and verifies what came of it.

mod attach;
mod crash;
mod look;
mod reach;
mod start;
mod traffic;
mod trouble;

use std::{path::PathBuf, time::Duration};

use anyhow::Result;

pub(super) use self::{
    attach::attach,
    crash::crash,
    look::{keep, look},
    reach::host_reach,
    start::start,
    traffic::traffic,
    trouble::trouble,
};
use super::{prepare, screen, topology::Topology};

/// Steps in all.
const STEPS: usize = 9;

/// Gets the tools, and builds `sluice` where none is given.
pub(super) fn ready(sluice: Option<PathBuf>) -> Result<PathBuf> {
    screen::title(1, STEPS, "Tools and build");
    prepare(sluice)
}

/// Makes the namespaces.
pub(super) fn network(prefix: &str) -> Result<Topology> {
    screen::title(
        2,
        STEPS,
        "A node, three pods and another machine, in network namespaces",
    );
    let topology = Topology::new(prefix)?;
    for line in topology.picture() {
        screen::line(&line);
    }
    screen::note("red and blue hang off the NIC (Multus' net1), green off the main network");
    Ok(topology)
}

/// Says that it is over.
pub(super) fn end(took: Duration) {
    screen::line("");
    screen::good(&format!(
        "everything held; namespaces, pins and files are removed ({} s without the build)",
        took.as_secs()
    ));
    screen::note("`cargo xtask demo --keep` leaves it running for you to look around");
}
