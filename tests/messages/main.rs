//! Requests and responses on the wire, and what becomes of their bodies.

#[path = "../support/mod.rs"]
mod support;

mod expect;
mod fields;
mod hints_without_a_body;
mod interim;
mod other_protocols;
mod response_fields;
mod unsent;
mod unwritten;
mod uploads;
