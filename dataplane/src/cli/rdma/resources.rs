//! `sluice rdma resources`.

use super::super::{Output, table::Table};
use crate::{
    api::{client::Client, hardware::RdmaResources, types::PodName},
    hw::Holder,
    rdma::{Owner, ResourceKind},
};

/// Show RDMA objects and whose they are.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Resources {
    /// Only this pod's, written NAMESPACE/NAME
    #[arg(long)]
    pod: Option<PodName>,
    #[command(flatten)]
    output: Output,
}

impl Resources {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let mut resources = client.rdma_resources().await?;
        if let Some(wanted) = &self.pod {
            let is_wanted = |holder: &Holder| matches!(holder, Holder::Pod { pod: Some(pod), .. } if pod == wanted);
            resources.holdings.retain(|held| is_wanted(&held.holder));
            resources.queue_pairs.retain(|pair| is_wanted(&pair.holder));
        }
        self.output.print(&resources, table)
    }
}

/// A line for each holder and device, then one for each queue pair.
fn table(resources: &RdmaResources) -> String {
    let mut held = Table::new(&[
        "DEVICE", "NETNS", "OWNER", "#QP", "#CQ", "#MR", "#PD", "#CM_ID",
    ]);
    let mut rows: Vec<(_, [u64; ResourceKind::ALL.len()])> = Vec::new();
    for holding in &resources.holdings {
        let key = (&holding.device, &holding.netns, &holding.holder);
        let place = rows.iter().position(|(known, _)| *known == key);
        let place = place.unwrap_or_else(|| {
            rows.push((key, Default::default()));
            rows.len() - 1
        });
        let kind = ResourceKind::ALL
            .iter()
            .position(|kind| *kind == holding.kind);
        if let (Some((_, counts)), Some(kind)) = (rows.get_mut(place), kind) {
            counts[kind] = holding.count;
        }
    }
    for ((device, netns, holder), counts) in rows {
        let mut row = vec![device.clone(), netns.to_string(), name(holder)];
        row.extend(counts.map(|count| count.to_string()));
        held.row(row);
    }
    if resources.holdings.is_empty() && resources.queue_pairs.is_empty() {
        return "no RDMA objects\n".to_owned();
    }
    let mut pairs = Table::new(&[
        "DEVICE",
        "PORT",
        "#QP",
        "TYPE",
        "STATE",
        "#REMOTE QP",
        "OWNER",
        "PROCESS",
    ]);
    for owned in &resources.queue_pairs {
        let pair = &owned.pair;
        let number = |number: Option<u32>| number.map(|number| number.to_string());
        pairs.row(vec![
            owned.device.clone(),
            number(pair.port).unwrap_or_default(),
            pair.number.to_string(),
            pair.kind.to_string(),
            pair.state.to_string(),
            number(pair.remote).unwrap_or_default(),
            name(&owned.holder),
            match (&pair.owner, &owned.process) {
                (Owner::Process(pid), Some(name)) => format!("{name} ({pid})"),
                (Owner::Process(pid), None) => pid.to_string(),
                (Owner::Kernel(part), _) => format!("[{part}]"),
                (Owner::Unknown, _) => String::new(),
            },
        ]);
    }
    [held.text(), pairs.text()].join("\n")
}

/// A pod's name, or what else is known of it.
fn name(holder: &Holder) -> String {
    match holder {
        Holder::Pod { pod: Some(pod), .. } => pod.to_string(),
        Holder::Pod { uid: Some(uid), .. } => format!("pod {uid}"),
        Holder::Pod {
            endpoint: Some(endpoint),
            ..
        } => format!("endpoint {endpoint}"),
        other => other.label().to_owned(),
    }
}
