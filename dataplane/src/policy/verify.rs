//! Expectations of policies, written down by those who wrote the policies:
//! who may reach whom, and who may not.

use serde::{Deserialize, Serialize};

use super::{
    explain::Service,
    inquiry::Flow,
    model::NetworkName,
    source::{Refused, documents, read},
};

/// One expectation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// The initiator: a pod (`namespace/name`) or an address.
    pub from: String,
    /// The other side.
    pub to: String,
    /// `443/tcp`, `icmp`, ...
    pub port: String,
    /// What should happen.
    pub expect: Expected,
    /// On this network only (`namespace/name`); without, on all that both are
    /// attached to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

/// What should happen to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "\"allow\" or \"deny\"")]
pub enum Expected {
    /// It passes.
    Allow,
    /// It does not.
    Deny,
}

/// Reads the expectations of a file: a list, or several, each with its line.
///
/// # Errors
/// Anything about the file is wrong.
pub fn read_expectations(text: &str) -> Result<Vec<(usize, Expectation)>, Refused> {
    let mut expectations = Vec::new();
    for document in documents(text)? {
        let items = document.items().ok_or_else(|| Refused {
            line: document.line,
            reason: "expected a list of from, to, port, expect".into(),
        })?;
        for item in items {
            let expectation: Expectation = read(item)?;
            let refuse = |reason| Refused {
                line: item.line,
                reason,
            };
            expectation.service().map_err(refuse)?;
            expectation.network().map_err(refuse)?;
            expectations.push((item.line, expectation));
        }
    }
    Ok(expectations)
}

impl Expectation {
    /// Its port.
    ///
    /// # Errors
    /// It is none.
    pub fn service(&self) -> Result<Service, String> {
        self.port.parse()
    }

    /// Its network.
    ///
    /// # Errors
    /// It is not NAMESPACE/NAME.
    pub fn network(&self) -> Result<Option<NetworkName>, String> {
        let Some(text) = &self.network else {
            return Ok(None);
        };
        let name = text
            .contains('/')
            .then(|| NetworkName::parse(text, ""))
            .flatten();
        name.map(Some)
            .ok_or_else(|| format!("'{text}' is no network: NAMESPACE/NAME"))
    }

    /// What the connections found say of it: `None` that all is as expected.
    pub fn objection(&self, flows: &[Flow]) -> Option<String> {
        let judged = |flow: &&Flow| flow.egress.is_some() || flow.ingress.is_some();
        if !flows.iter().any(|flow| judged(&flow)) {
            return Some(match flows.is_empty() {
                true => "they share no network and no family of addresses".into(),
                false => "neither of them is judged here".into(),
            });
        }
        let wanted = self.expect == Expected::Allow;
        let wrong = flows
            .iter()
            .find(|flow| judged(flow) && flow.is_allowed() != wanted)?;
        let found = match wanted {
            true => "is denied",
            false => "is allowed",
        };
        Some(format!("{} to {} {found}", wrong.from, wrong.to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_refused_with_their_line() {
        for (text, expected) in [
            ("a: b", "line 1: expected a list"),
            (
                "- {from: a/b, to: c/d, port: 1/tcp}",
                "line 1: missing field `expect`",
            ),
            (
                "- {from: a/b, to: c/d, port: 1/tcp, expect: allow}\n- {from: a/b, to: c/d, port: tcp, expect: deny}",
                "line 2: 'tcp' is no service",
            ),
            (
                "- {from: a/b, to: c/d, port: 1/tcp, expect: maybe}",
                "line 1: expect: unknown variant `maybe`",
            ),
            (
                "- {from: a/b, to: c/d, port: icmp, expect: deny, network: x}",
                "line 1: 'x' is no network",
            ),
        ] {
            let refused = read_expectations(text).unwrap_err().to_string();
            assert!(refused.starts_with(expected), "{text:?}: {refused}");
        }
    }
}
