//! Reading the file, and where in it a mistake is.

use std::path::Path;

use super::{ConfigError, Settings};

/// Reads the text of the file at `path`.
pub(super) fn parse(path: &Path, text: &str) -> Result<Settings, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        let before = text.get(..start).unwrap_or_default();
        let cause = error.message().trim().replace('\n', "; ");
        // serde names an unknown key itself, toml leaves the others to us.
        let explanation = match key_at(text, before.len()) {
            Some(key) if !cause.contains(&format!("`{key}`")) => format!("{key}: {cause}"),
            _ => cause,
        };
        ConfigError::File {
            path: path.into(),
            line: before.matches('\n').count() + 1,
            explanation,
        }
    })
}

/// The key, or the table, that the line at byte `position` sets.
fn key_at(text: &str, position: usize) -> Option<&str> {
    let start = text.get(..position)?.rfind('\n').map_or(0, |end| end + 1);
    let line = text.get(start..)?.lines().next()?;
    let key = match line.split_once('=') {
        Some((key, _)) => key,
        None => line.trim().strip_prefix('[')?,
    };
    let key = key.trim_matches(|c: char| c.is_whitespace() || "[]".contains(c));
    (!key.is_empty()).then_some(key)
}
