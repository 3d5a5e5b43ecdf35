//! HTTP/1 on a transport.

mod asterisk;
mod connection;
mod driver;
mod gate;
mod interim;
mod make;
mod replay;
mod transport;
mod unwritten;
mod upload;

pub(crate) use connection::{Http1Connection, Http1Future};

pub(crate) use make::Http1;
