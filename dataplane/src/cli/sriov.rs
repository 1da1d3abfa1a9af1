//! `sluice sriov`.

use super::{Output, table::Table};
use crate::{
    api::{
        client::Client,
        hardware::{Pf, Vf, VfsRequest},
    },
    link::VfState,
};

/// Show and make virtual functions.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Sriov {
    /// Show the NICs with SR-IOV and their VFs
    Show {
        #[command(flatten)]
        output: Output,
    },
    /// Have a NIC make VFs
    ///
    /// Does nothing when it has that many. Refused while one of its VFs is in use: the kernel can
    /// change the number only by ending them all.
    Set {
        /// The NIC, by its interface or PCI address
        #[arg(long, value_name = "DEV")]
        pf: String,
        /// How many VFs it is to have
        #[arg(long, value_name = "N")]
        num_vfs: u32,
        #[command(flatten)]
        output: Output,
    },
}

impl Sriov {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        match self {
            Self::Show { output } => output.print(&client.sriov().await?, |pfs| table(pfs)),
            Self::Set {
                pf,
                num_vfs,
                output,
            } => {
                let pf = client.set_vfs(&VfsRequest { pf, num_vfs }).await?;
                output.print(&pf, |pf| table(std::slice::from_ref(pf)))
            }
        }
    }
}

/// A line for each NIC and each VF.
fn table(pfs: &[Pf]) -> String {
    if pfs.is_empty() {
        return "no NIC with SR-IOV\n".to_owned();
    }
    let mut nics = Table::new(&[
        "NIC", "PCI", "VENDOR", "DEVICE", "DRIVER", "CARRIER", "#VFS", "#OF",
    ]);
    let mut functions = Table::new(&[
        "NIC",
        "#VF",
        "PCI",
        "DRIVER",
        "INTERFACE",
        "RDMA",
        "USE",
        "MAC",
        "VLAN",
        "SETTINGS",
    ]);
    for pf in pfs {
        let name = pf.interface.clone().unwrap_or_else(|| pf.pci.clone());
        nics.row(vec![
            name.clone(),
            pf.pci.clone(),
            pf.vendor.clone(),
            pf.device.clone(),
            pf.driver.clone().unwrap_or_default(),
            if pf.carrier { "yes" } else { "no" }.to_owned(),
            pf.vfs.len().to_string(),
            pf.total_vfs.to_string(),
        ]);
        for vf in &pf.vfs {
            functions.row(vf_row(&name, vf));
        }
    }
    if pfs.iter().all(|pf| pf.vfs.is_empty()) {
        return nics.text();
    }
    [nics.text(), functions.text()].join("\n")
}

fn vf_row(nic: &str, vf: &Vf) -> Vec<String> {
    let user = match (&vf.pod, vf.endpoint, vf.in_use) {
        (Some(pod), _, _) => pod.to_string(),
        (None, Some(id), _) => format!("endpoint {id}"),
        (None, None, true) => "in use".to_owned(),
        (None, None, false) => "free".to_owned(),
    };
    let mac = vf.state.and_then(|state| state.mac);
    let vlan = vf.state.map(|state| state.vlan.id).filter(|&id| id != 0);
    vec![
        nic.to_owned(),
        vf.index.to_string(),
        vf.pci.clone(),
        vf.driver.clone().unwrap_or_default(),
        vf.interface.clone().unwrap_or_default(),
        vf.rdma.join(","),
        user,
        mac.map(|mac| mac.to_string()).unwrap_or_default(),
        vlan.map(|id| id.to_string()).unwrap_or_default(),
        vf.state.as_ref().map(settings).unwrap_or_default(),
    ]
}

/// What is not at rest.
fn settings(state: &VfState) -> String {
    let mut words = Vec::new();
    let switches = [("spoofchk", state.spoofchk), ("trust", state.trust)];
    for (name, on) in switches {
        words.extend(on.filter(|&on| on).map(|_| name.to_owned()));
    }
    if let Some(link) = state.link
        && link != crate::link::VfLink::Auto
    {
        words.push(format!("link {link:?}").to_lowercase());
    }
    if state.min_tx_rate != 0 {
        words.push(format!("min {} Mbit/s", state.min_tx_rate));
    }
    if state.max_tx_rate != 0 {
        words.push(format!("max {} Mbit/s", state.max_tx_rate));
    }
    words.join(", ")
}
