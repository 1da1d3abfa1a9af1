//! Which kernel driver an RDMA device has: what its counters mean depends on it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Drivers by their number and name.
///
/// Numbers: `enum rdma_driver_id`, uapi `rdma/ib_user_ioctl_verbs.h`.
macro_rules! drivers {
    ($($number:literal => $variant:ident $name:literal,)*) => {
        /// A driver of RDMA devices.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[allow(missing_docs)]
        pub enum Driver {
            $(#[serde(rename = $name)] $variant,)*
        }

        impl Driver {
            /// The driver with this number, if this version knows it.
            pub(super) fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

drivers! {
    1 => Mlx5 "mlx5",
    2 => Mlx4 "mlx4",
    4 => Cxgb4 "cxgb4",
    6 => BnxtRe "bnxt_re",
    7 => Ocrdma "ocrdma",
    9 => Irdma "irdma",
    10 => Pvrdma "vmw_pvrdma",
    11 => Qedr "qedr",
    12 => Hns "hns",
    13 => Usnic "usnic",
    14 => Rxe "rxe",
    15 => Hfi1 "hfi1",
    17 => Efa "efa",
    18 => Siw "siw",
    19 => Erdma "erdma",
    20 => Mana "mana",
    21 => Ionic "ionic",
}

impl Driver {
    /// The driver of a device that hangs off a PCI function with this network driver, for devices
    /// of which RDMA netlink does not tell.
    pub(super) fn beside(network_driver: &str) -> Option<Self> {
        match network_driver {
            "mlx5_core" => Some(Self::Mlx5),
            "mlx4_core" => Some(Self::Mlx4),
            "bnxt_en" => Some(Self::BnxtRe),
            "ice" | "i40e" | "idpf" => Some(Self::Irdma),
            "ionic" => Some(Self::Ionic),
            _ => None,
        }
    }

    /// Whether its packets are made and read by the kernel's network stack, where eBPF sees them.
    pub fn is_software(self) -> bool {
        matches!(self, Self::Rxe | Self::Siw)
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
