//! A list of plugins, run as the specification tells a runtime to.
//!
//! Cnitool does the same and is the reference; here each call can be given failpoints, be looked at
//! by itself, and be timed.

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::{
    call::{Call, Reply},
    sandbox::Sandbox,
};

/// A configuration list, and what the runtime hands to plugins that declare the capability.
#[derive(Clone, Debug)]
pub struct Chain {
    list: Value,
    capabilities: Value,
}

impl Chain {
    /// A chain of a configuration list.
    pub fn new(list: Value) -> Self {
        Self {
            list,
            capabilities: json!({}),
        }
    }

    /// A list of this name and version with these plugins.
    pub fn of(version: &str, name: &str, plugins: &[Value]) -> Self {
        Self::new(json!({"cniVersion": version, "name": name, "plugins": plugins}))
    }

    /// The same with capability arguments, such as `{"mac": "…"}`.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Value) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// The list as a file holds it.
    pub fn list(&self) -> &Value {
        &self.list
    }

    /// The plugins' types and the configuration that each gets: the runtime's part filled in.
    ///
    /// # Errors
    /// The list is not one.
    pub fn configurations(&self, previous: Option<&Value>) -> Result<Vec<(String, Value)>> {
        let plugins = self.list["plugins"].as_array().context("no plugins")?;
        let configuration = |plugin: &Value| {
            let kind = plugin["type"].as_str().context("a plugin without type")?;
            let mut config = plugin.as_object().context("a plugin that is none")?.clone();
            for field in ["cniVersion", "name"] {
                config.insert(field.to_owned(), self.list[field].clone());
            }
            if let Some(runtime) = self.runtime_config(plugin) {
                config.insert("runtimeConfig".to_owned(), runtime);
            }
            if let Some(previous) = previous {
                config.insert("prevResult".to_owned(), previous.clone());
            }
            Ok((kind.to_owned(), Value::Object(config)))
        };
        plugins.iter().map(configuration).collect()
    }

    fn runtime_config(&self, plugin: &Value) -> Option<Value> {
        let declared = plugin["capabilities"].as_object()?;
        let wanted = self.capabilities.as_object()?;
        let given: Map<_, _> = wanted
            .iter()
            .filter(|(name, _)| declared.get(*name) == Some(&Value::Bool(true)))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        (!given.is_empty()).then_some(Value::Object(given))
    }

    /// ADD by every plugin in turn; the last one's result.
    ///
    /// # Errors
    /// A plugin fails; nothing is undone.
    pub fn add(&self, sandbox: &Sandbox, call: &Call) -> Result<Value> {
        ensure!(call.verb == "ADD", "not a call of ADD");
        let mut previous = None;
        for index in 0..self.configurations(None)?.len() {
            let (plugin, config) = self.configurations(previous.as_ref())?.swap_remove(index);
            previous = Some(call.run(sandbox, &plugin, &config)?.result()?);
        }
        previous.context("a chain of no plugins")
    }

    /// DEL by every plugin from the last to the first, to the end even when some fail.
    ///
    /// # Errors
    /// One failed: the first error.
    pub fn del(&self, sandbox: &Sandbox, call: &Call, added: Option<&Value>) -> Result<()> {
        let replies = self.del_replies(sandbox, call, added)?;
        replies
            .iter()
            .try_for_each(|reply| reply.result().map(drop))
    }

    /// As [`Chain::del`], with each plugin's answer.
    ///
    /// # Errors
    /// A plugin cannot be run.
    pub fn del_replies(
        &self,
        sandbox: &Sandbox,
        call: &Call,
        added: Option<&Value>,
    ) -> Result<Vec<Reply>> {
        ensure!(call.verb == "DEL", "not a call of DEL");
        self.configurations(added)?
            .into_iter()
            .rev()
            .map(|(plugin, config)| call.run(sandbox, &plugin, &config))
            .collect()
    }

    /// CHECK by every plugin in turn.
    ///
    /// # Errors
    /// One fails.
    pub fn check(&self, sandbox: &Sandbox, call: &Call, added: &Value) -> Result<()> {
        ensure!(call.verb == "CHECK", "not a call of CHECK");
        for (plugin, config) in self.configurations(Some(added))? {
            call.run(sandbox, &plugin, &config)?.result()?;
        }
        Ok(())
    }
}
