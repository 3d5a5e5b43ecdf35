//! How large the head of a response may be.

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use tower_keep_alive::{Http2, KeepAliveLayer, Protocol};

use crate::support::agent::{agent, at_rest, fetch};
use crate::support::frames::{code, encode, flag, frame, kind};
use crate::support::http2::Server;

/// The largest frame that a client takes unless it says otherwise (RFC 9113 §4.2).
const LARGEST_FRAME: usize = 1 << 14;

/// A response with so many fields of 100 bytes each, which HTTP/2 counts as 132; with its status there are 42 more.
fn response(stream: u32, fields: usize) -> Vec<u8> {
    let value = "v".repeat(95);
    let fields = (0..fields).map(|number| (format!("x-{number:03}"), value.clone()));
    let status = (":status".to_owned(), "200".to_owned());
    let block = encode(std::iter::once(status).chain(fields));
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

#[tokio::test]
async fn a_head_may_be_as_large_as_is_set_and_by_default_64_kib() {
    // Answers each request with as many fields as its path says.
    let server = Server::start(|mut conn| async move {
        conn.open([]).await;
        while let Some(request) = conn.request().await {
            let fields = request.path()[1..].parse().unwrap();
            conn.send(&response(request.stream, fields)).await;
        }
    })
    .await;
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
        // The connection goes on.
        let next = fetch(&client, url(1)).await.unwrap();
        assert_eq!(next.info.id(), answer.info.id());
        assert_eq!(handle.status().created, 1);
        at_rest(&handle).await;
    }
}
