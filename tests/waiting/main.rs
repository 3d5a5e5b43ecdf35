//! How long a caller waits for a connection, and that it never waits for somebody else's polling.

#[path = "../support/mod.rs"]
mod support;

mod clock;
mod fake;
mod runtimes;
mod unpolled;
