//! Which pods satisfy which terms; remembered, so that a pod that changes is
//! looked at alone.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::term::Term;
use crate::policy::model::{Labels, Model, NAMESPACE_NAME_LABEL, Pod, PodName};

type Members = HashMap<PodName, Vec<IpAddr>>;

/// The members of the terms in use.
#[derive(Debug, Default)]
pub(super) struct Memberships {
    model: Model,
    terms: HashMap<Arc<Term>, Members>,
}

impl Memberships {
    /// Brings the memberships in step with a model and the terms in use.
    pub fn update(&mut self, model: &Model, terms: &[Arc<Term>]) {
        let in_use: HashSet<_> = terms.iter().collect();
        self.terms.retain(|term, _| in_use.contains(term));
        let before = std::mem::replace(&mut self.model, model.clone());
        let changed = changed_pods(&before, model);
        for (term, members) in &mut self.terms {
            for name in &changed {
                members.remove(*name);
                if let Some(pod) = model.pods.get(*name) {
                    enter(model, term, name, pod, members);
                }
            }
        }
        for term in terms {
            if !self.terms.contains_key(term) {
                let mut members = Members::new();
                for (name, pod) in &model.pods {
                    enter(model, term, name, pod, &mut members);
                }
                self.terms.insert(Arc::clone(term), members);
            }
        }
    }

    /// The addresses that satisfy a term as those of pods.
    pub fn addresses(&self, term: &Term) -> impl Iterator<Item = IpAddr> {
        let members = self.terms.get(term).into_iter().flatten();
        members.flat_map(|(_, addresses)| addresses.iter().copied())
    }
}

/// Pods that are not what they were, or in a namespace that is not.
fn changed_pods<'a>(before: &'a Model, now: &'a Model) -> HashSet<&'a PodName> {
    let same_labels =
        |namespace: &str| before.namespaces.get(namespace) == now.namespaces.get(namespace);
    let gone = before.pods.keys();
    let gone = gone.filter(|name| !now.pods.contains_key(*name));
    let here = now.pods.iter().filter(|(name, pod)| {
        let known = before.pods.get(*name);
        let same = known.is_some_and(|known| Arc::ptr_eq(known, pod) || known == *pod);
        !same || !same_labels(&name.namespace)
    });
    gone.chain(here.map(|(name, _)| name)).collect()
}

fn enter(model: &Model, term: &Term, name: &PodName, pod: &Pod, members: &mut Members) {
    let addresses = match model.namespaces.get(&name.namespace) {
        Some(labels) => term.addresses(name, pod, labels),
        // A source need not tell of namespaces; each has its name as label.
        None => {
            let label = (NAMESPACE_NAME_LABEL.to_owned(), name.namespace.clone());
            term.addresses(name, pod, &Labels::from([label]))
        }
    };
    if !addresses.is_empty() {
        members.insert(name.clone(), addresses);
    }
}
