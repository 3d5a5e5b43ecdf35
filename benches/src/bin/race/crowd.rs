//! Callers that think between their requests for about as long as the server waits.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use tokio::time::{sleep, timeout};
use tower_keep_alive::BoxError;

use crate::peer::Peer;
use crate::server::Server;

pub(crate) const CALLERS: usize = 50;

/// In microseconds.
const THINKS: std::ops::RangeInclusive<u64> = 3_000..=9_000;

/// Far longer than any answer takes: what has none by then has been forgotten.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends `total` requests; what failed, by id. An answer to another request is a failure, too.
pub(crate) async fn send<P: Peer>(
    peer: &P,
    server: &Server,
    method: Method,
    total: usize,
) -> Vec<(usize, BoxError)> {
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let ids = (caller..total).step_by(CALLERS);
            let requests: Vec<_> = ids
                .map(|id| (id, request(&method, server.url(id))))
                .collect();
            let peer = peer.clone();
            tokio::spawn(async move {
                let mut failures = Vec::new();
                for (id, request) in requests {
                    sleep(Duration::from_micros(fastrand::u64(THINKS))).await;
                    match timeout(PATIENCE, peer.send(request)).await {
                        Ok(Ok(body)) if body == id.to_string() => {}
                        Ok(Ok(body)) => failures.push((id, format!("got {body:?}").into())),
                        Ok(Err(error)) => failures.push((id, error)),
                        Err(elapsed) => failures.push((id, elapsed.into())),
                    }
                }
                failures
            })
        })
        .collect();
    let mut failures = Vec::new();
    for caller in callers {
        failures.extend(caller.await.expect("callers do not panic"));
    }
    failures
}

pub(crate) fn request(method: &Method, url: String) -> Request<Bytes> {
    let body = match *method {
        Method::POST => Bytes::from_static(b"once only"),
        _ => Bytes::new(),
    };
    let request = Request::builder().method(method).uri(url).body(body);
    request.expect("a valid request")
}
