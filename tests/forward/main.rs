//! `ForwardLayer` between axum and the agent: what the upstream sees, and what comes back.

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod connections;
mod fields;
mod front;
mod upgrades;
