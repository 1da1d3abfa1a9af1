//! The agent's start.

use anyhow::{Result, bail};

use super::STEPS;
use crate::demo::{Stage, screen};

/// Starts the agent on the node.
pub(in crate::demo) fn start(stage: &mut Stage) -> Result<()> {
    screen::title(
        3,
        STEPS,
        "The agent starts: it loads the eBPF programs and pins them",
    );
    screen::command(
        "sluice agent",
        Some("the node, with files and pins of its own"),
    );
    let status = stage.agent.start(&stage.topology.node)?;
    if let Some(problem) = status.problems.first() {
        bail!("the agent sees a problem: {problem}");
    }
    screen::good(&format!(
        "sluice {} answers; Linux {}, programs attach by {}",
        status.version, status.kernel, status.mechanism
    ));
    screen::note(&format!("pins: {}", status.pins));
    screen::note(&format!(
        "maps: {:.1} MiB when full",
        status.memory_bytes as f64 / f64::from(1 << 20)
    ));
    Ok(())
}
