//! What applying needs of the kernel.

use dataplane_ebpf::abi::{Direction, EndpointConfig, PolicyKey, PolicyRule};

use crate::{
    kernel::{IdentityPrefix, KernelError, Maps, PolicyMap},
    policy::compile::{Key, Ports},
};

type Result<T> = std::result::Result<T, KernelError>;

/// The maps of policy, in the words of the compiler. [`Maps`] are the
/// kernel's; a test looks at the packets between any two steps.
pub trait Tables {
    /// A table in the kernel.
    type Map: Clone;

    /// A table with these entries and room for `room` more.
    ///
    /// # Errors
    /// The kernel refuses; so for every function here.
    fn create(&self, entries: &[(Key, u32)], room: u32) -> Result<Self::Map>;
    /// Adds entries.
    fn extend(&self, map: &Self::Map, entries: &[(Key, u32)]) -> Result<()>;
    /// Takes entries out.
    fn remove(&self, map: &Self::Map, keys: &[Key]) -> Result<()>;
    /// All entries; `None` where one is of no form that the compiler makes.
    fn read(&self, map: &Self::Map) -> Result<Option<Vec<(Key, u32)>>>;
    /// Tells tables apart.
    fn id(&self, map: &Self::Map) -> u32;
    /// Replaces what endpoints go by; each is one step, all together are not.
    fn set_slots(&self, slots: &[(u32, Direction, &Self::Map)]) -> Result<()>;
    /// Leaves endpoints with nothing to go by, in the same manner.
    fn clear_slots(&self, slots: &[(u32, Direction)]) -> Result<()>;
    /// What an endpoint goes by.
    fn slot(&self, endpoint: u32, direction: Direction) -> Result<Option<Self::Map>>;
    /// Changes identities in this order; stops at the first that fails.
    fn set_identities(&self, changes: &[(IdentityPrefix, Option<u32>)]) -> Result<()>;
    /// All identities.
    fn identities(&self) -> Result<Vec<(IdentityPrefix, u32)>>;
    /// An endpoint's configuration.
    fn config(&self, endpoint: u32) -> Result<EndpointConfig>;
    /// Changes it.
    fn change_config(
        &self,
        endpoint: u32,
        change: &mut dyn FnMut(&mut EndpointConfig),
    ) -> Result<()>;
}

impl Tables for Maps {
    type Map = PolicyMap;

    fn create(&self, entries: &[(Key, u32)], room: u32) -> Result<PolicyMap> {
        self.policy().create_policy(&to_kernel(entries), room)
    }

    fn extend(&self, map: &PolicyMap, entries: &[(Key, u32)]) -> Result<()> {
        self.policy().extend_policy(map, &to_kernel(entries))
    }

    fn remove(&self, map: &PolicyMap, keys: &[Key]) -> Result<()> {
        let keys: Vec<_> = keys.iter().map(|key| kernel_key(*key)).collect();
        self.policy().remove_from_policy(map, &keys)
    }

    fn read(&self, map: &PolicyMap) -> Result<Option<Vec<(Key, u32)>>> {
        let entries = self.policy().read_policy(map)?.into_iter();
        let entries = entries.map(|(key, rule)| Some((compiler_key(key)?, rule.rule)));
        let entries: Option<Vec<_>> = entries.collect();
        Ok(entries.map(|mut entries| {
            entries.sort_unstable();
            entries
        }))
    }

    fn id(&self, map: &PolicyMap) -> u32 {
        map.id()
    }

    fn set_slots(&self, slots: &[(u32, Direction, &PolicyMap)]) -> Result<()> {
        self.policy().set_policy_slots(slots)
    }

    fn clear_slots(&self, slots: &[(u32, Direction)]) -> Result<()> {
        self.policy().clear_policy_slots(slots)
    }

    fn slot(&self, endpoint: u32, direction: Direction) -> Result<Option<PolicyMap>> {
        self.policy().open_policy_slot(endpoint, direction)
    }

    fn set_identities(&self, changes: &[(IdentityPrefix, Option<u32>)]) -> Result<()> {
        self.policy().set_identities(changes)
    }

    fn identities(&self) -> Result<Vec<(IdentityPrefix, u32)>> {
        self.policy().identities()
    }

    fn config(&self, endpoint: u32) -> Result<EndpointConfig> {
        self.endpoint(endpoint)
    }

    fn change_config(
        &self,
        endpoint: u32,
        change: &mut dyn FnMut(&mut EndpointConfig),
    ) -> Result<()> {
        self.change_endpoint(endpoint, change).map(drop)
    }
}

fn to_kernel(entries: &[(Key, u32)]) -> Vec<(PolicyKey, PolicyRule)> {
    let entries = entries.iter();
    entries
        .map(|(key, rule)| {
            let rule = PolicyRule {
                rule: *rule,
                flags: 0,
            };
            (kernel_key(*key), rule)
        })
        .collect()
}

/// The kernel's form of a key.
fn kernel_key(key: Key) -> PolicyKey {
    match key.ports {
        Ports::All => PolicyKey::all(key.identity),
        Ports::Protocol(protocol) => PolicyKey::protocol(key.identity, protocol),
        Ports::Prefix {
            protocol,
            port,
            bits,
        } => PolicyKey::ports(key.identity, protocol, port, bits.into()),
    }
}

/// The other way round; `None` for lengths that [`kernel_key`] never makes.
pub(crate) fn compiler_key(key: PolicyKey) -> Option<Key> {
    let bits = key.prefix_len.checked_sub(PolicyKey::PROTOCOL_BITS);
    let ports = match bits {
        None if key.prefix_len == PolicyKey::IDENTITY_BITS => Ports::All,
        None => return None,
        Some(0) => Ports::Protocol(key.data.protocol),
        Some(bits) => Ports::Prefix {
            protocol: key.data.protocol,
            port: u16::from_be(key.data.port),
            bits: u8::try_from(bits).ok().filter(|bits| *bits <= 16)?,
        },
    };
    Some(Key {
        identity: key.data.identity,
        ports,
    })
}
