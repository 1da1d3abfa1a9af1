//! Applying, step by step: whenever a packet reads what of the maps, its
//! verdict is that of the old or of the new policy. The maps are kept in
//! memory here, because nobody can interrupt packets everywhere, and look at
//! all of them between two system calls, in the kernel.

#![expect(
    clippy::unwrap_used,
    reason = "a manifest that makes no sense is the test's own mistake"
)]

mod memory;
mod named;
mod under_way;
mod world;

use dataplane::policy::apply::Applied;
use proptest::prelude::*;
use sluice_tests::policy::{Cluster, Verdict, cluster};
use world::World;

/// A cluster, and what became of it when some of its objects were replaced.
fn change() -> impl Strategy<Value = (Cluster, Cluster)> {
    let replaced = proptest::collection::vec(any::<bool>(), 16);
    (cluster(), cluster(), replaced).prop_map(|(before, other, replaced)| {
        let mut after = before.clone();
        for ((object, new), replace) in after.objects.iter_mut().zip(&other.objects).zip(replaced) {
            if replace && object["kind"] == new["kind"] {
                let name = object["metadata"]["name"].clone();
                *object = new.clone();
                object["metadata"]["name"] = name;
            }
        }
        (before, after)
    })
}

proptest! {
    // PROPTEST_CASES asks for more.
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").map_or(40, |cases| cases.parse().unwrap()),
        ..ProptestConfig::default()
    })]

    #[test]
    fn at_no_step_a_packet_gets_a_verdict_that_neither_policy_gives((before, after) in change()) {
        let world = World::new(&before, &after);
        let mut applied = Applied::default();
        applied.apply(&world.memory, &world.before, &world.switches);
        world.watch();
        let outcome = applied.apply(&world.memory, &world.after, &world.switches);
        prop_assert_eq!(outcome.problems, Vec::<String>::new());
        world.check_end()?;
        // Applied again, there is nothing to do.
        let again = applied.apply(&world.memory, &world.after, &world.switches);
        prop_assert!(!again.changed, "{:?}", again);
        // Nor for an agent that starts anew.
        let afresh = Applied::default().apply(&world.memory, &world.after, &world.switches);
        prop_assert!(!afresh.changed, "{:?}", afresh);
    }

    #[test]
    fn an_agent_killed_at_any_step_is_followed_by_one_that_finishes(
        (before, after) in change(),
        steps in 0_usize..40,
    ) {
        let world = World::new(&before, &after);
        let mut applied = Applied::default();
        applied.apply(&world.memory, &world.before, &world.switches);
        world.watch();
        world.memory.steps_left.set(steps);
        applied.apply(&world.memory, &world.after, &world.switches);
        world.memory.steps_left.set(usize::MAX);
        let outcome = Applied::default().apply(&world.memory, &world.after, &world.switches);
        prop_assert_eq!(outcome.problems, Vec::<String>::new());
        world.check_end()?;
    }

    /// Where prefixes do not fit, nobody gets more than the policy allows.
    #[test]
    fn a_full_map_never_lets_more_pass((before, after) in change(), room in 0_usize..6) {
        let world = World::new(&before, &after);
        world.memory.room.set(room);
        let mut applied = Applied::default();
        applied.apply(&world.memory, &world.before, &world.switches);
        applied.apply(&world.memory, &world.after, &world.switches);
        let right = world.verdicts_of(&world.after);
        for (now, right) in world.memory.verdicts(&world.ids).into_iter().zip(right) {
            prop_assert!(now == right || now == Verdict::Denied, "{:?} instead of {:?}", now, right);
        }
        // With room again, all is as it should be.
        world.memory.room.set(usize::MAX);
        let outcome = applied.apply(&world.memory, &world.after, &world.switches);
        prop_assert!(outcome.closed.is_empty());
        world.check_end()?;
    }
}
