//! B. Pool key: what a request says about how its connection is made.

use std::convert::Infallible;
use std::future::ready;
use std::net::{IpAddr, SocketAddr};
use std::{iter, vec};

use http_body_util::Full;
use hyper_util::client::legacy::connect::dns::Name;
use tower_keep_alive::connect::{TcpConnector, UriConnector};
use tower_keep_alive::{
    AgentHandle, KeepAlive, KeepAliveLayer, Key,
    custom::KeyRef,
    extensions::{Family, Route},
};

use crate::support::agent::{Req, agent_over, at_rest, fetch, get, protocol, send};
use crate::support::{CountingConnector, Server, Sockets, only_over_tcp, script};

const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(1, 1, 1, 1));

fn routed(url: impl AsRef<str>, route: Route) -> Req {
    let mut request = get(url);
    request.extensions_mut().insert(route);
    request
}

fn names(handle: &AgentHandle) -> Vec<String> {
    handle.status().idle.keys().map(Key::to_string).collect()
}

#[test]
fn node_12_a_key_with_a_route_prints_as_node_names_it() {
    let a = || KeyRef::new("http", "a", Some(1));
    let local = Route::new().with_local_address(LOCAL);
    let socket = Route::new().with_unix_path("/path.sock");
    for (key, printed) in [
        (a().route(&local), "a:1:1.1.1.1"),
        (
            KeyRef::new("http", "localhost", None).route(&socket),
            "localhost:80::/path.sock",
        ),
        (
            a().route(&socket).partition("tenant"),
            "a:1::/path.sock:tenant",
        ),
    ] {
        assert_eq!(Key::from(key).to_string(), printed);
        assert_ne!(Key::from(key), Key::from(a()));
    }
    assert_eq!(Key::from(a().route(&local)), Key::from(a().route(&local)));
    assert_ne!(Key::from(a().route(&local)), Key::from(a().route(&socket)));
}

#[test]
fn node_14_a_family_is_in_the_key_where_one_is_asked_for() {
    let printed = |route: &Route| Key::from(KeyRef::new("http", "a", Some(1)).route(route));
    let local = Route::new().with_local_address(LOCAL);
    for (route, name) in [
        (local.clone(), "a:1:1.1.1.1"),
        (local.with_family(Family::V4), "a:1:1.1.1.1:4"),
        (Route::new().with_family(Family::V4), "a:1::4"),
        (Route::new().with_family(Family::V6), "a:1::6"),
    ] {
        assert_eq!(printed(&route).to_string(), name);
    }
}

/// A route that says nothing is none.
#[tokio::test]
async fn node_17_an_empty_route_is_not_in_the_key() {
    let server = Server::in_memory(script::ok);
    let layer = KeepAliveLayer::new().protocol(protocol());
    let handle = layer.handle();
    let client: KeepAlive<_, Full<_>> = tower_layer::Layer::layer(&layer, server.connector());
    for request in [
        get("http://localhost/"),
        routed("http://localhost/", Route::new()),
    ] {
        send(&client, request).await.unwrap();
    }
    assert_eq!(server.accepted(), 1);
    assert_eq!(names(&handle), ["localhost:80:"]);
    at_rest(&handle).await;
}

/// A connector of URIs would not see where the request wants to go.
#[tokio::test]
async fn node_15_a_route_that_nobody_would_follow_is_refused() {
    let server = Server::ok().await;
    let connector = CountingConnector::new(Sockets);
    let uris = UriConnector::new(connector.clone());
    let (client, handle) = agent_over(KeepAliveLayer::new(), uris);
    let request = routed(server.url("/"), Route::new().with_unix_path("/path.sock"));
    let error = send(&client, request).await.unwrap_err();
    assert!(error.is_target() && error.is_unsent(), "{error:?}");
    assert!(error.to_string().contains("takes URIs"), "{error}");
    assert_eq!((server.accepted(), connector.made()), (0, 0));
    // A route that says nothing is as none, and the request after a refused one is none the worse.
    let request = routed(server.url("/"), Route::new());
    send(&client, request).await.unwrap();
    fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(connector.made(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_15_a_connector_of_tcp_refuses_a_unix_socket() {
    let server = Server::ok().await;
    let layer = KeepAliveLayer::new();
    let (client, handle) = agent_over(layer, TcpConnector::new());
    let request = routed(server.url("/"), Route::new().with_unix_path("/path.sock"));
    let error = send(&client, request).await.unwrap_err();
    assert!(error.is_target() && !error.is_connect(), "{error:?}");
    assert!(error.to_string().contains("Unix"), "{error}");
    assert_eq!(server.accepted(), 0);
    let status = handle.status();
    assert_eq!((status.create_errors, status.idle.len()), (1, 0));
    at_rest(&handle).await;
}

/// Every name is that of both servers, IPv6 first.
fn of_two(
    servers: &[Server; 2],
) -> TcpConnector<
    impl tower::Service<
        Name,
        Response = vec::IntoIter<SocketAddr>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static,
> {
    let addrs = servers.each_ref().map(Server::addr).to_vec();
    TcpConnector::with_resolver(tower::service_fn(move |_: Name| {
        ready(Ok(addrs.clone().into_iter()))
    }))
}

#[tokio::test]
async fn node_14_only_addresses_of_the_family_are_connected_to() {
    if only_over_tcp("it is about IP addresses") {
        return;
    }
    let servers = [Server::start_ipv6(script::ok).await, Server::ok().await];
    for (connectors, routes, which) in [
        (None, None, 0),
        (Some(Family::V6), None, 0),
        (Some(Family::V4), None, 1),
        (None, Some(Family::V6), 0),
        (None, Some(Family::V4), 1),
        // What the request says is nearer.
        (Some(Family::V6), Some(Family::V4), 1),
    ] {
        let connector = of_two(&servers).family(connectors);
        let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
        let route = routes.map_or_else(Route::new, |family| Route::new().with_family(family));
        for _ in 0..2 {
            let answer = send(&client, routed("http://host.test/", route.clone())).await;
            let info = answer.unwrap().info;
            assert_eq!(info.remote_addr(), Some(servers[which].addr()));
        }
        let name = match routes {
            Some(Family::V4) => "host.test:80::4",
            Some(Family::V6) => "host.test:80::6",
            _ => "host.test:80:",
        };
        assert_eq!(names(&handle), [name]);
        assert_eq!(handle.status().created, 1);
        at_rest(&handle).await;
    }
    assert_eq!(servers.map(|server| server.accepted()), [3, 3]);
}

#[tokio::test]
async fn node_14_no_address_of_the_family_is_a_connect_error() {
    if only_over_tcp("it is about IP addresses") {
        return;
    }
    let server = Server::ok().await;
    let resolver = {
        let addr = server.addr();
        tower::service_fn(move |_: Name| ready(Ok::<_, Infallible>(iter::once(addr))))
    };
    let connector = TcpConnector::with_resolver(resolver);
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    let v6 = || Route::new().with_family(Family::V6);
    for (url, route, why) in [
        (
            "http://host.test/".to_owned(),
            v6(),
            "host.test has no IPv6",
        ),
        (server.url("/"), v6(), "127.0.0.1 is no IPv6"),
        (
            server.url("/"),
            v6().with_local_address(LOCAL),
            "local address",
        ),
    ] {
        let error = send(&client, routed(url, route)).await.unwrap_err();
        assert!(error.is_connect() && error.is_unsent(), "{error:?}");
        assert!(format!("{error:?}").contains(why), "{error:?}");
    }
    let status = handle.status();
    assert_eq!((status.created, status.create_errors), (3, 3));
    assert!(status.idle.is_empty());
    assert_eq!(server.accepted(), 0);
    at_rest(&handle).await;
}

#[cfg(target_os = "linux")] // Elsewhere only 127.0.0.1 is ours without further ado.
#[tokio::test]
async fn node_16_two_local_addresses_are_two_pools() {
    if only_over_tcp("it is about IP addresses") {
        return;
    }
    let server = Server::ok().await;
    // As a route's address is nearer, the connector's is never used.
    let connector = TcpConnector::new().local_address(Some([127, 0, 0, 4].into()));
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    for reused in [false, true] {
        for last in [5, 6] {
            let ours = [127, 0, 0, last].into();
            let route = Route::new().with_local_address(ours);
            let answer = send(&client, routed(server.url("/"), route)).await.unwrap();
            assert_eq!(answer.info.local_addr().unwrap().ip(), ours);
            assert_eq!(answer.info.is_reused(), reused);
        }
    }
    let name = |last| format!("{}:127.0.0.{last}", server.addr());
    assert_eq!(names(&handle), [name(5), name(6)]);
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_16_a_routes_address_that_cannot_be_bound_is_an_error() {
    if only_over_tcp("it is about IP addresses") {
        return;
    }
    let server = Server::ok().await;
    let (client, handle) = agent_over(KeepAliveLayer::new(), TcpConnector::new());
    // TEST-NET-1 of RFC 5737: nobody's address.
    let route = Route::new().with_local_address([192, 0, 2, 1].into());
    let error = send(&client, routed(server.url("/"), route))
        .await
        .unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert_eq!(handle.status().create_errors, 1);
    // Without it the connector is as it was.
    fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[cfg(unix)]
mod unix {
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;
    use std::path::{Path, PathBuf};
    use std::sync::mpsc;
    use std::time::Duration;

    use futures_util::FutureExt;
    use futures_util::future::join_all;
    use http::Uri;
    use http_body_util::Full;
    use tower_keep_alive::connect::UnixConnector;
    use tower_keep_alive::{
        AgentHandle, CloseReason, Error, KeepAlive, KeepAliveLayer, extensions::Route,
    };

    use tower_service::Service;

    use super::{names, routed};
    use crate::support::agent::{Req, agent_over, at_rest, fetch, send};
    use crate::support::{Server, eventually, script};

    type Client = KeepAlive<UnixConnector, Full<bytes::Bytes>>;

    fn agent(layer: KeepAliveLayer<Full<bytes::Bytes>>) -> (Client, AgentHandle) {
        agent_over(layer, UnixConnector::new())
    }

    fn to(path: &Path, url: &str) -> Req {
        routed(url, Route::new().with_unix_path(path))
    }

    #[tokio::test]
    async fn node_15_ten_requests_in_a_row_share_one_connection() {
        let server = Server::start_unix(script::ok).await;
        let (client, handle) = agent(KeepAliveLayer::new());
        for index in 0..10 {
            let request = to(server.unix_path(), "http://localhost/");
            let answer = send(&client, request).await.unwrap();
            assert_eq!(answer.info.is_reused(), index > 0);
            assert_eq!(answer.info.remote_addr(), None);
        }
        let name = format!("localhost:80::{}", server.unix_path().display());
        assert_eq!(names(&handle).first(), Some(&name));
        assert_eq!(server.accepted(), 1);
        let heads = server.heads();
        assert!(
            heads
                .iter()
                .all(|it| it.header("host") == Some("localhost"))
        );
        let json = serde_json::to_value(handle.status()).unwrap();
        assert_eq!(json["freeSockets"][&name], 1);
        at_rest(&handle).await;
    }

    #[tokio::test]
    async fn node_15_the_host_is_localhost_where_the_request_names_none() {
        let server = Server::start_unix(script::echo).await;
        let (client, handle) = agent(KeepAliveLayer::new());
        for (url, host) in [
            ("/a?b", "localhost"),
            ("http://localhost/a?b", "localhost"),
            ("http://docker:2375/a?b", "docker:2375"),
        ] {
            let answer = send(&client, to(server.unix_path(), url)).await.unwrap();
            assert_eq!(answer.body, "/a?b");
            let heads = server.heads();
            assert_eq!(heads.last().unwrap().header("host"), Some(host), "{url}");
        }
        // As in Node, the host is in the key as well.
        assert_eq!((server.accepted(), handle.status().idle.len()), (2, 2));
        at_rest(&handle).await;
    }

    #[tokio::test]
    async fn node_15_callers_are_queued_for_each_socket_by_itself() {
        let servers = [
            Server::start_unix(script::ok).await,
            Server::start_unix(script::ok).await,
        ];
        let (client, handle) = agent(KeepAliveLayer::new().max_connections_per_host(1));
        let requests = (0..20).map(|n| to(servers[n % 2].unix_path(), "http://localhost/"));
        let answers = join_all(requests.map(|request| send(&client, request))).await;
        assert!(answers.iter().all(|answer| answer.is_ok()));
        for server in &servers {
            assert_eq!((server.accepted(), server.requests()), (1, 10));
        }
        let status = handle.status();
        assert_eq!((status.created, status.reused), (2, 18));
        assert_eq!(status.idle.len(), 2);
        at_rest(&handle).await;
    }

    /// The connector's own socket is for whoever names none.
    #[tokio::test]
    async fn node_15_a_connector_may_have_a_socket_of_its_own() {
        let [own, other] = [
            Server::start_unix(script::ok).await,
            Server::start_unix(script::ok).await,
        ];
        let connector = UnixConnector::at(own.unix_path());
        let (client, handle) = agent_over(KeepAliveLayer::new(), connector.clone());
        fetch(&client, "http://localhost/").await.unwrap();
        assert_eq!(names(&handle), ["localhost:80:"]);
        let request = to(other.unix_path(), "http://localhost/");
        send(&client, request).await.unwrap();
        assert_eq!((own.accepted(), other.accepted()), (1, 1));
        at_rest(&handle).await;

        // And it is all that an agent without routes needs.
        let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
        fetch(&client, "http://localhost/").await.unwrap();
        assert_eq!(own.accepted(), 2);
        at_rest(&handle).await;
    }

    async fn fails(route: Option<Route>) -> (Error, AgentHandle) {
        let (client, handle) = agent(KeepAliveLayer::new());
        let mut request = super::get("http://localhost/");
        if let Some(route) = route {
            request.extensions_mut().insert(route);
        }
        let error = send(&client, request).await.unwrap_err();
        assert!(error.is_unsent() && !error.is_reused());
        let status = handle.status();
        assert_eq!((status.created, status.create_errors), (1, 1));
        assert!(status.idle.is_empty());
        at_rest(&handle).await;
        (error, handle)
    }

    fn io_error(error: &Error) -> &std::io::Error {
        error.io_error().expect("the system's own")
    }

    #[tokio::test]
    async fn node_15_no_socket_and_no_listener_are_connect_errors_that_name_the_path() {
        let path = std::env::temp_dir().join(format!("nobody-{}.sock", std::process::id()));
        let route = || Some(Route::new().with_unix_path(&path));
        for (make, kind, said) in [
            (
                false,
                ErrorKind::NotFound,
                "there is no such file; start the server that makes it, or correct the path",
            ),
            (
                true,
                ErrorKind::ConnectionRefused,
                "connection refused; no server listens there now: start it",
            ),
        ] {
            if make {
                drop(UnixListener::bind(&path).unwrap());
            }
            let (error, handle) = fails(route()).await;
            assert!(error.is_connect() && !error.is_target(), "{error:?}");
            assert_eq!(io_error(&error).kind(), kind);
            assert!(io_error(&error).raw_os_error().is_some());
            let named = path.display();
            assert_eq!(
                error.to_string(),
                format!("cannot connect to {named}: {said}")
            );
            assert_eq!(handle.status().closes[&CloseReason::Connect], 1);
        }
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn node_15_a_socket_that_is_not_ours_to_use_is_a_connect_error() {
        let server = Server::start_unix(script::ok).await;
        let path = server.unix_path();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o000)).unwrap();
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            println!("not as root: to root every socket is open");
            return;
        }
        let (error, _) = fails(Some(Route::new().with_unix_path(path))).await;
        assert!(error.is_connect(), "{error:?}");
        assert_eq!(io_error(&error).kind(), ErrorKind::PermissionDenied);
    }

    #[tokio::test]
    async fn node_15_a_request_without_a_socket_is_refused() {
        let (error, _) = fails(None).await;
        assert!(error.is_target() && !error.is_connect(), "{error:?}");
        let (error, _) = fails(Some(Route::new().with_local_address(super::LOCAL))).await;
        assert!(error.is_target(), "{error:?}");
    }

    /// On a thread of its own: answers once on each of two connections; at the word, sends stray bytes on the first.
    fn straying(path: PathBuf) -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
        let listener = UnixListener::bind(path).unwrap();
        let (word, words) = mpsc::channel::<()>();
        let (done, dones) = mpsc::channel();
        std::thread::spawn(move || {
            let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            let exchange = || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut bytes = [0; 1024];
                    let read = stream.read(&mut bytes).unwrap();
                    request.extend_from_slice(&bytes[..read]);
                }
                stream.write_all(ok).unwrap();
                stream
            };
            let mut first = exchange();
            words.recv().unwrap();
            first.write_all(ok).unwrap();
            done.send(()).unwrap();
            let second = exchange();
            words.recv().ok();
            drop(second);
        });
        (word, dones)
    }

    /// The runtime has no turn to hear of the stray bytes, so only the probe sees them.
    #[tokio::test]
    async fn node_58_a_unix_socket_is_looked_at_before_a_reuse() {
        if crate::support::not_over_h2("its server speaks HTTP/1.1 itself") {
            return;
        }
        let path = std::env::temp_dir().join(format!("straying-{}.sock", std::process::id()));
        let (word, done) = straying(path.clone());
        let (client, handle) = agent(KeepAliveLayer::new());
        let request = || to(&path, "http://localhost/");
        send(&client, request()).await.unwrap();
        word.send(()).unwrap();
        done.recv().unwrap();
        let second = send(&client, request()).await.unwrap();
        assert!(!second.info.is_reused());
        assert_eq!(handle.status().stale, 1);
        std::fs::remove_file(path).unwrap();
        eventually("the first is closed", || handle.status().closed == 1).await;
        at_rest(&handle).await;
    }

    /// Where a connect by TCP would wait, one to a Unix socket that does not block fails at once.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn node_15_a_full_backlog_is_waited_for() {
        let path = std::env::temp_dir().join(format!("full-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        socket2::SockRef::from(&listener).listen(1).unwrap();
        let connects = (0..8).map(|_| {
            let mut connector = UnixConnector::at(&path);
            connector.call(Uri::from_static("http://localhost/"))
        });
        let mut connects = Box::pin(join_all(connects));
        assert!((&mut connects).now_or_never().is_none());
        let server = std::thread::spawn(move || {
            let accepts = (0..8).map(|_| listener.accept().unwrap());
            accepts.collect::<Vec<_>>()
        });
        let connected = tokio::time::timeout(Duration::from_secs(10), connects).await;
        let connected = connected.expect("there is room again");
        assert!(connected.iter().all(|connect| connect.is_ok()));
        server.join().unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
