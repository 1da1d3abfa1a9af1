//! CHECK.

use sluice_api::cni::{CheckRequest, ExpectedInterface};

use crate::{
    agent::Agent,
    call::{Call, Command},
    config::Config,
    error::{Code, Error},
    ipam::Ipam,
    result::{self, Listed},
};

/// Holds the container against the result of its ADD.
pub fn run(call: &Call, config: &Config, agent: &Agent) -> Result<(), Error> {
    let main = config.fields.mode.is_some();
    let Some(before) = &config.prev_result else {
        return Err(Error::config(
            "CHECK needs prevResult, the result of ADD, which is missing",
        ));
    };
    let attachment = call.attachment()?;
    let mut interfaces = result::in_container(before, call.netns()?)?;
    if main {
        interfaces.retain(|interface| interface.name == attachment.ifname());
    }
    if interfaces.is_empty() {
        return Err(Error::new(
            Code::CheckFailed,
            format!("prevResult has no interface for {attachment}"),
        ));
    }
    if let Some(ipam) = Ipam::of(call, config)?.filter(|_| main) {
        ipam.run(Command::Check)?;
    }
    let expected = |interface: Listed| ExpectedInterface {
        name: interface.name,
        mac: interface.mac,
        // Others' addresses are for the plugin that gave them to check.
        addresses: if main {
            interface.addresses
        } else {
            Vec::new()
        },
    };
    agent.check(&CheckRequest {
        attachment: attachment.clone(),
        netns: call.netns()?.to_owned(),
        interfaces: interfaces.into_iter().map(expected).collect(),
        routes: if main {
            result::routes(before)?
        } else {
            Vec::new()
        },
    })?;
    Ok(())
}
