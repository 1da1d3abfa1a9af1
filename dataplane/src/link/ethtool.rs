//! What a network driver counts by names of its own (`ethtool -S`).
//!
//! Layouts and numbers: uapi `linux/ethtool.h` and `linux/sockios.h`. ethtool's netlink has no
//! request for them.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{LinkError, Netns};

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 3;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSTATS: u32 = 0x1d;
/// The names of statistics, among the sets of strings.
const ETH_SS_STATS: u32 = 1;
/// Bytes of a name, its terminating zero included.
const ETH_GSTRING_LEN: usize = 32;
/// A driver that says it has more is not believed; mlx5 with hundreds of channels has some ten
/// thousand.
const MAX_STATISTICS: usize = 1 << 17;

/// A driver's statistics of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicStatistics {
    /// The driver's name.
    pub driver: String,
    /// Names and values, in the driver's order.
    pub values: Vec<(String, u64)>,
}

/// Asks the drivers of one namespace's interfaces.
#[derive(Debug)]
pub struct Ethtool {
    socket: OwnedFd,
    netns: String,
}

impl Ethtool {
    /// Opens a socket in a namespace.
    ///
    /// # Errors
    /// [`LinkError::Socket`], [`LinkError::Namespace`].
    pub fn open(netns: &Netns) -> Result<Self, LinkError> {
        let opened = netns.run(|| {
            let (kind, flags) = (SockType::Datagram, SockFlag::SOCK_CLOEXEC);
            socket(AddressFamily::Unix, kind, flags, None)
        })?;
        let socket = opened.map_err(|errno| LinkError::Socket {
            netns: netns.to_string(),
            step: "open for ethtool",
            source: errno.into(),
        })?;
        Ok(Self {
            socket,
            netns: netns.to_string(),
        })
    }

    /// The statistics of an interface, those that `wanted` picks by driver and name; `None` for one
    /// whose driver has none.
    ///
    /// # Errors
    /// [`LinkError::Statistics`]: there is no such interface, or the driver's answer makes no sense.
    pub fn statistics(
        &self,
        interface: &str,
        wanted: impl Fn(&str, &str) -> bool,
    ) -> Result<Option<NicStatistics>, LinkError> {
        let failed = |source: io::Error| LinkError::Statistics {
            interface: interface.to_owned(),
            netns: self.netns.clone(),
            source,
        };
        let mut info = DriverInfo::default();
        match self.ask(interface, &mut info) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(None),
            other => other.map_err(failed)?,
        }
        let driver = text(&info.driver).ok_or_else(|| failed(malformed()))?;
        let number = info.n_stats as usize;
        if number == 0 {
            return Ok(None);
        }
        if number > MAX_STATISTICS {
            return Err(failed(malformed()));
        }
        let names = self.names(interface, number).map_err(failed)?;
        let values = self.values(interface, number).map_err(failed)?;
        let (names, values) = match (names, values) {
            (Some(names), Some(values)) if names.len() / ETH_GSTRING_LEN == values.len() => {
                (names, values)
            }
            // Channels were added or taken away in between; the next reading will do.
            _ => return Ok(None),
        };
        let pairs = names.chunks_exact(ETH_GSTRING_LEN).zip(values);
        let picked = pairs.filter_map(|(name, value)| {
            let name = text(name).filter(|name| wanted(&driver, name))?;
            Some((name, value))
        });
        let values = picked.collect();
        Ok(Some(NicStatistics { driver, values }))
    }

    /// The names, end to end; `None` when there are not as many any more.
    fn names(&self, interface: &str, number: usize) -> io::Result<Option<Vec<u8>>> {
        // `struct ethtool_gstrings`: command, set, number, strings.
        let mut buffer = vec![0_u32; 3 + with_slack(number) * ETH_GSTRING_LEN / 4];
        buffer[0] = ETHTOOL_GSTRINGS;
        buffer[1] = ETH_SS_STATS;
        buffer[2] = number as u32;
        self.ask_words(interface, &mut buffer)?;
        if buffer[2] as usize != number {
            return Ok(None);
        }
        let words = buffer.iter().skip(3).take(number * ETH_GSTRING_LEN / 4);
        Ok(Some(words.flat_map(|word| word.to_ne_bytes()).collect()))
    }

    /// The values; `None` when there are not as many any more.
    fn values(&self, interface: &str, number: usize) -> io::Result<Option<Vec<u64>>> {
        // `struct ethtool_stats`: command, number, values of 64 bits.
        let mut buffer = vec![0_u32; 2 + with_slack(number) * 2];
        buffer[0] = ETHTOOL_GSTATS;
        buffer[1] = number as u32;
        self.ask_words(interface, &mut buffer)?;
        if buffer[1] as usize != number {
            return Ok(None);
        }
        let halves = buffer.iter().skip(2).take(number * 2).copied();
        let halves: Vec<u32> = halves.collect();
        let values = halves.chunks_exact(2).map(|pair| {
            let bytes = [pair[0].to_ne_bytes(), pair[1].to_ne_bytes()];
            u64::from_ne_bytes(bytes.concat().try_into().unwrap_or_default())
        });
        Ok(Some(values.collect()))
    }

    fn ask_words(&self, interface: &str, buffer: &mut [u32]) -> io::Result<()> {
        // SAFETY: the kernel writes as many strings or values as the driver has at that moment,
        // which not every kernel compares with the number in the buffer; `with_slack` leaves room
        // for more than a driver can gain between two calls.
        unsafe { self.call(interface, buffer.as_mut_ptr().cast()) }
    }

    fn ask(&self, interface: &str, info: &mut DriverInfo) -> io::Result<()> {
        info.cmd = ETHTOOL_GDRVINFO;
        // SAFETY: the command reads and writes one `struct ethtool_drvinfo`.
        unsafe { self.call(interface, (&raw mut *info).cast()) }
    }

    /// # Safety
    /// `data` must be what its command, in the first word, reads and writes.
    unsafe fn call(&self, interface: &str, data: *mut libc::c_char) -> io::Result<()> {
        // SAFETY: zeroes are a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if interface.len() >= request.ifr_name.len() || interface.contains('\0') {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (place, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
            *place = byte.cast_signed();
        }
        request.ifr_ifru.ifru_data = data;
        // SAFETY: the request lives through the call, and so does `data`, as the caller promises.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// `struct ethtool_drvinfo`.
#[derive(Default)]
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    version: [u8; 32],
    fw_version: [u8; 32],
    bus_info: [u8; 32],
    erom_version: [u8; 32],
    reserved2: [u8; 12],
    n_priv_flags: u32,
    n_stats: u32,
    testinfo_len: u32,
    eedump_len: u32,
    regdump_len: u32,
}

/// Room for this many statistics and for what may be added meanwhile: a driver gains a few dozen for
/// each channel, of which there are as many as processors.
fn with_slack(number: usize) -> usize {
    number * 2 + (1 << 14)
}

/// Text up to its terminating zero, which has to be there.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    String::from_utf8(bytes[..end].to_vec()).ok()
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the driver's answer is malformed",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_kernels() {
        // Compiled from uapi linux/ethtool.h.
        assert_eq!(size_of::<DriverInfo>(), 196);
        assert_eq!(std::mem::offset_of!(DriverInfo, n_stats), 180);
    }

    #[test]
    fn a_name_without_an_end_is_refused() {
        assert_eq!(text(b"rx\0\0"), Some("rx".into()));
        assert_eq!(text(b"rx"), None);
    }
}
