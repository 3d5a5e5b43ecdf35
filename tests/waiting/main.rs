//! How long a caller waits for a connection, and that it never waits for somebody else's polling.

#[path = "../support/mod.rs"]
mod support;

mod cannot_close;
mod clock;
mod fake;
mod late;
mod learned_idle;
mod one_connection;
mod runtimes;
mod storm;
mod undriven;
mod unpolled;
