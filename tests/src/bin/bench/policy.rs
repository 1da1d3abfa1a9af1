//! Policy: what it costs a packet, a connection, a change.

pub(crate) mod packet;
