//! The agent's access to the maps of policy, on the kernel's own maps.

use std::{
    fs,
    net::IpAddr,
    path::PathBuf,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use dataplane::kernel::{Features, IdentityPrefix, Kernel, KernelError, Pins, Sizes};
use dataplane_ebpf::abi::{Direction, EndpointConfig, PolicyKey, PolicyRule, identity};

/// Pins of a test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluice-policy-maps-{}-{number}", process::id());
        Self(PathBuf::from("/sys/fs/bpf").join(name))
    }

    fn open(&self, sizes: Sizes) -> Result<Kernel, KernelError> {
        Kernel::open(Features::detect()?, Pins::new(&self.0), sizes)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const TCP: u8 = 6;
const WEB: u32 = identity::FIRST;

fn rule(rule: u32) -> PolicyRule {
    PolicyRule { rule, flags: 0 }
}

fn small() -> Sizes {
    Sizes {
        max_endpoints: 4,
        flows: 1024,
        identities: 8,
    }
}

#[test]
fn a_policy_is_what_was_written_and_is_looked_up_by_its_longest_prefix() {
    let folder = Folder::new();
    let kernel = folder.open(small()).unwrap();
    let maps = kernel.maps().policy();
    let mut entries = vec![
        (PolicyKey::all(identity::ANY), rule(1)),
        (PolicyKey::protocol(WEB, TCP), rule(2)),
        (PolicyKey::ports(WEB, TCP, 8080, 13), rule(3)),
        (PolicyKey::port(WEB, TCP, 8081), rule(4)),
    ];
    let policy = maps.create_policy(&entries, 1).unwrap();
    let sorted = |mut entries: Vec<_>| {
        entries.sort();
        entries
    };
    let keys = |entries: &[(PolicyKey, PolicyRule)]| {
        sorted(
            entries
                .iter()
                .map(|(key, rule)| (*key, rule.rule))
                .collect(),
        )
    };
    assert_eq!(keys(&maps.read_policy(&policy).unwrap()), keys(&entries));

    let look = |key| {
        let found = maps.lookup_policy(&policy, key).unwrap();
        found.map(|rule| rule.rule)
    };
    assert_eq!(look(PolicyKey::of_packet(WEB, TCP, 8081)), Some(4));
    assert_eq!(look(PolicyKey::of_packet(WEB, TCP, 8080)), Some(3));
    assert_eq!(look(PolicyKey::of_packet(WEB, TCP, 8088)), Some(2));
    assert_eq!(look(PolicyKey::of_packet(WEB, 17, 8081)), None);
    assert_eq!(look(PolicyKey::of_packet(identity::ANY, 1, 0)), Some(1));

    // Room for one more, and not for two.
    let more = (PolicyKey::port(WEB + 1, TCP, 1), rule(5));
    maps.extend_policy(&policy, &[more]).unwrap();
    entries.push(more);
    let full = maps.extend_policy(&policy, &[(PolicyKey::port(WEB + 2, TCP, 1), rule(6))]);
    assert!(matches!(full, Err(KernelError::Full { .. })), "{full:?}");
    assert_eq!(keys(&maps.read_policy(&policy).unwrap()), keys(&entries));

    let absent = PolicyKey::all(WEB + 3);
    maps.remove_from_policy(&policy, &[more.0, absent]).unwrap();
    entries.pop();
    assert_eq!(keys(&maps.read_policy(&policy).unwrap()), keys(&entries));
}

#[test]
fn slots_share_a_policy_and_outlive_the_agent() {
    let folder = Folder::new();
    let id = {
        let kernel = folder.open(small()).unwrap();
        let maps = kernel.maps().policy();
        let policy = maps
            .create_policy(&[(PolicyKey::all(WEB), rule(7))], 10)
            .unwrap();
        for endpoint in [1, 2] {
            maps.set_policy_slot(endpoint, Direction::Ingress, Some(&policy))
                .unwrap();
        }
        policy.id()
    };
    // Opened anew, from the pins alone.
    let kernel = folder.open(small()).unwrap();
    let maps = kernel.maps().policy();
    let adopted = maps
        .open_policy_slot(2, Direction::Ingress)
        .unwrap()
        .unwrap();
    assert_eq!((adopted.id(), adopted.capacity()), (id, 11));
    let entries = maps.read_policy(&adopted).unwrap();
    assert_eq!(entries, [(PolicyKey::all(WEB), rule(7))]);
    assert!(
        maps.open_policy_slot(2, Direction::Egress)
            .unwrap()
            .is_none()
    );

    // Many slots in one call, of two policies.
    let other = maps.create_policy(&[], 0).unwrap();
    let slots = [
        (3, Direction::Ingress, &other),
        (3, Direction::Egress, &adopted),
        (4, Direction::Egress, &adopted),
    ];
    maps.set_policy_slots(&slots).unwrap();
    for (endpoint, direction, policy) in slots {
        let found = maps.open_policy_slot(endpoint, direction).unwrap().unwrap();
        assert_eq!(found.id(), policy.id());
    }
    maps.set_policy_slots(&[]).unwrap();
    maps.set_policy_slot(2, Direction::Ingress, Some(&other))
        .unwrap();
    maps.set_policy_slot(1, Direction::Ingress, None).unwrap();
    // Emptying an empty slot has reached its aim.
    maps.set_policy_slot(1, Direction::Ingress, None).unwrap();
    assert!(
        maps.open_policy_slot(1, Direction::Ingress)
            .unwrap()
            .is_none()
    );
    let second = maps
        .open_policy_slot(2, Direction::Ingress)
        .unwrap()
        .unwrap();
    assert_eq!(second.id(), other.id());
    assert!(maps.read_policy(&second).unwrap().is_empty());
}

#[test]
fn identities_are_exact_before_longest() {
    let folder = Folder::new();
    let kernel = folder.open(small()).unwrap();
    let maps = kernel.maps().policy();
    let cidr = |text: &str| IdentityPrefix::Cidr(text.parse().unwrap());
    let address = |text: &str| IdentityPrefix::Address(text.parse().unwrap());
    let changes = [
        (cidr("10.0.0.0/8"), Some(300)),
        (cidr("10.1.0.0/16"), Some(301)),
        (cidr("fd00::/16"), Some(302)),
        (address("10.1.0.5"), Some(303)),
        (address("fd00::5"), Some(identity::NODE)),
    ];
    maps.set_identities(&changes).unwrap();
    let look = |text: &str| {
        maps.lookup_identity(text.parse::<IpAddr>().unwrap())
            .unwrap()
    };
    let all = [
        ("10.1.0.5", 303),
        ("10.1.0.6", 301),
        ("10.2.0.6", 300),
        ("11.0.0.1", identity::ANY),
        ("fd00::5", identity::NODE),
        ("fd00::6", 302),
        ("fd01::6", identity::ANY),
    ];
    for (text, expected) in all {
        assert_eq!(look(text), expected, "{text}");
    }
    let mut written = maps.identities().unwrap();
    written.sort();
    let mut expected = changes.map(|(prefix, identity)| (prefix, identity.unwrap()));
    expected.sort();
    assert_eq!(written, expected);

    maps.set_identities(&[(address("10.1.0.5"), None), (cidr("10.0.0.0/8"), None)])
        .unwrap();
    maps.set_identities(&[(address("10.1.0.5"), None)]).unwrap();
    assert_eq!((look("10.1.0.5"), look("10.2.0.6")), (301, identity::ANY));

    let many: Vec<_> = (0..9)
        .map(|n| (address(&format!("10.9.0.{n}")), Some(400)))
        .collect();
    let full = maps.set_identities(&many);
    assert!(
        matches!(full, Err(KernelError::Full { map: "identity" })),
        "{full:?}"
    );
    let remedy = full.unwrap_err().to_string();
    assert!(remedy.contains("raise identities"), "{remedy}");
}

#[test]
fn an_endpoint_is_changed_in_place_and_forgotten_whole() {
    let folder = Folder::new();
    let kernel = folder.open(small()).unwrap();
    let maps = kernel.maps();
    let policy = maps.policy().create_policy(&[], 0).unwrap();
    maps.policy()
        .set_policy_slot(3, Direction::Egress, Some(&policy))
        .unwrap();
    let isolate = |config: &mut EndpointConfig| {
        config.flags |= EndpointConfig::ENFORCE_EGRESS;
        config.policy_epoch += 1;
    };
    maps.change_endpoint(3, isolate).unwrap();
    let config = maps.change_endpoint(3, isolate).unwrap();
    assert_eq!((config.policy_epoch, config.is_enforced()), (2, true));
    assert_eq!(maps.endpoint(3).unwrap(), config);
    maps.clear_endpoint(3).unwrap();
    assert!(
        maps.policy()
            .open_policy_slot(3, Direction::Egress)
            .unwrap()
            .is_none()
    );
}

/// Needs bpftool; the tests' set-up installs it.
#[test]
fn bpftool_shows_a_policy_by_field_names() {
    let folder = Folder::new();
    let kernel = folder.open(small()).unwrap();
    let policy = kernel
        .maps()
        .policy()
        .create_policy(&[(PolicyKey::port(WEB, TCP, 443), rule(9))], 0)
        .unwrap();
    let dump = Command::new("bpftool")
        .args(["map", "dump", "id", &policy.id().to_string()])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&dump.stdout);
    for field in ["prefix_len", "identity", "protocol", "port", "\"rule\": 9"] {
        assert!(text.contains(field), "no {field} in {text}");
    }
}
