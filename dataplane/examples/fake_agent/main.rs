//! Serves the agent's API with made-up endpoints and traffic, to look at
//! `sluice top` and the other commands without root:
//!
//!     cargo run --example fake_agent -- /tmp/sluice.sock
//!     cargo run --bin sluice -- --socket /tmp/sluice.sock top

mod fake;

use std::{path::Path, sync::Arc, time::Duration};

use dataplane::api::{
    Dataplane, Socket, server,
    types::{AttachRequest, PodName, UplinkRequest},
};
use tokio::sync::watch;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: fake_agent SOCKET")?;
    let fake = Arc::new(fake::Fake::new());
    fake.add_uplink(&UplinkRequest {
        interface: "ens1f0np0".into(),
        host_reach: true,
    })?;
    for number in 0..40 {
        fake.attach(&AttachRequest {
            netns: format!("cni-{number:04}").parse()?,
            interface: "net1".into(),
            pod: (number % 5 != 0).then(|| PodName {
                namespace: "training".into(),
                name: format!("worker-{number}"),
            }),
        })?;
    }

    let (stop, stopped) = watch::channel(false);
    let events = Arc::clone(&fake);
    tokio::spawn(async move {
        for psn in 0.. {
            events.emit(fake::event(psn));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    tokio::spawn(async move {
        // Stops on the signal, and if it cannot be waited for, at once.
        let _ = tokio::signal::ctrl_c().await;
        stop.send_replace(true);
    });
    server::serve(Socket::bind(Path::new(&path))?, fake, stopped).await;
    Ok(())
}
