//! The interface that a main plugin is to make.

use sluice_api::{
    Mac,
    cni::{Create, Kind, VfSettings},
};

use super::{Config, Fields, IpvlanMode, LinkState, MacvlanMode, Mode, OnOff, is_pci_address};
use crate::{call::Call, error::Error};

/// Smallest MTU of IPv4 (RFC 791).
const MTU_MIN: u32 = 68;
/// Largest MTU that Linux allows (`ETH_MAX_MTU`, uapi `linux/if_ether.h`).
const MTU_MAX: u32 = 65535;
/// Largest VLAN id (IEEE 802.1Q).
const VLAN_MAX: u16 = 4094;

/// What to make, of the configuration of a main plugin.
///
/// # Errors
/// Code 7: a field is missing, wrong, or of another mode.
pub fn create(config: &Config, call: &Call, mode: Mode) -> Result<Create, Error> {
    let fields = &config.fields;
    if let Some(mtu) = fields.mtu.filter(|mtu| !(MTU_MIN..=MTU_MAX).contains(mtu)) {
        return Err(Error::config(format!(
            "mtu {mtu} is not from {MTU_MIN} to {MTU_MAX}"
        )));
    }
    refuse_others(fields, mode)?;
    let mac = mac(config, call)?;
    let kind = match mode {
        Mode::Macvlan => Kind::Macvlan {
            master: fields.master.clone(),
            submode: match fields.macvlan_mode {
                MacvlanMode::Bridge => "bridge",
                MacvlanMode::Private => "private",
                MacvlanMode::Vepa => "vepa",
                MacvlanMode::Passthru => "passthru",
            }
            .into(),
            vlan: vlan_of_child(fields)?,
        },
        Mode::Ipvlan if mac.is_some() => {
            return Err(Error::config(
                "mac cannot be set with mode ipvlan: all its interfaces have the master's",
            ));
        }
        Mode::Ipvlan => Kind::Ipvlan {
            master: fields.master.clone(),
            submode: match fields.ipvlan_mode {
                IpvlanMode::L2 => "l2",
                IpvlanMode::L3 => "l3",
                IpvlanMode::L3s => "l3s",
            }
            .into(),
            vlan: vlan_of_child(fields)?,
        },
        Mode::Sriov => {
            if !config.device().is_some_and(is_pci_address) {
                return Err(Error::config(
                    "mode sriov needs deviceID, the PCI address of a VF such as 0000:3b:00.2",
                ));
            }
            Kind::Sriov(vf_settings(fields)?)
        }
    };
    Ok(Create {
        kind,
        mtu: fields.mtu,
        mac,
        host_reach: fields.host_reach,
    })
}

/// Refuses what only a main plugin can do: chained, it would be ignored in
/// silence.
///
/// # Errors
/// Code 7: such a field is set.
pub fn refuse_without_mode(config: &Config) -> Result<(), Error> {
    let fields = &config.fields;
    let of_main = [
        ("master", fields.master.is_some()),
        ("mtu", fields.mtu.is_some()),
        ("mac", fields.mac.is_some() || fields.mac_upper.is_some()),
        ("hostReach", fields.host_reach.is_some()),
        ("routes", !fields.routes.is_empty()),
        ("serviceCIDRs", !fields.service_cidrs.is_empty()),
        ("ipam", config.ipam().is_some()),
    ];
    let of_vf = of_vf(fields);
    match of_main.iter().chain(&of_vf).find(|(_, given)| *given) {
        Some((name, _)) => Err(Error::config(format!(
            "{name} needs \"mode\": chained, this plugin takes the interface as the plugins before \
             it made it"
        ))),
        None => Ok(()),
    }
}

/// The options of a VF, and whether they are given.
fn of_vf(fields: &Fields) -> [(&'static str, bool); 8] {
    [
        ("vlan", fields.vlan.is_some()),
        ("vlanQoS", fields.vlan_qos.is_some()),
        ("vlanProto", fields.vlan_proto.is_some()),
        ("spoofchk", fields.spoofchk.is_some()),
        ("trust", fields.trust.is_some()),
        ("link_state", fields.link_state.is_some()),
        ("min_tx_rate", fields.min_tx_rate.is_some()),
        ("max_tx_rate", fields.max_tx_rate.is_some()),
    ]
}

/// The VLAN that a macvlan or ipvlan interface is to be in.
fn vlan_of_child(fields: &Fields) -> Result<Option<u16>, Error> {
    let vlan = vlan(fields)?.filter(|vlan| *vlan != 0);
    if vlan.is_some() && fields.host_reach.is_some() {
        return Err(Error::config(
            "hostReach cannot be set with vlan: the node has no address in a VLAN that is made for \
             pods only; make a VLAN interface on the node, and name it as the master",
        ));
    }
    Ok(vlan)
}

/// The VLAN id, checked.
fn vlan(fields: &Fields) -> Result<Option<u16>, Error> {
    match fields.vlan {
        Some(vlan) if vlan > VLAN_MAX => Err(Error::config(format!(
            "vlan {vlan} is not from 0 to {VLAN_MAX}"
        ))),
        vlan => Ok(vlan),
    }
}

/// Options that mean nothing in this mode would be ignored in silence.
fn refuse_others(fields: &Fields, mode: Mode) -> Result<(), Error> {
    let of_vf = of_vf(fields);
    let of_children = [("master", fields.master.is_some())];
    let (given, only): (&[_], _) = match mode {
        // A VLAN they all can be in.
        Mode::Macvlan | Mode::Ipvlan => (&of_vf[1..], "sriov"),
        Mode::Sriov => (&of_children, "macvlan or ipvlan"),
    };
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(Error::config(format!("{name} is for mode {only} only"))),
        None => Ok(()),
    }
}

/// The runtime's wish, then the pod's, then the configuration's.
fn mac(config: &Config, call: &Call) -> Result<Option<Mac>, Error> {
    let fields = &config.fields;
    let wishes = [
        fields.runtime_config.mac.as_deref(),
        call.arg("MAC"),
        fields.mac.as_deref(),
        fields.mac_upper.as_deref(),
    ];
    let Some(text) = wishes.into_iter().flatten().find(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let mac: Mac = text
        .parse()
        .map_err(|error| Error::config(format!("mac: {error}")))?;
    // The first bit on the wire marks a group (IEEE 802).
    if mac.0[0] & 1 != 0 || mac.0 == [0; 6] {
        return Err(Error::config(format!(
            "mac {mac} is no address of one interface; the first byte must be even, and not all 0"
        )));
    }
    Ok(Some(mac))
}

fn vf_settings(fields: &Fields) -> Result<VfSettings, Error> {
    let vlan = vlan(fields)?;
    let tagged = vlan.is_some_and(|vlan| vlan > 0);
    if fields.vlan_qos.is_some_and(|qos| qos > 7) {
        return Err(Error::config("vlanQoS is not from 0 to 7"));
    }
    if fields.vlan_qos.is_some_and(|qos| qos > 0) && !tagged {
        return Err(Error::config("vlanQoS needs vlan"));
    }
    let proto = fields.vlan_proto.as_deref().map(str::to_ascii_lowercase);
    let vlan_ad = match proto.as_deref() {
        None | Some("802.1q") => false,
        Some("802.1ad") => true,
        Some(other) => {
            return Err(Error::config(format!(
                "vlanProto {other:?} is neither 802.1q nor 802.1ad"
            )));
        }
    };
    if vlan_ad && !tagged {
        return Err(Error::config("vlanProto 802.1ad needs vlan"));
    }
    if let (Some(min), Some(max)) = (fields.min_tx_rate, fields.max_tx_rate)
        && max > 0
        && min > max
    {
        return Err(Error::config(format!(
            "min_tx_rate {min} exceeds max_tx_rate {max}"
        )));
    }
    let on = |switch: OnOff| switch == OnOff::On;
    Ok(VfSettings {
        vlan,
        vlan_qos: fields.vlan_qos,
        vlan_ad,
        spoofchk: fields.spoofchk.map(on),
        trust: fields.trust.map(on),
        link_state: fields.link_state.map(|state| {
            match state {
                LinkState::Auto => "auto",
                LinkState::Enable => "enable",
                LinkState::Disable => "disable",
            }
            .to_owned()
        }),
        min_tx_rate: fields.min_tx_rate,
        max_tx_rate: fields.max_tx_rate,
    })
}
