//! Taking over pins of another layout, or of other sizes: nothing stops
//! meanwhile and no counter goes back.
//!
//! 1. The old folder becomes `previous`. Maps that are as they should be are
//!    pinned in the new folder too, one map in two places; the others are made
//!    anew, and what the programs go by is copied.
//! 2. The links move over, and every attachment gets programs that use the new
//!    maps, each in one step. From then on the old maps are still.
//! 3. What they had counted is added to the new ones, each number exactly once
//!    (see the program `carry`), and they are removed.
//!
//! `previous` is there until all of that is done: whoever dies in between is
//! followed by an agent that goes on where it stopped.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use aya::{TestRun as _, TestRunOptions, programs::SchedClassifier};
use dataplane_ebpf::abi::{Carry, CarryTo, UPLINK_COUNTERS};

use super::{
    bytes::ByteMap,
    error::{KernelError, refused},
    layout::{CARRIED, Difference, Keep, MapSpec},
    pins::Pins,
    sys,
};

/// `BPF_NOEXIST` (uapi `linux/bpf.h`): leave what is there.
const NO_EXIST: u64 = 1;
/// Given to packets in flight where the kernel cannot tell when they are done;
/// none takes a thousandth of it.
const IN_FLIGHT: Duration = Duration::from_secs(1);

/// A migration that is under way.
pub(super) struct Migration {
    pins: Pins,
    /// Where the old folder was, if this very start has moved it.
    origin: Option<PathBuf>,
}

impl Migration {
    /// Finds out whether there is something to take over, and does step 1 but
    /// for the copying. `None` leaves this layout's folder ready for use.
    ///
    /// # Errors
    /// What is there cannot be taken over; it is left as it was.
    pub(super) fn begin(pins: &Pins, specs: &[MapSpec]) -> Result<Option<Self>, KernelError> {
        discard(pins)?;
        let other = pins.other_layout()?;
        let differs = differs(&pins.folder(), specs)?;
        let origin = match (pins.previous().exists(), other, differs) {
            (false, None, false) => {
                pins.make_folders()?;
                return Ok(None);
            }
            (true, None, false) => None,
            (false, Some(other), false) if !pins.folder().exists() => Some(other),
            (false, None, true) => Some(pins.folder()),
            _ => {
                return Err(pin_error(
                    &pins.folder(),
                    "an upgrade was cut short here; start the agent once more with the version \
                     and the sizes (max_endpoints and its like) that it was begun with",
                ));
            }
        };
        let from = origin.clone().unwrap_or_else(|| pins.previous());
        check(&from, specs)?;
        tracing::info!("taking over {}", from.display());
        let migration = Self {
            pins: pins.clone(),
            origin,
        };
        let begun = migration.make_way(specs);
        if begun.is_err() {
            migration.abandon();
        }
        begun.map(|()| Some(migration))
    }

    fn make_way(&self, specs: &[MapSpec]) -> Result<(), KernelError> {
        if let Some(origin) = &self.origin {
            rename(origin, &self.pins.previous())?;
        }
        let folder = self.pins.folder();
        fs::create_dir_all(&folder).map_err(|error| pin_error(&folder, error))?;
        for spec in specs.iter().filter(|spec| spec.name != CARRIED) {
            let (old, new) = (self.old(spec), self.pins.map(spec.name));
            if old.exists() && !new.exists() && spec.difference(&old)?.is_none() {
                ByteMap::open(&old)?.pin(&new)?;
            }
        }
        Ok(())
    }

    /// Copies what the programs go by. Nothing uses the new maps yet, unless an
    /// earlier start got further.
    pub(super) fn copy(&self, specs: &[MapSpec]) -> Result<(), KernelError> {
        self.copy_where(
            specs,
            |keep| matches!(keep, Keep::Entries | Keep::Growing),
            0,
        )
    }

    /// Copies what programs have added since, where they go by the new maps
    /// now.
    pub(super) fn copy_again(&self, specs: &[MapSpec]) -> Result<(), KernelError> {
        self.copy_where(specs, |keep| keep == Keep::Growing, NO_EXIST)
    }

    fn copy_where(
        &self,
        specs: &[MapSpec],
        wanted: impl Fn(Keep) -> bool,
        flags: u64,
    ) -> Result<(), KernelError> {
        for spec in specs.iter().filter(|spec| wanted(spec.keep)) {
            let Some(old) = self.replaced(spec)? else {
                continue;
            };
            let new = ByteMap::open(&self.pins.map(spec.name))?;
            let fail = |error: io::Error| match error.raw_os_error() {
                Some(libc::E2BIG | libc::ENOSPC) => KernelError::Full { map: spec.name },
                _ => refused(format!("copying map {}", spec.name), &error),
            };
            let entries = old.entries().map_err(fail)?;
            new.set_all(&entries, flags).map_err(fail)?;
        }
        Ok(())
    }

    /// Moves the links over.
    pub(super) fn move_links(&self) -> Result<(), KernelError> {
        let old = self.pins.previous().join("links");
        if old.exists() {
            rename(&old, &self.pins.links())?;
        }
        self.pins.make_folders()
    }

    /// Puts everything back as it was found, where this start has changed it.
    pub(super) fn abandon(&self) {
        let Some(origin) = &self.origin else {
            return;
        };
        let (folder, previous) = (self.pins.folder(), self.pins.previous());
        let links = previous.join("links");
        let undone = (|| {
            if !previous.exists() {
                return Ok(());
            }
            if !links.exists() && self.pins.links().exists() {
                fs::rename(self.pins.links(), &links)?;
            }
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            fs::rename(&previous, origin)
        })();
        if let Err(error) = undone {
            tracing::error!("putting {} back: {error}", origin.display());
        }
    }

    /// Step 3, when nothing uses the old maps any more.
    pub(super) fn finish(
        &self,
        specs: &[MapSpec],
        carry: &SchedClassifier,
    ) -> Result<usize, KernelError> {
        if !sys::wait_for_programs() {
            thread::sleep(IN_FLIGHT);
        }
        let records = self.records(specs)?;
        for record in &records {
            let octets = record.octets();
            let run = carry.test_run(TestRunOptions {
                data_in: Some(&octets),
                ..TestRunOptions::default()
            });
            let result = run.map_err(|error| refused("carrying counters over", &error))?;
            if result.return_value as i32 == Carry::LOST {
                tracing::error!("a counter of the previous maps has no place: {record:?}");
            }
        }
        rename(&self.pins.previous(), &self.pins.discarded())?;
        discard(&self.pins)?;
        Ok(records.len())
    }

    /// Every number that has to be added, in an order that does not change.
    fn records(&self, specs: &[MapSpec]) -> Result<Vec<Carry>, KernelError> {
        let mut records = Vec::new();
        for spec in specs {
            let Keep::Counts(to) = spec.keep else {
                continue;
            };
            let Some(old) = self.replaced(spec)? else {
                continue;
            };
            let entries = old
                .entries()
                .map_err(|error| refused(format!("reading map {}", spec.name), &error))?;
            for (key, value) in entries {
                let mut record = Carry {
                    number: records.len() as u64,
                    to: to as u32,
                    key: words(&key),
                    ..Carry::default()
                };
                if to == CarryTo::UplinkStats {
                    let [index, _] = &mut record.key;
                    *index = uplink_index(*index, old.max_entries, spec.max_entries);
                }
                (record.packets, record.bytes) = sum(&value, spec.value_size());
                records.push(record);
            }
        }
        Ok(records)
    }

    fn old(&self, spec: &MapSpec) -> PathBuf {
        self.pins.previous().join(spec.name)
    }

    /// The old map, where the new one is another.
    fn replaced(&self, spec: &MapSpec) -> Result<Option<ByteMap>, KernelError> {
        let path = self.old(spec);
        match spec.difference(&path)? {
            Some(_) => ByteMap::open(&path).map(Some),
            None => Ok(None),
        }
    }
}

/// Whether a folder has maps that are not as expected.
fn differs(folder: &Path, specs: &[MapSpec]) -> Result<bool, KernelError> {
    for spec in specs {
        if spec.difference(&folder.join(spec.name))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the contents of a folder's maps can go over.
fn check(folder: &Path, specs: &[MapSpec]) -> Result<(), KernelError> {
    for spec in specs.iter().filter(|spec| spec.keep != Keep::Nothing) {
        let path = folder.join(spec.name);
        match spec.difference(&path)? {
            None => {}
            Some(Difference::Size(difference)) => {
                tracing::info!("map {}: {difference}", spec.name);
            }
            Some(Difference::Make(difference)) => {
                return Err(pin_error(
                    &path,
                    format!(
                        "a map of another make ({difference}), whose contents this version cannot \
                         take over; start the version that made it, or, to lose the counters and \
                         detach every endpoint, remove the pins: rm -r {}",
                        folder.display()
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Removes what an earlier migration has left to be removed.
fn discard(pins: &Pins) -> Result<(), KernelError> {
    let path = pins.discarded();
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(pin_error(&path, error)),
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), KernelError> {
    fs::rename(from, to).map_err(|error| pin_error(from, error))
}

fn pin_error(path: &Path, cause: impl ToString) -> KernelError {
    KernelError::Pin {
        path: path.to_owned(),
        cause: cause.to_string(),
    }
}

/// A key of four or eight bytes.
fn words(key: &[u8]) -> [u32; 2] {
    let mut words = [0; 2];
    for (word, bytes) in words.iter_mut().zip(key.chunks_exact(4)) {
        *word = bytes
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u32::from(*byte));
        *word = u32::from_le(*word);
    }
    words
}

/// Packets and bytes over all processors; `size` is the value's own.
fn sum(value: &[u8], size: usize) -> (u64, u64) {
    let mut total = [0_u64; 2];
    for (position, bytes) in value.chunks_exact(8).enumerate() {
        let mut number = [0; 8];
        number.copy_from_slice(bytes);
        let field = position % (size / 8).max(1);
        if let Some(total) = total.get_mut(field) {
            *total += u64::from_ne_bytes(number);
        }
    }
    let [packets, bytes] = total;
    (packets, bytes)
}

/// The index of an uplink's counter where another version has another number of
/// them for each uplink.
fn uplink_index(index: u32, old_entries: u32, new_entries: u32) -> u32 {
    let uplinks = new_entries / UPLINK_COUNTERS;
    let old_counters = (old_entries / uplinks).max(1);
    index / old_counters * UPLINK_COUNTERS + index % old_counters
}

#[cfg(test)]
mod tests {
    use dataplane_ebpf::abi::MAX_UPLINKS;

    use super::*;

    #[test]
    fn values_of_all_processors_are_added_up() {
        let value: Vec<u8> = [1_u64, 10, 2, 20, 3, 30]
            .iter()
            .flat_map(|number| number.to_ne_bytes())
            .collect();
        assert_eq!(sum(&value, 16), (6, 60));
        assert_eq!(sum(&value, 8), (66, 0));
    }

    #[test]
    fn keys_become_words() {
        let key: Vec<u8> = [7_u32, 0x0102_0304]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        assert_eq!(words(&key), [7, 0x0102_0304]);
        assert_eq!(words(&7_u32.to_ne_bytes()), [7, 0]);
    }

    #[test]
    fn an_uplinks_counters_keep_their_place() {
        let new = MAX_UPLINKS * UPLINK_COUNTERS;
        for (uplink, counter) in [(0, 0), (3, 2), (31, 3)] {
            let old = uplink * 4 + counter;
            assert_eq!(
                uplink_index(old, MAX_UPLINKS * 4, new),
                uplink * UPLINK_COUNTERS + counter
            );
        }
    }
}
