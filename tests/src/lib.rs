//! What Sluice's integration tests share.

pub mod netns;
pub mod poll;
