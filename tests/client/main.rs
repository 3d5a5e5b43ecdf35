//! What a caller asks for, gets, and is told where something fails.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod calls;
mod counts;
mod errors;
mod for_host;
mod isolation;
mod printed;
mod wishes;
