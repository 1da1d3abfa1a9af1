//! Policies on a real node: real pods, real connections, a real agent.

mod lab;
mod life;
mod siblings;
mod tell;
mod truth_table;
