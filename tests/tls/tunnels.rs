//! TLS through proxies: its other end is the origin, and nobody on the way.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use rcgen::date_time_ymd;
use tokio_rustls::rustls::{self, CertificateError, HandshakeKind, ServerConfig};
use tower::Layer;
use tower_keep_alive::connect::{Proxy, ProxyConnector, ProxyLayer, TcpConnector, Tls};
use tower_keep_alive::{
    AgentHandle, CloseReason, KeepAlive, KeepAliveLayer, Key,
    extensions::{RecordTimings, Route},
};

use crate::support::agent::{Req, agent_over, at_rest, get, send};
use crate::support::tls::{Authority, CA, Identity};
use crate::support::{Conn, Server, eventually, proxies, script};
use crate::{Loopback, idle, in_chain, text};

type Tunnels = ProxyConnector<TcpConnector<Loopback>>;
type Client<M = Tunnels> = KeepAlive<Tls<M>, Full<Bytes>>;

fn agent() -> (Client, AgentHandle) {
    let tunnels = ProxyLayer::new().layer(TcpConnector::with_resolver(Loopback));
    agent_over(KeepAliveLayer::new(), CA.trusted().layer(tunnels))
}

/// A proxy of this protocol, and how it is named.
async fn proxy(scheme: &str) -> (Server, Proxy) {
    let server = match scheme {
        "http" => Server::start(proxies::connect).await,
        "socks4" => Server::start(|conn| proxies::socks4(conn, false)).await,
        "socks4a" => Server::start(|conn| proxies::socks4(conn, true)).await,
        _ => Server::start(|conn| proxies::socks5(conn, false)).await,
    };
    let uri = format!("{scheme}://proxy.test:{}", server.addr().port());
    let proxy = uri.parse().unwrap();
    (server, proxy)
}

/// Answers with the name that the client wanted to be answered by, and how the handshake went.
async fn origin(identity: &Identity) -> Server {
    Server::start_tls(identity.server(), |mut conn: Conn| async move {
        let tls = conn.tls().unwrap();
        let kind = match tls.handshake_kind() {
            Some(HandshakeKind::Resumed) => "resumed",
            _ => "full",
        };
        let answer = format!("{} {kind}", tls.server_name().unwrap_or_default());
        while conn.request().await.is_some() {
            conn.respond(&answer).await;
        }
    })
    .await
}

fn through(proxy: &Proxy, url: impl AsRef<str>) -> Req {
    let mut request = get(url);
    let route = Route::new().with_proxy(proxy.clone());
    request.extensions_mut().insert(route);
    request
}

#[tokio::test]
async fn node_101_tls_through_a_tunnel_is_with_the_origin_and_pooled() {
    for (scheme, host) in [
        ("http", "origin.test"),
        ("socks4", "origin.test"),
        ("socks4a", "origin.test"),
        ("socks5", "origin.test"),
        ("socks5h", "origin.test"),
    ] {
        // It speaks for no proxy.
        let origin = origin(&CA.issue(&[host])).await;
        let (server, proxy) = proxy(scheme).await;
        let (client, handle) = agent();
        let url = origin.url_of(host, "/path");
        for made in 1..=2 {
            for reused in [false, true, true] {
                let answer = send(&client, through(&proxy, &url)).await.unwrap();
                let kind = ["full", "resumed"][made - 1];
                assert_eq!(answer.body, format!("{host} {kind}"), "{scheme}");
                assert_eq!(answer.info.is_reused(), reused, "{scheme}");
                assert_eq!(answer.info.remote_addr(), Some(server.addr()));
            }
            assert_eq!((server.accepted(), origin.accepted()), (made, made));
            let status = handle.status();
            assert_eq!(
                (status.created, status.completed),
                (made as u64, 3 * made as u64)
            );
            let names: Vec<_> = status.idle.keys().map(Key::to_string).collect();
            assert_eq!(
                names,
                [format!("https:{host}:{}::{proxy}", origin.addr().port())]
            );
            handle.close_idle();
            eventually("the proxy sees it", || server.open() == 0).await;
        }
        // Of what is said below TLS the proxy sees nothing.
        let seen: Vec<_> = server.heads().into_iter().map(|it| it.target).collect();
        let asked = format!("{host}:{}", origin.addr().port());
        assert!(seen.iter().all(|it| *it == asked), "{seen:?}");
        assert_eq!(origin.heads()[0].target, "/path");
        assert_eq!(origin.heads()[0].header("host"), Some(&*asked));
        at_rest(&handle).await;
    }
}

/// The same origin, asked directly and through a proxy.
#[tokio::test]
async fn node_101_tls_through_a_tunnel_has_a_pool_of_its_own() {
    let origin = origin(&CA.issue(&["origin.test"])).await;
    let (server, proxy) = proxy("http").await;
    let (client, handle) = agent();
    let url = origin.url_of("origin.test", "/");
    for reused in [false, true] {
        for request in [get(&url), through(&proxy, &url)] {
            let answer = send(&client, request).await.unwrap();
            assert_eq!(answer.info.is_reused(), reused);
        }
    }
    assert_eq!((server.accepted(), origin.accepted()), (1, 2));
    assert_eq!((handle.status().created, idle(&handle)), (2, 2));
    handle.close_idle();
    at_rest(&handle).await;
}

/// The probe looks at the socket below the tunnel, and knows what belongs to TLS alone.
#[tokio::test]
async fn node_101_tls_through_a_tunnel_that_is_closed_while_idle_is_not_used_again() {
    let identity = CA.issue(&["origin.test"]);
    let origin = Server::start_tls(identity.server(), |mut conn: Conn| async move {
        conn.request().await;
        conn.respond("ok").await;
        conn.fin().await;
    })
    .await;
    let (server, proxy) = proxy("http").await;
    let (client, handle) = agent();
    let url = origin.url_of("origin.test", "/");
    for _ in 0..3 {
        send(&client, through(&proxy, &url)).await.unwrap();
        eventually("it is gone", || handle.status().open() == 0).await;
    }
    assert_eq!((server.accepted(), origin.accepted()), (3, 3));
    at_rest(&handle).await;
}

/// Why an origin that is this is refused by a client that asks for `origin.test` through a proxy, twice.
async fn refused(scheme: &str, config: ServerConfig) -> CertificateError {
    let origin = Server::start_tls(config, script::ok).await;
    let (server, proxy) = proxy(scheme).await;
    let (client, handle) = agent();
    let url = origin.url_of("origin.test", "/");
    let mut reason = None;
    for made in 1..=2 {
        let error = send(&client, through(&proxy, &url)).await.unwrap_err();
        assert!(error.is_connect() && error.is_unsent(), "{error:?}");
        assert!(!error.is_timeout() && !error.is_reset(), "{error:?}");
        assert!(error.connection().is_none());
        let said = text(&error);
        let Some(rustls::Error::InvalidCertificate(why)) = in_chain(&error) else {
            panic!("not about the certificate: {said}");
        };
        assert!(said.contains("origin.test"), "{said}");
        reason = Some(why.clone());
        let status = handle.status();
        assert_eq!((status.created, status.create_errors), (made, made));
        assert_eq!(status.closes, [(CloseReason::Connect, made)].into());
        assert!(
            status.idle.is_empty() && status.active.is_empty(),
            "{status}"
        );
    }
    assert_eq!((server.accepted(), origin.accepted()), (2, 2));
    assert_eq!(origin.requests(), 0);
    at_rest(&handle).await;
    reason.expect("a reason")
}

#[tokio::test]
async fn an_origin_that_is_not_who_it_has_to_be_is_refused_through_a_proxy_too() {
    for scheme in ["http", "socks4a", "socks5h"] {
        for name in ["another.test", "proxy.test", "127.0.0.1"] {
            let error = refused(scheme, CA.issue(&[name]).server()).await;
            let is_name = matches!(error, CertificateError::NotValidForNameContext { .. });
            assert!(is_name, "{scheme} {name}: {error:?}");
        }
        let expired = CA.issue_with(&["origin.test"], |params| {
            params.not_after = date_time_ymd(2021, 1, 1);
        });
        let error = refused(scheme, expired.server()).await;
        assert!(
            matches!(error, CertificateError::ExpiredContext { .. }),
            "{error:?}"
        );
        let own = Identity::self_signed(&["origin.test"]);
        let error = refused(scheme, own.server()).await;
        assert!(matches!(error, CertificateError::Other(_)), "{error:?}");
        let stranger = Authority::new("stranger").issue(&["origin.test"]);
        let error = refused(scheme, stranger.server()).await;
        assert_eq!(error, CertificateError::UnknownIssuer);
    }
}

#[tokio::test]
async fn each_part_of_a_connect_through_a_proxy_is_timed() {
    let origin = origin(&CA.issue(&["origin.test"])).await;
    for scheme in ["http", "socks4a", "socks5h"] {
        let (_server, proxy) = proxy(scheme).await;
        let (client, handle) = agent();
        for is_reused in [false, true] {
            let mut request = through(&proxy, origin.url_of("origin.test", "/"));
            request.extensions_mut().insert(RecordTimings);
            let answer = send(&client, request).await.unwrap();
            assert_eq!(answer.info.is_reused(), is_reused);
            let timings = answer.info.timings().expect("asked for");
            let parts = [
                timings.dns(),
                timings.connect(),
                timings.tunnel(),
                timings.tls(),
            ];
            assert!(
                parts.iter().all(|part| part.is_some() != is_reused),
                "{timings:?}"
            );
            let sum: Duration = parts.into_iter().flatten().sum();
            let exchange = timings.response().unwrap() + timings.body().unwrap();
            assert!(
                timings.queue() + sum + exchange <= timings.total(),
                "{timings:?}"
            );
        }
        handle.close_idle();
        at_rest(&handle).await;
    }
}
