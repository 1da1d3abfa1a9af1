//! ADD.

use serde_json::{Map, Value};
use sluice_api::cni::{AddAnswer, AddRequest, ConfigureRequest, DelRequest, Work};

use crate::{
    agent::Agent,
    call::{Call, Command},
    config::{self, Config, Mode, address_of},
    device_info,
    error::{Code, Error},
    ipam::{Ipam, Running},
    ipam_lock::IpamLock,
    result::{self, Lease},
};

/// The result to print.
pub fn run(call: &Call, config: &Config, agent: &Agent) -> Result<Value, Error> {
    config.refuse_unsupported()?;
    match config.fields.mode {
        None => chained(call, config, agent),
        Some(mode) => Main {
            call,
            config,
            agent,
        }
        .add(mode),
    }
}

fn request(call: &Call, config: &Config, work: Work) -> Result<AddRequest, Error> {
    Ok(AddRequest {
        attachment: call.attachment()?.clone(),
        network: config.name.clone(),
        netns: call.netns()?.to_owned(),
        pod: call.pod(),
        work,
        device: config.device().map(str::to_owned),
        rdma: config.fields.rdma,
    })
}

/// Takes over what the plugins before this one made; their result goes on as
/// it came.
fn chained(call: &Call, config: &Config, agent: &Agent) -> Result<Value, Error> {
    config::refuse_without_mode(config)?;
    let before = config.prev_result()?;
    let netns = call.netns()?;
    let interfaces = result::in_container(before, netns)?;
    if interfaces.is_empty() {
        return Err(Error::config(format!(
            "prevResult has no interface in the container's namespace {netns}; chain this plugin \
             behind one that makes an interface"
        )));
    }
    let names = interfaces.into_iter().map(|interface| interface.name);
    crate::failpoint::step("cni::plugin::add::before_agent")?;
    let added = agent.add(&request(call, config, Work::Adopt(names.collect()))?)?;
    crate::failpoint::step("cni::plugin::add::after_agent")?;
    let mut passed = pass_on(before.clone(), config);
    result::add_rdma(&mut passed, added.rdma);
    Ok(passed)
}

/// A result of plugins before this one: it stays as it is, unknown fields
/// included.
fn pass_on(mut result: Map<String, Value>, config: &Config) -> Value {
    result.insert("cniVersion".into(), config.version.name().into());
    Value::Object(result)
}

/// ADD as the main plugin.
struct Main<'a> {
    call: &'a Call,
    config: &'a Config,
    agent: &'a Agent,
}

impl Main<'_> {
    fn add(&self, mode: Mode) -> Result<Value, Error> {
        let create = config::create(self.config, self.call, mode)?;
        let request = request(self.call, self.config, Work::Create(create))?;
        let ipam = Ipam::of(self.call, self.config)?;
        let result = self.make(&request, ipam.as_ref())?;
        Ok(result::convert(result, self.config.version))
    }

    /// The interface is made and the addresses are asked for at the same time.
    fn make(&self, request: &AddRequest, ipam: Option<&Ipam<'_>>) -> Result<Value, Error> {
        crate::failpoint::step("cni::plugin::add::before_ipam")?;
        let _lock = ipam
            .map(|_| IpamLock::take(self.config, &request.attachment))
            .transpose()?;
        let early = ipam
            .filter(|ipam| !ipam.needs_interface())
            .map(|ipam| ipam.start(Command::Add))
            .transpose()?;
        let added = self.agent.add(request);
        if let Ok(AddAnswer {
            existing: Some(result),
            ..
        }) = added
        {
            // This ADD has been answered before; so has the IPAM plugin's.
            drop(early.map(Running::finish));
            return Ok(result);
        }
        let made = self.complete(request, added.map_err(Error::from), early, ipam);
        made.map_err(|error| self.undo(error, request, ipam))
    }

    fn complete(
        &self,
        request: &AddRequest,
        added: Result<AddAnswer, Error>,
        early: Option<Running<'_>>,
        ipam: Option<&Ipam<'_>>,
    ) -> Result<Value, Error> {
        crate::failpoint::step("cni::plugin::add::after_create")?;
        // Waited for in any case: what is under way cannot be released.
        let lease = early.map(Running::lease);
        let added = added?;
        self.describe_device(&added)?;
        let lease = match (lease, ipam) {
            (Some(lease), _) => lease?,
            (None, Some(ipam)) => ipam.start(Command::Add)?.lease()?,
            (None, None) => Lease::default(),
        };
        crate::failpoint::step("cni::plugin::add::after_ipam")?;
        self.check_wishes(&lease)?;
        let dns = self.config.fields.dns.as_ref();
        let compose = |through_node: &[_]| {
            result::compose(&added.interfaces, &request.netns, &lease, through_node, dns)
        };
        let configured = self.agent.configure(&ConfigureRequest {
            attachment: request.attachment.clone(),
            addresses: lease.addresses.clone(),
            routes: lease.routes.clone(),
            through_node: self.config.through_node(),
            settings: self.config.settings(),
            result: compose(&[]),
        })?;
        crate::failpoint::step("cni::plugin::add::after_configure")?;
        let mut composed = compose(&configured.through_node);
        result::add_rdma(&mut composed, configured.rdma);
        Ok(composed)
    }

    fn describe_device(&self, added: &AddAnswer) -> Result<(), Error> {
        let file = &self.config.fields.runtime_config.device_info_file;
        let pci = added.interfaces.iter().find_map(|one| one.pci.as_deref());
        let (Some(file), Some(pci)) = (file, pci) else {
            return Ok(());
        };
        device_info::write(file, pci, added.rdma_device.as_deref())
    }

    /// An IPAM plugin that does not know the capabilities `ips` and `ipRanges`
    /// would give other addresses than the pod asked for.
    fn check_wishes(&self, lease: &Lease) -> Result<(), Error> {
        for wish in self.config.requested_addresses(self.call) {
            let wanted = address_of(wish)
                .ok_or_else(|| Error::config(format!("{wish:?} is no IP address")))?;
            let mut given = lease.addresses.iter();
            if !given.any(|given| given.address.addr() == wanted) {
                return Err(self.ignored(&format!("ips {wish}")));
            }
        }
        for set in &self.config.fields.runtime_config.ip_ranges {
            let mut given = lease.addresses.iter().map(|given| given.address.addr());
            if !given.any(|given| set.iter().any(|range| range.subnet.contains(&given))) {
                let subnets: Vec<_> = set.iter().map(|range| range.subnet.to_string()).collect();
                return Err(self.ignored(&format!("ipRanges {}", subnets.join(", "))));
            }
        }
        Ok(())
    }

    fn ignored(&self, wish: &str) -> Error {
        Error::new(
            Code::UnsupportedField,
            format!(
                "{wish}: the IPAM plugin {} gave other addresses; use one that honours the \
                 capability, such as host-local",
                self.config.ipam().unwrap_or("(none)")
            ),
        )
    }

    /// After a failure nothing stays, neither interface nor address.
    fn undo(&self, mut error: Error, request: &AddRequest, ipam: Option<&Ipam<'_>>) -> Error {
        let del = DelRequest {
            attachment: request.attachment.clone(),
            network: request.network.clone(),
        };
        if let Err(undo) = super::del::tell_agent(self.config, self.agent, &del) {
            error = error.with_detail(undo.text());
        }
        if let Some(Err(undo)) = ipam.map(|ipam| ipam.run(Command::Del)) {
            error = error.with_detail(undo.text());
        }
        error
    }
}
