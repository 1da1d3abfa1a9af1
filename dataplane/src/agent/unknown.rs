//! Endpoints whose record cannot be read: a disk lost it, or another version wrote it. Their pods
//! run on, so their programs stay, and their ids with them, until the interface is gone.

use super::Agent;

impl Agent {
    /// Takes note of the endpoints that have a file and links that live, and nothing else.
    pub(super) fn keep_unknown(&self) {
        let files = self.store.endpoint_files();
        let unknown: Vec<_> = {
            let state = self.state();
            let unclaimed = files
                .into_iter()
                .filter(|id| !state.endpoints.contains_key(id));
            unclaimed.collect()
        };
        for id in unknown {
            // A link whose interface is gone takes no new program.
            if self.kernel.refresh(id).is_ok() {
                tracing::warn!(
                    "endpoint {id}: its record cannot be read; its programs stay until its \
                     interface is gone"
                );
                self.state_mut().unknown.insert(id);
            } else {
                self.take_back(id);
            }
        }
    }

    /// Lets go of those whose interface is gone by now.
    pub(super) fn review_unknown(&self) {
        let unknown = self.state().unknown.clone();
        for id in unknown {
            if self.kernel.refresh(id).is_ok() {
                continue;
            }
            for path in self.kernel.pins().endpoint_links(id) {
                let _ = std::fs::remove_file(path);
            }
            self.take_back(id);
            self.state_mut().unknown.remove(&id);
        }
    }
}
