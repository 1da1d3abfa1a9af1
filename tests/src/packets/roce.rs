//! RoCE packets (IBTA volume 1, chapter 9, annexes A16 and A17).

use super::{Frame, udp};

/// A packet from the base transport header to the invariant CRC, which is left
/// zero: nothing on the way computes it.
#[derive(Clone, Debug)]
pub struct Roce {
    opcode: u8,
    version: u8,
    pad: u8,
    notification: bool,
    qp: u32,
    psn: u32,
    rest: Vec<u8>,
}

impl Roce {
    /// A packet to queue pair 0x11 with PSN 0, without extended headers.
    pub fn new(opcode: u8) -> Self {
        Self {
            opcode,
            version: 0,
            pad: 0,
            notification: false,
            qp: 0x11,
            psn: 0,
            rest: Vec::new(),
        }
    }

    /// RDMA WRITE only, on a reliable connection.
    pub fn write(psn: u32, payload: usize) -> Self {
        Self::new(0x0a)
            .psn(psn)
            .with(&reth(payload as u32))
            .payload(payload)
    }

    /// RDMA READ request of so many bytes, on a reliable connection.
    pub fn read(psn: u32, length: u32) -> Self {
        Self::new(0x0c).psn(psn).with(&reth(length))
    }

    /// A congestion notification packet.
    pub fn cnp() -> Self {
        let mut packet = Self::new(0x81).with(&[0; 16]);
        packet.notification = true;
        packet
    }

    /// A management datagram of the general services interface.
    pub fn management(datagram: &[u8]) -> Self {
        Self::new(0x64).qp(1).with(&deth(1)).with(datagram)
    }

    /// Sets the destination queue pair.
    pub fn qp(mut self, qp: u32) -> Self {
        self.qp = qp;
        self
    }

    /// Sets the packet sequence number.
    pub fn psn(mut self, psn: u32) -> Self {
        self.psn = psn;
        self
    }

    /// Sets the transport header version; only 0 exists.
    pub fn version(mut self, version: u8) -> Self {
        self.version = version;
        self
    }

    /// Claims so many bytes of padding, 0 to 3.
    pub fn pad(mut self, bytes: u8) -> Self {
        self.pad = bytes;
        self
    }

    /// Appends bytes: extended headers, or payload.
    pub fn with(mut self, bytes: &[u8]) -> Self {
        self.rest.extend(bytes);
        self
    }

    /// Appends so many bytes of payload.
    pub fn payload(mut self, bytes: usize) -> Self {
        self.rest.resize(self.rest.len() + bytes, 0xda);
        self
    }

    /// From the base transport header to the CRC.
    pub fn bytes(&self) -> Vec<u8> {
        // Migrated (the usual state), pad count, version; default partition.
        let mut bytes = vec![self.opcode, 0x40 | self.pad << 4 | self.version, 0xff, 0xff];
        let becn = u32::from(self.notification) << 30;
        bytes.extend((becn | self.qp).to_be_bytes());
        // Acknowledge request set, so that a reader must mask it.
        bytes.extend((1 << 31 | self.psn).to_be_bytes());
        bytes.extend(&self.rest);
        bytes.extend([0; 4]);
        bytes
    }

    /// RoCEv2 in this frame, which is IPv4 or IPv6.
    pub fn v2(&self, frame: &Frame) -> Vec<u8> {
        frame.carry(17, &udp(49152, 4791, &self.bytes()))
    }

    /// RoCEv1.
    pub fn v1(&self) -> Vec<u8> {
        Frame::grh().carry(0x1b, &self.bytes())
    }
}

/// RDMA extended transport header of so many bytes of DMA.
pub fn reth(length: u32) -> [u8; 16] {
    let mut header = [0xee; 16];
    header[12..].copy_from_slice(&length.to_be_bytes());
    header
}

/// ACK extended transport header with message sequence number 5.
pub fn aeth(syndrome: u8) -> [u8; 4] {
    [syndrome, 0, 0, 5]
}

/// Datagram extended transport header from a queue pair.
pub fn deth(source_qp: u32) -> [u8; 8] {
    let [_, a, b, c] = source_qp.to_be_bytes();
    // Q_Key of the general services interface.
    [0x80, 0x01, 0x00, 0x00, 0, a, b, c]
}

/// A connection management datagram: REQ is attribute 0x10 with its queue pair
/// 32 bytes into the message, REP is 0x13 with it 12 bytes in.
pub fn cm(attribute: u16, qp: u32) -> [u8; 256] {
    let mut datagram = [0; 256];
    // Base version 1, class communication management, class version 2, Send.
    datagram[..4].copy_from_slice(&[1, 0x07, 2, 3]);
    datagram[16..18].copy_from_slice(&attribute.to_be_bytes());
    let message = 24;
    let at = message + if attribute == 0x10 { 32 } else { 12 };
    let [_, a, b, c] = qp.to_be_bytes();
    // The byte behind belongs to another field.
    datagram[at..at + 4].copy_from_slice(&[a, b, c, 0xff]);
    datagram
}
