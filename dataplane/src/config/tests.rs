use super::*;

fn config(text: &str, flags: Settings) -> Result<Config, String> {
    parse(Path::new("c.toml"), text)
        .and_then(|file| Config::new(flags.or(file)))
        .map_err(|error| error.to_string())
}

#[test]
fn the_example_sets_every_key_to_its_default_but_those_about_the_hardware() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config.toml");
    let text = fs::read_to_string(path).unwrap();
    let defaults = Config::new(Settings::default()).unwrap();
    assert_eq!(config(&text, Settings::default()), Ok(defaults.clone()));

    // With the comment signs before keys removed, it says the same.
    let all: String = text
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')))
        .map(|line| line.unwrap_or_default().to_owned() + "\n")
        .collect();
    let Settings {
        socket: Some(_),
        state_dir: Some(_),
        bpffs: Some(_),
        metrics_address: Some(_),
        metrics_compat: Some(_),
        max_endpoints: Some(_),
        max_flows: Some(_),
        flow_rate: Some(_),
        event_rate: Some(_),
        tc: Some(_),
        xdp: Some(_),
        uplinks: Some(uplinks),
        policy_dir: Some(policy_dir),
        network_policy: Some(_),
        unknown_pods: Some(_),
        allow_node: Some(_),
        policy_audit: Some(_),
        identities: Some(_),
        rdma_mode: Some(rdma_mode),
        rdma_pod_counters: Some(_),
        nics: Some(nics),
        log: Some(_),
    } = parse(Path::new("c.toml"), &all).unwrap()
    else {
        panic!("a key is missing from\n{all}");
    };
    assert!(!uplinks.is_empty() && !nics.is_empty());
    let expected = Config {
        uplinks,
        agent: Options {
            policy: PolicyOptions {
                folder: Some(policy_dir),
                ..defaults.agent.policy.clone()
            },
            ..defaults.agent.clone()
        },
        rdma_mode: Some(rdma_mode),
        nics,
        ..defaults
    };
    assert_eq!(config(&all, Settings::default()), Ok(expected));
}

#[test]
fn flags_beat_the_file_and_the_file_beats_defaults() {
    let flags = Settings {
        max_endpoints: Some(7),
        metrics_address: Some(MetricsAddress(None)),
        ..Settings::default()
    };
    let file = "max_endpoints = 9\nevent_rate = 0\nmetrics_address = \"[::1]:1\"";
    let config = config(file, flags).unwrap();
    assert_eq!(config.agent.max_endpoints, 7);
    assert_eq!(config.metrics_address, None);
    assert_eq!(config.agent.event_rate, 0);
    assert_eq!(config.agent.tc, crate::kernel::TcMode::Auto);
}

#[test]
fn errors_name_file_line_and_key() {
    for (text, expected) in [
        (
            "\nmax_endpoint = 1",
            "c.toml:2: unknown field `max_endpoint`, expected one of",
        ),
        (
            "max_endpoints = 0",
            "c.toml:1: max_endpoints: 0 is not from 1 to 4096",
        ),
        (
            "max_endpoints = 4097",
            "c.toml:1: max_endpoints: 4097 is not from 1 to 4096",
        ),
        (
            "flow_rate = 0",
            "c.toml:1: flow_rate: 0 is not from 1 to 1000000",
        ),
        (
            "event_rate = -1",
            "c.toml:1: event_rate: -1 is not from 0 to 10000",
        ),
        (
            "log = \"info\"\nmax_endpoints = \"many\"",
            "c.toml:2: max_endpoints: invalid type: string \"many\"",
        ),
        (
            "unknown_pods = \"open-after=soon\"",
            "c.toml:1: unknown_pods: \"open-after=soon\" is neither",
        ),
        (
            "tc = \"xdp\"",
            "c.toml:1: tc: unknown variant `xdp`, expected one of",
        ),
        (
            "metrics_compat = [\"nobody\"]",
            "c.toml:1: metrics_compat: unknown variant `nobody`, expected `spiderpool`",
        ),
        (
            "metrics_address = \"9655\"",
            "c.toml:1: metrics_address: \"9655\" is neither an address",
        ),
        (
            "[[uplinks]]\nhost_reach = true",
            "c.toml:1: uplinks: missing field `interface`",
        ),
        (
            "[[uplinks]]\ninterface = \"a\"\nhostreach = true",
            "c.toml:3: unknown field `hostreach`",
        ),
        ("tc = ", "c.toml:1: tc: "),
        ("nonsense", "c.toml:1: "),
        (
            "tc = \"auto\"\ntc = \"auto\"",
            "c.toml:2: tc: duplicate key",
        ),
        (
            "uplinks = [{interface = \"a\"}, {interface = \"a\"}]",
            "configuration: uplink a is listed twice",
        ),
        (
            "rdma_mode = \"exklusive\"",
            "c.toml:1: rdma_mode: unknown variant `exklusive`, expected `shared` or",
        ),
        (
            "[[nics]]\nvendor = \"15b3\"",
            "configuration: an entry of nics wants nothing",
        ),
        ("[[nics]]\nnum_vf = 4", "c.toml:2: unknown field `num_vf`"),
    ] {
        let error = config(text, Settings::default()).unwrap_err();
        assert!(error.starts_with(expected), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{error:?}");
    }
}

#[test]
fn a_named_file_must_exist() {
    let path = Path::new("/nonexistent/sluice.toml");
    let error = Config::load(Some(path), Settings::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot read the configuration /nonexistent/sluice.toml: "),
    );
}
