//! Which version of HTTP is spoken, and who decides it.

#[path = "../support/mod.rs"]
mod support;

mod server;

mod negotiated;
mod prior_knowledge;
mod refused;
mod unknown;
