//! Source: `drivers/infiniband/hw/mlx5/counters.c`. Q counters have 32 bits in the device
//! (`mlx5_ib_query_q_counters`), congestion counters, ICRC and the optional ones 64.

use super::{super::family::Family::*, *};

pub(super) const TABLES: &[&[Entry]] = &[Q_COUNTERS, CONGESTION, OPTIONAL];

const Q_COUNTERS: &[Entry] = &[
    narrow("rx_write_requests", Requests, RECEIVED_WRITES),
    narrow("rx_read_requests", Requests, RECEIVED_READS),
    narrow("rx_atomic_requests", Requests, RECEIVED_ATOMICS),
    own32("rx_dct_connect"),
    narrow("out_of_buffer", OutOfBuffer, NONE),
    narrow("out_of_sequence", OutOfSequence, NONE),
    narrow("duplicate_request", DuplicateRequests, NONE),
    narrow("rnr_nak_retry_err", RnrNaks, RECEIVED),
    narrow("packet_seq_err", SequenceNaks, RECEIVED),
    narrow("implied_nak_seq_err", ImpliedNaks, NONE),
    narrow("local_ack_timeout_err", AckTimeouts, NONE),
    narrow("resp_local_length_error", LengthErrors, NONE),
    narrow("resp_cqe_error", ErrorCompletions, RESPONDER),
    narrow("req_cqe_error", ErrorCompletions, REQUESTER),
    narrow("req_remote_invalid_request", InvalidRequests, REQUESTER),
    narrow("req_remote_access_errors", RemoteAccessErrors, REQUESTER),
    narrow("resp_remote_access_errors", RemoteAccessErrors, RESPONDER),
    narrow("resp_cqe_flush_error", FlushedCompletions, RESPONDER),
    narrow("req_cqe_flush_error", FlushedCompletions, REQUESTER),
    narrow(
        "req_transport_retries_exceeded",
        RetriesExceeded,
        BY_TRANSPORT,
    ),
    narrow("req_rnr_retries_exceeded", RetriesExceeded, BY_RNR),
    own32("roce_adp_retrans"),
    own32("roce_adp_retrans_to"),
    own32("roce_slow_restart"),
    own32("roce_slow_restart_cnps"),
    own32("roce_slow_restart_trans"),
];

const CONGESTION: &[Entry] = &[
    wide("rp_cnp_ignored", Cnps, CNP_IGNORED),
    wide("rp_cnp_handled", Cnps, CNP_HANDLED),
    wide("np_ecn_marked_roce_packets", EcnMarked, NONE),
    wide("np_cnp_sent", Cnps, CNP_SENT),
    wide("rx_icrc_encapsulated", IcrcErrors, NONE),
];

/// Those of congestion (`cc_*`) keep their names: they are the same again as the ones above.
const OPTIONAL: &[Entry] = &[
    wide("rdma_tx_packets", Packets, SENT),
    wide("rdma_tx_bytes", Bytes, SENT),
    wide("rdma_rx_packets", Packets, RECEIVED),
    wide("rdma_rx_bytes", Bytes, RECEIVED),
];
