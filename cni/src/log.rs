//! The plugin's log: a file where one is configured, else standard error.
//! Standard output is the result's alone.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::OnceLock,
    time::SystemTime,
};

use serde::Deserialize;

use crate::{call::Call, config::Fields};

/// How much is logged, by the names that sriov-cni has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// What failed.
    #[serde(alias = "panic")]
    Error,
    /// And what was made up for.
    Warning,
    /// And what was done.
    Info,
    /// And what was asked for.
    Debug,
}

#[derive(Debug)]
struct Log {
    file: Option<File>,
    level: Level,
    /// What each line is about.
    call: String,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Begins the log of a call. A file that cannot be written stops no pod: the
/// log goes to standard error then.
pub fn begin(call: &Call, network: &str, fields: &Fields) {
    let opened = fields.log_file.as_deref().map(|path| (path, open(path)));
    let attachment = call.attachment().map(ToString::to_string);
    let usual = match opened {
        Some((_, Ok(_))) => Level::Info,
        // The runtime's own log, most likely.
        _ => Level::Warning,
    };
    let (file, problem) = match opened {
        None => (None, None),
        Some((_, Ok(file))) => (Some(file), None),
        Some((path, Err(error))) => (None, Some(format!("logFile {}: {error}", path.display()))),
    };
    let log = Log {
        file,
        level: fields.log_level.unwrap_or(usual),
        call: format!(
            "{} {network}: {}",
            call.command.name(),
            attachment.unwrap_or_else(|_| "all containers".into())
        ),
    };
    if LOG.set(log).is_ok()
        && let Some(problem) = problem
    {
        write(Level::Warning, &problem);
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// Logs a line, once a log has begun.
pub fn write(level: Level, text: &str) {
    let Some(log) = LOG.get().filter(|log| level <= log.level) else {
        return;
    };
    let name = match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
    };
    let text = text.replace('\n', "\\n");
    let time = humantime::format_rfc3339_millis(SystemTime::now());
    let line = format!("{time} {name} {}: {text}\n", log.call);
    // One write, so that the lines of plugins side by side stay whole.
    let _ = match &log.file {
        Some(file) => (&*file).write_all(line.as_bytes()),
        None => io::stderr().write_all(line.as_bytes()),
    };
}
