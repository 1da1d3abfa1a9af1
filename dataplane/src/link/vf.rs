//! A VF's state at its PF: read, changed, restored over the PF's netlink.
//!
//! Layouts and numbers: uapi `linux/if_link.h`.

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        LinkAttribute, LinkExtentMask, LinkMessage as LinkRequest, LinkVfInfo, VfInfo,
        VfInfoLinkState, VfInfoMac, VfInfoRate, VfInfoSpoofCheck, VfInfoTrust, VfLinkState, VfVlan,
        VfVlanInfo, VlanProtocol as WireProtocol,
    },
};
use serde::{Deserialize, Serialize};

use super::{LinkError, Mac, Netlink, decode::LinkMessage};

/// The tag that a VLAN puts on frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VlanProtocol {
    /// A customer tag.
    #[default]
    #[serde(rename = "802.1q")]
    Dot1Q,
    /// A service tag, around a customer's own.
    #[serde(rename = "802.1ad")]
    Dot1Ad,
}

/// A VF's VLAN, which the NIC adds and takes off; id 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfVlanTag {
    /// 0 to 4094.
    pub id: u16,
    /// 0 to 7.
    pub qos: u8,
    /// The kind of tag.
    pub protocol: VlanProtocol,
}

/// The link state that a PF shows to a VF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VfLink {
    /// That of the PF.
    Auto,
    /// Up, whatever the PF's is.
    Enable,
    /// Down.
    Disable,
}

/// A VF as its PF has it. What a driver does not tell is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfState {
    /// The address that the PF's side has given it, all zeros for none.
    pub mac: Option<Mac>,
    /// Its VLAN.
    pub vlan: VfVlanTag,
    /// Whether frames with another source address are dropped.
    pub spoofchk: Option<bool>,
    /// Whether it may change what a guest should not: its address, promiscuity.
    pub trust: Option<bool>,
    /// The link state that it sees.
    pub link: Option<VfLink>,
    /// Guaranteed, Mbit/s; 0 for none.
    pub min_tx_rate: u32,
    /// At most, Mbit/s; 0 for no limit.
    pub max_tx_rate: u32,
}

/// What to change about a VF; the rest stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfConfig {
    /// See [`VfState::mac`].
    pub mac: Option<Mac>,
    /// See [`VfState::vlan`].
    pub vlan: Option<VfVlanTag>,
    /// See [`VfState::spoofchk`].
    pub spoofchk: Option<bool>,
    /// See [`VfState::trust`].
    pub trust: Option<bool>,
    /// See [`VfState::link`].
    pub link: Option<VfLink>,
    /// See [`VfState::min_tx_rate`].
    pub min_tx_rate: Option<u32>,
    /// See [`VfState::max_tx_rate`].
    pub max_tx_rate: Option<u32>,
}

/// One request to the PF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    Vlan(VfVlanTag),
    Mac(Mac),
    Rate { min: u32, max: u32 },
    Spoofchk(bool),
    Trust(bool),
    Link(VfLink),
}

impl Setting {
    fn name(self) -> &'static str {
        match self {
            Self::Vlan(_) => "VLAN",
            Self::Mac(_) => "MAC",
            Self::Rate { .. } => "transmit rates",
            Self::Spoofchk(_) => "spoof check",
            Self::Trust(_) => "trust",
            Self::Link(_) => "link state",
        }
    }

    fn attribute(self, vf: u32) -> VfInfo {
        match self {
            Self::Vlan(tag) => {
                let protocol = match tag.protocol {
                    VlanProtocol::Dot1Q => WireProtocol::Ieee8021Q,
                    VlanProtocol::Dot1Ad => WireProtocol::Ieee8021Ad,
                };
                let tag = VfVlanInfo::new(vf, tag.id.into(), tag.qos.into(), protocol);
                VfInfo::VlanList(vec![VfVlan::Info(tag)])
            }
            Self::Mac(mac) => VfInfo::Mac(VfInfoMac::new(vf, &mac.0)),
            Self::Rate { min, max } => VfInfo::Rate(VfInfoRate::new(vf, min, max)),
            Self::Spoofchk(on) => VfInfo::SpoofCheck(VfInfoSpoofCheck::new(vf, on)),
            Self::Trust(on) => VfInfo::Trust(VfInfoTrust::new(vf, on)),
            Self::Link(link) => {
                let link = match link {
                    VfLink::Auto => VfLinkState::Auto,
                    VfLink::Enable => VfLinkState::Enable,
                    VfLink::Disable => VfLinkState::Disable,
                };
                VfInfo::LinkState(VfInfoLinkState::new(vf, link))
            }
        }
    }
}

/// The requests that lead from a state to what is wanted, in the order that drivers like: a VLAN
/// before the address, trust before what needs it at the VF.
fn plan(now: &VfState, wanted: &VfConfig) -> Vec<Setting> {
    let rates = (
        wanted.min_tx_rate.unwrap_or(now.min_tx_rate),
        wanted.max_tx_rate.unwrap_or(now.max_tx_rate),
    );
    let changed = |differs: bool, setting: Setting| differs.then_some(setting);
    [
        wanted
            .vlan
            .and_then(|vlan| changed(now.vlan != vlan, Setting::Vlan(vlan))),
        wanted
            .mac
            .and_then(|mac| changed(now.mac != Some(mac), Setting::Mac(mac))),
        changed(
            (now.min_tx_rate, now.max_tx_rate) != rates,
            Setting::Rate {
                min: rates.0,
                max: rates.1,
            },
        ),
        wanted
            .spoofchk
            .and_then(|on| changed(now.spoofchk != Some(on), Setting::Spoofchk(on))),
        wanted
            .trust
            .and_then(|on| changed(now.trust != Some(on), Setting::Trust(on))),
        wanted
            .link
            .and_then(|link| changed(now.link != Some(link), Setting::Link(link))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl VfConfig {
    /// Refuses what no driver takes.
    ///
    /// # Errors
    /// [`LinkError::Invalid`].
    pub fn check(&self) -> Result<(), LinkError> {
        let invalid = |thing, value: String, reason: &str| {
            Err(LinkError::Invalid {
                thing,
                value,
                reason: reason.to_owned(),
            })
        };
        if let Some(VfVlanTag { id, qos, protocol }) = self.vlan {
            if id > 4094 {
                return invalid("vlan", id.to_string(), "it must be from 0 to 4094");
            }
            if qos > 7 {
                return invalid("vlanQoS", qos.to_string(), "it must be from 0 to 7");
            }
            if id == 0 && (qos != 0 || protocol != VlanProtocol::Dot1Q) {
                return invalid("vlan", "0".to_owned(), "vlanQoS and vlanProto need a VLAN");
            }
        }
        if let Some(mac) = self.mac
            && mac.0[0] & 1 != 0
        {
            return invalid("mac", mac.to_string(), "it is a group address");
        }
        match (self.min_tx_rate, self.max_tx_rate) {
            (Some(min), Some(max)) if max != 0 && min > max => invalid(
                "min_tx_rate",
                min.to_string(),
                "it is above max_tx_rate; lower it",
            ),
            _ => Ok(()),
        }
    }
}

impl From<VfState> for VfConfig {
    /// What restores a state. What the driver did not tell is left alone.
    fn from(state: VfState) -> Self {
        Self {
            mac: state.mac,
            vlan: Some(state.vlan),
            spoofchk: state.spoofchk,
            trust: state.trust,
            link: state.link,
            min_tx_rate: Some(state.min_tx_rate),
            max_tx_rate: Some(state.max_tx_rate),
        }
    }
}

impl Netlink {
    /// Reads a VF's state from its PF, which is in this socket's namespace.
    ///
    /// # Errors
    /// [`LinkError::NoVf`], [`LinkError::NotFound`] for the PF, [`LinkError::Request`].
    pub fn vf_state(&mut self, pf: u32, vf: u32) -> Result<VfState, LinkError> {
        let mut request = LinkRequest::default();
        request.header.index = pf;
        request.attributes.push(LinkAttribute::ExtMask(vec![
            LinkExtentMask::Vf,
            LinkExtentMask::SkipStats,
        ]));
        let read = self.get(RouteNetlinkMessage::GetLink(request), |message| {
            LinkMessage::decode(message.body).map(Some)
        });
        match read {
            Ok(Some(link)) => link
                .vfs
                .into_iter()
                .find(|(index, _)| *index == vf)
                .map(|(_, state)| state)
                .ok_or(LinkError::NoVf { pf: link.name, vf }),
            Err(source) if !source.is(libc::ENODEV) => {
                Err(self.failed("read the state of VFs", source))
            }
            _ => Err(self.not_found(format!("index {pf}"))),
        }
    }

    /// Changes a VF at its PF. What differs only is sent, each in a request of its own.
    ///
    /// # Errors
    /// As [`Netlink::vf_state`], and [`LinkError::Change`] with the setting's name; what was set
    /// before it is set back.
    pub fn configure_vf(&mut self, pf: u32, vf: u32, wanted: &VfConfig) -> Result<(), LinkError> {
        wanted.check()?;
        let before = self.vf_state(pf, vf)?;
        for setting in plan(&before, wanted) {
            if let Err(error) = self.set_vf(pf, vf, setting) {
                for left in self.restore_vf(pf, vf, &before) {
                    tracing::warn!("undoing a VF's settings: {left}");
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Brings a VF back to an earlier state as far as it goes, and returns what could not be.
    pub fn restore_vf(&mut self, pf: u32, vf: u32, state: &VfState) -> Vec<LinkError> {
        match self.vf_state(pf, vf) {
            Ok(now) => plan(&now, &VfConfig::from(*state))
                .into_iter()
                .filter_map(|setting| self.set_vf(pf, vf, setting).err())
                .collect(),
            Err(error) => vec![error],
        }
    }

    fn set_vf(&mut self, pf: u32, vf: u32, setting: Setting) -> Result<(), LinkError> {
        let mut message = LinkRequest::default();
        message.header.index = pf;
        let info = LinkVfInfo(vec![setting.attribute(vf)]);
        message
            .attributes
            .push(LinkAttribute::VfInfoList(vec![info]));
        self.socket
            .change(RouteNetlinkMessage::SetLink(message), 0)
            .map_err(|source| {
                let remedy = match setting {
                    Setting::Rate { .. } => {
                        "EINVAL: more than the link's speed, or the PF has no carrier; \
                         EOPNOTSUPP: the PF's driver cannot; leave the setting out"
                    }
                    _ => "EOPNOTSUPP: the PF's driver cannot; leave the setting out",
                };
                let change = format!("set the {} of VF {vf} of interface {pf}", setting.name());
                self.refused(change, source, remedy)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::decode::decode_vfs;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn words(kind: u16, words: &[u32]) -> Vec<u8> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        attribute(kind, &bytes)
    }

    /// `IFLA_VFINFO_LIST` with one VF, put together from the uapi header's layouts.
    fn handmade(vf: u32) -> Vec<u8> {
        let mut mac = vf.to_ne_bytes().to_vec();
        mac.extend_from_slice(&[2, 0, 0, 0, 0, 7]);
        mac.resize(4 + 32, 0);
        let mut tag: Vec<u8> = [vf, 100, 3].iter().flat_map(|w| w.to_ne_bytes()).collect();
        tag.extend_from_slice(&[0x88, 0xa8, 0, 0]);
        let info = [
            attribute(1, &mac),
            words(2, &[vf, 100, 3]),
            words(6, &[vf, 50, 1000]),
            words(3, &[vf, 1000]),
            words(4, &[vf, 1]),
            words(5, &[vf, 2]),
            words(7, &[vf, 0]),
            words(9, &[vf, u32::MAX]),
            attribute(12 | 0x8000, &attribute(1, &tag)),
            attribute(77, &[1, 2, 3]),
        ]
        .concat();
        attribute(1 | 0x8000, &info)
    }

    fn state() -> VfState {
        VfState {
            mac: Some(Mac([2, 0, 0, 0, 0, 7])),
            vlan: VfVlanTag {
                id: 100,
                qos: 3,
                protocol: VlanProtocol::Dot1Ad,
            },
            spoofchk: Some(true),
            trust: None,
            link: Some(VfLink::Disable),
            min_tx_rate: 50,
            max_tx_rate: 1000,
        }
    }

    #[test]
    fn vfs_in_handmade_bytes() {
        let list = [handmade(0), handmade(5)].concat();
        assert_eq!(decode_vfs(&list).unwrap(), [(0, state()), (5, state())]);
        assert!(decode_vfs(&list[..list.len() - 8]).is_err());
    }

    #[test]
    fn only_what_differs_is_sent() {
        assert_eq!(plan(&state(), &VfConfig::from(state())), []);
        assert_eq!(plan(&state(), &VfConfig::default()), []);
        let wanted = VfConfig {
            max_tx_rate: Some(2000),
            trust: Some(true),
            vlan: Some(VfVlanTag::default()),
            spoofchk: Some(true),
            ..VfConfig::default()
        };
        assert_eq!(
            plan(&state(), &wanted),
            [
                Setting::Vlan(VfVlanTag::default()),
                Setting::Rate { min: 50, max: 2000 },
                Setting::Trust(true)
            ]
        );
    }

    /// What our requests say is what the kernel's answers say in the same layout.
    #[test]
    fn settings_are_written_as_they_are_read() {
        use netlink_packet_core::Emitable;
        let wanted = VfState {
            trust: Some(true),
            ..state()
        };
        let nothing = VfState {
            mac: None,
            vlan: VfVlanTag::default(),
            spoofchk: None,
            trust: None,
            link: None,
            min_tx_rate: 0,
            max_tx_rate: 0,
        };
        let settings = plan(&nothing, &VfConfig::from(wanted));
        assert_eq!(settings.len(), 6);
        let infos: Vec<_> = settings
            .iter()
            .map(|setting| setting.attribute(3))
            .collect();
        let list = vec![LinkVfInfo(infos)];
        let mut bytes = vec![0; list.as_slice().buffer_len()];
        list.as_slice().emit(&mut bytes);
        assert_eq!(decode_vfs(&bytes).unwrap(), [(3, wanted)]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let vlan = |id, qos, protocol| VfConfig {
            vlan: Some(VfVlanTag { id, qos, protocol }),
            ..VfConfig::default()
        };
        for (config, words) in [
            (vlan(4095, 0, VlanProtocol::Dot1Q), "0 to 4094"),
            (vlan(1, 8, VlanProtocol::Dot1Q), "0 to 7"),
            (vlan(0, 1, VlanProtocol::Dot1Q), "need a VLAN"),
            (vlan(0, 0, VlanProtocol::Dot1Ad), "need a VLAN"),
            (
                VfConfig {
                    min_tx_rate: Some(2),
                    max_tx_rate: Some(1),
                    ..VfConfig::default()
                },
                "above max_tx_rate",
            ),
            (
                VfConfig {
                    mac: Some(Mac([1, 0, 0, 0, 0, 0])),
                    ..VfConfig::default()
                },
                "group address",
            ),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(vlan(4094, 7, VlanProtocol::Dot1Ad).check().is_ok());
    }
}
