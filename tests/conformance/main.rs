//! What Node's Agent and agentkeepalive do, row by row: one module a section, one test a row, named after its id.
//!
//! A row that says FIX is a defect upstream: its test proves the corrected behaviour.

#[path = "../support/mod.rs"]
mod support;

mod abort;
mod active_timeout;
mod agentkeepalive;
mod counters;
mod defaults;
mod defects;
mod detached;
mod host_field;
mod idle;
mod idle_timeout;
mod key;
mod leaving;
mod lifecycle;
mod limits;
mod options;
mod own_layers;
mod persistence;
mod queue;
mod refill;
mod release;
mod retry;
mod route;
mod timeouts;
mod tls;
mod ttl;
