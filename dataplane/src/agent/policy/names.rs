//! Pods by their addresses, for those who tell people of packets.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
};

use crate::policy::model::{Model, PodName, Scope};

/// The pods that the source of policies knows.
#[derive(Debug, Default)]
pub(in crate::agent) struct PodNames(HashMap<IpAddr, Option<PodName>>);

impl PodNames {
    pub(super) fn new(model: &Model) -> Self {
        let mut names = HashMap::new();
        for (name, pod) in &model.pods {
            for address in pod.addresses_in(&Scope::All) {
                match names.entry(address) {
                    Entry::Vacant(vacant) => drop(vacant.insert(Some(name.clone()))),
                    // On networks that do not know each other.
                    Entry::Occupied(mut taken) => *taken.get_mut() = None,
                }
            }
        }
        Self(names)
    }

    /// The pod at an address; `None` also where several have it.
    pub(in crate::agent) fn get(&self, address: IpAddr) -> Option<&PodName> {
        self.0.get(&address)?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::policy::model::Pod;

    #[test]
    fn an_address_of_two_pods_names_neither() {
        let name = |name: &str| PodName {
            namespace: "shop".into(),
            name: name.into(),
        };
        let pod = |addresses: &[&str]| {
            Arc::new(Pod {
                addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
                ..Pod::default()
            })
        };
        let mut model = Model::default();
        model.pods.insert(name("a"), pod(&["10.0.0.1", "10.0.0.9"]));
        model.pods.insert(name("b"), pod(&["10.0.0.2", "10.0.0.9"]));
        let names = PodNames::new(&model);
        let of = |address: &str| names.get(address.parse().unwrap()).cloned();
        assert_eq!(of("10.0.0.1"), Some(name("a")));
        assert_eq!(of("10.0.0.2"), Some(name("b")));
        assert_eq!(of("10.0.0.9"), None);
        assert_eq!(of("10.0.0.3"), None);
    }
}
