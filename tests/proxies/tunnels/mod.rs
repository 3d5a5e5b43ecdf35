//! Tunnels by `CONNECT`: what the proxy is sent, and what its answer means.

mod answers;
mod fields;

use crate::support::agent::{Req, agent_over, at_rest, get, send};
use crate::support::{Conn, Server};
use bytes::Bytes;
use http_body_util::Full;
use tower::util::MapRequest;
use tower::{Layer, ServiceExt};
use tower_keep_alive::connect::{Proxy, ProxyConnector, ProxyLayer, TcpConnector};
use tower_keep_alive::{
    AgentHandle, CloseReason, Error, KeepAlive, KeepAliveLayer, connect::Destination,
    extensions::Route,
};

/// Where TLS would be: what is asked for as `https` goes through a tunnel, and is plain there.
type Secured = MapRequest<ProxyConnector<TcpConnector>, fn(Destination) -> Destination>;

type Client = KeepAlive<Secured, Full<Bytes>>;

fn agent() -> (Client, AgentHandle) {
    let connector = ProxyLayer::new().layer(TcpConnector::new());
    let connector = connector.map_request(Destination::secured as _);
    agent_over(KeepAliveLayer::new(), connector)
}

fn agent_without_tls() -> (
    KeepAlive<ProxyConnector<TcpConnector>, Full<Bytes>>,
    AgentHandle,
) {
    let connector = ProxyLayer::new().layer(TcpConnector::new());
    agent_over(KeepAliveLayer::new(), connector)
}

fn proxy(login: &str, server: &Server) -> Proxy {
    format!("http://{login}{}", server.addr()).parse().unwrap()
}

fn through(proxy: &Proxy, url: impl AsRef<str>) -> Req {
    let mut request = get(url);
    let route = Route::new().with_proxy(proxy.clone());
    request.extensions_mut().insert(route);
    request
}

/// A proxy that says this to `CONNECT`, and is the origin from there on.
async fn answering(pieces: &'static [&'static str]) -> Server {
    Server::start(move |mut conn: Conn| async move {
        let Some(head) = conn.request().await else {
            return;
        };
        assert_eq!(head.method, "CONNECT");
        for piece in pieces {
            conn.send(piece).await;
            tokio::task::yield_now().await;
        }
        while conn.request().await.is_some() {
            conn.respond("ok").await;
        }
    })
    .await
}

/// What becomes of a request through a tunnel that a proxy answers like this.
async fn asked_for(pieces: &'static [&'static str]) -> Result<(), Error> {
    let server = answering(pieces).await;
    let (client, handle) = agent();
    let request = || through(&proxy("", &server), "https://origin.test/");
    let first = send(&client, request()).await;
    if first.is_ok() {
        let again = send(&client, request()).await.unwrap();
        assert!(again.body == "ok" && again.info.is_reused(), "{pieces:?}");
        assert_eq!(server.accepted(), 1);
    } else {
        let status = handle.status();
        assert_eq!((status.open(), status.create_errors), (0, 1));
        assert_eq!(status.closes[&CloseReason::Connect], 1);
    }
    at_rest(&handle).await;
    first.map(drop)
}
