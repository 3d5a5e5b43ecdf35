//! Proxies that are spoken with under TLS: below the tunnels, where there are any, and by certificates of their own.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use tokio::sync::{Mutex, mpsc};
use tokio_rustls::rustls::{self, CertificateError};
use tower::Layer;
use tower_keep_alive::connect::{Proxy, ProxyConnector, ProxyLayer, TcpConnector, Tls};
use tower_keep_alive::{AgentHandle, KeepAlive, KeepAliveLayer, extensions::Route};

use crate::support::agent::{Req, agent_over, at_rest, get, send};
use crate::support::tls::CA;
use crate::support::{Conn, Server, eventually, proxies, script};
use crate::{Loopback, idle, in_chain, text};

type Client = KeepAlive<Tls<ProxyConnector<Tls<TcpConnector<Loopback>>>>, Full<Bytes>>;

/// TLS with the origin, above the tunnels, and TLS with the proxy, below them.
fn agent() -> (Client, AgentHandle) {
    let to_proxies = CA.trusted().layer(TcpConnector::with_resolver(Loopback));
    let tunnels = ProxyLayer::new().layer(to_proxies);
    agent_over(KeepAliveLayer::new(), CA.trusted().layer(tunnels))
}

fn named(server: &Server) -> Proxy {
    let uri = server.url_of("me:secret@proxy.test", "");
    uri.parse().unwrap()
}

fn through(proxy: &Proxy, url: impl AsRef<str>) -> Req {
    let mut request = get(url);
    let route = Route::new().with_proxy(proxy.clone());
    request.extensions_mut().insert(route);
    request
}

/// me:secret
const BASIC: Option<&str> = Some("Basic bWU6c2VjcmV0");

#[tokio::test]
async fn node_101_a_proxy_under_tls_gets_requests_for_http_in_absolute_form() {
    let config = CA.issue(&["proxy.test"]).server();
    let server = Server::start_tls(config, script::echo).await;
    let proxy = named(&server);
    let (client, handle) = agent();
    for reused in [false, true] {
        let request = through(&proxy, "http://origin.test/path");
        let answer = send(&client, request).await.unwrap();
        assert_eq!(answer.body, "http://origin.test/path");
        assert_eq!(answer.info.is_reused(), reused);
        assert_eq!(answer.info.remote_addr(), Some(server.addr()));
    }
    let head = &server.heads()[1];
    assert_eq!(head.header("proxy-authorization"), BASIC);
    assert_eq!((server.accepted(), handle.status().created), (1, 1));
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_101_a_proxy_under_tls_makes_tunnels_for_tls() {
    let issued = CA.issue(&["origin.test"]);
    let origin = Server::start_tls(issued.server(), script::echo).await;
    let config = CA.issue(&["proxy.test"]).server();
    let server = Server::start_tls(config, proxies::connect).await;
    let proxy = named(&server);
    let (client, handle) = agent();
    let url = origin.url_of("origin.test", "/path");
    for reused in [false, true, true] {
        let answer = send(&client, through(&proxy, &url)).await.unwrap();
        assert_eq!((&*answer.body, answer.info.is_reused()), ("/path", reused));
        assert_eq!(answer.info.remote_addr(), Some(server.addr()));
        let tls = answer.info.tls().expect("it came under TLS");
        let shown: Vec<_> = tls.peer_certificates().collect();
        assert_eq!(shown, [&*issued.parts().0[0]], "not the proxy's");
    }
    let asked = &server.heads()[0];
    assert_eq!(asked.header("proxy-authorization"), BASIC);
    assert_eq!(origin.heads()[0].header("proxy-authorization"), None);
    assert_eq!((server.accepted(), origin.accepted()), (1, 1));
    // And directly, with one TLS and not with two.
    for reused in [false, true] {
        let answer = send(&client, get(&url)).await.unwrap();
        assert_eq!((&*answer.body, answer.info.is_reused()), ("/path", reused));
        assert_eq!(answer.info.remote_addr(), Some(origin.addr()));
    }
    assert_eq!((server.accepted(), origin.accepted()), (1, 2));
    assert_eq!((handle.status().created, idle(&handle)), (2, 2));
    handle.close_idle();
    at_rest(&handle).await;
}

/// Answers one request on each connection, and closes the first when told.
async fn closing_origin() -> (Server, mpsc::UnboundedSender<()>) {
    let (tell, told) = mpsc::unbounded_channel();
    let told = Arc::new(Mutex::new(told));
    let config = CA.issue(&["origin.test"]).server();
    let server = Server::start_tls(config, move |mut conn: Conn| {
        let told = told.clone();
        async move {
            conn.request().await;
            conn.respond("ok").await;
            match conn.index {
                0 => drop(told.lock().await.recv().await),
                _ => conn.closed().await,
            }
            conn.fin().await;
        }
    })
    .await;
    (server, tell)
}

/// Below two layers of TLS there is one socket, and that is looked at: the driver's thread is held up from before the
/// origin closes until the request has a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_tunnel_under_tls_that_was_closed_unheard_is_not_used_again() {
    // The servers have a runtime of their own.
    let elsewhere = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (origin, tell) = elsewhere.spawn(closing_origin()).await.unwrap();
    let server = elsewhere.spawn(async {
        let config = CA.issue(&["proxy.test"]).server();
        Server::start_tls(config, proxies::connect).await
    });
    let server = server.await.unwrap();
    let proxy = named(&server);
    let (client, handle) = agent();
    let url = origin.url_of("origin.test", "/");
    let first = send(&client, through(&proxy, &url)).await.unwrap();
    eventually("it is idle", || idle(&handle) == 1).await;

    let (held, is_held) = std::sync::mpsc::channel();
    let (release, is_released) = std::sync::mpsc::channel::<()>();
    tokio::spawn(async move {
        held.send(()).unwrap();
        is_released.recv().ok();
    });
    is_held.recv().unwrap();
    tell.send(()).unwrap();
    let begun = Instant::now();
    while server.open() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(5), "it is closed");
        sleep(Duration::from_millis(1));
    }
    let releasing = async {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        drop(release);
    };
    let (second, ()) = tokio::join!(send(&client, through(&proxy, &url)), releasing);
    let second = second.unwrap();
    assert_eq!(second.body, "ok");
    assert_ne!(first.info.id(), second.info.id());
    let status = handle.status();
    assert_eq!((status.created, status.stale), (2, 1), "{status}");
    assert_eq!((server.accepted(), origin.accepted()), (2, 2));
    assert_eq!(origin.requests(), 2);
    handle.close_idle();
    at_rest(&handle).await;
    elsewhere.shutdown_background();
}

/// The certificate of each has to be its own.
#[tokio::test]
async fn a_proxy_that_is_not_who_it_has_to_be_is_refused() {
    let config = CA.issue(&["origin.test"]).server();
    let server = Server::start_tls(config, proxies::connect).await;
    let proxy = named(&server);
    let (client, handle) = agent();
    for url in ["https://origin.test/", "http://origin.test/"] {
        let error = send(&client, through(&proxy, url)).await.unwrap_err();
        assert!(error.is_connect() && error.is_unsent(), "{error:?}");
        let said = text(&error);
        let Some(rustls::Error::InvalidCertificate(why)) = in_chain(&error) else {
            panic!("not about the certificate: {said}");
        };
        let is_name = matches!(why, CertificateError::NotValidForNameContext { .. });
        assert!(is_name && said.contains("proxy.test"), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
    let status = handle.status();
    assert_eq!((status.created, status.create_errors), (2, 2));
    assert!(status.idle.is_empty(), "{status}");
    assert_eq!((server.accepted(), server.requests()), (2, 0));
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_proxy_by_https_that_speaks_plain_http_is_named_with_what_to_do() {
    let server = Server::start(|mut conn: Conn| async move {
        conn.read().await;
        conn.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            .await;
        conn.closed().await;
    })
    .await;
    let uri = server.url_of("proxy.test", "").replace("http:", "https:");
    let (client, handle) = agent();
    for url in ["http://origin.test/", "https://origin.test/"] {
        let error = send(&client, through(&uri.parse().unwrap(), url)).await;
        let error = error.unwrap_err();
        assert!(error.is_connect() && error.is_protocol(), "{error:?}");
        assert!(text(&error).contains("does not speak TLS on this port"));
    }
    assert_eq!((handle.status().open(), idle(&handle)), (0, 0));
    at_rest(&handle).await;
}
