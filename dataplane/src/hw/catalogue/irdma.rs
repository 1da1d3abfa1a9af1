//! Source: `irdma_hw_stat_descs` and `irdma_hw_stat_names` in
//! `drivers/infiniband/hw/irdma/verbs.c`. The driver itself adds up the registers, whatever their
//! width, so what it tells has 64 bits. Packets and bytes are told by IP version and for all of the
//! function's IP traffic, so they keep their names.

use super::{super::family::Family::*, *};

pub(super) const TABLES: &[&[Entry]] = &[&[
    wide("InRdmaSends", Requests, RECEIVED_SENDS),
    wide("InRdmaWrites", Requests, RECEIVED_WRITES),
    wide("InRdmaReads", Requests, RECEIVED_READS),
    wide("OutRdmaSends", Requests, SENT_SENDS),
    wide("OutRdmaWrites", Requests, SENT_WRITES),
    wide("OutRdmaReads", Requests, SENT_READS),
    wide("iwInRdmaSends", Requests, RECEIVED_SENDS),
    wide("iwInRdmaWrites", Requests, RECEIVED_WRITES),
    wide("iwInRdmaReads", Requests, RECEIVED_READS),
    wide("iwOutRdmaSends", Requests, SENT_SENDS),
    wide("iwOutRdmaWrites", Requests, SENT_WRITES),
    wide("iwOutRdmaReads", Requests, SENT_READS),
    wide("RetransSegs", Retransmitted, NONE),
    wide("tcpRetransSegs", Retransmitted, NONE),
    wide("RxECNMrkd", EcnMarked, NONE),
    wide("cnpSent", Cnps, CNP_SENT),
    wide("cnpHandled", Cnps, CNP_HANDLED),
    wide("cnpIgnored", Cnps, CNP_IGNORED),
]];
