//! The eBPF programs in hand: loaded with maps of their own, pinned nowhere, attached to nothing.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, ProgramArray},
    programs::{Program, ProgramFd, ProgramInfo, TestRun as _, TestRunOptions},
};
use dataplane::kernel::TICK_NS;
use dataplane_ebpf::abi::stage;

/// The endpoint id that the entry programs are loaded with.
pub const ENDPOINT: u32 = 1;
/// The uplink number that the uplink programs are loaded with.
pub const UPLINK: u32 = 0;

/// All programs of the object and their maps; gone when dropped.
#[derive(Debug)]
pub struct Programs {
    object: Ebpf,
}

impl Programs {
    /// Loads the object that `cargo xtask build` left, and fills the pipeline's slots.
    ///
    /// # Errors
    /// There is no object, this process is not root, or the kernel refuses a program.
    pub fn load() -> Result<Self> {
        let path = object_path();
        let bytes = fs::read(&path)
            .with_context(|| format!("cannot read {}; run `cargo xtask build`", path.display()))?;
        let mut object = EbpfLoader::new()
            .override_global("ENDPOINT_ID", &ENDPOINT, true)
            .override_global("UPLINK", &UPLINK, true)
            .override_global("TICK_NS", &*TICK_NS, true)
            .load(&bytes)
            .with_context(|| format!("cannot load {}", path.display()))?;
        for (name, program) in object.programs_mut() {
            match program {
                Program::SchedClassifier(program) => program.load(),
                Program::Xdp(program) => program.load(),
                other => bail!("{name} is of a kind unknown here: {:?}", other.prog_type()),
            }
            .with_context(|| format!("cannot load the program {name}"))?;
        }
        let mut programs = Self { object };
        for (slot, name) in [
            (stage::POLICY_INGRESS, "policy_ingress"),
            (stage::POLICY_EGRESS, "policy_egress"),
            (stage::INGRESS, "pipeline_ingress"),
            (stage::EGRESS, "pipeline_egress"),
        ] {
            let fd = programs.program(name)?.try_clone()?;
            let mut slots = ProgramArray::try_from(programs.map("pipeline")?)?;
            slots.set(slot, &fd, 0)?;
        }
        Ok(programs)
    }

    /// A program's descriptor.
    ///
    /// # Errors
    /// The object has none of that name.
    pub fn program(&self, name: &str) -> Result<&ProgramFd> {
        let program = self.object.program(name);
        let program = program.with_context(|| format!("the object has no program {name}"))?;
        Ok(program.fd()?)
    }

    /// Runs a program on a frame by BPF_PROG_TEST_RUN; returns its verdict.
    ///
    /// # Errors
    /// The object has no such program, or the kernel does not take the frame: it wants a byte
    /// behind the Ethernet header, and no more than a page.
    pub fn run(&self, name: &str, frame: &[u8]) -> Result<i32> {
        let program = self.object.program(name);
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::default()
        };
        let result = match program.with_context(|| format!("the object has no program {name}"))? {
            Program::SchedClassifier(program) => program.test_run(options),
            Program::Xdp(program) => program.test_run(options),
            other => bail!("{name} is of a kind unknown here: {:?}", other.prog_type()),
        };
        let result = result.with_context(|| format!("running {name} on {} bytes", frame.len()))?;
        Ok(result.return_value.cast_signed())
    }

    /// Every program's name.
    pub fn names(&self) -> Vec<String> {
        self.object
            .programs()
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    /// What the kernel says of a program.
    ///
    /// # Errors
    /// The object has none of that name.
    pub fn info(&self, name: &str) -> Result<ProgramInfo> {
        let program = self.object.program(name);
        let program = program.with_context(|| format!("the object has no program {name}"))?;
        Ok(program.info()?)
    }

    /// A map, for one of aya's typed views.
    ///
    /// # Errors
    /// The object has none of that name.
    pub fn map(&mut self, name: &str) -> Result<&mut Map> {
        let map = self.object.map_mut(name);
        map.with_context(|| format!("the object has no map {name}"))
    }
}

/// Whether BPF_PROG_TEST_RUN takes the frame for TC: with the whole of the first IP header, or
/// something behind the Ethernet header. For XDP the Ethernet header is enough.
pub fn runs_at_tc(frame: &[u8]) -> bool {
    let least = match frame.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => 15,
    };
    frame.len() >= least
}

/// Where the finished object is: as the build of the `dataplane` crate looks for it.
pub fn object_path() -> PathBuf {
    std::env::var_os("SLUICE_BPF_OBJECT").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../target/sluice.bpf.o"
            ))
        },
        PathBuf::from,
    )
}
