//! STATUS.

use crate::{
    agent::Agent,
    call::{Call, Command},
    config::Config,
    error::{Code, Error},
    ipam::Ipam,
};

/// Whether an ADD could succeed.
pub fn run(call: &Call, config: &Config, agent: &Agent) -> Result<(), Error> {
    let readiness = agent
        .readiness()
        .map_err(|refusal| Error::new(Code::NotAvailable, Error::from(refusal).text()))?;
    if !readiness.obstacles.is_empty() {
        let code = if readiness.pods_suffer {
            Code::LimitedConnectivity
        } else {
            Code::NotAvailable
        };
        return Err(Error::new(code, readiness.obstacles.join("; ")));
    }
    let main = config.fields.mode.is_some();
    match Ipam::of(call, config)?.filter(|_| main) {
        Some(ipam) => ipam.run_if_known(Command::Status),
        None => Ok(()),
    }
}
