//! What needs another kernel or other hardware than the machine at hand: ignored there, run by
//! `cargo xtask test --lab` in virtual machines. These tests use the machine's own network and run
//! one after another.

mod card;
mod cni;
mod cni_children;
mod cni_faults;
mod cni_rdma;
mod cni_sriov;
mod cni_vlan;
mod effort;
mod guides;
mod hardware;
mod mode;
mod modes;
mod policy_modes;
mod policy_rdma;
mod policy_sctp;
mod rdma;
mod readers;
mod reboot;
mod roce_faults;
mod roce_owner;
mod rxe;
mod sriov;
mod two_nodes;
mod uplinks;
