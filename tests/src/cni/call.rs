//! One call of one plugin, as a runtime makes it.

use std::{
    io::Write as _,
    process::{Child, Output, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::sandbox::Sandbox;

/// What the plugin is told by its environment.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// `CNI_COMMAND`.
    pub verb: String,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`; unset if absent.
    pub netns: Option<String>,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_ARGS`; unset if empty.
    pub arguments: String,
    /// More of the environment, `FAILPOINTS` for one.
    pub environment: Vec<(String, String)>,
}

impl Call {
    /// A call of a verb for a pod's interface.
    pub fn new(verb: &str, container: &str, netns: &str, interface: &str) -> Self {
        Self {
            verb: verb.to_owned(),
            container: container.to_owned(),
            netns: Some(netns.to_owned()),
            interface: interface.to_owned(),
            ..Self::default()
        }
    }

    /// The same with another variable in the environment.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts a plugin of the sandbox and gives it its configuration.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, sandbox: &Sandbox, plugin: &str, config: &Value) -> Result<Child> {
        let mut command = sandbox.command(format!("/opt/cni/bin/{plugin}"));
        command
            .env("CNI_COMMAND", &self.verb)
            .env("CNI_PATH", "/opt/cni/bin")
            .env_remove("SLUICE_CONFIG")
            .env_remove("SLUICE_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if !self.container.is_empty() {
            command.env("CNI_CONTAINERID", &self.container);
        }
        if !self.interface.is_empty() {
            command.env("CNI_IFNAME", &self.interface);
        }
        if let Some(netns) = &self.netns {
            command.env("CNI_NETNS", netns);
        }
        if !self.arguments.is_empty() {
            command.env("CNI_ARGS", &self.arguments);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {plugin}"))?;
        let mut stdin = child.stdin.take().context("a child without input")?;
        // A plugin that ends without reading is no error of ours.
        let _ = stdin.write_all(&serde_json::to_vec(config)?);
        Ok(child)
    }

    /// Runs a plugin of the sandbox to its end.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn run(&self, sandbox: &Sandbox, plugin: &str, config: &Value) -> Result<Reply> {
        let child = self.start(sandbox, plugin, config)?;
        Ok(Reply {
            call: format!("{} of {plugin}", self.verb),
            output: child.wait_with_output()?,
        })
    }
}

/// What a plugin answered.
#[derive(Debug)]
pub struct Reply {
    call: String,
    /// Its end, and all that it printed.
    pub output: Output,
}

impl Reply {
    /// Whether the plugin was killed, rather than ended.
    pub fn killed(&self) -> bool {
        self.output.status.code().is_none()
    }

    /// The result of a call that must succeed; null where it printed none.
    ///
    /// # Errors
    /// It failed, or printed something else than one JSON text.
    pub fn result(&self) -> Result<Value> {
        ensure!(self.output.status.success(), "{self}");
        if self.output.stdout.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.output.stdout).with_context(|| self.to_string())
    }

    /// The error of a call that must fail: the specification's code, and its words.
    ///
    /// # Errors
    /// It succeeded, or printed no error object.
    pub fn error(&self) -> Result<(u64, String)> {
        if self.output.status.success() {
            bail!("no failure: {self}");
        }
        let error: Value =
            serde_json::from_slice(&self.output.stdout).with_context(|| self.to_string())?;
        let code = error["code"].as_u64().context("an error without a code")?;
        let words = [&error["msg"], &error["details"]].map(|text| text.as_str().unwrap_or(""));
        ensure!(!words[0].is_empty(), "an error without words: {self}");
        ensure!(
            error["cniVersion"].is_string(),
            "an error without a version: {self}"
        );
        Ok((code, words.join(": ")))
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {}, printed {:?}, said {:?}",
            self.call,
            self.output.status,
            String::from_utf8_lossy(&self.output.stdout),
            String::from_utf8_lossy(&self.output.stderr)
        )
    }
}
