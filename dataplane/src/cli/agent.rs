//! `sluice agent`.

use std::{io::IsTerminal as _, path::PathBuf};

use tracing_subscriber::filter::LevelFilter;

use crate::{
    config::{Config, Settings},
    daemon,
};

/// Run the agent of this node.
///
/// It adopts what is attached already, serves the API and the metrics, and
/// follows the node's interfaces. Stopping or killing it detaches nothing.
///
/// Each setting may come from a flag, from the variable named beside it, or
/// from the configuration file, in this order.
#[derive(Debug, clap::Args)]
pub(super) struct Agent {
    /// Configuration file [default: /etc/sluice/config.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "SLUICE_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

impl Agent {
    pub(super) fn run(self, socket: Option<PathBuf>) -> anyhow::Result<()> {
        #[cfg(feature = "failpoints")]
        let _scenario = fail::FailScenario::setup();
        let mut settings = self.settings;
        settings.socket = socket;
        let file = self.config.filter(|path| !path.as_os_str().is_empty());
        let config = Config::load(file.as_deref(), settings)?;
        tracing_subscriber::fmt()
            .with_max_level(LevelFilter::from_level(config.log.into()))
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .with_writer(std::io::stderr)
            .init();
        #[cfg(feature = "log")]
        tracing_log::LogTracer::init().ok();
        daemon::run(&config)
    }
}
