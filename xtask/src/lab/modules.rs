//! The kernel modules that the guest needs, of the thousands that a kernel brings.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};

use super::image;
use crate::exec;

/// What may be loaded in the guest, by blanks; what one of them depends on comes with it. A kernel
/// has some of them built in, and an older one lacks some.
pub(super) const WANTED: &str = "\
    virtio_pci 9pnet_virtio 9p overlay virtio_net igb igbvf \
    veth macvlan macvtap ipvlan dummy bridge br_netfilter 8021q bonding vxlan tun ifb nlmon \
    ib_uverbs ib_umad rdma_ucm rdma_rxe siw crc32_generic crc32c_generic crc32-cryptoapi crc32c-cryptoapi \
    sch_ingress sch_netem sch_tbf sch_htb sch_fq cls_bpf cls_u32 cls_matchall cls_flower act_bpf act_gact act_mirred \
    nf_tables nft_chain_nat nft_compat nft_ct nft_masq nft_nat nft_reject_inet nf_conntrack_netlink \
    iptable_filter iptable_nat ip6table_filter ip6table_nat xt_addrtype xt_comment xt_conntrack xt_mark xt_MASQUERADE xt_multiport xt_nat \
    inet_diag tcp_diag udp_diag unix_diag netlink_diag af_packet_diag sctp";

/// Copies the wanted modules and what they need from `from`, where depmod ran, to `to`, decompressed.
///
/// # Errors
/// There are no dependencies, or a module cannot be read.
pub(super) fn take(from: &Path, to: &Path) -> Result<()> {
    let list = from.join("modules.dep");
    let dependencies =
        fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    for file in needed(&dependencies, WANTED) {
        let source = from.join(file);
        let plain = file.trim_end_matches(".xz").trim_end_matches(".zst");
        let target = to.join(plain);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        copy(&source, &target)
            .with_context(|| format!("cannot take the module {}", source.display()))?;
    }
    Ok(())
}

/// The files of the wanted modules and of all that they depend on.
fn needed<'a>(dependencies: &'a str, wanted: &str) -> BTreeSet<&'a str> {
    let wanted: Vec<_> = wanted.split_whitespace().map(normal).collect();
    dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(file, _)| wanted.contains(&name(file)))
        .flat_map(|(file, needs)| [file].into_iter().chain(needs.split_whitespace()))
        .collect()
}

/// The name of the module in a file: without folder and endings.
fn name(file: &str) -> String {
    let file = file.rsplit('/').next().unwrap_or(file);
    normal(file.split('.').next().unwrap_or(file))
}

/// Names are the same with `-` and `_`.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let start = fs::read(from)?;
    let Some(program) = image::decompressor(&start) else {
        fs::write(to, start)?;
        return Ok(());
    };
    exec::run(
        Command::new(program)
            .arg("-dc")
            .arg(from)
            .stdout(File::create(to)?),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_with_what_they_need() {
        let dependencies = "\
            kernel/a/one.ko.xz: kernel/b/two.ko.xz kernel/b/three.ko.xz\n\
            kernel/b/two.ko.xz: kernel/b/three.ko.xz\n\
            kernel/b/three.ko.xz:\n\
            kernel/c/with-dash.ko:\n\
            kernel/c/other.ko:\n";
        let found: Vec<_> = needed(dependencies, "one with_dash absent")
            .into_iter()
            .collect();
        assert_eq!(
            found,
            [
                "kernel/a/one.ko.xz",
                "kernel/b/three.ko.xz",
                "kernel/b/two.ko.xz",
                "kernel/c/with-dash.ko"
            ]
        );
    }
}
