//! The forms that the API server asks of names, labels and ports.

/// A label's value: empty, or at most 63 letters, digits, `-`, `_` and `.`,
/// the ends being letters or digits.
pub(super) fn label_value(value: &str) -> Result<(), String> {
    if value.is_empty() || qualified_part(value) {
        return Ok(());
    }
    Err(format!(
        "'{value}' is no label value: at most 63 letters, digits, '-', '_' or '.', \
         with a letter or digit at both ends"
    ))
}

/// A label's key: a name, perhaps behind a DNS name and a slash.
pub(super) fn label_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if qualified_part(name) && prefix.is_none_or(dns_name) {
        return Ok(());
    }
    Err(format!(
        "'{key}' is no label key, such as app or example.com/app"
    ))
}

/// An object's name (RFC 1123 subdomain).
pub(super) fn object_name(name: &str) -> Result<(), String> {
    if dns_name(name) {
        return Ok(());
    }
    Err(format!(
        "'{name}' is no object name: at most 253 lower-case letters, digits, '-' or '.', \
         with a letter or digit at both ends"
    ))
}

/// A port's name (IANA service name, RFC 6335 section 5.1).
pub(super) fn port_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let sound = !name.is_empty()
        && name.len() <= 15
        && name.chars().all(allowed)
        && name.chars().any(|c| c.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    if sound {
        return Ok(());
    }
    Err(format!(
        "'{name}' is no port name: at most 15 lower-case letters, digits or single '-', \
         with a letter among them; a number goes without quotes"
    ))
}

fn qualified_part(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_alphanumeric();
    !text.is_empty()
        && text.len() <= 63
        && text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && text
            .chars()
            .all(|c| alphanumeric(c) || matches!(c, '-' | '_' | '.'))
}

fn dns_name(text: &str) -> bool {
    let label = |label: &str| {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty()
            && label.chars().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}
