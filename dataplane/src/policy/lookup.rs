//! Lookups in the kernel's maps, and in what is compiled for them.

use std::{convert::Infallible, net::IpAddr};

use dataplane_ebpf::abi::{Direction, EndpointConfig, PolicyKey, identity};

use super::{
    apply::{compiler_key, flags},
    compile::{Compiled, Key},
    explain::{Lookup, Service},
};
use crate::kernel::{KernelError, Maps};

impl Lookup for Maps {
    type Error = KernelError;

    fn identity(&self, address: IpAddr) -> Result<u32, KernelError> {
        self.policy().lookup_identity(address)
    }

    fn flags(&self, endpoint: u32) -> Result<u32, KernelError> {
        self.endpoint(endpoint).map(|config| config.flags)
    }

    fn rule(
        &self,
        endpoint: u32,
        direction: Direction,
        identity: u32,
        what: &Service,
    ) -> Result<Option<Option<u32>>, KernelError> {
        let Some(map) = self.policy().open_policy_slot(endpoint, direction)? else {
            return Ok(None);
        };
        let key = PolicyKey::of_packet(identity, what.protocol, what.port.unwrap_or_default());
        let found = self.policy().lookup_policy(&map, key)?;
        Ok(Some(found.map(|rule| rule.rule)))
    }

    fn entries(&self, endpoint: u32, direction: Direction) -> Result<Vec<(Key, u32)>, KernelError> {
        let Some(map) = self.policy().open_policy_slot(endpoint, direction)? else {
            return Ok(Vec::new());
        };
        let entries = self.policy().read_policy(&map)?.into_iter();
        let entries = entries.filter_map(|(key, rule)| Some((compiler_key(key)?, rule.rule)));
        Ok(entries.collect())
    }
}

impl Lookup for Compiled {
    type Error = Infallible;

    fn identity(&self, address: IpAddr) -> Result<u32, Infallible> {
        if let Some(number) = self.addresses.get(&address) {
            return Ok(*number);
        }
        let mut next = Some(ipnet::IpNet::from(address));
        while let Some(cidr) = next {
            if let Some(number) = self.prefixes.get(&cidr) {
                return Ok(*number);
            }
            next = cidr.supernet();
        }
        Ok(identity::ANY)
    }

    fn flags(&self, endpoint: u32) -> Result<u32, Infallible> {
        let policy = self.endpoints.get(&endpoint);
        let flags = policy.map(|policy| flags(policy) | EndpointConfig::ALLOW_NODE);
        Ok(flags.unwrap_or_default())
    }

    fn rule(
        &self,
        endpoint: u32,
        direction: Direction,
        identity: u32,
        what: &Service,
    ) -> Result<Option<Option<u32>>, Infallible> {
        let policy = self.endpoints.get(&endpoint);
        let table = policy.and_then(|policy| policy.table(direction));
        let table = table.filter(|table| table.too_large.is_none());
        Ok(table.map(|table| table.exact(identity, what.protocol, what.port)))
    }

    fn entries(&self, endpoint: u32, direction: Direction) -> Result<Vec<(Key, u32)>, Infallible> {
        let policy = self.endpoints.get(&endpoint);
        let table = policy.and_then(|policy| policy.table(direction));
        Ok(table.map_or(Vec::new(), |table| table.entries.clone()))
    }
}
