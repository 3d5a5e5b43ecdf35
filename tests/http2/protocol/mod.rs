//! Which version of HTTP is spoken, and who decides it.

mod server;

mod negotiated;
mod prior_knowledge;
mod refused;
mod told;
mod unknown;
