//! Which container a process is in, by `/proc/PID/cgroup`.
//!
//! The kubelet and the runtimes put it into the names of cgroups: the kubelet a pod's UID, the
//! runtime the container's id, by systemd's rules (`...slice/...scope`) or as plain folders. Only
//! the outermost of each is believed: what lies below a container's own cgroup, the container may
//! have made, under any name.

/// What a process's cgroups say of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// The UID of its Kubernetes pod; of a static pod 32 hexadecimal digits.
    pub pod_uid: Option<String>,
    /// The id that the runtime gave the container.
    pub id: Option<String>,
}

impl Container {
    /// Reads `/proc/PID/cgroup`: a line `hierarchy:controllers:path` for each hierarchy, of which
    /// cgroup v2 has one. The line that says most counts.
    pub fn parse(text: &str) -> Self {
        let containers = text.lines().filter_map(|line| {
            let path = line.splitn(3, ':').nth(2)?;
            Some(Self::of_path(path))
        });
        containers
            .max_by_key(|found| (found.pod_uid.is_some(), found.id.is_some()))
            .unwrap_or_default()
    }

    fn of_path(path: &str) -> Self {
        let mut found = Self::default();
        // Some containerd setups write a systemd-style `slice:prefix:id` into one plain folder.
        for part in path.split(['/', ':']) {
            if found.pod_uid.is_none()
                && let Some(uid) = pod_uid(part)
            {
                found.pod_uid = Some(uid);
                // An id before it is that of a node that is itself a container.
                found.id = None;
            } else if found.id.is_none() {
                found.id = container_id(part).map(str::to_owned);
            }
        }
        found
    }
}

/// `podUID` (cgroupfs), `...-podUID.slice` (systemd, which wants `_` in place of `-`).
fn pod_uid(part: &str) -> Option<String> {
    let name = part.strip_suffix(".slice").unwrap_or(part);
    let uid = match name.rsplit_once("-pod") {
        Some((parent, uid)) if parent.contains("kubepods") => uid,
        Some(_) => return None,
        None => name.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-");
    is_uid(&uid).then_some(uid)
}

/// `8-4-4-4-12` hexadecimal digits, or 32 of them.
fn is_uid(text: &str) -> bool {
    let lengths: Vec<_> = text.split('-').map(str::len).collect();
    let digits = text.bytes().filter(|byte| *byte != b'-').all(is_hex);
    digits && matches!(lengths[..], [8, 4, 4, 4, 12] | [32])
}

/// 64 hexadecimal digits, alone or as in `cri-containerd-ID.scope`. CRI-O's monitor of a container
/// (`crio-conmon-ID.scope`) is not in it.
fn container_id(part: &str) -> Option<&str> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    let (prefix, id) = name.rsplit_once('-').unwrap_or(("", name));
    let is_id = id.len() == 64 && id.bytes().all(is_hex);
    (is_id && !prefix.ends_with("conmon")).then_some(id)
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "0f0f4d9e-3a5c-4a7f-9d62-7c1b2a3d4e5f";
    const ID: &str = "2b1e0c5d7f8a9b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7081920a1b";
    const OTHER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

    /// `UID`, `UID_` (with underscores), `ID` and `OTHER` stand for the constants.
    fn parse(line: &str) -> (Option<String>, Option<String>) {
        let text = line
            .replace("UID_", &UID.replace('-', "_"))
            .replace("UID", UID)
            .replace("OTHER", OTHER)
            .replace("ID", ID);
        let found = Container::parse(&text);
        (found.pod_uid, found.id)
    }

    fn both() -> (Option<String>, Option<String>) {
        (Some(UID.into()), Some(ID.into()))
    }

    #[test]
    fn the_shapes_of_kubelets_and_runtimes() {
        for line in [
            // systemd driver, cgroup v2: containerd, CRI-O, Docker; guaranteed, burstable.
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/cri-containerd-ID.scope",
            "0::/kubepods.slice/kubepods-podUID_.slice/crio-ID.scope",
            "0::/kubepods.slice/kubepods-podUID_.slice/crio-ID.scope/container",
            "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUID_.slice/docker-ID.scope",
            // A kubelet with a cgroup root of its own; a node that is itself a container.
            "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podUID_.slice/cri-containerd-ID.scope",
            "0::/docker/OTHER/kubelet/kubepods/podUID/ID",
            "0::/system.slice/docker-OTHER.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podUID_.slice/cri-containerd-ID.scope",
            // cgroupfs driver.
            "0::/kubepods/burstable/podUID/ID",
            "0::/kubepods/besteffort/podUID/crio-ID",
            "0::/kubepods/podUID/ID",
            // Seen from another cgroup namespace.
            "0::/../../kubepods-podUID_.slice/cri-containerd-ID.scope",
            // containerd with the drivers mixed up.
            "0::/system.slice/containerd.service/kubepods-burstable-podUID_.slice:cri-containerd:ID",
            // cgroup v1, and hybrid.
            "12:devices:/kubepods/podUID/ID\n11:memory:/kubepods/podUID/ID\n1:name=systemd:/kubepods/podUID/ID",
            "3:cpuset:/\n2:memory:/kubepods.slice/kubepods-podUID_.slice/docker-ID.scope\n0::/system.slice/kubelet.service",
        ] {
            assert_eq!(parse(line), both(), "{line}");
        }
    }

    #[test]
    fn what_is_no_pod() {
        for line in [
            "0::/system.slice/docker-ID.scope",
            "0::/docker/ID",
            "0::/machine.slice/libpod-ID.scope/container",
        ] {
            assert_eq!(parse(line), (None, Some(ID.into())), "{line}");
        }
        for line in [
            "",
            "0::/",
            "0::/init.scope",
            "0::/user.slice/user-0.slice/session-1.scope",
            "0::/kubepods.slice/kubepods-podnot_a_uid.slice",
            "0::/kubepods/pod-tools/x",
            "garbage",
        ] {
            assert_eq!(parse(line), (None, None), "{line}");
        }
    }

    #[test]
    fn a_static_pod_has_a_digest() {
        let line = "0::/kubepods/burstable/podd41d8cd98f00b204e9800998ecf8427e/ID";
        assert_eq!(parse(line).0.unwrap().len(), 32);
    }

    #[test]
    fn the_monitor_of_a_container_is_not_in_it() {
        let line = "0::/kubepods.slice/kubepods-podUID_.slice/crio-conmon-ID.scope";
        assert_eq!(parse(line), (Some(UID.into()), None));
    }

    #[test]
    fn a_container_cannot_pass_for_another() {
        let line = "0::/kubepods/podUID/ID/kubepods-pod11111111_1111_1111_1111_111111111111.slice/cri-containerd-OTHER.scope";
        assert_eq!(parse(line), both());
        let line = "0::/docker/ID/OTHER";
        assert_eq!(parse(line), (None, Some(ID.into())));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in any::<String>()) {
            let _ = Container::parse(&text);
        }
    }
}
