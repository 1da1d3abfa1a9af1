//! The eBPF object: loaded once for the maps and the pipeline, and again, for
//! its entry programs only, with each endpoint's id as a constant.

use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::ProgramArray,
    programs::{Program, ProgramFd, SchedClassifier, Xdp},
};
use dataplane_ebpf::abi::{Direction, MAX_ENDPOINTS, MAX_UPLINKS, stage};

use super::{
    Features, Maps, Sizes,
    attach::stand_in_name,
    error::{KernelError, refused},
    layout::{self, MapSpec},
    migrate::Migration,
    pins::Pins,
    policy::PolicyMaps,
    probe::TICK_NS,
};
use crate::api::types::MapStatus;

static OBJECT: &[u8] = include_bytes_aligned!(env!("SLUICE_BPF_OBJECT"));

/// The loader borrows the constants that it writes for as long as it lives, so
/// they stand ready: every endpoint id and uplink number.
static NUMBERS: [u32; MAX_ENDPOINTS as usize + 1] = {
    let mut numbers = [0; MAX_ENDPOINTS as usize + 1];
    let mut n = 0;
    while n < numbers.len() {
        numbers[n] = n as u32;
        n += 1;
    }
    numbers
};
const _: () = assert!(MAX_UPLINKS <= MAX_ENDPOINTS);

/// Names of the object's constants.
pub(super) const ENDPOINT_ID: &str = "ENDPOINT_ID";
pub(super) const UPLINK: &str = "UPLINK";

/// The dataplane in the kernel.
pub struct Kernel {
    features: Features,
    pins: Pins,
    sizes: Sizes,
    // One for the agent's life: making one reads the kernel's whole BTF.
    loader: Mutex<EbpfLoader<'static>>,
    maps: Maps,
    /// The stand-ins, loaded once for all endpoints.
    stand_ins: Mutex<Ebpf>,
    pipeline: String,
    /// Older maps whose counts are still to be carried over.
    migration: Mutex<Option<Migration>>,
    #[cfg(feature = "log")]
    logger: Mutex<Option<super::Logger>>,
}

impl Kernel {
    /// Adopts the pinned maps, or makes them, and puts this version's pipeline
    /// in place: endpoints that are attached already run it from the next
    /// packet on.
    ///
    /// # Errors
    /// Pins of another make, or a program that this kernel refuses.
    pub fn open(features: Features, pins: Pins, sizes: Sizes) -> Result<Self, KernelError> {
        pins.prepare()?;
        let specs = layout::maps(sizes);
        let migration = Migration::begin(&pins, &specs)?;
        match Self::open_maps(features, pins, sizes, &specs, migration.as_ref()) {
            Ok(mut kernel) => {
                kernel.migration = Mutex::new(migration);
                Ok(kernel)
            }
            Err(error) => {
                if let Some(migration) = migration {
                    migration.abandon();
                }
                Err(error)
            }
        }
    }

    fn open_maps(
        features: Features,
        pins: Pins,
        sizes: Sizes,
        specs: &[MapSpec],
        migration: Option<&Migration>,
    ) -> Result<Self, KernelError> {
        let mut loader = EbpfLoader::new();
        // Nothing here is relocated against the kernel's types; their
        // description would only take tens of megabytes.
        loader.btf(None);
        loader.override_global("TICK_NS", &*TICK_NS, true);
        for spec in specs {
            loader.map_pin_path(spec.name, pins.map(spec.name));
            loader.map_max_entries(spec.name, spec.max_entries);
        }
        let mut object = load(&mut loader)?;
        let pipeline = Pipeline::load(&mut object, &features)?;
        let policy = PolicyMaps::take(&mut object, OBJECT, pipeline.types)?;
        let maps = Maps::take(&mut object, policy)?;
        if let Some(migration) = migration {
            migration.copy(specs)?;
            migration.move_links()?;
        }
        pipeline.put_in_place(&mut object)?;
        if let Some(migration) = migration {
            migration.copy_again(specs)?;
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            let name = stand_in_name(direction);
            classifier(&mut object, &name)?
                .load()
                .map_err(|error| refused(format!("loading {name}"), &error))?;
        }
        #[cfg(feature = "log")]
        let logger = super::Logger::open(&mut object)?;
        Ok(Self {
            features,
            pins,
            sizes,
            loader: Mutex::new(loader),
            maps,
            stand_ins: Mutex::new(object),
            pipeline: pipeline.tags.join("/"),
            migration: Mutex::default(),
            #[cfg(feature = "log")]
            logger: Mutex::new(Some(logger)),
        })
    }

    /// What the programs log; the second call gets `None`.
    #[cfg(feature = "log")]
    pub fn take_logger(&self) -> Option<super::Logger> {
        let mut logger = self.logger.lock().unwrap_or_else(PoisonError::into_inner);
        logger.take()
    }

    pub(super) fn stand_ins(&self) -> MutexGuard<'_, Ebpf> {
        self.stand_ins
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What this kernel can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Where the pins are.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The maps.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// How large the maps are.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Tags of the pipeline's programs: fingerprints that the kernel computes
    /// from their instructions.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// Whether maps of another layout or size are being taken over: every
    /// attachment then needs programs that use the new ones.
    pub fn is_migrating(&self) -> bool {
        let migration = self.migration.lock();
        migration.unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Carries over what those maps had counted, when no attachment uses them
    /// any more; returns how many numbers.
    ///
    /// # Errors
    /// The kernel refuses; what is left is done at the next start.
    pub fn finish_migration(&self) -> Result<Option<usize>, KernelError> {
        let mut slot = self
            .migration
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(migration) = slot.take() else {
            return Ok(None);
        };
        let mut object = self.instance(ENDPOINT_ID, 0)?;
        let carry = classifier(&mut object, "carry")?;
        carry
            .load()
            .map_err(|error| refused("loading carry", &error))?;
        migration.finish(&layout::maps(self.sizes), carry).map(Some)
    }

    /// The maps with their memory on this node.
    pub fn map_status(&self) -> Vec<MapStatus> {
        let cpus = self.features.cpus;
        layout::maps(self.sizes)
            .iter()
            .map(|spec| spec.status(cpus))
            .collect()
    }

    /// Pins in our folder that are not ours.
    pub fn foreign_pins(&self) -> Vec<std::path::PathBuf> {
        let specs = layout::maps(self.sizes);
        let names: Vec<_> = specs.iter().map(|spec| spec.name).collect();
        self.pins.foreign(&names)
    }

    /// Loads the object once more with a constant of its own, against the
    /// pinned maps. Only the programs that the caller then loads are verified.
    pub(super) fn instance(
        &self,
        constant: &'static str,
        number: u32,
    ) -> Result<Ebpf, KernelError> {
        let number = NUMBERS.get(number as usize).ok_or_else(|| {
            KernelError::Unsupported(format!("number {number} exceeds {MAX_ENDPOINTS}"))
        })?;
        let mut loader = self.loader.lock().unwrap_or_else(PoisonError::into_inner);
        loader.override_global(constant, number, true);
        load(&mut loader)
    }
}

fn load(loader: &mut EbpfLoader<'static>) -> Result<Ebpf, KernelError> {
    loader
        .load(OBJECT)
        .map_err(|error| refused("loading the eBPF object", &error))
}

/// The programs of the pipeline's slots.
struct Pipeline {
    programs: Vec<(u32, ProgramFd)>,
    tags: Vec<String>,
    /// The number of the types that came with them.
    types: u32,
}

impl Pipeline {
    /// Loads the programs; no packet meets them yet.
    fn load(object: &mut Ebpf, features: &Features) -> Result<Self, KernelError> {
        let mut pipeline = Self {
            programs: Vec::new(),
            tags: Vec::new(),
            types: 0,
        };
        for (slot, name) in [
            (stage::POLICY_INGRESS, "policy_ingress"),
            (stage::POLICY_EGRESS, "policy_egress"),
            (stage::INGRESS, "pipeline_ingress"),
            (stage::EGRESS, "pipeline_egress"),
        ] {
            let program = classifier(object, name)?;
            program.load().map_err(|error| {
                refused(
                    format!(
                        "loading {name} on kernel {} (Sluice needs Linux 5.15 or newer)",
                        features.release
                    ),
                    &error,
                )
            })?;
            let describe = |error| refused(format!("asking for {name}"), &error);
            let info = program.info().map_err(describe)?;
            pipeline.tags.push(format!("{:016x}", info.tag()));
            pipeline.types = info.btf_id().unwrap_or(pipeline.types);
            let fd = program.fd().map_err(describe)?.try_clone();
            pipeline.programs.push((
                slot,
                fd.map_err(|error| refused("duplicating a program's descriptor", &error))?,
            ));
        }
        Ok(pipeline)
    }

    /// Replaces the slots' programs; the kernel swaps each pointer at once, so
    /// no packet meets an empty slot. What comes later in a packet's way is
    /// replaced first.
    fn put_in_place(&self, object: &mut Ebpf) -> Result<(), KernelError> {
        let map = object
            .map_mut("pipeline")
            .ok_or_else(|| missing("map pipeline"))?;
        let mut slots =
            ProgramArray::try_from(map).map_err(|error| refused("opening map pipeline", &error))?;
        for (slot, fd) in &self.programs {
            slots
                .set(*slot, fd, 0)
                .map_err(|error| refused(format!("filling slot {slot} of map pipeline"), &error))?;
        }
        Ok(())
    }
}

/// A TC program of the object.
pub(super) fn classifier<'a>(
    object: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, KernelError> {
    match object.program_mut(name) {
        Some(Program::SchedClassifier(program)) => Ok(program),
        _ => Err(missing(name)),
    }
}

/// An XDP program of the object.
pub(super) fn xdp<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, KernelError> {
    match object.program_mut(name) {
        Some(Program::Xdp(program)) => Ok(program),
        _ => Err(missing(name)),
    }
}

/// The object and this code disagree: a build that mixes versions.
pub(super) fn missing(name: &str) -> KernelError {
    KernelError::Unsupported(format!(
        "the eBPF object has no {name}: build object and agent together with cargo xtask build"
    ))
}
