//! What the benches share: the clients that are compared, the server that they ask, and how results are told.

pub mod ask;
pub mod child;
/// The scripted HTTP/2 server of the tests.
#[path = "../../tests/support/frames/mod.rs"]
pub mod frames;
pub mod load;
pub mod memory_stream;
pub mod peers;
pub mod pools;
pub mod report;
pub mod server;
mod server_delay;
mod server_http2;
pub mod server_tls;
pub mod talk;
