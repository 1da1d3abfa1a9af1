//! Attaching one endpoint, beside the kernel's own time for two TCX attachments.
//!
//! Each attachment waits for an RCU grace period. The second waits for two where something was left
//! to RCU shortly before the first: a thread that ended, a socket that was closed, a file that was
//! renamed. Nobody who has just found an interface in another namespace can do without those, so
//! the attachments that are compared come after the end of a thread that was in the namespace. What
//! the same two take with RCU at rest is a row of its own.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::node::{POD_INTERFACE, TestNode};

use crate::{
    interrupt,
    local::{LocalAgent, request, selector},
    row::{Bar, Row},
    sys::{self, Kind},
};

const SAMPLES: usize = 100;
/// What the kernel is given to be done with the detachments before, which hold the locks and the
/// grace periods that an attachment waits for.
const SETTLE: Duration = Duration::from_millis(60);

pub(crate) fn measure() -> Result<Vec<Row>> {
    let node = TestNode::new(2)?;
    let [pod, other] = &node.pods[..] else {
        anyhow::bail!("a node without pods");
    };
    let ifindex = pod.describe(POD_INTERFACE)?["ifindex"].clone();
    let ifindex = ifindex.as_u64().context("interface without an index")? as u32;
    let agent = LocalAgent::open()?;
    // The kernel's code for TCX hooks is patched in with the first program on one, and out with
    // the last; a node in use has some.
    agent.agent.attach(&request(other, POD_INTERFACE))?;
    let empty = sys::empty_program(Kind::Tc, sys::TC_NEXT)?;

    let (mut ours, mut bare, mut at_rest) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        interrupt::check()?;
        let bare_attachments = || -> Result<f64> {
            let start = Instant::now();
            let _links = sys::attach_both(&empty, ifindex)?;
            Ok(milliseconds(start))
        };
        thread::sleep(SETTLE);
        at_rest.push(pod.enter(bare_attachments)??);

        thread::sleep(SETTLE);
        pod.enter(|| ())?;
        bare.push(pod.enter(bare_attachments)??);

        thread::sleep(SETTLE);
        let start = Instant::now();
        let endpoint = agent.agent.attach(&request(pod, POD_INTERFACE))?;
        ours.push(milliseconds(start));
        ensure!(
            endpoint.ifindex == ifindex,
            "another interface was attached"
        );
        agent.agent.detach(&selector(pod, POD_INTERFACE))?;
    }
    Ok(vec![
        Row::beside(
            "attach/endpoint",
            "ms",
            &ours,
            &bare,
            Bar::AboveBaseline(2.0),
        ),
        Row::alone("attach/bare-rcu-at-rest", "ms", &at_rest, Bar::None),
    ])
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
