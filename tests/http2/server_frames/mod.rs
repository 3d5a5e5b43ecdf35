//! What a server may not send over HTTP/2: how a client takes it, and that it costs one connection at the most.

mod floods;
mod malformed;
mod no_http2;
mod push;

use std::error::Error as _;

use crate::support::agent::{Client, agent, fetch};
use crate::support::http2::{Conn, Server};
use bytes::Bytes;
use http_body_util::Full;
use tower_keep_alive::{AgentHandle, Error, KeepAliveLayer, Protocol};

/// An agent that has one connection at a time.
fn http2(layer: KeepAliveLayer<Full<Bytes>>) -> (Client, AgentHandle) {
    agent(layer.protocol(Protocol::Http2).max_connections_per_host(1))
}

/// Answers, until the client closes.
async fn answer(conn: &mut Conn) {
    while let Some(request) = conn.request().await {
        conn.respond(request.stream, 200, b"ok").await;
    }
}

/// The permit is free, and the next connection is as good as new.
async fn the_next_is_answered(client: &Client, server: &Server) {
    let next = fetch(client, server.url("/next")).await;
    assert_eq!(next.expect("the next request is answered").body, "ok");
}

/// All that an error says.
fn words(error: &Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(it) = source {
        words = format!("{words}: {it}");
        source = it.source();
    }
    words
}
