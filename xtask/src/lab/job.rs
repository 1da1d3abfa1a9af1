//! What a guest runs.

use std::{ffi::OsString, fmt::Write as _, path::PathBuf, time::Duration};

/// A command with its surroundings, as a script for the guest's shell.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The program and its arguments; any of the host's.
    pub(super) command: Vec<OsString>,
    /// The folder it runs in; any of the host's.
    pub(super) folder: PathBuf,
    /// Variables that it finds besides the lab's own.
    pub(super) environment: Vec<(OsString, OsString)>,
    /// How long it may take.
    pub(super) limit: Duration,
    /// Whether it owns a terminal, and may take as long as it likes.
    pub(super) interactive: bool,
}

impl Job {
    /// The script for one node in one of its boots.
    pub(super) fn script(&self, node: u32, boot: u32) -> String {
        let mut text = String::new();
        let own = [
            ("SLUICE_LAB_NODE".into(), node.to_string().into()),
            ("SLUICE_LAB_BOOT".into(), boot.to_string().into()),
            ("HOME".into(), "/root".into()),
        ];
        for (name, value) in own.iter().chain(&self.environment) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "export {}={}", name.display(), quoted(value));
        }
        let _ = writeln!(text, "cd {} || exit 125", quoted(self.folder.as_os_str()));
        text.push_str("exec");
        if !self.interactive {
            let _ = write!(text, " timeout --kill-after=5 {}", self.limit.as_secs());
        }
        for word in &self.command {
            let _ = write!(text, " {}", quoted(word));
        }
        text.push('\n');
        text
    }
}

/// A word that the shell takes as it stands.
fn quoted(word: &std::ffi::OsStr) -> String {
    format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_program_as_they_are() {
        let job = Job {
            command: ["echo", "it's", "a b"].map(OsString::from).to_vec(),
            folder: "/some where".into(),
            environment: vec![("SLUICE_BIN".into(), "/a b".into())],
            limit: Duration::from_secs(7),
            interactive: false,
        };
        assert_eq!(
            job.script(2, 1),
            "export SLUICE_LAB_NODE='2'\n\
             export SLUICE_LAB_BOOT='1'\n\
             export HOME='/root'\n\
             export SLUICE_BIN='/a b'\n\
             cd '/some where' || exit 125\n\
             exec timeout --kill-after=5 7 'echo' 'it'\\''s' 'a b'\n"
        );
    }
}
