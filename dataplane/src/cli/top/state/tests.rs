use std::collections::BTreeMap;

use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::{
    api::types::{
        Count, EndpointStats, FlowStats, RoceEndpoints, TcMechanism, Uplink, UplinkStats, XdpMode,
    },
    cli::top::view,
};

fn stats(id: u32, pod: Option<&str>, bytes: u64) -> EndpointStats {
    EndpointStats {
        id,
        interface: "net1".into(),
        netns: format!("cni-{id}").parse().unwrap(),
        pod: pod.map(|pod| pod.parse().unwrap()),
        ingress: Count {
            packets: bytes / 100,
            bytes,
        },
        egress: Count::default(),
        drops: Vec::new(),
        would_drop: Vec::new(),
        roce: Vec::new(),
    }
}

/// Three endpoints that receive 1, 3 and 2 units a second.
fn reading(second: u64) -> Reading {
    let endpoints = vec![
        stats(1, Some("web/b"), second * 1000),
        stats(2, Some("web/a"), second * 3000),
        stats(3, None, second * 2000),
    ];
    let uplink = Uplink {
        id: 0,
        interface: "ens1".into(),
        ifindex: 2,
        mac: None,
        addresses: Vec::new(),
        host_reach: true,
        xdp: XdpMode::Native,
        mechanism: TcMechanism::Tcx,
        health: Health::Attached,
    };
    Reading {
        stats: Stats {
            time_ns: second * 1_000_000_000,
            endpoints,
            uplinks: vec![UplinkStats {
                interface: "ens1".into(),
                counters: BTreeMap::new(),
                drops: Vec::new(),
                roce: Vec::new(),
            }],
            faults: BTreeMap::from([("events_full".into(), second * 5)]),
            repairs: 0,
            flows: FlowStats::default(),
        },
        endpoints: Vec::new(),
        status: Status {
            roce: RoceEndpoints::default(),
            version: "1.2.3".into(),
            pid: 1,
            uptime_seconds: 7260,
            kernel: "6.18.0".into(),
            cpus: 2,
            mechanism: TcMechanism::Tcx,
            pins: "/sys/fs/bpf/sluice/v1".into(),
            layout: 1,
            pipeline: String::new(),
            endpoints: 3,
            max_endpoints: 512,
            maps: Vec::new(),
            memory_bytes: 0,
            uplinks: vec![uplink],
            problems: Vec::new(),
        },
    }
}

fn two_readings() -> State {
    let mut state = State::default();
    state.update(Ok(reading(1)));
    state.update(Ok(reading(2)));
    state
}

fn press(state: &mut State, code: KeyCode) -> Next {
    state.key(KeyEvent::new(code, KeyModifiers::NONE), &page())
}

/// A screen on which every column fits.
fn page() -> Page {
    Page {
        lines: 10,
        columns: Column::ALL.to_vec(),
    }
}

fn ids(state: &State) -> Vec<u32> {
    state.rows().iter().map(|row| row.id).collect()
}

/// What the screen shows.
fn screen(state: &State, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| {
            view::draw(frame, state);
        })
        .unwrap();
    terminal.backend().to_string()
}

#[test]
fn columns_that_do_not_fit_are_no_order() {
    let mut state = two_readings();
    let narrow = Page {
        lines: 10,
        columns: vec![Column::Owner, Column::InBits, Column::Drops],
    };
    let mut orders = Vec::new();
    for _ in 0..3 {
        state.key(KeyEvent::new(KeyCode::Right, KeyModifiers::NONE), &narrow);
        orders.push(state.sort);
    }
    assert_eq!(orders, [Column::Drops, Column::Owner, Column::InBits]);
}

#[test]
fn the_busiest_come_first_and_keys_change_that() {
    let mut state = two_readings();
    assert_eq!(ids(&state), [2, 3, 1]);
    press(&mut state, KeyCode::Char('r'));
    assert_eq!(ids(&state), [1, 3, 2]);
    press(&mut state, KeyCode::Char('r'));
    while state.sort != Column::Owner {
        press(&mut state, KeyCode::Left);
    }
    assert_eq!(ids(&state), [3, 2, 1], "cni-3, web/a, web/b");
    press(&mut state, KeyCode::Left);
    assert_eq!(ids(&state), [1, 2, 3]);
    press(&mut state, KeyCode::Left);
    assert_eq!(
        state.sort,
        Column::Gaps,
        "the first column's left is the last"
    );
    assert_eq!(ids(&state), [1, 2, 3], "all alike: by id");
}

#[test]
fn a_filter_is_typed_kept_and_dropped() {
    let mut state = two_readings();
    press(&mut state, KeyCode::Char('/'));
    for letter in "WEB/q".chars() {
        assert_eq!(press(&mut state, KeyCode::Char(letter)), Next::Continue);
    }
    assert_eq!(ids(&state), [0; 0]);
    press(&mut state, KeyCode::Backspace);
    assert_eq!(ids(&state), [2, 1]);
    press(&mut state, KeyCode::Enter);
    assert!(screen(&state, 100, 12).contains("filter: WEB/ (2 shown)"));
    assert_eq!(press(&mut state, KeyCode::Esc), Next::Continue);
    assert_eq!(ids(&state).len(), 3);
    assert_eq!(press(&mut state, KeyCode::Esc), Next::Quit);
}

#[test]
fn a_pause_holds_the_view_and_not_the_rates() {
    let mut state = two_readings();
    let before = screen(&state, 140, 12);
    press(&mut state, KeyCode::Char(' '));
    // A burst meanwhile, which no rate afterwards may contain.
    let mut burst = reading(3);
    burst.stats.endpoints[0].ingress.bytes += 1_000_000_000;
    state.update(Ok(burst.clone()));
    assert_eq!(
        screen(&state, 140, 12).replace("  PAUSED", "        "),
        before
    );
    press(&mut state, KeyCode::Char(' '));
    let mut after = reading(4);
    after.stats.endpoints[0].ingress.bytes += 1_000_000_000;
    state.update(Ok(after));
    let row = state.rows().into_iter().find(|row| row.id == 1).unwrap();
    assert_eq!(row.rates.unwrap().in_bits, 8000.0);
}

#[test]
fn the_screen_shows_rates_uplinks_and_faults() {
    let state = two_readings();
    let text = screen(&state, 140, 12);
    let line = |start: &str| {
        let found = text
            .lines()
            .find(|line| line.trim_start_matches('"').trim_start().starts_with(start));
        found
            .unwrap_or_else(|| panic!("no {start} in\n{text}"))
            .to_owned()
    };
    let busiest = line("2 web/a");
    assert!(busiest.contains("30.0"), "{busiest}");
    assert!(busiest.contains("24.0k"), "{busiest}");
    assert!(line("3 cni-3").contains("16.0k"));
    assert!(line("sluice top").contains("3 of 512 endpoints  agent 1.2.3 up 2h01m  Linux 6.18.0"));
    assert!(line("ens1").contains('0'));
    assert!(line("faults: ").contains("events_full 10 (+5.0/s)"));
    assert!(line("ID").contains("IN bit/s▼"));
}

#[test]
fn an_error_is_shown_until_the_agent_is_back() {
    let mut state = two_readings();
    state.update(Err("no agent at /x".into()));
    let text = screen(&state, 140, 12);
    assert!(text.contains("trying again: no agent at /x"), "{text}");
    assert!(text.contains("web/a"), "the last reading stays: {text}");
    state.update(Ok(reading(3)));
    assert!(!screen(&state, 140, 12).contains("no agent"));
}

#[test]
fn any_size_of_terminal_will_do() {
    let mut state = two_readings();
    for help in [false, true] {
        state.help = help;
        for (width, height) in [(1, 1), (10, 3), (40, 5), (80, 24), (300, 100)] {
            screen(&state, width, height);
        }
    }
    assert!(screen(&state, 80, 24).contains("Keys and columns"));
    press(&mut state, KeyCode::Char('x'));
    assert!(!state.help);
}

#[test]
fn the_cursor_stays_on_the_list() {
    let mut state = two_readings();
    press(&mut state, KeyCode::Up);
    assert_eq!(state.selected, 0);
    for _ in 0..9 {
        press(&mut state, KeyCode::Down);
    }
    assert_eq!(state.selected, 2);
    press(&mut state, KeyCode::PageUp);
    assert_eq!(state.selected, 0);
    press(&mut state, KeyCode::End);
    assert_eq!(state.selected, 2);
    assert_eq!(
        state.key(
            KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL),
            &page()
        ),
        Next::Quit
    );
}
