//! L. TLS, and what of it is in the key (B). The rest is in `tests/tls`.

use std::convert::Infallible;
use std::future::ready;
use std::iter;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::connect::dns::Name;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, HandshakeKind, ServerConfig,
    SignatureScheme,
};
use tower::{Layer, Service};
use tower_keep_alive::connect::{TcpConnector, TlsConfig, TlsLayer, UriConnector};
use tower_keep_alive::{
    AgentHandle, Body, Error, KeepAliveLayer, Key,
    extensions::{OneShot, Route},
};

use crate::support::agent::{Answer, Req, agent_over, at_rest, fetch, get, send};
use crate::support::tls::{Authority, CA, Identity, localhost};
use crate::support::{Conn, Server, eventually, not_over_h2, script};

type Layers = KeepAliveLayer<Full<Bytes>>;

/// An agent over TLS that follows routes, and for which every name is this machine.
fn agent(
    layer: Layers,
    tls: TlsLayer,
) -> (
    impl Service<Req, Response = http::Response<Body>, Error = Error, Future: Send> + Clone + Send,
    AgentHandle,
) {
    let tcp = TcpConnector::with_resolver(tower::service_fn(|_: Name| {
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        ready(Ok::<_, Infallible>(iter::once(addr)))
    }));
    agent_over(layer, tls.layer(tcp))
}

fn layer() -> Layers {
    KeepAliveLayer::new()
}

fn routed(url: &str, route: &Route) -> Req {
    let mut request = get(url);
    request.extensions_mut().insert(route.clone());
    request
}

/// On a connection of its own.
fn alone(mut request: Req) -> Req {
    request.extensions_mut().insert(OneShot);
    request
}

fn named(name: &'static str) -> Route {
    Route::new().with_server_name(ServerName::try_from(name).unwrap())
}

fn names(handle: &AgentHandle) -> Vec<String> {
    handle.status().idle.keys().map(Key::to_string).collect()
}

/// Answers with the name that was sent along, and how the handshake went.
async fn told(mut conn: Conn) {
    while conn.request().await.is_some() {
        let (name, kind) = conn.handshake.as_ref().unwrap();
        let name = name.as_deref().unwrap_or("none");
        let how = match kind {
            HandshakeKind::Resumed => "resumed",
            _ => "full",
        };
        let told = format!("{name} {how}");
        conn.respond(&told).await;
    }
}

fn identity() -> Identity {
    CA.issue(&[
        "localhost",
        "127.0.0.1",
        "x.test",
        "y.test",
        "z.test",
        "w.test",
    ])
}

async fn server() -> Server {
    Server::start_tls(identity().server(), told).await
}

/// Both versions of TLS: they resume in different ways.
fn both(identity: &Identity) -> [ServerConfig; 2] {
    [
        identity.server_of(&[&TLS12], None),
        identity.server_of(&[&TLS13], None),
    ]
}

/// By identity: what is in a configuration is neither compared, nor hashed, nor shown.
#[tokio::test]
async fn node_18_a_configuration_is_in_the_key_by_its_identity() {
    let server = server().await;
    let (client, handle) = agent(layer(), CA.trusted());
    let config = Arc::new(CA.client_config());
    let one = Route::new().with_tls(TlsConfig::new(config.clone()));
    let same = one.clone();
    let other = Route::new().with_tls(TlsConfig::new(config));
    let url = server.url("/");
    let mut ids = Vec::new();
    for request in [
        get(&url),
        routed(&url, &one),
        routed(&url, &other),
        routed(&url, &same),
        get(&url),
    ] {
        ids.push(send(&client, request).await.unwrap().info.id());
    }
    assert_eq!((ids[0], ids[1]), (ids[4], ids[3]));
    assert_ne!(ids[0], ids[1]);
    assert!(ids[2] != ids[0] && ids[2] != ids[1]);
    assert_eq!((handle.status().created, server.accepted()), (3, 3));
    let names = names(&handle);
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(names[0], format!("https:{}:", server.addr()));
    for name in &names[1..] {
        let number = name.rsplit_once(":tls=").unwrap().1;
        assert!(number.parse::<u64>().is_ok(), "{name}");
    }
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_18_nothing_secret_is_shown() {
    let server = server().await;
    let (chain, key) = Authority::new("staff").issue(&["me"]).parts();
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(CA.roots())
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .unwrap();
    let config = TlsConfig::new(config);
    let route = Route::new().with_tls(config.clone());
    let tls = CA.trusted().client_certificate(chain, key).unwrap();
    let (client, handle) = agent(layer(), tls.clone());
    let answer = send(&client, routed(&server.url("/"), &route))
        .await
        .unwrap();
    let number = config.to_string();
    assert_eq!(format!("{config:?}"), format!("TlsConfig({number})"));
    assert_eq!(format!("{route:?}"), format!("Route(:tls={number})"));
    assert_eq!(format!("{tls:?}"), "TlsLayer { .. }");
    let key = format!("https:{}::tls={number}", server.addr());
    assert_eq!(answer.info.key().unwrap().to_string(), key);
    let json = serde_json::to_value(handle.status()).unwrap();
    assert_eq!(json["freeSockets"][&key], 1);
    at_rest(&handle).await;
}

/// From the URI or the route. Not from a `Host` field, as in Node: whoever sets that says what the request is for, and not
/// whom to trust with it.
#[tokio::test]
async fn node_19_the_name_verified_is_in_the_key() {
    let server = server().await;
    let (client, handle) = agent(layer(), CA.trusted());
    let url = server.url("/");
    let mut ids = Vec::new();
    for (route, name) in [
        (named("x.test"), "x.test"),
        (named("y.test"), "y.test"),
        (named("X.TEST"), "x.test"),
        (Route::new(), "none"),
    ] {
        let answer = send(&client, routed(&url, &route)).await.unwrap();
        assert_eq!(answer.body.split(' ').next(), Some(name));
        ids.push(answer.info.id());
    }
    assert_eq!(ids[0], ids[2]);
    assert!(ids[0] != ids[1] && ids[3] != ids[0] && ids[3] != ids[1]);
    assert_eq!(server.accepted(), 3);
    let addr = server.addr();
    assert_eq!(
        names(&handle),
        [
            format!("https:{addr}:"),
            format!("https:{addr}::servername=x.test"),
            format!("https:{addr}::servername=y.test"),
        ]
    );
    if not_over_h2("a malformed Host is no `:authority`") {
        return at_rest(&handle).await;
    }
    // Malformed as it is, it changes nothing.
    let mut request = get(&url);
    let host = http::HeaderValue::from_static("[::1:80");
    request.headers_mut().insert("host", host);
    let answer = send(&client, request).await.unwrap();
    assert_eq!(answer.info.id(), ids[3]);
    assert_eq!(server.heads()[4].header("host"), Some("[::1:80"));
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_19_a_connection_verified_for_one_name_serves_no_other() {
    let server = Server::start_tls(CA.issue(&["x.test"]).server(), told).await;
    let (client, handle) = agent(layer(), CA.trusted());
    let url = server.url("/");
    send(&client, routed(&url, &named("x.test"))).await.unwrap();
    let error = send(&client, routed(&url, &named("y.test")))
        .await
        .unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    let error = fetch(&client, &url).await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    let status = handle.status();
    assert_eq!((status.created, status.create_errors), (3, 2));
    assert_eq!(server.requests(), 1);
    at_rest(&handle).await;
}

/// Accepts this certificate and no other.
#[derive(Debug)]
struct Pinned(CertificateDer<'static>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match *end_entity == self.0 {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = rustls::crypto::ring::default_provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn pinning(certificate: &CertificateDer<'static>) -> Route {
    let mut config = CA.client_config();
    let verifier = Arc::new(Pinned(certificate.clone()));
    config.dangerous().set_certificate_verifier(verifier);
    Route::new().with_tls(TlsConfig::new(config))
}

/// CVE-2026-58040. A connection that one verifier let pass is nobody else's, nor is its session.
#[tokio::test]
async fn node_20_a_verifier_of_a_request_is_asked_whatever_was_verified_before() {
    let own = Identity::self_signed(&["127.0.0.1"]);
    let other = Identity::self_signed(&["127.0.0.1"]);
    let (own_certificate, other_certificate) = (own.parts().0.remove(0), other.parts().0.remove(0));
    for config in both(&own) {
        let server = Server::start_tls(config, told).await;
        let (client, handle) = agent(layer(), CA.trusted());
        let url = server.url("/");
        let accepting = pinning(&own_certificate);
        let answer = send(&client, routed(&url, &accepting)).await.unwrap();
        assert_eq!(answer.body, "none full");
        // Idle it is, and kept for those who ask in the same way.
        for request in [get(&url), routed(&url, &pinning(&other_certificate))] {
            let error = send(&client, request).await.unwrap_err();
            assert!(error.is_connect(), "{error:?}");
        }
        let another = send(&client, routed(&url, &pinning(&own_certificate)));
        let another = another.await.unwrap();
        assert!(!another.info.is_reused());
        assert_eq!(another.body, "none full", "no session is taken over");
        let again = send(&client, routed(&url, &accepting)).await.unwrap();
        assert_eq!(again.info.id(), answer.info.id());
        let status = handle.status();
        assert_eq!((status.created, status.create_errors), (4, 2));
        assert_eq!(server.requests(), 3);
        at_rest(&handle).await;
    }
}

/// What a route says about TLS is nothing without it, and a request that no connector would hear is refused.
#[tokio::test]
async fn node_20_a_route_that_is_not_heard_is_an_error() {
    let server = server().await;
    let tls = CA.trusted().layer(TcpConnector::new());
    let uris = UriConnector::new(tls);
    let (client, handle) = agent_over(KeepAliveLayer::<Full<Bytes>>::new(), uris);
    let request = routed(&server.url("/"), &named("x.test"));
    let error = send(&client, request).await.unwrap_err();
    assert!(error.is_target(), "{error:?}");
    assert_eq!(server.accepted(), 0);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_94_the_next_connection_of_a_key_resumes() {
    for config in both(&identity()) {
        let server = Server::start_tls(config, told).await;
        let (client, handle) = agent(layer(), CA.trusted());
        let url = server.url("/");
        let first = send(&client, alone(get(&url))).await.unwrap();
        assert_eq!(first.body, "none full");
        for _ in 0..5 {
            let next = send(&client, alone(get(&url))).await.unwrap();
            assert_eq!(next.body, "none resumed");
        }
        assert_eq!((handle.status().created, server.accepted()), (6, 6));
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn node_94_keys_that_differ_share_no_sessions() {
    for config in both(&identity()) {
        let server = Server::start_tls(config, told).await;
        let (client, handle) = agent(layer(), CA.trusted());
        let url = server.url("/");
        let route = Route::new().with_tls(TlsConfig::new(CA.client_config()));
        for route in [Route::new(), route, named("x.test"), named("y.test")] {
            for how in ["full", "resumed"] {
                let request = alone(routed(&url, &route));
                let body = send(&client, request).await.unwrap().body;
                assert!(body.ends_with(how), "{route:?}: {body}");
            }
        }
        at_rest(&handle).await;
    }
}

/// The bound is one of hosts, and the first that was seen goes first; using it again does not keep it.
#[tokio::test]
async fn node_95_sessions_are_kept_for_so_many_hosts() {
    let server = server().await;
    let (client, handle) = agent(layer(), CA.trusted().max_cached_sessions(2));
    for (host, how) in [
        ("x.test", "full"),
        ("y.test", "full"),
        ("x.test", "resumed"),
        ("z.test", "full"),
        ("y.test", "resumed"),
        ("z.test", "resumed"),
        ("x.test", "full"),
    ] {
        let url = server.url_of(host, "/");
        let answer = send(&client, alone(get(url))).await.unwrap();
        assert_eq!(answer.body, format!("{host} {how}"));
    }
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_96_no_sessions_where_none_are_wanted() {
    for config in both(&identity()) {
        let server = Server::start_tls(config, told).await;
        let (client, handle) = agent(layer(), CA.trusted().max_cached_sessions(0));
        for _ in 0..3 {
            let answer = send(&client, alone(get(server.url("/")))).await.unwrap();
            assert_eq!(answer.body, "none full");
        }
        at_rest(&handle).await;
    }
}

/// Sessions that a server does not know any more cost a full handshake, and no failure.
#[tokio::test]
async fn node_97_a_server_that_changed_is_served() {
    if not_over_h2("its server agrees on TLS in the script") {
        return;
    }
    let [tls12, tls13] = both(&identity());
    let configs = [tls12, tls13].map(Arc::new);
    let server = Server::start_tcp(move |mut conn| {
        // 1.2, 1.2, 1.3, 1.3, 1.2, …
        let config = configs[conn.index / 2 % 2].clone();
        async move {
            if conn.secure(config).await {
                told(conn).await;
            }
        }
    })
    .await;
    let (client, handle) = agent(layer(), CA.trusted());
    let url = server.url("/").replace("http:", "https:");
    for request in 0..8 {
        let answer = send(&client, alone(get(&url))).await.unwrap();
        assert_eq!(answer.status, 200, "{request}");
    }
    let status = handle.status();
    assert_eq!((status.created, status.create_errors), (8, 0));
    assert_eq!((server.accepted(), server.requests()), (8, 8));
    at_rest(&handle).await;
}

/// CVE-2026-48934. What was refused once is refused again, whatever there is of sessions.
#[tokio::test]
async fn node_98_a_session_does_not_stand_for_a_certificate() {
    for config in both(&CA.issue(&["x.test"])) {
        let server = Server::start_tls(config, told).await;
        let (client, handle) = agent(layer(), CA.trusted());
        let good = server.url_of("x.test", "/");
        let bad = server.url_of("y.test", "/");
        for _ in 0..3 {
            send(&client, alone(get(&good))).await.unwrap();
            let error = send(&client, alone(get(&bad))).await.unwrap_err();
            assert!(error.is_connect(), "{error:?}");
        }
        let status = handle.status();
        assert_eq!((status.created, status.create_errors), (6, 3));
        assert_eq!(server.requests(), 3);
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn node_99_four_names_on_one_address_are_four_pools() {
    let server = server().await;
    let (client, handle) = agent(layer().max_connections_per_host(1), CA.trusted());
    let hosts = ["w.test", "x.test", "y.test", "z.test"];
    let fetched = hosts.map(|host| fetch(&client, server.url_of(host, "/")));
    let answers: Vec<Answer> = futures_util::future::try_join_all(fetched).await.unwrap();
    for (answer, host) in answers.iter().zip(hosts) {
        assert_eq!(answer.body.split(' ').next(), Some(host));
        assert!(!answer.info.is_reused());
    }
    assert_eq!(server.accepted(), 4);
    eventually("each is idle by itself", || names(&handle).len() == 4).await;
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_99_an_address_is_not_sent_along() {
    let server = server().await;
    let (client, handle) = agent(layer(), CA.trusted());
    let answer = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(answer.body, "none full");
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_100_what_is_wrong_with_a_certificate_reaches_the_request() {
    let server = Server::start_tls(Identity::self_signed(&["127.0.0.1"]).server(), told).await;
    let (client, handle) = agent(layer(), CA.trusted());
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    assert!(error.is_certificate(), "{error:?}");
    // Node: DEPTH_ZERO_SELF_SIGNED_CERT
    assert!(error.to_string().contains("self-signed"), "{error}");
    let status = handle.status();
    assert_eq!((status.created, status.create_errors), (1, 1));
    assert!(status.idle.is_empty() && status.active.is_empty());
    assert_eq!((server.accepted(), server.requests()), (1, 0));
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_54_one_is_in_use_and_then_idle() {
    let server = server().await;
    let (client, handle) = agent(layer(), CA.trusted());
    let response = tower::ServiceExt::oneshot(client.clone(), get(server.url("/")));
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let key = format!("https:{}:", server.addr());
    let json = serde_json::to_value(handle.status()).unwrap();
    assert_eq!(
        (&json["sockets"][&key], &json["freeSockets"]),
        (&1.into(), &serde_json::json!({}))
    );
    crate::support::agent::read(response).await.unwrap();
    let json = serde_json::to_value(handle.status()).unwrap();
    assert_eq!(
        (&json["sockets"], &json["freeSockets"][&key]),
        (&serde_json::json!({}), &1.into())
    );
    assert!(
        fetch(&client, server.url("/"))
            .await
            .unwrap()
            .info
            .is_reused()
    );
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_55_an_ipv6_literal_is_served_and_kept() {
    let server = Server::listen_tls("[::1]:0", localhost().server(), script::ok).await;
    let (client, handle) = agent(layer(), CA.trusted());
    let url = server.url("/");
    assert!(url.starts_with("https://[::1]:"), "{url}");
    for is_reused in [false, true] {
        let answer = fetch(&client, &url).await.unwrap();
        assert_eq!(answer.info.is_reused(), is_reused);
    }
    assert_eq!(
        names(&handle),
        [format!("https:::1:{}:", server.addr().port())]
    );
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}
