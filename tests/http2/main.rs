//! HTTP/2: which version is spoken, how streams share a connection, and what a server may not send.

#[path = "../support/mod.rs"]
mod support;

mod full_transport;
mod goaway;
mod limits;
mod protocol;
mod response_fields;
mod scripted_server;
mod server_frames;
mod silence;
mod uploads;
