//! What an agent tells those who listen: hooks, `tracing` and `metrics`.

#[path = "../support/mod.rs"]
mod support;

mod hooks;
mod metrics;
mod tracing;
