//! What is kept of one connection for the handshake of the next.

use tokio_rustls::rustls::HandshakeKind;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tower_keep_alive::connect::TlsLayer;
use tower_keep_alive::extensions::OneShot;

use crate::support::Server;
use crate::support::agent::{at_rest, get, send};
use crate::support::tls::{Authority, CA, Identity, localhost};
use crate::{Client, agent};

/// Tells how each handshake went.
async fn telling(identity: &Identity, is_tls_13: bool) -> Server {
    let versions = if is_tls_13 { [&TLS13] } else { [&TLS12] };
    let config = identity.server_of(&versions, None);
    Server::start_tls(config, |mut conn| async move {
        while conn.request().await.is_some() {
            let kind = match conn.tls().unwrap().handshake_kind() {
                Some(HandshakeKind::Resumed) => "resumed",
                _ => "full",
            };
            conn.respond(kind).await;
        }
    })
    .await
}

/// How the handshake of a new connection goes.
async fn handshake(client: &Client, url: &str) -> String {
    let mut request = get(url);
    request.extensions_mut().insert(OneShot);
    send(client, request).await.unwrap().body
}

#[tokio::test]
async fn the_second_connection_to_a_host_resumes() {
    for is_tls_13 in [false, true] {
        let server = telling(&localhost(), is_tls_13).await;
        let (client, handle) = agent(CA.trusted());
        let url = server.url("/");
        assert_eq!(handshake(&client, &url).await, "full");
        for _ in 0..5 {
            assert_eq!(handshake(&client, &url).await, "resumed");
        }
        assert_eq!(server.accepted(), 6);
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn a_session_is_of_one_host() {
    for is_tls_13 in [false, true] {
        let identity = CA.issue(&["a.example", "b.example"]);
        let server = telling(&identity, is_tls_13).await;
        let (client, handle) = agent(CA.trusted());
        for (host, kind) in [
            ("a.example", "full"),
            ("b.example", "full"),
            ("a.example", "resumed"),
            ("b.example", "resumed"),
        ] {
            let url = server.url_of(host, "/");
            assert_eq!(handshake(&client, &url).await, kind, "{host}");
        }
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn sessions_are_kept_for_so_many_hosts() {
    let identity = CA.issue(&["a.example", "b.example", "c.example", "d.example"]);
    let server = telling(&identity, true).await;
    let (client, handle) = agent(CA.trusted().max_cached_sessions(3));
    for (host, kind) in [
        ("a.example", "full"),
        ("b.example", "full"),
        ("c.example", "full"),
        ("a.example", "resumed"),
        // The first that was seen goes first, however lately it was used.
        ("d.example", "full"),
        ("b.example", "resumed"),
        ("d.example", "resumed"),
        ("a.example", "full"),
    ] {
        let url = server.url_of(host, "/");
        assert_eq!(handshake(&client, &url).await, kind, "{host}");
    }
    at_rest(&handle).await;
}

#[tokio::test]
async fn no_sessions_are_kept_where_none_are_wanted() {
    for is_tls_13 in [false, true] {
        let server = telling(&localhost(), is_tls_13).await;
        for tls in [
            CA.trusted().max_cached_sessions(0),
            TlsLayer::with_config(CA.client_config()).max_cached_sessions(0),
        ] {
            let (client, handle) = agent(tls);
            for _ in 0..3 {
                assert_eq!(handshake(&client, &server.url("/")).await, "full");
            }
            at_rest(&handle).await;
        }
    }
}

/// A configuration given keeps its own sessions, and two connectors of it have them in common.
#[tokio::test]
async fn a_configuration_keeps_its_sessions() {
    let server = telling(&localhost(), true).await;
    let layer = TlsLayer::with_config(CA.client_config());
    for kind in ["full", "resumed"] {
        let (client, handle) = agent(layer.clone());
        assert_eq!(handshake(&client, &server.url("/")).await, kind);
        at_rest(&handle).await;
    }
}

/// Not even where they have the sessions of one configuration.
#[tokio::test]
async fn who_shows_another_certificate_does_not_resume() {
    for is_tls_13 in [false, true] {
        let server = telling(&localhost(), is_tls_13).await;
        let config = TlsLayer::with_config(CA.client_config());
        let staff = Authority::new("staff");
        for name in ["me", "you"] {
            let (chain, key) = staff.issue(&[name]).parts();
            let tls = config.clone().client_certificate(chain, key).unwrap();
            let (client, handle) = agent(tls);
            for kind in ["full", "resumed"] {
                assert_eq!(handshake(&client, &server.url("/")).await, kind, "{name}");
            }
            at_rest(&handle).await;
        }
    }
}

#[tokio::test]
async fn connectors_of_one_layer_share_no_sessions() {
    let server = telling(&localhost(), true).await;
    let tls = CA.trusted();
    for _ in 0..2 {
        let (client, handle) = agent(tls.clone());
        assert_eq!(handshake(&client, &server.url("/")).await, "full");
        at_rest(&handle).await;
    }
}
