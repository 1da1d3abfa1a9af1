//! Source: `drivers/infiniband/sw/rxe/rxe_hw_counters.c`. All have 64 bits. `rdma_sends` and
//! `rdma_recvs` count completions rather than requests, and keep their names.

use super::{super::family::Family::*, *};

pub(super) const TABLES: &[&[Entry]] = &[&[
    wide("sent_pkts", Packets, SENT),
    wide("rcvd_pkts", Packets, RECEIVED),
    wide("sent_bytes", Bytes, SENT),
    wide("rcvd_bytes", Bytes, RECEIVED),
    wide("duplicate_request", DuplicateRequests, NONE),
    wide("out_of_seq_request", OutOfSequence, NONE),
    wide("rcvd_rnr_err", RnrNaks, RECEIVED),
    wide("send_rnr_err", RnrNaks, SENT),
    wide("rcvd_seq_err", SequenceNaks, RECEIVED),
    wide("retry_exceeded_err", RetriesExceeded, BY_TRANSPORT),
    wide("retry_rnr_exceeded_err", RetriesExceeded, BY_RNR),
    wide("link_downed", LinkDowned, NONE),
]];
