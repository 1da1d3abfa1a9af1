//! DEL.

use sluice_api::cni::DelRequest;

use crate::{
    agent::{Agent, Refusal},
    call::{Call, Command},
    config::Config,
    error::Error,
    ipam::Ipam,
    ipam_lock::IpamLock,
    log::{self, Level},
    tombstone,
};

/// Undoes an ADD. Each part is tried whatever becomes of the others.
pub fn run(call: &Call, config: &Config, agent: &Agent) -> Result<(), Error> {
    let del = DelRequest {
        attachment: call.attachment()?.clone(),
        network: config.name.clone(),
    };
    let ipam = Ipam::of(call, config);
    let release = || match &ipam {
        Ok(Some(ipam)) if config.fields.mode.is_some() => {
            let _lock = IpamLock::follow(config, &del.attachment);
            ipam.run(Command::Del).map(drop)
        }
        // A chained plugin has no addresses to release.
        Ok(_) => Ok(()),
        Err(error) if config.fields.mode.is_some() => Err(error.clone()),
        Err(_) => Ok(()),
    };
    // A lease that is kept over the interface is given back over it. Others
    // must not be given away while the interface still answers.
    let first = matches!(&ipam, Ok(Some(ipam)) if ipam.needs_interface());
    let released = first.then(release);
    crate::failpoint::step("cni::plugin::del::before_agent")?;
    let told = tell_agent(config, agent, &del);
    crate::failpoint::step("cni::plugin::del::after_agent")?;
    let released = released.unwrap_or_else(release);
    crate::failpoint::step("cni::plugin::del::after_ipam")?;
    match (told, released) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(error), Ok(())) | (Ok(()), Err(error)) => Err(error),
        (Err(error), Err(other)) => Err(error.with_detail(other.text())),
    }
}

/// Has the agent undo it: now, or from a tombstone when it is down.
///
/// # Errors
/// The agent failed, or the tombstone cannot be left.
pub fn tell_agent(config: &Config, agent: &Agent, del: &DelRequest) -> Result<(), Error> {
    match agent.del(del) {
        Ok(_) => Ok(()),
        Err(Refusal::Refused(error)) => Err(error),
        Err(Refusal::Absent(error)) => {
            tombstone::leave(&config.fields.state_dir, del)?;
            log::write(
                Level::Warning,
                &format!("{}; left a tombstone for it", error.text()),
            );
            Ok(())
        }
    }
}
