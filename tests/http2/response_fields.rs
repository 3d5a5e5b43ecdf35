//! How large the head of a response may be.

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use tower_keep_alive::{Http2, KeepAlive, KeepAliveLayer, Protocol};

use crate::support::agent::{agent, at_rest, belongs_here, fetch, read};
use crate::support::frames::{code, encode, flag, frame, kind};
use crate::support::http2::Server;
use crate::support::only_over_tcp;

/// The largest frame that a client takes unless it says otherwise (RFC 9113 §4.2).
const LARGEST_FRAME: usize = 1 << 14;

/// A response with so many fields of 100 bytes each, which HTTP/2 counts as 132; with its status there are 42 more.
fn response(stream: u32, fields: usize) -> Vec<u8> {
    let status = (":status".to_owned(), "200".to_owned());
    last_fields(stream, std::iter::once(status).chain(many(fields)))
}

/// So many fields of 100 bytes each.
fn many(fields: usize) -> impl Iterator<Item = (String, String)> {
    let value = "v".repeat(95);
    (0..fields).map(move |number| (format!("x-{number:03}"), value.clone()))
}

/// A block of fields that ends the stream, in as many frames as it needs.
fn last_fields(stream: u32, fields: impl Iterator<Item = (String, String)>) -> Vec<u8> {
    let block = encode(fields);
    let pieces = block.chunks(LARGEST_FRAME);
    let last = pieces.len() - 1;
    let frames = pieces.enumerate().map(|(at, piece)| {
        let (kind, first) = match at {
            0 => (kind::HEADERS, flag::END_STREAM),
            _ => (kind::CONTINUATION, 0),
        };
        let end = if at == last { flag::END_HEADERS } else { 0 };
        frame(kind, first | end, stream, piece)
    });
    frames.flatten().collect()
}

/// Answers each request with as many fields as its path says.
async fn server() -> Server {
    Server::start(|mut conn| async move {
        conn.open([]).await;
        while let Some(request) = conn.request().await {
            let fields = request.path()[1..].parse().unwrap();
            conn.send(&response(request.stream, fields)).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_head_may_be_as_large_as_is_set_and_by_default_64_kib() {
    let server = server().await;
    let new = || KeepAliveLayer::<Full<Bytes>>::new().protocol(Protocol::Http2);
    let set = |bytes| new().http2(Http2::new().max_header_list_size(bytes));
    for (layer, most) in [(new(), 496), (set(128 * 1024), 992), (set(1024), 7)] {
        let (client, handle) = agent(layer);
        let url = |fields| server.url(&format!("/{fields}"));
        let answer = fetch(&client, url(most)).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        let error = fetch(&client, url(most + 1)).await.unwrap_err();
        assert_eq!(
            error.http2_reason(),
            Some(code::PROTOCOL_ERROR),
            "{error:?}"
        );
        assert!(error.is_too_large(), "{error:?}");
        let expected =
            "the head of the response has more bytes than it may: see Http2::max_header_list_size";
        assert!(error.to_string().starts_with(expected), "{error}");
        // The connection goes on.
        let next = fetch(&client, url(1)).await.unwrap();
        assert_eq!(next.info.id(), answer.info.id());
        assert_eq!(handle.status().created, 1);
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn the_number_of_fields_is_no_limit_also_for_the_client_in_one_call() {
    if only_over_tcp("the default connector is TCP's") {
        return;
    }
    let server = server().await;
    let agent = KeepAlive::builder().protocol(Protocol::Http2).build();
    belongs_here(&agent.handle());
    let url = |fields| server.url(&format!("/{fields}"));
    let answer = read(agent.get(url(496)).await.unwrap()).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert!(agent.get(url(497)).await.unwrap_err().is_too_large());
    at_rest(&agent.handle()).await;
}

#[tokio::test]
async fn trailers_whose_end_may_be_missing_are_an_error() {
    let server = Server::start(|mut conn| async move {
        conn.open([]).await;
        while let Some(request) = conn.request().await {
            let fields = request.path()[1..].parse().unwrap();
            conn.headers(request.stream, &[(":status", "200")], false)
                .await;
            conn.data(request.stream, b"body", false).await;
            conn.send(&last_fields(request.stream, many(fields))).await;
        }
    })
    .await;
    let layer = KeepAliveLayer::<Full<Bytes>>::new().protocol(Protocol::Http2);
    let layer = layer.http2(Http2::new().max_header_list_size(1024));
    let (client, handle) = agent(layer);
    let url = |fields| server.url(&format!("/{fields}"));
    let answer = fetch(&client, url(4)).await.unwrap();
    assert_eq!(answer.body, "body");
    // More than half of the limit as they are sent; more than the limit.
    for fields in [5, 8] {
        let error = fetch(&client, url(fields)).await.unwrap_err();
        assert!(error.is_too_large(), "{fields}: {error:?}");
        assert_eq!(error.http2_reason(), Some(code::PROTOCOL_ERROR));
    }
    let next = fetch(&client, url(1)).await.unwrap();
    assert_eq!(next.info.id(), answer.info.id(), "the connection goes on");
    // More than four times the limit.
    let error = fetch(&client, url(40)).await.unwrap_err();
    assert!(error.is_too_large(), "{error:?}");
    at_rest(&handle).await;
}
