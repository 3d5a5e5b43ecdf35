//! Every layer stands by itself, can be left out, doubled, made optional, and put on either side of Checkout; with
//! tower's own between them, and over connections that are not HTTP.

#[path = "../support/mod.rs"]
mod support;

mod alone;
mod bodies;
mod clones;
mod extensions;
mod held;
mod line;
mod lines;
mod mistakes;
mod neighbours;
mod promises;
mod readiness;
mod stacked;
mod ttl;
