//! The scripted HTTP/2 server itself, by a client that is not ours.

use std::time::Duration;

use crate::support::frames::{Behaviour, GoAway, code, flag, kind, setting};
use crate::support::http2::Server;
use crate::support::{Sockets, eventually};
use bytes::Bytes;
use h2::Reason;
use h2::client::{Connection, SendRequest};
use http::{HeaderMap, HeaderValue, Request, Response};
use tower::ServiceExt;

type Client = SendRequest<Bytes>;

/// A connection of h2's own, which a task drives.
async fn connect(server: &Server) -> Client {
    let uri: http::Uri = server.url("/").parse().unwrap();
    let io = Sockets.oneshot(uri).await.unwrap();
    let (client, connection): (Client, Connection<_>) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(async move {
        connection.await.ok();
    });
    client
}

fn get(server: &Server, path: &str) -> Request<()> {
    Request::get(server.url(path)).body(()).unwrap()
}

/// Sends a request without a body: the body of the response.
async fn ask(client: &Client, request: Request<()>) -> Result<Vec<u8>, h2::Error> {
    let mut client = client.clone().ready().await?;
    let (response, _) = client.send_request(request, true)?;
    read(response.await?).await
}

async fn read(response: Response<h2::RecvStream>) -> Result<Vec<u8>, h2::Error> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

#[tokio::test]
async fn fields_are_read_however_they_are_compressed() {
    let server = Server::behaving(Behaviour::default()).await;
    let client = connect(&server).await;
    let every_byte: Vec<u8> = (0x20..0x7f).collect();
    let long = "0123456789abcdef".repeat(3_000);
    for _ in 0..3 {
        let mut request = get(&server, "/compressed?and=not");
        let fields = request.headers_mut();
        fields.insert("x-all", HeaderValue::from_bytes(&every_byte).unwrap());
        fields.insert("x-long", HeaderValue::from_str(&long).unwrap());
        let mut secret = HeaderValue::from_static("never indexed");
        secret.set_sensitive(true);
        fields.insert("x-secret", secret);
        assert_eq!(ask(&client, request).await.unwrap(), b"/compressed?and=not");
    }
    for request in server.log.requests() {
        assert_eq!(request.method(), "GET");
        assert_eq!(request.field(":scheme"), Some("http"));
        let all = request.field("x-all").unwrap();
        assert_eq!(all.as_bytes(), every_byte);
        assert_eq!(request.field("x-long"), Some(&*long));
        assert_eq!(request.field("x-secret"), Some("never indexed"));
        assert!(request.is_executed());
    }
    let continued = server.log.seen(|seen| seen.frames[&kind::CONTINUATION]);
    assert!(continued > 0, "a long head comes in several frames");
}

#[tokio::test]
async fn a_body_and_its_trailers_come_whole_and_windows_open_again() {
    let server = Server::behaving(Behaviour::default()).await;
    let mut client = connect(&server).await.ready().await.unwrap();
    let upload = Request::post(server.url("/upload")).body(()).unwrap();
    let (response, mut body) = client.send_request(upload, false).unwrap();
    // More than a window of a stream, and of the connection.
    let mut left = 300_000;
    while left > 0 {
        body.reserve_capacity(left);
        let room = std::future::poll_fn(|cx| body.poll_capacity(cx));
        let room = room.await.unwrap().unwrap().min(left);
        body.send_data(vec![b'u'; room].into(), false).unwrap();
        left -= room;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    body.send_trailers(trailers).unwrap();
    assert_eq!(read(response.await.unwrap()).await.unwrap(), b"/upload");
    let request = &server.log.requests()[0];
    assert_eq!(request.body, vec![b'u'; 300_000]);
    assert_eq!(request.trailers, [("x-sum".into(), "1".into())]);
}

#[tokio::test]
async fn a_script_says_frame_by_frame_what_is_sent() {
    let server = Server::start(|mut conn| async move {
        assert!(conn.open([(setting::MAX_CONCURRENT_STREAMS, 1)]).await);
        let first = conn.request().await.unwrap();
        conn.ping(*b"hallo du").await;
        let status = [(":status", "200"), ("x-by", "hand")];
        conn.headers(first.stream, &status, false).await;
        conn.data(first.stream, b"in two ", false).await;
        // With two bytes of padding.
        let padded = b"\x02parts\0\0";
        let flags = flag::PADDED | flag::END_STREAM;
        conn.raw(kind::DATA, flags, first.stream, padded).await;
        let second = conn.request().await.unwrap();
        conn.reset(second.stream, code::INTERNAL_ERROR).await;
        let third = conn.request().await.unwrap();
        conn.go_away(second.stream, code::ENHANCE_YOUR_CALM, b"too much")
            .await;
        assert!(conn.log().requests()[2].is_refused, "{third:?}");
        conn.closed().await;
    })
    .await;
    let client = connect(&server).await;
    assert_eq!(
        ask(&client, get(&server, "/1")).await.unwrap(),
        b"in two parts"
    );
    let reset = ask(&client, get(&server, "/2")).await.unwrap_err();
    assert_eq!(reset.reason(), Some(Reason::INTERNAL_ERROR));
    let refused = ask(&client, get(&server, "/3")).await.unwrap_err();
    assert!(refused.is_go_away() && refused.is_remote(), "{refused:?}");
    assert_eq!(refused.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    drop(client);
    eventually("the client closes", || server.open() == 0).await;
    let executed = server.log.executed("GET");
    assert_eq!(executed.len(), 2, "{executed:?}");
    let pongs = server.log.seen(|seen| seen.frames[&kind::PING]);
    assert_eq!(pongs, 1);
}

#[tokio::test]
async fn streams_are_counted_against_the_limit_that_binds() {
    let server = Server::start(|mut conn| async move {
        assert!(conn.preface().await);
        conn.count_beyond(2);
        let mut first = Vec::new();
        for _ in 0..3 {
            first.push(conn.request().await.unwrap().stream);
        }
        conn.settings([(setting::MAX_CONCURRENT_STREAMS, 2)]).await;
        conn.settings([(setting::MAX_CONCURRENT_STREAMS, 1)]).await;
        for stream in first {
            conn.respond(stream, 200, b"").await;
        }
        while let Some(request) = conn.request().await {
            conn.respond(request.stream, 200, b"").await;
        }
    })
    .await;
    let client = connect(&server).await;
    let ask = |path| ask(&client, get(&server, path));
    // h2 takes a hundred for granted until it has heard of a limit.
    let (a, b, c) = tokio::join!(ask("/1"), ask("/2"), ask("/3"));
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    let (a, b, c) = tokio::join!(ask("/4"), ask("/5"), ask("/6"));
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    server.log.seen(|seen| {
        assert_eq!((seen.most_open, seen.most_open_on_one), (3, 3));
        assert_eq!((seen.beyond_limit, seen.open), (1, 0));
        assert_eq!(seen.connections, 1);
    });
}

#[tokio::test]
async fn what_a_server_has_not_looked_at_was_not_executed() {
    let server = Server::behaving(Behaviour {
        delay: Duration::from_millis(5),
        go_away: Some((10, GoAway::Back(4))),
        refuse_every: Some(5),
        ..Behaviour::default()
    })
    .await;
    let client = connect(&server).await;
    let paths: Vec<_> = (0..10).map(|it| format!("/{it}")).collect();
    let all = paths.iter().map(|path| ask(&client, get(&server, path)));
    let all = futures_util::future::join_all(all).await;
    // Streams 1 to 12 are named, and the fifth was refused.
    let answered = all.iter().filter(|it| it.is_ok()).count();
    assert_eq!(answered, 5, "{all:?}");
    assert_eq!(server.log.executed("GET").len(), 5);
    assert_eq!(server.log.executed_twice("GET"), 0);
    for (path, answer) in paths.iter().zip(all) {
        let is_executed = server.log.executed("GET").contains_key(path);
        assert_eq!(is_executed, answer.is_ok());
    }
}

#[tokio::test]
async fn a_silent_server_reads_and_answers_nothing() {
    let server = Server::behaving(Behaviour {
        silent_after: Some(2),
        ..Behaviour::default()
    })
    .await;
    let client = connect(&server).await;
    assert!(ask(&client, get(&server, "/1")).await.is_ok());
    let waits = ask(&client, get(&server, "/2"));
    let waited = tokio::time::timeout(Duration::from_millis(50), waits).await;
    assert!(waited.is_err(), "{waited:?}");
    eventually("what was given up is reset", || {
        server
            .log
            .seen(|seen| seen.resets == [(0, 3, code::CANCEL)])
    })
    .await;
    // The next connection is as good as new.
    let client = connect(&server).await;
    assert!(ask(&client, get(&server, "/3")).await.is_ok());
}
