//! Requests that axum has received, with what it and a layer attached to them.

use std::net::SocketAddr;

use axum::error_handling::HandleErrorLayer;
use axum::http::StatusCode;
use axum::{Extension, Router, body, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceBuilder;
use tower_keep_alive::forward::ForwardLayer;
use tower_keep_alive::{Error, KeepAliveLayer};

use super::resetting::Resetting;
use crate::support::agent::{at_rest, belongs_here};
use crate::support::{Server, script};

async fn refusal(error: Error) -> (StatusCode, String) {
    (StatusCode::BAD_GATEWAY, format!("{error:?}"))
}

async fn ask(front: SocketAddr, request: &str) -> String {
    let mut caller = TcpStream::connect(front).await.unwrap();
    caller.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    caller.read_to_string(&mut response).await.unwrap();
    response
}

#[tokio::test]
async fn a_forwarded_request_whose_first_write_meets_a_reset_goes_elsewhere() {
    for (framing, content) in [
        ("", ""),
        ("Content-Length: 7\r\n", "content"),
        (
            "Transfer-Encoding: chunked\r\n",
            "3\r\ncon\r\n4\r\ntent\r\n0\r\n\r\n",
        ),
    ] {
        for method in ["GET", "POST", "PATCH", "DELETE"] {
            let upstream = Server::start_tcp(script::ok).await;
            let connector = Resetting::then(&upstream, true);
            let agent = KeepAliveLayer::<body::Body>::new();
            let handle = agent.handle();
            belongs_here(&handle);
            let service = ServiceBuilder::new()
                .layer(HandleErrorLayer::new(refusal))
                .layer(ForwardLayer::to(upstream.url("/").as_str()).unwrap())
                .layer(agent)
                .service(connector.clone());
            let app = Router::new()
                .fallback_service(service)
                .layer(Extension("the caller's own"))
                .into_make_service_with_connect_info::<SocketAddr>();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let front = listener.local_addr().unwrap();
            let serving = tokio::spawn(async move { serve(listener, app).await.unwrap() });

            let rest = "HTTP/1.1\r\nHost: front.test\r\nConnection: close\r\n";
            let warm = ask(front, &format!("GET / {rest}\r\n")).await;
            assert!(warm.ends_with("\r\n\r\nwarm"), "{warm}");
            let request = format!("{method} /a {rest}{framing}\r\n{content}");
            let answer = ask(front, &request).await;
            assert!(answer.ends_with("\r\n\r\nok"), "{request}: {answer}");

            assert_eq!((connector.made(), upstream.requests()), (2, 1), "{request}");
            let head = upstream.heads().pop().unwrap();
            assert_eq!((&*head.method, &*head.target), (method, "/a"));
            let expected = if content.is_empty() { "" } else { "content" };
            assert_eq!(String::from_utf8(head.body).unwrap(), expected, "{request}");
            serving.abort();
            serving.await.ok();
            at_rest(&handle).await;
        }
    }
}
