//! The agent's API: HTTP with JSON bodies over a Unix socket.

pub mod types;
