//! The unified counters: one name for one meaning, whatever a driver calls it.

/// What a family counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// Packets.
    Packets,
    /// Bytes.
    Bytes,
    /// What its name says.
    Events,
}

/// Families by their name in metrics (behind `rdma_port_` or `rdma_pod_`) and their help.
macro_rules! families {
    ($($variant:ident $name:literal $counts:ident $help:literal,)*) => {
        /// A unified counter. Some have labels besides, see [`Meaning`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)]
        pub enum Family {
            $($variant,)*
        }

        impl Family {
            /// All of them, in the order in which they are shown.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name, without its unit.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What it counts.
            pub fn counts(self) -> Counts {
                match self {
                    $(Self::$variant => Counts::$counts,)*
                }
            }

            /// What it means.
            pub fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => $help,)*
                }
            }
        }
    };
}

families! {
    Packets "" Packets "RDMA packets",
    Bytes "" Bytes "Bytes of RDMA packets",
    Requests "requests" Events "RDMA requests",
    OutOfSequence "out_of_sequence" Packets
        "Requests with a sequence number ahead of the expected one",
    DuplicateRequests "duplicate_requests" Events "Requests that had been served before",
    SequenceNaks "sequence_naks" Events "Negative acknowledgements of a sequence error",
    ImpliedNaks "implied_naks" Events
        "Responses that came later than one that was due before them",
    RnrNaks "rnr_naks" Events "Receiver not ready: no receive buffer was posted",
    OutOfBuffer "out_of_buffer" Events "Arrivals dropped for lack of a posted receive buffer",
    AckTimeouts "ack_timeouts" Events "Times that an acknowledgement did not come in time",
    Retransmitted "retransmitted" Packets "Packets sent again",
    RetriesExceeded "retries_exceeded" Events "Requests given up after their last retry",
    EcnMarked "ecn_marked" Packets "Arrived packets that a switch had marked (CE)",
    Cnps "cnps" Events "Congestion notification packets",
    IcrcErrors "icrc_errors" Events "Arrived packets with a wrong checksum (ICRC)",
    Discarded "discarded" Packets "RDMA packets that the device threw away",
    ErrorCompletions "error_completions" Events "Work requests that ended with an error",
    FlushedCompletions "flushed_completions" Events
        "Work requests flushed because their queue pair had failed",
    RemoteAccessErrors "remote_access_errors" Events
        "Requests refused because they may not touch that memory",
    InvalidRequests "invalid_requests" Events "Requests refused as invalid",
    LengthErrors "length_errors" Events "Arrived messages of a length that does not fit",
    LinkDowned "link_downed" Events "Times that the link went down",
}

/// A unified counter with its labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Meaning {
    /// Which.
    pub family: Family,
    /// Its further labels: name and value.
    pub labels: &'static [(&'static str, &'static str)],
}
