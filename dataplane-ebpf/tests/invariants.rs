//! What must hold for every frame: noise, valid and damaged packets, and the
//! fuzz target's corpus.

#[path = "../fuzz/invariants.rs"]
mod invariants;
#[path = "../../tests/src/packets/mod.rs"]
pub mod packets;

use std::{fs, path::Path};

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn hold_for_noise(frame in proptest::collection::vec(any::<u8>(), 0..300)) {
        invariants::check(&frame);
    }

    #[test]
    fn hold_for_valid_and_damaged_packets(frame in packets::random::frame()) {
        invariants::check(&frame);
    }
}

#[test]
fn hold_for_the_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/frame");
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let frame = fs::read(&path).unwrap();
        if std::panic::catch_unwind(|| invariants::check(&frame)).is_err() {
            panic!("{} breaks an invariant", path.display());
        }
        count += 1;
    }
    assert!(count > 0, "no corpus in {}", folder.display());
}
