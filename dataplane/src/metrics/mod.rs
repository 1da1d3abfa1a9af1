//! The counters for Prometheus, read afresh from the maps at every scrape.

mod collect;
mod server;

pub use server::{bind, serve};
