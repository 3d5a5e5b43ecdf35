//! How long exchanges may take, and what is told of how long they took.

#[path = "../support/mod.rs"]
mod support;

mod active_timeout;
mod exchanges;
mod last_moment;
mod timings;
