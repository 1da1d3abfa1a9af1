//! GC.

use sluice_api::cni::GcRequest;

use crate::{
    agent::Agent,
    call::{Call, Command},
    config::Config,
    error::Error,
    ipam::Ipam,
    ipam_lock::IpamLock,
};

/// Undoes the network's attachments that the runtime does not list, and has
/// the IPAM plugin do the same.
pub fn run(call: &Call, config: &Config, agent: &Agent) -> Result<(), Error> {
    let valid = config.valid_attachments()?;
    let request = GcRequest {
        network: config.name.clone(),
        valid,
    };
    let swept = agent.gc(&request);
    let main = config.fields.mode.is_some();
    let released = match Ipam::of(call, config)?.filter(|_| main) {
        Some(ipam) => {
            let _locks = IpamLock::follow_others(config, &request.valid);
            ipam.run_if_known(Command::Gc)
        }
        None => Ok(()),
    };
    match swept {
        Ok(_) => released,
        Err(refusal) => {
            let error = Error::from(refusal);
            Err(match released {
                Ok(()) => error,
                Err(other) => error.with_detail(other.text()),
            })
        }
    }
}
