//! What `docs/common-tasks.md` promises of layers that are not this crate's.

#[path = "../../tests/support/mod.rs"]
mod support;

use http::{Request, Response};
use support::agent::{at_rest, belongs_here};
use support::{Conn, Server};
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt};
use tower_http::decompression::DecompressionLayer;
use tower_keep_alive::{Body, Error, KeepAlive, RequestBody};

/// `printf hello | gzip -n`
const HELLO_IN_GZIP: &[u8] =
    b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\xcbH\xcd\xc9\xc9\x07\0\x86\xa6\x106\x05\0\0\0";

#[tokio::test]
async fn a_decompressed_body_is_a_body_again_and_knows_its_connection() {
    let server = Server::start(|mut conn: Conn| async move {
        while let Some(head) = conn.request().await {
            let sent = match head.target.as_str() {
                "/" => HELLO_IN_GZIP,
                _ => b"not what gzip writes, twenty-five"[..25].as_ref(),
            };
            conn.send("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 25\r\n\r\n")
                .await;
            conn.send(sent).await;
        }
    })
    .await;
    let agent = KeepAlive::new();
    belongs_here(&agent.handle());
    let client: BoxCloneSyncService<Request<RequestBody>, Response<Body>, Error> =
        BoxCloneSyncService::new(
            ServiceBuilder::new()
                .map_response(Body::from_response)
                .layer(DecompressionLayer::new())
                .service(agent.clone()),
        );
    let get = |path: &str| {
        let request = Request::get(server.url(path)).body(().into()).unwrap();
        client.clone().oneshot(request)
    };
    for reused in [false, true] {
        let body = get("/").await.unwrap().into_body();
        assert_eq!(body.connection().is_reused(), reused);
        assert_eq!(body.text(5).await.unwrap(), "hello");
    }
    let body = get("/other").await.unwrap().into_body();
    let error = body.text(1024).await.unwrap_err();
    assert!(error.connection().unwrap().is_reused(), "{error:?}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("gzip"), "{source}");
    assert_eq!(server.accepted(), 1);
    assert_eq!(server.heads()[0].header("accept-encoding"), Some("gzip"));
    at_rest(&agent.handle()).await;
}
