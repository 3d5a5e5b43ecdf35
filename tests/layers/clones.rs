//! What a copy of a layer keeps of it. What can be printed is compared in the layer's own unit tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper::client::conn::http1::Builder;
use tower::{Layer, Service};
use tower_keep_alive::connect::Probe;
use tower_keep_alive::{KeepAliveLayer, custom::Liveness, layers::HandshakeLayer};

use crate::support::agent::{agent_over, at_rest, fetch, get};
use crate::support::{Server, Sockets};

type Transport = <Sockets as Service<Uri>>::Response;

/// Looks at transports, and counts how often it does.
fn look(looks: &Arc<AtomicUsize>) -> impl Fn(&Transport) -> Probe + Send + Sync + 'static + use<> {
    let looks = looks.clone();
    move |_| {
        let looks = looks.clone();
        Probe::new(move || {
            looks.fetch_add(1, Ordering::SeqCst);
            Liveness::Open
        })
    }
}

fn title_case() -> Builder {
    let mut http1 = Builder::new();
    http1.title_case_headers(true);
    http1
}

/// Answers with the head that it read, as it is on the wire, in however many pieces it comes.
async fn mirror() -> Server {
    Server::start(|mut conn| async move {
        let mut head = Vec::new();
        loop {
            let read = conn.read().await;
            if read.is_empty() {
                return;
            }
            head.extend(read);
            if head.ends_with(b"\r\n\r\n") {
                conn.respond(&String::from_utf8_lossy(&head)).await;
                head.clear();
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_clone_of_the_bundle_keeps_http1_settings_and_the_look_at_transports() {
    let looks = Arc::default();
    let server = mirror().await;
    let layer = KeepAliveLayer::<Full<Bytes>>::new()
        .http1(title_case())
        .probe_with(look(&looks));
    let (client, handle) = agent_over(layer.clone(), Sockets);
    for times in 0..2 {
        let answer = fetch(&client, server.url("/")).await.unwrap();
        assert!(answer.body.contains("Host: "), "{}", answer.body);
        assert_eq!(looks.load(Ordering::SeqCst), times);
    }
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_clone_of_the_handshake_keeps_its_settings() {
    let looks = Arc::default();
    let server = mirror().await;
    let layer = HandshakeLayer::<Full<Bytes>>::new()
        .http1(title_case())
        .max_interim_responses(7)
        .max_response_fields(77)
        .probe_with(look(&looks));
    assert_eq!(format!("{:?}", layer.clone()), format!("{layer:?}"));
    let service = layer.clone().layer(Sockets);
    let uri: Uri = server.url("/").parse().unwrap();
    let conn = tower::ServiceExt::oneshot(service.clone(), uri).await;
    let mut conn = conn.unwrap();
    assert_eq!(
        tower_keep_alive::custom::Poolable::probe(&mut conn),
        Liveness::Open
    );
    assert_eq!(looks.load(Ordering::SeqCst), 1);
    let mut request = get("/");
    request
        .headers_mut()
        .insert("host", http::HeaderValue::from_static("h"));
    let response = conn.call(request).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body()).await;
    let text = body.unwrap().to_bytes();
    assert!(text.windows(6).any(|it| it == b"Host: "), "{text:?}");
}
