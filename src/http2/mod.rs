//! HTTP/2 on a transport, through the `h2` crate. No type of `h2` leaves this module.

mod body;
mod connection;
mod deadlines;
mod driver;
mod fault;
mod flood;
mod frames;
mod future;
mod head;
mod interim;
#[cfg(all(test, tower_keep_alive_loom))]
mod interleavings;
mod make;
mod piece;
mod ping;
mod preface;
mod settings;
mod shared;
mod silence;
mod stream;
mod upload;
mod wire;

pub(crate) use body::Http2Body;
pub(crate) use connection::Http2Connection;
pub(crate) use future::Http2Future;
pub use settings::Http2;
