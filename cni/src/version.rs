//! Versions of the CNI specification.

use serde_json::{Value, json};

use crate::error::Error;

/// A version that this plugin speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: addresses no longer say their IP version.
    V1_0_0,
    /// 1.1.0: STATUS, GC, and more fields in results.
    V1_1_0,
}

/// All of them, oldest first.
pub const SUPPORTED: [Version; 4] = [
    Version::V0_3_1,
    Version::V0_4_0,
    Version::V1_0_0,
    Version::V1_1_0,
];

impl Version {
    /// The newest.
    pub const LATEST: Self = Self::V1_1_0;

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// # Errors
    /// Code 1: a version that this plugin does not speak.
    pub fn parse(text: &str) -> Result<Self, Error> {
        SUPPORTED
            .into_iter()
            .find(|version| version.name() == text)
            .ok_or_else(|| {
                Error::incompatible(format!(
                    "cniVersion {text:?} is not supported; use one of {}",
                    SUPPORTED.map(Self::name).join(", ")
                ))
            })
    }
}

/// The `cniVersion` in a configuration that may be broken otherwise.
pub fn spoken(input: &[u8]) -> Option<String> {
    let config: Value = serde_json::from_slice(input).ok()?;
    Some(config.get("cniVersion")?.as_str()?.to_owned())
}

/// The answer to VERSION, in the version that was asked in.
pub fn answer(input: &[u8]) -> String {
    let version = spoken(input).unwrap_or_else(|| Version::LATEST.name().to_owned());
    json!({
        "cniVersion": version,
        "supportedVersions": SUPPORTED.map(Version::name),
    })
    .to_string()
}
