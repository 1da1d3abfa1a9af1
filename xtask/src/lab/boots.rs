//! Which tests run in which virtual machine.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use super::{Series, binaries::Binary};

/// One machine and the tests that it is for.
pub(super) struct Boot {
    /// What its lines of output begin with.
    pub(super) name: &'static str,
    pub(super) series: Series,
    /// How many machines, wired to each other.
    pub(super) nodes: u32,
    /// How often it is booted, one boot after another.
    pub(super) boots: u32,
    /// Shell commands before the tests.
    pub(super) prepare: &'static str,
    /// Its tests.
    pub(super) tests: &'static [Tests],
}

/// Tests of one binary, which run in one process.
pub(super) enum Tests {
    /// Those that run on every machine too.
    Ordinary(&'static str),
    /// Those of some modules of `lab`.
    Lab(&'static [&'static str]),
    /// Single ones of a binary.
    Single(&'static str, &'static [&'static str]),
}

use Tests::{Lab, Ordinary, Single};

/// The ordinary tests of the dataplane as a whole.
const WHOLE: &[Tests] = &[
    Ordinary("agent"),
    Ordinary("host_reach"),
    Ordinary("generic_xdp"),
];

/// The ordinary tests of single parts that lean on the kernel.
const PARTS: &[Tests] = &[
    Ordinary("programs"),
    Ordinary("bad_input"),
    Ordinary("link"),
    Ordinary("link_change"),
    Ordinary("link_events"),
];

/// Tests made for the lab that any kernel can run, in any mode of the RDMA subsystem.
const EVERYWHERE: &[&str] = &[
    "cni",
    "effort",
    "hardware",
    "modes",
    "policy_sctp",
    "sriov",
    "uplinks",
];

/// Policy on every kind of interface.
const POLICY_MODES: &[Tests] = &[Lab(&["policy_modes"])];

/// Policy by real connections.
const POLICY: &[Tests] = &[
    Ordinary("policy_node"),
    // A guest is not quick enough to swap tables a thousand times.
    Single(
        "policy_live",
        &[
            "a_pod_with_net_admin_cannot_take_tcx_policy_away",
            "verdicts_stay_when_the_agent_is_killed",
            "what_a_pod_takes_from_clsact_is_put_back",
        ],
    ),
];

/// Those that need the reference sriov-cni.
pub(super) const SRIOV_CNI: &str = "cni_sriov";

/// The mode must be chosen before the first network namespace is made.
const EXCLUSIVE: &str = "modprobe ib_core netns_mode=0; modprobe ib_uverbs";
const SHARED: &str = "modprobe ib_core netns_mode=1; modprobe ib_uverbs";

const fn boot(name: &'static str, series: Series, tests: &'static [Tests]) -> Boot {
    Boot {
        name,
        series,
        nodes: 1,
        boots: 1,
        prepare: "",
        tests,
    }
}

/// All of it; what takes long first.
pub(super) const WHOLE_SUITE: &[Boot] = &[
    boot("7", Series::Newest, WHOLE),
    boot("6.12", Series::Linux6_12, WHOLE),
    boot("6.1", Series::Linux6_1, WHOLE),
    boot("7 parts", Series::Newest, PARTS),
    boot("6.1 parts", Series::Linux6_1, PARTS),
    boot("7 policy modes", Series::Newest, POLICY_MODES),
    boot("6.12 policy modes", Series::Linux6_12, POLICY_MODES),
    boot("6.1 policy modes", Series::Linux6_1, POLICY_MODES),
    boot("7 policy", Series::Newest, POLICY),
    boot("6.12 policy", Series::Linux6_12, POLICY),
    boot("6.1 policy", Series::Linux6_1, POLICY),
    boot("7 lab", Series::Newest, &[Lab(EVERYWHERE)]),
    boot(
        "7 cni",
        Series::Newest,
        &[Lab(&["cni_children", SRIOV_CNI, "cni_vlan"])],
    ),
    boot("7 cni faults", Series::Newest, &[Lab(&["cni_faults"])]),
    boot("6.12 lab", Series::Linux6_12, &[Lab(EVERYWHERE)]),
    boot("6.1 lab", Series::Linux6_1, &[Lab(EVERYWHERE)]),
    Boot {
        nodes: 2,
        prepare: EXCLUSIVE,
        ..boot("7 two nodes", Series::Newest, &[Lab(&["two_nodes"])])
    },
    Boot {
        boots: 2,
        ..boot("7 reboot", Series::Newest, &[Lab(&["reboot"])])
    },
    // They begin with nothing configured.
    boot(
        "7 guide 1",
        Series::Newest,
        &[Single("lab", &["guides::macvlan_shared"])],
    ),
    boot(
        "7 guide 2",
        Series::Newest,
        &[Single("lab", &["guides::sriov_exclusive"])],
    ),
    Boot {
        prepare: EXCLUSIVE,
        ..boot(
            "7 exclusive",
            Series::Newest,
            &[Lab(&[
                "cni_rdma",
                "mode",
                "policy_rdma",
                "rdma",
                "roce_faults",
                "roce_owner",
            ])],
        )
    },
    Boot {
        prepare: SHARED,
        ..boot(
            "7 shared",
            Series::Newest,
            &[Lab(&["cni_rdma", "policy_rdma", "rdma", "roce_owner"])],
        )
    },
];

/// What each kernel has to show in every run: programs load, attach, count and reach the node.
const TELLING: &[Tests] = &[
    Single(
        "agent",
        &[
            "a_pod_cannot_detach_its_tcx_links",
            "filters_that_a_pod_removes_are_put_back",
            "what_was_taken_away_while_no_agent_ran_is_put_back",
        ],
    ),
    Single(
        "host_reach",
        &["node_and_pods_reach_each_other_and_nothing_else_changes"],
    ),
    Single("programs", &["on_everything_that_is_refused"]),
    Single(
        "lab",
        &[
            "effort::every_program_loads_far_from_the_verifiers_limits",
            "modes::ipvlan_l2",
            "sriov::functions_in_pods_are_endpoints",
        ],
    ),
];

/// What a change has to pass each time: every kernel and every kind of machine once.
pub(super) const SHORT_SUITE: &[Boot] = &[
    Boot {
        nodes: 2,
        prepare: EXCLUSIVE,
        ..boot("7 two nodes", Series::Newest, &[Lab(&["two_nodes"])])
    },
    boot("7", Series::Newest, TELLING),
    Boot {
        prepare: EXCLUSIVE,
        ..boot(
            "7 exclusive",
            Series::Newest,
            &[Lab(&["mode", "roce_faults"])],
        )
    },
    boot("6.12", Series::Linux6_12, TELLING),
    boot("6.1", Series::Linux6_1, TELLING),
    boot("7 cni", Series::Newest, &[Lab(&["cni"])]),
    Boot {
        boots: 2,
        ..boot("7 reboot", Series::Newest, &[Lab(&["reboot"])])
    },
];

/// Makes sure that the whole suite leaves no test of `lab` out.
///
/// # Errors
/// Names one that no machine runs.
pub(super) fn check(lab: &Binary) -> Result<()> {
    let all = WHOLE_SUITE.iter().flat_map(|boot| boot.tests);
    let mut run = BTreeSet::new();
    for tests in all.filter(|tests| tests.binary() == "lab") {
        run.extend(tests.names(lab, &[])?);
    }
    match lab.ignored.iter().find(|test| !run.contains(test.as_str())) {
        None => Ok(()),
        Some(test) => {
            bail!("no machine of the lab runs {test}; name it in xtask/src/lab/boots.rs")
        }
    }
}

impl Tests {
    /// The binary that they are in.
    pub(super) fn binary(&self) -> &'static str {
        match self {
            Ordinary(binary) | Single(binary, _) => binary,
            Lab(_) => "lab",
        }
    }

    /// Their names, of those whose path contains one of `filters` if there are any.
    ///
    /// # Errors
    /// One that is named here is not in the binary.
    pub(super) fn names<'a>(&self, binary: &'a Binary, filters: &[String]) -> Result<Vec<&'a str>> {
        let all = || {
            let all = binary.ordinary.iter().chain(&binary.ignored);
            all.map(String::as_str)
        };
        let wanted: Vec<&str> = match self {
            Ordinary(_) => binary.ordinary.iter().map(String::as_str).collect(),
            Lab(modules) => all()
                .filter(|test| modules.iter().any(|module| is_in(test, module)))
                .collect(),
            Single(name, tests) => {
                if let Some(absent) = tests.iter().find(|test| !all().any(|one| one == **test)) {
                    bail!("there is no test {absent} in {name}; mend xtask/src/lab/boots.rs");
                }
                tests.to_vec()
            }
        };
        let asked_for = |test: &&str| {
            filters.is_empty() || filters.iter().any(|filter| test.contains(filter.as_str()))
        };
        Ok(wanted.into_iter().filter(asked_for).collect())
    }
}

/// Whether a test is in that module of its binary.
pub(super) fn is_in(test: &str, module: &str) -> bool {
    test.strip_prefix(module)
        .is_some_and(|rest| rest.starts_with("::"))
}

/// The binaries that boots take tests from, by name.
pub(super) type Binaries = BTreeMap<&'static str, Binary>;
