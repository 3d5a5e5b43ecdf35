//! What the benches share: the clients that are compared, the server that they ask, and how results are told.

pub mod ask;
pub mod child;
pub mod memory_stream;
pub mod peers;
pub mod report;
pub mod server;
