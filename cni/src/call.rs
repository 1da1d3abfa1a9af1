//! What the runtime passes in the environment.

use std::{env, path::PathBuf};

use sluice_api::{PodName, cni::Attachment};

use crate::error::Error;

/// What a runtime can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    /// As in `CNI_COMMAND`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    fn parse(text: &str) -> Result<Self, Error> {
        let all = [
            Self::Add,
            Self::Del,
            Self::Check,
            Self::Gc,
            Self::Status,
            Self::Version,
        ];
        all.into_iter()
            .find(|command| command.name() == text)
            .ok_or_else(|| {
                Error::environment(format!(
                    "CNI_COMMAND is {text:?}; it must be one of {}",
                    all.map(Self::name).join(", ")
                ))
            })
    }
}

/// One call of the plugin.
#[derive(Debug)]
pub struct Call {
    /// The verb.
    pub command: Command,
    /// `CNI_NETNS`; empty on a DEL whose namespace is gone.
    pub netns: Option<String>,
    /// `CNI_PATH`: where plugins are.
    pub path: Vec<PathBuf>,
    /// `CNI_ARGS`, in order.
    pub args: Vec<(String, String)>,
    attachment: Option<Attachment>,
}

impl Call {
    /// # Errors
    /// Code 4: a variable that the command needs is missing or wrong.
    pub fn from_environment() -> Result<Self, Error> {
        Self::from_variables(|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let command = Command::parse(&variable("CNI_COMMAND").unwrap_or_default())?;
        let needed: &[&str] = match command {
            Command::Add | Command::Check => {
                &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]
            }
            Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
            Command::Gc | Command::Status => &["CNI_PATH"],
            Command::Version => &[],
        };
        let missing: Vec<_> = needed
            .iter()
            .copied()
            .filter(|name| variable(name).is_none())
            .collect();
        if !missing.is_empty() {
            return Err(Error::environment(format!(
                "{} needs the environment variables {}; missing: {}",
                command.name(),
                needed.join(", "),
                missing.join(", ")
            )));
        }
        let attachment = match (variable("CNI_CONTAINERID"), variable("CNI_IFNAME")) {
            (Some(container_id), Some(ifname)) if needed.contains(&"CNI_IFNAME") => {
                Some(Attachment::new(container_id, ifname).map_err(|error| {
                    Error::environment(format!("CNI_CONTAINERID or CNI_IFNAME: {error}"))
                })?)
            }
            _ => None,
        };
        Ok(Self {
            command,
            netns: variable("CNI_NETNS"),
            path: variable("CNI_PATH")
                .map_or_else(Vec::new, |path| env::split_paths(&path).collect()),
            args: parse_args(&variable("CNI_ARGS").unwrap_or_default())?,
            attachment,
        })
    }

    /// The attachment.
    ///
    /// # Errors
    /// Code 4: the command has none.
    pub fn attachment(&self) -> Result<&Attachment, Error> {
        self.attachment.as_ref().ok_or_else(|| {
            Error::environment("CNI_CONTAINERID and CNI_IFNAME are missing".to_owned())
        })
    }

    /// The namespace's path.
    ///
    /// # Errors
    /// Code 4: it is not set.
    pub fn netns(&self) -> Result<&str, Error> {
        self.netns
            .as_deref()
            .ok_or_else(|| Error::environment("CNI_NETNS is missing"))
    }

    /// A value of `CNI_ARGS`.
    pub fn arg(&self, key: &str) -> Option<&str> {
        let found = self.args.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    /// The Kubernetes pod, where the runtime tells.
    pub fn pod(&self) -> Option<PodName> {
        Some(PodName {
            namespace: self.arg("K8S_POD_NAMESPACE")?.to_owned(),
            name: self.arg("K8S_POD_NAME")?.to_owned(),
        })
    }
}

fn parse_args(text: &str) -> Result<Vec<(String, String)>, Error> {
    text.split(';')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                Error::environment(format!("CNI_ARGS: {pair:?} is not KEY=VALUE"))
            })?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(variables: &[(&str, &str)]) -> Result<Call, Error> {
        Call::from_variables(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn args_name_the_pod() {
        let call = call(&[
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "net1"),
            ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
            (
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;MAC=;",
            ),
        ])
        .unwrap();
        assert_eq!(call.pod().unwrap().to_string(), "default/web-0");
        assert_eq!(call.path.len(), 2);
        assert_eq!(call.arg("MAC"), Some(""));
        assert_eq!(call.netns, None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = call(&[("CNI_COMMAND", "ADD"), ("CNI_PATH", "/opt")]).unwrap_err();
        assert_eq!(error.code(), 4);
        for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
            assert!(error.text().contains(name), "{}", error.text());
        }
    }

    #[test]
    fn args_must_be_pairs() {
        let error = call(&[("CNI_COMMAND", "VERSION"), ("CNI_ARGS", "K8S")]).unwrap_err();
        assert_eq!(error.code(), 4);
    }
}
