//! The agent as a process: start, serve, follow, stop.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::{agent::Agent, api, config::Config, metrics};

/// Runs the agent until it is told to stop (SIGTERM or SIGINT). The dataplane
/// stays in place: stopping the agent detaches nothing.
///
/// # Errors
/// The start failed, with what is missing; or following the node's interfaces
/// did.
pub fn run(config: &Config) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(serve(config))
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    let agent = Arc::new(Agent::open(config.agent.clone())?);
    agent.declare_hardware(config.rdma_mode, &config.nics);
    agent.declare_uplinks(&config.uplinks);
    let socket = api::Socket::bind(&config.socket)?;

    let (stop, stopped) = watch::channel(false);
    let mut servers = JoinSet::new();
    if let Some(address) = config.metrics_address {
        let listener = metrics::bind(address).await?;
        let compat = config.metrics_compat.clone();
        servers.spawn(metrics::serve(
            listener,
            agent.clone(),
            compat,
            stopped.clone(),
        ));
    }
    servers.spawn(api::server::serve(socket, agent.clone(), stopped));

    let mut followers = JoinSet::new();
    followers.spawn(agent.clone().watch());
    followers.spawn(agent.clone().follow_policies());
    followers.spawn(agent.clone().hand_over());
    if let Some(events) = agent.take_events() {
        let agent = agent.clone();
        followers.spawn(async move { agent.follow(events).await });
    }
    #[cfg(feature = "log")]
    if let Some(logger) = agent.take_logger() {
        followers.spawn(async move { Ok(logger.run().await?) });
    }

    tracing::info!(
        "ready: {} endpoints, {} uplinks; API at {}",
        agent.endpoints().len(),
        agent.uplinks().len(),
        config.socket.display()
    );
    notify_ready();
    let outcome = tokio::select! {
        () = told_to_stop() => Ok(()),
        Some(ended) = followers.join_next() => ended
            .context("a task of the agent failed")
            .flatten()
            .and_then(|()| anyhow::bail!("a task of the agent ended")),
    };
    tracing::info!("stopping; the dataplane stays in place");
    followers.abort_all();
    let _ = stop.send(true);
    while servers.join_next().await.is_some() {}
    agent.save_hw_counters();
    outcome
}

async fn told_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Tells systemd that the agent is ready (`sd_notify(3)`), where systemd asked.
fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let told = std::os::unix::net::UnixDatagram::unbound().and_then(|socket| {
        socket.set_write_timeout(Some(Duration::from_secs(1)))?;
        socket.send_to(b"READY=1", path)
    });
    if let Err(error) = told {
        tracing::warn!("cannot tell systemd that the agent is ready: {error}");
    }
}
