//! What an agent reports: hooks and `metrics`. `tests/spans.rs` has `tracing`.

#[path = "../support/mod.rs"]
mod support;

mod hooks;
mod metrics;
mod observed;
