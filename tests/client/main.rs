//! Requests of a client: settings, answers, errors, and the control of single connections.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod calls;
mod counts;
mod errors;
mod for_host;
mod single_connections;
