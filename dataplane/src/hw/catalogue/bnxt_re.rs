//! Source: `drivers/infiniband/hw/bnxt_re/hw_counters.c`, and the patch "RoCE related hardware
//! counters update" to it (2025-08), which gives some of them the names that mlx5 has.

use super::{super::family::Family::*, *};

pub(super) const TABLES: &[&[Entry]] = &[TRAFFIC, ERRORS, CONGESTION, GAUGES];

const TRAFFIC: &[Entry] = &[
    wide("rx_pkts", Packets, RECEIVED),
    wide("tx_pkts", Packets, SENT),
    wide("rx_bytes", Bytes, RECEIVED),
    wide("tx_bytes", Bytes, SENT),
    wide("tx_send_req", Requests, SENT_SENDS),
    wide("tx_write_req", Requests, SENT_WRITES),
    wide("tx_read_req", Requests, SENT_READS),
    wide("tx_atomic_req", Requests, SENT_ATOMICS),
    wide("rx_send_req", Requests, RECEIVED_SENDS),
    wide("rx_write_req", Requests, RECEIVED_WRITES),
    wide("rx_write_requests", Requests, RECEIVED_WRITES),
    wide("rx_read_req", Requests, RECEIVED_READS),
    wide("rx_read_requests", Requests, RECEIVED_READS),
    wide("rx_atomic_req", Requests, RECEIVED_ATOMICS),
    wide("rx_atomic_requests", Requests, RECEIVED_ATOMICS),
    wide("rx_roce_discards", Discarded, RECEIVED),
    wide("tx_roce_discards", Discarded, SENT),
];

const ERRORS: &[Entry] = &[
    wide("to_retransmits", AckTimeouts, NONE),
    wide("local_ack_timeout_err", AckTimeouts, NONE),
    wide("seq_err_naks_rcvd", SequenceNaks, RECEIVED),
    wide("packet_seq_err", SequenceNaks, RECEIVED),
    wide("max_retry_exceeded", RetriesExceeded, BY_TRANSPORT),
    wide("rnr_naks_rcvd", RnrNaks, RECEIVED),
    wide("rnr_nak_retry_err", RnrNaks, RECEIVED),
    wide("missin_resp", ImpliedNaks, NONE),
    wide("missing_resp", ImpliedNaks, NONE),
    wide("implied_nak_seq_err", ImpliedNaks, NONE),
    wide("dup_req", DuplicateRequests, NONE),
    wide("duplicate_request", DuplicateRequests, NONE),
    wide("oos_drop_count", OutOfSequence, NONE),
    wide("out_of_sequence", OutOfSequence, NONE),
    wide("rx_out_of_buffer", OutOfBuffer, NONE),
    wide("out_of_buffer", OutOfBuffer, NONE),
    wide("remote_invalid_req_err", InvalidRequests, REQUESTER),
    wide("req_remote_invalid_request", InvalidRequests, REQUESTER),
    wide("remote_access_err", RemoteAccessErrors, REQUESTER),
    wide("req_remote_access_errors", RemoteAccessErrors, REQUESTER),
    wide("resp_remote_access_errors", RemoteAccessErrors, RESPONDER),
    wide("res_length_mismatch", LengthErrors, NONE),
    wide("resp_local_length_error", LengthErrors, NONE),
    wide("req_cqe_error", ErrorCompletions, REQUESTER),
    wide("resp_cqe_error", ErrorCompletions, RESPONDER),
];

/// What it came to call "handled" is the number of notifications that arrived.
const CONGESTION: &[Entry] = &[
    wide("tx_cnp_pkts", Cnps, CNP_SENT),
    wide("np_cnp_pkts", Cnps, CNP_SENT),
    wide("np_cnp_sent", Cnps, CNP_SENT),
    wide("rx_cnp_pkts", Cnps, CNP_RECEIVED),
    wide("rp_cnp_handled", Cnps, CNP_RECEIVED),
    wide("rx_ecn_marked_pkts", EcnMarked, NONE),
    wide("np_ecn_marked_roce_packets", EcnMarked, NONE),
];

const GAUGES: &[Entry] = &[
    gauge("active_pds"),
    gauge("active_ahs"),
    gauge("active_qps"),
    gauge("active_rc_qps"),
    gauge("active_ud_qps"),
    gauge("active_srqs"),
    gauge("active_cqs"),
    gauge("active_mrs"),
    gauge("active_mws"),
    gauge("watermark_pds"),
    gauge("watermark_ahs"),
    gauge("watermark_qps"),
    gauge("watermark_rc_qps"),
    gauge("watermark_ud_qps"),
    gauge("watermark_srqs"),
    gauge("watermark_cqs"),
    gauge("watermark_mrs"),
    gauge("watermark_mws"),
    gauge("db_fifo_register"),
];
