//! What is spoken where the two ends negotiate it (ALPN).

use bytes::Bytes;
use http::{Request, StatusCode, Uri, Version};
use http_body_util::Full;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_keep_alive::connect::{ProxyLayer, TcpConnector, Tls, TlsConfig, TlsLayer, UriConnector};
use tower_keep_alive::{
    AgentHandle, KeepAlive, KeepAliveLayer, Protocol,
    connect::Destination,
    extensions::Route,
    layers::{CheckinLayer, CheckoutLayer, ExchangeLayer, HandshakeLayer, PoolConfig},
};

use super::server::{Speaking, speaking};
use crate::support::agent::{Req, agent_over, at_rest, belongs_here, fetch, get, read, send};
use crate::support::frames::{self, Behaviour, Log};
use crate::support::tls::{CA, localhost};
use crate::support::{Conn, MemoryStream, Server, http2, proxies, script};

type Client = KeepAlive<Tls<TcpConnector>, Full<Bytes>>;

fn agent(protocol: Protocol) -> (Client, AgentHandle) {
    let layer = KeepAliveLayer::new().protocol(protocol);
    agent_over(layer, CA.trusted().layer(TcpConnector::new()))
}

fn by(protocol: Protocol, url: impl AsRef<str>) -> Req {
    let mut request = get(url);
    let route = Route::new().with_protocol(protocol);
    request.extensions_mut().insert(route);
    request
}

#[tokio::test]
async fn each_server_is_spoken_with_as_it_chooses() {
    let (client, handle) = agent(Protocol::Auto);
    for (names, version) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["http/1.1", "h2"], Version::HTTP_11),
        (&["h2"], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let server = speaking(names).await;
        for is_reused in [false, true] {
            let answer = fetch(&client, server.url("/a")).await.unwrap();
            assert_eq!(answer.info.version(), version, "{names:?}");
            assert_eq!((&*answer.body, answer.info.is_reused()), ("/a", is_reused));
        }
    }
    at_rest(&handle).await;
    assert_eq!(handle.status().created, 5);
}

#[tokio::test]
async fn the_client_in_one_call_offers_both() {
    let client = KeepAlive::builder().build_with_tls(CA.trusted());
    belongs_here(&client.handle());
    for (names, version) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
    ] {
        let server = speaking(names).await;
        let response = client.get(server.url("/")).await.unwrap();
        assert_eq!(response.version(), version);
        assert_eq!(read(response).await.unwrap().body, "/");
    }
    at_rest(&client.handle()).await;
    let old = KeepAlive::builder().protocol(Protocol::Http1);
    let old = old.build_with_tls(CA.trusted());
    belongs_here(&old.handle());
    let server = speaking(&["h2", "http/1.1"]).await;
    let response = old.get(server.url("/")).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_11);
    read(response).await.unwrap();
    at_rest(&old.handle()).await;
}

#[tokio::test]
async fn stacked_layers_offer_http_1_alone_unless_asked() {
    let server = speaking(&["h2", "http/1.1"]).await;
    let connector = CA.trusted().layer(TcpConnector::new());
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    let answer = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(answer.info.version(), Version::HTTP_11);
    let asked = send(&client, by(Protocol::Auto, server.url("/"))).await;
    assert_eq!(asked.unwrap().info.version(), Version::HTTP_2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_server_that_does_not_choose_it_is_an_error_that_names_the_setting() {
    let (client, handle) = agent(Protocol::Http2);
    for (names, words) in [
        (&["http/1.1"][..], "HTTP/2"),
        (&["spdy/3"], "HTTP/2"),
        (&[], "HandshakeLayer"),
    ] {
        let server = speaking(names).await;
        let error = fetch(&client, server.url("/")).await.unwrap_err();
        assert!(error.is_connect() && error.is_protocol(), "{error:?}");
        assert!(error.is_unsent() && error.is_permanent(), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let server = speaking(&["spdy/3"]).await;
    let error = send(&client, by(Protocol::Auto, server.url("/"))).await;
    let error = error.unwrap_err();
    assert!(error.is_protocol(), "{error:?}");
    assert!(error.to_string().contains("HTTP/2 or HTTP/1.1"), "{error}");
    at_rest(&handle).await;
    assert_eq!(handle.status().create_errors, 4);
}

#[tokio::test]
async fn what_http_2_cannot_do_goes_over_http_1() {
    let server = speaking(&["h2", "http/1.1"]).await;
    let (client, handle) = agent(Protocol::Auto);
    let answer = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(answer.info.version(), Version::HTTP_2);
    let upgrade = || Request::get(server.url("/")).header("upgrade", "chat");
    for request in [
        upgrade().header("connection", "upgrade"),
        Request::get(server.url("/")).version(Version::HTTP_10),
        Request::connect(format!("https://{}", server.addr())),
    ] {
        let answer = send(&client, request.body(Full::default()).unwrap()).await;
        let answer = answer.unwrap();
        assert_eq!(answer.info.version(), Version::HTTP_11);
        let key = answer.info.key().unwrap().to_string();
        assert!(key.ends_with(":protocol=http1"), "{key}");
    }
    at_rest(&handle).await;
    assert_eq!(server.log.seen(|it| it.connections), 1);
}

#[tokio::test]
async fn a_websocket_to_a_host_that_speaks_http_2_goes_over_http_1() {
    let mut config = localhost().server();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server = Server::start_tls(config, |mut conn: Conn| async move {
        let chosen = conn.tls().and_then(|tls| tls.alpn_protocol());
        if chosen == Some(b"h2") {
            let conn = frames::Conn::new(conn, &Log::default());
            return Behaviour::default().serve(conn).await;
        }
        let head = conn.request().await.unwrap();
        assert_eq!(head.header("upgrade"), Some("websocket"));
        let switches =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        conn.send(switches).await;
        let said = conn.read().await;
        conn.send(String::from_utf8(said).unwrap()).await;
        conn.closed().await;
    })
    .await;
    let (client, handle) = agent(Protocol::Auto);
    let answer = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(answer.info.version(), Version::HTTP_2);
    let request = Request::get(server.url("/"))
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .body(Full::default())
        .unwrap();
    let response = client.request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.version(), Version::HTTP_11);
    let mut socket = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    socket.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    socket.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    drop(socket);
    assert_eq!(handle.status().detached, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_request_of_http_2_is_sent_over_nothing_else() {
    let (client, handle) = agent(Protocol::Auto);
    let asked = |server: &Speaking| {
        let request = Request::get(server.url("/")).version(Version::HTTP_2);
        request.body(Full::default()).unwrap()
    };
    let server = speaking(&["http/1.1"]).await;
    let error = send(&client, asked(&server)).await.unwrap_err();
    assert!(error.is_protocol() && error.is_unsent(), "{error:?}");
    let status = handle.status();
    assert_eq!((status.started, status.completed, status.failed), (1, 0, 1));
    // The connection is as good as new.
    let answer = fetch(&client, server.url("/")).await.unwrap();
    assert!(answer.info.is_reused());
    let server = speaking(&["h2", "http/1.1"]).await;
    let answer = fetch(&client, server.url("/")).await.unwrap();
    let asked = send(&client, asked(&server)).await.unwrap();
    assert_eq!(asked.info.id(), answer.info.id());
    at_rest(&handle).await;
    assert_eq!(handle.status().created, 2);
}

#[tokio::test]
async fn a_route_may_bring_its_own_tls() {
    let server = speaking(&["h2", "http/1.1"]).await;
    let layer = KeepAliveLayer::new().protocol(Protocol::Auto);
    let connector = TlsLayer::new().layer(TcpConnector::new());
    let (client, handle) = agent_over(layer, connector);
    for tls in [
        TlsConfig::new(CA.client_config()),
        TlsConfig::from(CA.trusted()),
    ] {
        let route = Route::new().with_tls(tls);
        for (route, version) in [
            (route.clone(), Version::HTTP_2),
            (route.with_protocol(Protocol::Http1), Version::HTTP_11),
        ] {
            let mut request = get(server.url("/"));
            request.extensions_mut().insert(route);
            let answer = send(&client, request).await.unwrap();
            assert_eq!(answer.info.version(), version);
        }
    }
    at_rest(&handle).await;
}

#[tokio::test]
async fn through_a_tunnel_it_is_negotiated_with_the_origin() {
    let server = speaking(&["h2", "http/1.1"]).await;
    let proxy = Server::start_tcp(proxies::connect).await;
    let tunnels = ProxyLayer::new().layer(TcpConnector::new());
    let layer = KeepAliveLayer::new().protocol(Protocol::Auto);
    let (client, handle) = agent_over(layer, CA.trusted().layer(tunnels));
    let proxy = format!("http://{}", proxy.addr()).parse().unwrap();
    let mut request = get(server.url("/"));
    let route = Route::new().with_proxy(proxy);
    request.extensions_mut().insert(route);
    let answer = send(&client, request).await.unwrap();
    assert_eq!(answer.info.version(), Version::HTTP_2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_stack_of_uris_says_it_twice() {
    let server = speaking(&["h2", "http/1.1"]).await;
    for (offered, version) in [
        (Protocol::Auto, Version::HTTP_2),
        (Protocol::Http1, Version::HTTP_11),
    ] {
        let checkout = CheckoutLayer::new(PoolConfig::new());
        let handle = checkout.handle();
        belongs_here(&handle);
        let leases = ServiceBuilder::new()
            .layer(CheckinLayer::new())
            .layer(checkout)
            .layer(HandshakeLayer::<Full<Bytes>>::new().protocol(Protocol::Auto))
            .layer(CA.trusted().protocol(offered))
            .service(TcpConnector::new());
        let to_uri = |destination: Destination| Uri::from(destination);
        let client = ExchangeLayer::new()
            .protocol(Protocol::Auto)
            .layer(leases.map_request(to_uri));
        let answer = fetch(&client, server.url("/")).await.unwrap();
        assert_eq!(answer.info.version(), version);
        drop(client);
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn a_transport_of_another_type_says_by_a_setting_what_was_negotiated() {
    let old = Server::in_memory(script::echo);
    let new = http2::Server::in_memory(async |conn| Behaviour::default().serve(conn).await);
    for (wanted, negotiated, spoken) in [
        (Protocol::Auto, None, Some(Version::HTTP_11)),
        (
            Protocol::Auto,
            Some(Version::HTTP_11),
            Some(Version::HTTP_11),
        ),
        (Protocol::Auto, Some(Version::HTTP_2), Some(Version::HTTP_2)),
        (
            Protocol::Auto,
            Some(Version::HTTP_3),
            Some(Version::HTTP_11),
        ),
        (Protocol::Http2, None, Some(Version::HTTP_2)),
        (Protocol::Http2, Some(Version::HTTP_11), None),
        (Protocol::Http2, Some(Version::HTTP_3), None),
        (Protocol::Http1, Some(Version::HTTP_2), None),
    ] {
        let connector = match spoken {
            Some(Version::HTTP_2) => new.connector(),
            _ => old.connector(),
        };
        let layer = KeepAliveLayer::new()
            .protocol(wanted)
            .negotiated_with(move |_: &MemoryStream| negotiated);
        let (client, handle) = agent_over(layer, connector);
        let answer = fetch(&client, "https://in-memory.test/a").await;
        let version = answer.as_ref().map(|it| it.info.version());
        assert_eq!(
            version.as_ref().ok(),
            spoken.as_ref(),
            "{wanted} {negotiated:?}"
        );
        if let Err(error) = answer {
            assert!(error.is_protocol() && error.is_unsent(), "{error:?}");
        }
        at_rest(&handle).await;
    }
}

/// Over the connectors that many already have: hyper-util's, and one that makes tokio's sockets.
#[tokio::test]
async fn over_a_connector_of_another_crate_each_server_is_spoken_with_as_it_chooses() {
    let layer = || KeepAliveLayer::new().protocol(Protocol::Auto);
    let of_hyper_util = UriConnector::hyper(HttpConnector::new());
    let of_tokio = tower::service_fn(|to: Destination| async move {
        TcpStream::connect((to.host(), to.port())).await
    });
    let (one, of_one) = agent_over(layer(), CA.trusted().layer(of_hyper_util));
    let (other, of_other) = agent_over(layer(), CA.trusted().layer(of_tokio));
    for (names, version) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let server = speaking(names).await;
        for answer in [
            fetch(&one, server.url("/a")).await,
            fetch(&other, server.url("/a")).await,
        ] {
            let info = answer.unwrap().info;
            assert_eq!(info.version(), version, "{names:?}");
            assert!(info.tls().is_some() && info.remote_addr() == Some(server.addr()));
        }
    }
    at_rest(&of_one).await;
    at_rest(&of_other).await;
}

#[tokio::test]
async fn what_is_made_in_advance_speaks_it_too() {
    let server = speaking(&["h2", "http/1.1"]).await;
    let (client, handle) = agent(Protocol::Auto);
    let uri: Uri = server.url("/").parse().unwrap();
    let destination = Destination::try_from(uri).unwrap();
    handle.prewarm(destination, 1).await.unwrap();
    let answer = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(answer.info.version(), Version::HTTP_2);
    assert!(answer.info.is_reused());
    at_rest(&handle).await;
    assert_eq!(handle.status().created, 1);
}
