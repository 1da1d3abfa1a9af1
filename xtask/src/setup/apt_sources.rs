//! The machine's own apt sources, in both formats of sources.list(5).

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

/// Names that Debian's archive answers to besides a release's code name.
const ALIASES: [&str; 5] = ["stable", "oldstable", "testing", "unstable", "sid"];

/// One binary package source: where it is and how it is trusted, without its suites.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    uris: String,
    suites: Vec<String>,
    /// Other deb822 fields as they stand, continuation lines included: `Signed-By` and the like.
    options: Vec<(String, String)>,
}

impl Source {
    /// The deb822 text for another suite at the same address, under the same trust.
    pub(super) fn in_suite(&self, suite: &str) -> String {
        let mut text = format!(
            "Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n",
            self.uris
        );
        for (name, value) in &self.options {
            text.push_str(&format!("{name}: {value}\n"));
        }
        text
    }
}

/// The release's code name of this machine, such as `bookworm`; `stable` where none is given.
pub(crate) fn own_release() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    code_name(&text).unwrap_or("stable").to_owned()
}

/// `VERSION_CODENAME` of os-release(5).
fn code_name(os_release: &str) -> Option<&str> {
    let value = os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))?
        .trim_matches(['"', '\'']);
    (!value.is_empty()).then_some(value)
}

/// The machine's sources of the distribution's main archive.
///
/// Those are the ones with the release itself among their suites; updates, security fixes and other
/// vendors have suites of other names.
///
/// # Errors
/// A sources file cannot be read.
pub(super) fn machine(own_release: &str) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let main_list = Path::new("/etc/apt/sources.list");
    if main_list.exists() {
        sources.extend(one_line(&read(main_list)?));
    }
    let parts = Path::new("/etc/apt/sources.list.d");
    if parts.is_dir() {
        let mut files: Vec<_> = fs::read_dir(parts)
            .with_context(|| format!("cannot read {}", parts.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        files.sort();
        for file in files {
            match file.extension().and_then(|kind| kind.to_str()) {
                Some("list") => sources.extend(one_line(&read(&file)?)),
                Some("sources") => sources.extend(deb822(&read(&file)?)),
                _ => {}
            }
        }
    }
    sources.retain(|source| {
        source
            .suites
            .iter()
            .any(|suite| suite == own_release || ALIASES.contains(&suite.as_str()))
    });
    Ok(sources)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Sources in the format `deb [option=value ...] uri suite component ...`.
fn one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(one_line_source).collect()
}

fn one_line_source(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    let mut rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let mut options = Vec::new();
    if let Some(bracketed) = rest.strip_prefix('[') {
        let (inside, after) = bracketed.split_once(']')?;
        for option in inside.split_whitespace() {
            let (name, value) = option.split_once('=')?;
            let name = match name {
                "arch" => "Architectures",
                "lang" => "Languages",
                "target" => "Targets",
                other => other,
            };
            options.push((name.to_owned(), value.replace(',', " ")));
        }
        rest = after;
    }
    let mut words = rest.split_whitespace();
    Some(Source {
        uris: words.next()?.to_owned(),
        suites: vec![words.next()?.to_owned()],
        options,
    })
}

/// Sources in the deb822 format: stanzas of `Field: value`, an indented line continuing a value.
fn deb822(text: &str) -> Vec<Source> {
    let without_comments: String = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{}\n", line.trim_end()))
        .collect();
    without_comments
        .split("\n\n")
        .filter_map(deb822_source)
        .collect()
}

fn deb822_source(stanza: &str) -> Option<Source> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in stanza.lines().filter(|line| !line.is_empty()) {
        if line.starts_with([' ', '\t']) {
            let (_, value) = fields.last_mut()?;
            value.push('\n');
            value.push_str(line);
        } else {
            let (name, value) = line.split_once(':')?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    let mut take = |name: &str| {
        let index = fields
            .iter()
            .position(|(field, _)| field.eq_ignore_ascii_case(name))?;
        Some(fields.remove(index).1)
    };
    let types = take("Types")?;
    let uris = take("URIs")?;
    let suites = take("Suites")?;
    take("Components");
    let disabled = |value: String| {
        ["no", "false", "off", "0"]
            .iter()
            .any(|word| value.eq_ignore_ascii_case(word))
    };
    if take("Enabled").is_some_and(disabled) || !types.split_whitespace().any(|kind| kind == "deb")
    {
        return None;
    }
    Some(Source {
        uris,
        suites: suites.split_whitespace().map(str::to_owned).collect(),
        options: fields,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uris: &str, suites: &[&str], options: &[(&str, &str)]) -> Source {
        Source {
            uris: uris.to_owned(),
            suites: suites.iter().map(|&suite| suite.to_owned()).collect(),
            options: options
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        }
    }

    #[test]
    fn one_line_format() {
        let text = "# a comment\n\
            deb http://mirror.test/debian bookworm main contrib # trailing\n\
            deb-src http://mirror.test/debian bookworm main\n\
            deb\t[arch=amd64,arm64 signed-by=/k.gpg] http://mirror.test/b sid main\n\
            debris http://mirror.test/c sid main\n";
        assert_eq!(
            one_line(text),
            [
                source("http://mirror.test/debian", &["bookworm"], &[]),
                source(
                    "http://mirror.test/b",
                    &["sid"],
                    &[("Architectures", "amd64 arm64"), ("signed-by", "/k.gpg")]
                ),
            ]
        );
    }

    #[test]
    fn deb822_format() {
        let text = "Types: deb deb-src\n\
            # where\n\
            URIs: http://mirror.test/debian\n\
            Suites: bookworm bookworm-updates\n\
            Components: main\n\
            Signed-By:\n -----BEGIN\n .\n -----END\n\
            \n\
            \n\
            Types: deb\n\
            Enabled: no\n\
            URIs: http://mirror.test/off\n\
            Suites: bookworm\n\
            \n\
            Types: deb-src\n\
            URIs: http://mirror.test/source\n\
            Suites: bookworm\n";
        let expected = source(
            "http://mirror.test/debian",
            &["bookworm", "bookworm-updates"],
            &[("Signed-By", "\n -----BEGIN\n .\n -----END")],
        );
        let read = deb822(text);
        assert_eq!(read, [expected]);
        assert_eq!(
            read[0].in_suite("sid"),
            "Types: deb\nURIs: http://mirror.test/debian\nSuites: sid\nComponents: main\n\
             Signed-By: \n -----BEGIN\n .\n -----END\n"
        );
    }

    #[test]
    fn code_name_of_os_release() {
        assert_eq!(code_name("NAME=x\nVERSION_CODENAME=noble\n"), Some("noble"));
        assert_eq!(
            code_name("VERSION_CODENAME=\"bookworm\"\n"),
            Some("bookworm")
        );
        assert_eq!(code_name("VERSION_CODENAME=\n"), None);
        assert_eq!(code_name("NAME=x\n"), None);
    }
}
