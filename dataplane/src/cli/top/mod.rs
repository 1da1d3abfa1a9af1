//! `sluice top`: a live view of the endpoints.

mod columns;
mod rates;
mod state;
mod view;

use std::{io::IsTerminal as _, time::Duration};

use anyhow::Context as _;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEventKind},
};
use state::{Next, Page, Reading, State};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use crate::api::client::{Client, ClientError};

const EXAMPLES: &str = "\
Keys: arrows sort and move, r reverses, / filters, space pauses, ? explains
the columns, q quits.

Examples:
  sluice top
  sluice top --interval 0.5 --filter training/";

/// Watch the endpoints' rates, drops and RoCE.
///
/// Sorted by the traffic to the pods at first. What the columns mean is under
/// the key `?`. When the agent goes away the view says so and waits for it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Top {
    /// Seconds between two readings, 0.1 to 3600
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
    /// Show only endpoints whose pod, interface or uplink contains this
    #[arg(
        short,
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    filter: String,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("give a number of seconds from 0.1 to 3600".into()),
    }
}

impl Top {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        if !(std::io::stdout().is_terminal() && std::io::stdin().is_terminal()) {
            anyhow::bail!(
                "top needs a terminal for its input and output; `sluice stats` prints the \
                 counters once"
            );
        }
        // An agent that is not there at all is better told without a screen.
        let first = read(client).await?;
        let mut state = State::default();
        state.filter = self.filter;
        state.update(Ok(first));
        // The terminal is restored on a panic, too.
        let mut terminal = ratatui::try_init().context("cannot set up the terminal")?;
        let outcome = watch(&mut terminal, client.clone(), self.interval, state).await;
        ratatui::restore();
        outcome
    }
}

async fn read(client: &Client) -> Result<Reading, ClientError> {
    Ok(Reading {
        stats: client.stats().await?,
        endpoints: client.endpoints().await?,
        status: client.status().await?,
    })
}

/// Until the user quits, or the terminal goes away.
async fn watch(
    terminal: &mut DefaultTerminal,
    client: Client,
    period: Duration,
    mut state: State,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for signals")?;
    let mut input = follow_input();
    let mut readings = follow_agent(client, period);
    loop {
        let mut page = Page::default();
        terminal
            .draw(|frame| page = view::draw(frame, &state))
            .context("cannot draw on the terminal")?;
        tokio::select! {
            event = input.recv() => match event {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    if state.key(key, &page) == Next::Quit {
                        return Ok(());
                    }
                }
                // A new size, for one: draw again.
                Some(_) => {}
                None => return Ok(()),
            },
            Some(reading) = readings.recv() => state.update(reading),
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
        }
    }
}

/// Asks the agent again and again, apart from the keys: a stuck agent must not
/// hold them up.
fn follow_agent(client: Client, period: Duration) -> mpsc::Receiver<Result<Reading, String>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one is due at once, and the first reading is there already.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let reading = read(&client).await.map_err(|error| error.to_string());
            if sender.send(reading).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Keys and changes of size. Reading them blocks, hence a thread; it ends with
/// the process, or when the terminal does.
fn follow_input() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}
