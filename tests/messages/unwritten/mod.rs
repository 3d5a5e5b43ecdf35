//! Requests of which nothing was written: they go elsewhere by themselves, whatever they are.

mod forwarded;
mod requests;
mod resetting;
