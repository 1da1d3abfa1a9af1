//! Policy in the kernel's programs: packets by BPF_PROG_TEST_RUN against real maps.

mod changes;
mod connections;
mod entries;
mod floods;
mod pair;
mod related;
mod verdicts;
