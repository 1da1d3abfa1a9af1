//! The pods join the dataplane.

use anyhow::{Context as _, Result, ensure};

use super::STEPS;
use crate::demo::{Stage, model::Endpoint, screen};

/// Attaches the three pods.
pub(in crate::demo) fn attach(stage: &Stage) -> Result<()> {
    screen::title(
        4,
        STEPS,
        "Attach the pods: an entry program each way, in the pod's namespace",
    );
    let Stage { agent, topology } = stage;
    for pod in topology.pods() {
        agent.show(&format!(
            "attach --netns {} {} --pod {}",
            pod.namespace.name(),
            pod.interface,
            pod.full_name()
        ))?;
    }
    let endpoints: Vec<Endpoint> = agent.json("endpoints")?;
    for (pod, kind) in topology
        .pods()
        .into_iter()
        .zip(["macvlan bridge", "macvlan bridge", "veth"])
    {
        let found = endpoints
            .iter()
            .find(|endpoint| endpoint.pod_name() == Some(pod.name))
            .with_context(|| format!("pod {} is not among the endpoints", pod.name))?;
        ensure!(
            found.interface == pod.interface && found.kind == kind && found.state == "attached",
            "pod {} is not attached as it should be: {found:?}",
            pod.name
        );
    }
    screen::good("three endpoints, all attached");
    Ok(())
}
