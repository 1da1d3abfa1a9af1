//! The driver takes names from its firmware (`drivers/infiniband/hw/ionic/ionic_hw_stats.c`); these
//! are the ones that AMD documents for its metrics exporter. A value that the firmware has not is
//! all ones.

use super::{super::family::Family::*, *};

pub(super) const TABLES: &[&[Entry]] = &[&[
    wide("tx_rdma_ucast_pkts", Packets, SENT),
    wide("rx_rdma_ucast_pkts", Packets, RECEIVED),
    wide("tx_rdma_ucast_bytes", Bytes, SENT),
    wide("rx_rdma_ucast_bytes", Bytes, RECEIVED),
    wide("tx_rdma_retx_pkts", Retransmitted, NONE),
    wide("tx_rdma_ack_timeout", AckTimeouts, NONE),
    wide("tx_rdma_cnp_pkts", Cnps, CNP_SENT),
    wide("rx_rdma_cnp_pkts", Cnps, CNP_RECEIVED),
    wide("rx_rdma_ecn_pkts", EcnMarked, NONE),
    wide("req_rx_pkt_seq_err", SequenceNaks, RECEIVED),
    wide("resp_tx_pkt_seq_err", SequenceNaks, SENT),
    wide("req_rx_rnr_retry_err", RnrNaks, RECEIVED),
    wide("resp_tx_rnr_retry_err", RnrNaks, SENT),
    wide("req_rx_impl_nak_seq_err", ImpliedNaks, NONE),
    wide("req_tx_retry_excd_err", RetriesExceeded, BY_TRANSPORT),
    wide("resp_rx_dup_request", DuplicateRequests, NONE),
    wide("resp_rx_outouf_seq", OutOfSequence, NONE),
    wide("resp_rx_outof_buf", OutOfBuffer, NONE),
    wide("req_rx_cqe_err", ErrorCompletions, REQUESTER),
    wide("resp_rx_cqe_err", ErrorCompletions, RESPONDER),
    wide("req_rx_cqe_flush", FlushedCompletions, REQUESTER),
    wide("resp_rx_cqe_flush", FlushedCompletions, RESPONDER),
    wide("req_rx_rmt_acc_err", RemoteAccessErrors, REQUESTER),
    wide("resp_tx_rmt_acc_err", RemoteAccessErrors, RESPONDER),
    wide("req_rx_rmt_req_err", InvalidRequests, REQUESTER),
    wide("resp_tx_rmt_inval_req_err", InvalidRequests, RESPONDER),
    wide("resp_rx_loc_len_err", LengthErrors, NONE),
]];
