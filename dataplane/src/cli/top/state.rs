//! What the view shows, and what keys do to it.

use std::collections::{BTreeMap, HashMap};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    columns::{Column, EndpointRow},
    rates::{Rates, UplinkRates},
};
use crate::api::types::{Endpoint, Health, Stats, Status};

/// One reading of everything.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub stats: Stats,
    pub endpoints: Vec<Endpoint>,
    pub status: Status,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Continue,
    Quit,
}

/// What there was room for when the view was drawn.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Endpoints.
    pub lines: usize,
    /// Columns.
    pub columns: Vec<Column>,
}

/// The state of the view.
#[derive(Debug)]
pub(super) struct State {
    /// Sorted by this column, the other way round if `reverse`.
    pub sort: Column,
    pub reverse: bool,
    /// Only endpoints whose names contain this.
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    pub paused: bool,
    pub help: bool,
    /// The line of the cursor.
    pub selected: usize,
    /// Why there is no fresh reading, if there is none.
    pub error: Option<String>,
    /// What is shown.
    pub shown: Option<Shown>,
    /// The latest reading, which the next one's rates are from.
    latest: Option<Reading>,
}

/// A reading with its rates.
#[derive(Debug)]
pub(super) struct Shown {
    pub status: Status,
    pub faults: BTreeMap<String, u64>,
    pub fault_rates: HashMap<String, f64>,
    pub uplinks: Vec<(String, bool, Option<UplinkRates>)>,
    rows: Vec<EndpointRow>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            sort: Column::InBits,
            reverse: false,
            filter: String::new(),
            typing: false,
            paused: false,
            help: false,
            selected: 0,
            error: None,
            shown: None,
            latest: None,
        }
    }
}

impl State {
    /// Takes a reading in. While paused it is only remembered, so that the
    /// rates afterwards do not average over the pause.
    pub fn update(&mut self, reading: Result<Reading, String>) {
        let reading = match reading {
            Ok(reading) => reading,
            Err(error) => {
                self.error = Some(error);
                return;
            }
        };
        self.error = None;
        let rates = self
            .latest
            .as_ref()
            .and_then(|latest| Rates::between(&latest.stats, &reading.stats));
        if !self.paused || self.shown.is_none() {
            self.shown = Some(Shown::new(&reading, rates.unwrap_or_default()));
        }
        self.latest = Some(reading);
    }

    /// The endpoints that pass the filter, in order.
    pub fn rows(&self) -> Vec<&EndpointRow> {
        let filter = self.filter.to_lowercase();
        let passes = |row: &&EndpointRow| {
            [&row.owner, &row.interface, &row.uplink]
                .iter()
                .any(|name| name.to_lowercase().contains(&filter))
        };
        let rows = self.shown.iter().flat_map(|shown| &shown.rows);
        let mut rows: Vec<_> = rows.filter(passes).collect();
        rows.sort_by(|a, b| {
            let order = self.sort.compare(a, b);
            let order = if self.reverse { order.reverse() } else { order };
            order.then(a.id.cmp(&b.id))
        });
        rows
    }

    /// Does what a key stands for; `page` is what was drawn.
    pub fn key(&mut self, key: KeyEvent, page: &Page) -> Next {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Next::Quit;
        }
        if self.typing {
            self.type_filter(key.code);
            return Next::Continue;
        }
        if self.help {
            self.help = false;
            return Next::Continue;
        }
        match key.code {
            KeyCode::Char('q') => return Next::Quit,
            KeyCode::Esc if self.filter.is_empty() => return Next::Quit,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char(' ' | 'p') => self.paused = !self.paused,
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Left => self.sort_by_neighbor(page, Column::ALL.len() - 1),
            KeyCode::Right => self.sort_by_neighbor(page, 1),
            KeyCode::Up | KeyCode::Char('k') => self.select(self.selected.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(self.selected + 1),
            KeyCode::PageUp => self.select(self.selected.saturating_sub(page.lines)),
            KeyCode::PageDown => self.select(self.selected + page.lines),
            KeyCode::Home => self.select(0),
            KeyCode::End => self.select(usize::MAX),
            _ => {}
        }
        Next::Continue
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => {}
        }
        self.select(0);
    }

    /// Sorts by the next column that is in view, in steps to the right.
    fn sort_by_neighbor(&mut self, page: &Page, steps: usize) {
        let columns = Column::ALL;
        let position = columns.iter().position(|column| *column == self.sort);
        let mut position = position.unwrap_or(0);
        for _ in columns {
            position = (position + steps) % columns.len();
            if page.columns.contains(&columns[position]) {
                self.sort = columns[position];
                return;
            }
        }
    }

    fn select(&mut self, line: usize) {
        self.selected = line.min(self.rows().len().saturating_sub(1));
    }
}

impl Shown {
    fn new(reading: &Reading, rates: Rates) -> Self {
        let Reading {
            stats,
            endpoints,
            status,
        } = reading;
        let known: HashMap<u32, &Endpoint> = endpoints.iter().map(|e| (e.id, e)).collect();
        let rows = stats.endpoints.iter().map(|stats| {
            let endpoint = known.get(&stats.id);
            EndpointRow {
                id: stats.id,
                owner: match &stats.pod {
                    Some(pod) => pod.to_string(),
                    None => stats.netns.to_string(),
                },
                interface: stats.interface.clone(),
                uplink: endpoint
                    .and_then(|endpoint| endpoint.uplink.clone())
                    .unwrap_or_default(),
                attached: endpoint.is_none_or(|endpoint| endpoint.health == Health::Attached),
                rates: rates.endpoints.get(&stats.id).copied(),
            }
        });
        let uplinks = status.uplinks.iter().map(|uplink| {
            let attached = uplink.health == Health::Attached;
            let rates = rates.uplinks.get(&uplink.interface).copied();
            (uplink.interface.clone(), attached, rates)
        });
        Self {
            rows: rows.collect(),
            uplinks: uplinks.collect(),
            status: status.clone(),
            faults: stats.faults.clone(),
            fault_rates: rates.faults,
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
