//! HTTP/2 with servers that are known to speak it, and nothing is negotiated.

use futures_util::future::join_all;
use http::{Request, Uri, Version};
use http_body_util::Full;
#[cfg(unix)]
use tower_keep_alive::connect::UnixConnector;
use tower_keep_alive::{
    KeepAliveLayer, Key, Protocol,
    custom::Target,
    extensions::{OneShot, Route},
    status::ConnectionState,
};

#[cfg(unix)]
use crate::support::agent::agent_over;
use crate::support::agent::{Req, agent, at_rest, fetch, get, post, send};
#[cfg(unix)]
use crate::support::frames::{self, Log};
use crate::support::frames::{Behaviour, code, setting};
use crate::support::{Server, eventually, http2};

fn layer(protocol: Protocol) -> KeepAliveLayer<Full<bytes::Bytes>> {
    KeepAliveLayer::new().protocol(protocol)
}

fn with_version(url: String, version: Version) -> Req {
    let request = Request::get(url).version(version);
    request.body(Full::default()).unwrap()
}

#[tokio::test]
async fn requests_share_a_connection() {
    let server = http2::Server::behaving(Behaviour::default()).await;
    let (client, handle) = agent(layer(Protocol::Http2));
    let first = fetch(&client, server.url("/first")).await.unwrap();
    assert_eq!(first.body, "/first");
    assert_eq!(first.info.version(), Version::HTTP_2);
    let others = (0..50).map(|at| fetch(&client, server.url(&format!("/{at}"))));
    for (at, answer) in join_all(others).await.into_iter().enumerate() {
        let answer = answer.unwrap();
        assert_eq!(answer.body, format!("/{at}"));
        assert_eq!(answer.info.id(), first.info.id());
    }
    assert_eq!(server.log.seen(|it| it.connections), 1);
    assert_eq!(handle.status().created, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_crowd_makes_one_connection_where_nothing_is_known() {
    let server = http2::Server::behaving(Behaviour::default()).await;
    let (client, handle) = agent(layer(Protocol::Http2));
    let all = (0..100).map(|_| fetch(&client, server.url("/")));
    for answer in join_all(all).await {
        assert_eq!(answer.unwrap().body, "/");
    }
    assert_eq!(handle.status().created, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_request_may_ask_for_it_and_a_route_may_force_it() {
    let server = http2::Server::behaving(Behaviour::default()).await;
    let (client, handle) = agent(layer(Protocol::Auto));
    let asked = with_version(server.url("/asked"), Version::HTTP_2);
    assert_eq!(send(&client, asked).await.unwrap().body, "/asked");
    let mut forced = get(server.url("/forced"));
    let route = Route::new().with_protocol(Protocol::Http2);
    forced.extensions_mut().insert(route);
    let forced = send(&client, forced).await.unwrap();
    assert_eq!((&*forced.body, forced.info.is_reused()), ("/forced", true));
    assert!(
        forced
            .info
            .key()
            .unwrap()
            .to_string()
            .ends_with(":protocol=http2")
    );
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_request_that_asks_for_it_where_it_cannot_be_had_is_refused() {
    let server = Server::ok().await;
    let (client, handle) = agent(layer(Protocol::Http1));
    let asked = with_version(server.url("/"), Version::HTTP_2);
    let error = send(&client, asked).await.unwrap_err();
    assert!(
        error.is_target() && error.is_protocol() && error.is_unsent(),
        "{error:?}"
    );
    assert!(error.to_string().contains("HTTP/2"), "{error}");
    // What every request says unless it says otherwise is no wish.
    let plain = with_version(server.url("/"), Version::HTTP_11);
    assert_eq!(
        send(&client, plain).await.unwrap().info.version(),
        Version::HTTP_11
    );
    assert_eq!(handle.status().created, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_server_that_does_not_speak_it_is_named_with_what_to_do() {
    let server = Server::start(|mut conn| async move {
        conn.read().await;
        conn.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            .await;
        conn.closed().await;
    })
    .await;
    for (protocol, version) in [
        (Protocol::Auto, Version::HTTP_2),
        (Protocol::Http2, Version::HTTP_11),
    ] {
        let (client, handle) = agent(layer(protocol));
        let asked = with_version(server.url("/"), version);
        let error = send(&client, asked).await.unwrap_err();
        assert!(error.is_protocol() && error.is_permanent(), "{error:?}");
        assert!(!error.is_connect() && !error.is_target(), "{error:?}");
        let said = error.to_string();
        let words = "the server does not seem to speak HTTP/2 without negotiation: send the request with Version::HTTP_11";
        assert!(said.starts_with(words), "{said}");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(source, "the server speaks HTTP/1 and not HTTP/2");
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn a_body_goes_and_comes() {
    let server = http2::Server::behaving(Behaviour::default()).await;
    let (client, handle) = agent(layer(Protocol::Http2));
    let body = vec![b'x'; 100_000];
    send(&client, post(server.url("/"), body.clone()))
        .await
        .unwrap();
    let requests = server.log.requests();
    assert_eq!(requests[0].body, body);
    assert_eq!(requests[0].field("content-length"), Some("100000"));
    at_rest(&handle).await;
}

#[cfg(unix)]
#[tokio::test]
async fn over_a_unix_socket_requests_share_a_connection_too() {
    let log = Log::default();
    let kept = log.clone();
    let server = Server::start_unix(move |conn| {
        let log = log.clone();
        async move {
            let conn = frames::Conn::new(conn, &log);
            Behaviour::default().serve(conn).await;
        }
    })
    .await;
    let connector = UnixConnector::at(server.unix_path());
    let (client, handle) = agent_over(layer(Protocol::Http2), connector);
    let posts = (0..20).map(|at| send(&client, post(format!("http://app.test/{at}"), "x")));
    for (at, answer) in join_all(posts).await.into_iter().enumerate() {
        let answer = answer.unwrap();
        assert_eq!(answer.body, format!("/{at}"));
        assert_eq!(answer.info.version(), Version::HTTP_2);
    }
    let requests = kept.requests();
    assert!(
        requests
            .iter()
            .all(|it| it.field(":authority") == Some("app.test"))
    );
    assert_eq!((requests.len(), kept.seen(|it| it.connections)), (20, 1));
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_request_on_its_own_gets_a_connection_of_its_own() {
    let server = http2::Server::behaving(Behaviour::default()).await;
    let (client, handle) = agent(layer(Protocol::Http2));
    fetch(&client, server.url("/")).await.unwrap();
    let mut alone = get(server.url("/alone"));
    alone.extensions_mut().insert(OneShot);
    let alone = send(&client, alone).await.unwrap();
    assert_eq!((&*alone.body, alone.info.is_reused()), ("/alone", false));
    assert_eq!(server.log.requests()[1].field("connection"), None);
    at_rest(&handle).await;
    assert_eq!((handle.status().created, handle.status().closed), (2, 1));
}

#[tokio::test]
async fn without_keep_alive_each_request_has_a_connection() {
    let server = http2::Server::behaving(Behaviour::default()).await;
    let (client, handle) = agent(layer(Protocol::Http2).keep_alive(false));
    for _ in 0..3 {
        assert!(
            !fetch(&client, server.url("/"))
                .await
                .unwrap()
                .info
                .is_reused()
        );
    }
    at_rest(&handle).await;
    assert_eq!((handle.status().created, handle.status().closed), (3, 3));
}

#[tokio::test]
async fn the_connections_of_a_key_show_their_streams_and_what_they_carry() {
    let server = http2::Server::start(|mut conn: http2::Conn| async move {
        conn.open([(setting::MAX_CONCURRENT_STREAMS, 7)]).await;
        let mut streams = Vec::new();
        while let Some(request) = conn.request().await {
            streams.push(request.stream);
            if streams.len() == 3 {
                conn.go_away(request.stream, code::NO_ERROR, b"").await;
                conn.ping([0; 8]).await;
            }
            if streams.len() == 3 && conn.index == 0 {
                let settle = std::time::Duration::from_millis(20);
                tokio::time::sleep(settle).await;
                for stream in streams.drain(..) {
                    conn.respond(stream, 200, b"").await;
                }
            }
        }
    })
    .await;
    let (client, handle) = agent(layer(Protocol::Http2));
    let url = server.url("/");
    let key = Key::from(url.parse::<Uri>().unwrap().key());
    let one = fetch(&client, &url);
    let two = async {
        eventually("one is under way", || {
            let all = handle.connections(&key);
            all.iter()
                .any(|it| (it.streams, it.capacity) == (1, Some(7)))
        })
        .await;
        tokio::join!(fetch(&client, &url), fetch(&client, &url), async {
            eventually("it drains", || {
                let all = handle.connections(&key);
                all.iter()
                    .any(|it| (it.state, it.streams) == (ConnectionState::Draining, 3))
            })
            .await;
        })
    };
    let (one, (two, three, ())) = tokio::join!(one, two);
    for answer in [one, two, three] {
        assert_eq!(answer.unwrap().status, 200);
    }
    at_rest(&handle).await;
    assert!(handle.connections(&key).is_empty());
}
