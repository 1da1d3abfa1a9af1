//! Network policy: which packets an endpoint may receive and send.
//!
//! [`source`] reads objects into a [`model::Model`]; [`compile`] turns it,
//! for the endpoints of this node, into plain data: identities of addresses,
//! tables of identity, protocol and port, and who uses which table;
//! [`apply`] brings the kernel's maps in step with it, in an order in which
//! each packet is judged by the old or the new policy. [`explain`] reads the
//! tables back, [`inquiry`] asks it about pods by their names, and [`verify`]
//! holds whole lists of expectations against it.

pub mod apply;
pub mod compile;
pub mod explain;
pub mod inquiry;
mod lookup;
pub mod model;
pub mod source;
pub mod verify;
