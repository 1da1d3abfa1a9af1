//! Drawing the state.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Cell, Clear, Paragraph, Row, Table, TableState},
};

use super::{
    columns::{Column, EndpointRow, SPACING},
    rates::{UplinkRates, human},
    state::{Page, Shown, State},
};
use crate::cli::table::duration;

const HELP: &str = "\
 ← →        sort by another column
 r          reverse the order
 ↑ ↓ j k    move; PgUp PgDn Home End too
 /          filter by pod, interface or uplink
 Esc        drop the filter; without one, quit
 space p    pause, and go on
 ? h        this help
 q Ctrl-C   quit

 IN is to the pod, OUT from the pod. ROCE counts
 RoCE packets that eBPF sees; RoCE that a NIC
 handles in hardware passes it by.
 CE   marked by a switch: congestion
 CNP  told to slow down, or telling
 NAK  refused, \"receiver not ready\" included
 GAP  requests missing before this one
 A name in red: its programs are not attached.";

/// Least width of an uplink's name.
const UPLINK_WIDTH: u16 = 15;
/// Lines around the endpoints: title, heading, keys.
const FRAME_LINES: usize = 3;

/// Draws everything; returns what there was room for.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State) -> Page {
    let uplinks = state.shown.as_ref().map_or(0, |shown| shown.uplinks.len());
    // The uplinks' heading, and never more than a quarter of the screen.
    let uplinks = match uplinks {
        0 => 0,
        lines => (lines as u16 + 1).min(frame.area().height / 4),
    };
    let [title, table, bottom, faults, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(uplinks),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());

    frame.render_widget(title_line(state), title);
    draw_endpoints(frame, state, table);
    if let Some(shown) = &state.shown {
        draw_uplinks(frame, shown, bottom);
        frame.render_widget(faults_line(shown), faults);
    }
    frame.render_widget(keys_line(state), keys);
    if state.help {
        draw_help(frame);
    }
    Page {
        lines: usize::from(table.height).saturating_sub(FRAME_LINES).max(1),
        columns: Column::visible(table.width).0,
    }
}

fn title_line(state: &State) -> Line<'static> {
    let mut spans = vec!["sluice top".bold()];
    if let Some(Shown { status, .. }) = &state.shown {
        spans.push(Span::raw(format!(
            "  {} of {} endpoints  agent {} up {}  Linux {}",
            status.endpoints,
            status.max_endpoints,
            status.version,
            duration(status.uptime_seconds),
            status.kernel
        )));
        if !status.problems.is_empty() {
            let problems = format!("  {} problems: see sluice status", status.problems.len());
            spans.push(problems.yellow());
        }
    }
    if state.paused {
        spans.push("  PAUSED".yellow().bold());
    }
    match (&state.error, &state.shown) {
        (Some(error), _) => {
            // The error is what matters now, so it comes before the rest.
            spans.truncate(1);
            spans.push(Span::styled(
                format!("  trying again: {error}"),
                Style::new().fg(Color::Red).bold(),
            ));
        }
        (None, None) => spans.push("  asking the agent ...".into()),
        (None, Some(_)) => {}
    }
    Line::from(spans)
}

fn draw_endpoints(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let (columns, owner) = Column::visible(area.width);
    let heading = columns.iter().map(|column| {
        let text = match (*column == state.sort, state.reverse) {
            (true, false) => format!("{}▼", column.heading()),
            (true, true) => format!("{}▲", column.heading()),
            _ => column.heading().to_owned(),
        };
        let style = match *column == state.sort {
            true => Style::new().bold(),
            false => Style::new(),
        };
        cell(*column, text).style(style)
    });
    let rows = state.rows();
    let nothing = match (&state.shown, rows.is_empty(), state.filter.is_empty()) {
        (Some(_), true, true) => "no endpoint is attached; `sluice attach --help` tells how",
        (Some(_), true, false) => "no endpoint's pod, interface or uplink contains the filter",
        _ => "",
    };
    let lines = rows.iter().map(|row| {
        let cells = columns
            .iter()
            .map(|column| cell(*column, column.text(row, owner)).style(cell_style(*column, row)));
        Row::new(cells.collect::<Vec<_>>())
    });
    let widths = columns.iter().map(|column| match column {
        Column::Owner => Constraint::Length(owner),
        _ => Constraint::Length(column.width() + u16::from(*column == state.sort)),
    });
    let stale = match state.error {
        Some(_) => Style::new().add_modifier(Modifier::DIM),
        None => Style::new(),
    };
    let table = Table::new(lines.collect::<Vec<_>>(), widths)
        .header(Row::new(heading.collect::<Vec<_>>()).style(Style::new().reversed()))
        .column_spacing(SPACING)
        .row_highlight_style(Style::new().add_modifier(Modifier::UNDERLINED))
        .style(stale);
    let selected = state.selected.min(rows.len().saturating_sub(1));
    let mut position = TableState::default().with_selected(Some(selected));
    frame.render_stateful_widget(table, area, &mut position);
    let below = Layout::vertical([Constraint::Length(2), Constraint::Min(0)]).split(area)[1];
    frame.render_widget(Line::from(nothing).italic(), below);
}

fn cell(column: Column, text: String) -> Cell<'static> {
    let alignment = match column.is_number() {
        true => Alignment::Right,
        false => Alignment::Left,
    };
    Cell::from(Line::from(text).alignment(alignment))
}

fn cell_style(column: Column, row: &EndpointRow) -> Style {
    let rate = row.rates.and_then(|rates| column.rate(&rates));
    match (column, rate) {
        (Column::Owner, _) if !row.attached => Style::new().fg(Color::Red),
        (column, Some(rate)) if rate > 0.0 && column.is_trouble() => Style::new().fg(Color::Yellow),
        (_, Some(rate)) if rate <= 0.0 => Style::new().add_modifier(Modifier::DIM),
        _ => Style::new(),
    }
}

fn draw_uplinks(frame: &mut Frame<'_>, shown: &Shown, area: Rect) {
    type Value = fn(&UplinkRates) -> f64;
    const COLUMNS: [(&str, Value); 6] = [
        ("IN pkt/s", |rates| rates.received_packets),
        ("IN bit/s", |rates| rates.received_bits),
        ("NODE>POD/s", |rates| rates.node_to_pod),
        ("POD>NODE/s", |rates| rates.pod_to_node),
        ("DROP/s", |rates| rates.drops),
        ("ROCE/s", |rates| rates.roce),
    ];
    let mut left = area.width.saturating_sub(UPLINK_WIDTH);
    let fitting = COLUMNS.iter().take_while(|(name, _)| {
        let room = left.checked_sub(name.len() as u16 + SPACING);
        left = room.unwrap_or(0);
        room.is_some()
    });
    let columns: Vec<_> = fitting.collect();
    let right = |text: String| Cell::from(Line::from(text).alignment(Alignment::Right));
    let heading = std::iter::once(Cell::from("UPLINK"))
        .chain(columns.iter().map(|(name, _)| right((*name).to_owned())));
    let lines = shown.uplinks.iter().map(|(name, attached, rates)| {
        let color = match attached {
            true => Style::new(),
            false => Style::new().fg(Color::Red),
        };
        let values = columns.iter().map(|(_, value)| {
            right(rates.map_or_else(|| "-".into(), |rates| human(value(&rates))))
        });
        Row::new(
            std::iter::once(Cell::from(name.clone()).style(color))
                .chain(values)
                .collect::<Vec<_>>(),
        )
    });
    let widths = std::iter::once(Constraint::Min(UPLINK_WIDTH)).chain(
        columns
            .iter()
            .map(|(name, _)| Constraint::Length(name.len() as u16)),
    );
    let table = Table::new(lines.collect::<Vec<_>>(), widths)
        .header(Row::new(heading.collect::<Vec<_>>()).style(Style::new().reversed()))
        .column_spacing(SPACING);
    frame.render_widget(table, area);
}

fn faults_line(shown: &Shown) -> Line<'static> {
    let occurred: Vec<_> = shown
        .faults
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| match shown.fault_rates.get(name) {
            Some(rate) => format!("{name} {count} (+{}/s)", human(*rate)),
            None => format!("{name} {count}"),
        })
        .collect();
    if occurred.is_empty() {
        return Line::from("faults: none");
    }
    let text = format!("faults: {}", occurred.join(", "));
    match shown.fault_rates.is_empty() {
        true => Line::from(text),
        false => Line::from(text.yellow()),
    }
}

fn keys_line(state: &State) -> Line<'static> {
    if state.typing {
        return Line::from(format!(
            "filter: {}_  (Enter: keep, Esc: drop)",
            state.filter
        ));
    }
    let mut text = "q quit  ←→ sort  r reverse  / filter  space pause  ? help".to_owned();
    if !state.filter.is_empty() {
        text = format!(
            "filter: {} ({} shown)  {text}",
            state.filter,
            state.rows().len()
        );
    }
    Line::from(text.add_modifier(Modifier::DIM))
}

fn draw_help(frame: &mut Frame<'_>) {
    let lines = HELP.lines().count() as u16 + 2;
    let width = HELP.lines().map(|line| line.chars().count()).max();
    let area = frame.area().centered(
        Constraint::Length(width.unwrap_or(0) as u16 + 3),
        Constraint::Length(lines),
    );
    frame.render_widget(Clear, area);
    let help = Paragraph::new(HELP).block(Block::bordered().title(" Keys and columns "));
    frame.render_widget(help, area);
}
