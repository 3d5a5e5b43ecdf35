//! HTTPS: who a server has to be, what a broken handshake does, when a body was cut off, what is kept for the next one.

#[path = "../support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::{Ready, ready};
use std::iter::{self, Once};
use std::net::SocketAddr;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::Name;
use tower::Layer;
use tower_keep_alive::connect::{TcpConnector, Tls, TlsLayer};
use tower_keep_alive::{AgentHandle, Error, KeepAliveLayer};

use crate::support::agent::agent_over;

mod certificates;
mod ends;
mod handshake;
mod idle;
mod info;
mod pem;
mod proxies_by_tls;
mod roots;
mod sessions;
mod tunnels;

type Client =
    tower_keep_alive::KeepAlive<Tls<TcpConnector<Loopback>>, http_body_util::Full<bytes::Bytes>>;

/// An agent over TLS, for which every host is this one.
fn agent(tls: TlsLayer) -> (Client, AgentHandle) {
    agent_with(KeepAliveLayer::new(), tls)
}

fn agent_with(
    layer: KeepAliveLayer<http_body_util::Full<bytes::Bytes>>,
    tls: TlsLayer,
) -> (Client, AgentHandle) {
    agent_over(layer, tls.layer(TcpConnector::with_resolver(Loopback)))
}

/// Every name is `127.0.0.1`.
#[derive(Clone, Copy)]
struct Loopback;

impl tower::Service<Name> for Loopback {
    type Response = Once<SocketAddr>;
    type Error = Infallible;
    type Future = Ready<Result<Once<SocketAddr>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        ready(Ok(iter::once(SocketAddr::from(([127, 0, 0, 1], 0)))))
    }
}

/// The first of this type in the chain of an error.
fn in_chain<E: StdError + 'static>(error: &Error) -> Option<&E> {
    iter::successors(error.source(), |&error| error.source()).find_map(|error| error.downcast_ref())
}

/// What an error says, and what is behind it.
fn text(error: &Error) -> String {
    let behind = iter::successors(error.source(), |&error| error.source());
    behind.fold(error.to_string(), |text, error| format!("{text}: {error}"))
}

/// Of all hosts.
fn idle(handle: &AgentHandle) -> usize {
    handle.status().idle.values().sum()
}
