//! Requests of which nothing was written: they go elsewhere by themselves, whatever they are.

#[path = "../support/mod.rs"]
mod support;

mod forwarded;
mod requests;
mod resetting;
