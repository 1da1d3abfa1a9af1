//! The lab's SR-IOV card.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use sluice_tests::{netns::TestNetns, poll::wait_for};

/// The physical function's interface.
pub(crate) const PF: &str = "eth0";

/// The card, up, in the machine's own namespace; without virtual functions again when dropped.
pub(crate) struct Card {
    /// The node.
    pub(crate) node: TestNetns,
}

impl Card {
    /// Brings it up.
    ///
    /// # Errors
    /// Not in the lab.
    pub(crate) fn up() -> Result<Self> {
        let card = Self {
            node: TestNetns::initial()?,
        };
        card.set_number(0)?;
        card.node.set_up(PF)?;
        card.node.wait_carrier(PF)?;
        Ok(card)
    }

    /// Makes so many virtual functions, and waits for the carrier, which goes and comes; their
    /// interfaces' names, in order.
    ///
    /// # Errors
    /// The kernel refuses, or they get no interfaces.
    pub(crate) fn functions(&self, number: u32) -> Result<Vec<String>> {
        self.set_number(0)?;
        self.set_number(number)?;
        self.node.wait_carrier(PF)?;
        (0..number).map(|index| self.function(index)).collect()
    }

    /// The PCI address of one virtual function.
    ///
    /// # Errors
    /// There is no such function.
    pub(crate) fn address(&self, index: u32) -> Result<String> {
        let target = fs::read_link(Self::device().join(format!("virtfn{index}")))?;
        let address = target.file_name().context("a link to nowhere")?;
        Ok(address.to_string_lossy().into_owned())
    }

    /// The interface of one virtual function in the node's namespace.
    ///
    /// # Errors
    /// It does not come.
    pub(crate) fn function(&self, index: u32) -> Result<String> {
        wait_for(&format!("the interface of function {index}"), || {
            let folder = Self::device().join(format!("virtfn{index}/net"));
            let Ok(mut entries) = fs::read_dir(folder) else {
                return Ok(None);
            };
            let Some(entry) = entries.next() else {
                return Ok(None);
            };
            Ok(Some(entry?.file_name().into_string().unwrap_or_default()))
        })
    }

    /// A pod that holds a virtual function, up.
    ///
    /// # Errors
    /// `ip` fails.
    pub(crate) fn pod(&self, function: &str) -> Result<TestNetns> {
        let pod = TestNetns::new()?;
        self.node
            .ip(&format!("link set {function} netns {}", pod.name()))?;
        pod.set_up(function)?;
        pod.wait_carrier(function)?;
        Ok(pod)
    }

    fn device() -> PathBuf {
        PathBuf::from(format!("/sys/class/net/{PF}/device"))
    }

    fn set_number(&self, number: u32) -> Result<()> {
        let file = Self::device().join("sriov_numvfs");
        fs::write(&file, number.to_string())
            .with_context(|| format!("cannot write {number} to {}", file.display()))
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        if let Err(error) = self.set_number(0) {
            eprintln!("{error:#}");
        }
    }
}
