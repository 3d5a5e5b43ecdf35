//! What a server sends before its response, against the agent and against hyper alone: the agent accepts exactly those
//! responses that hyper accepts behind no more interim ones (1xx) than the limit.
#![no_main]

use std::future::ready;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tower::{Layer, ServiceExt, service_fn};
use tower_keep_alive::{KeepAliveLayer, connect::Destination};

/// On paused time: whoever waits for longer than this waits for ever.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// What the first three bytes of the input say; the rest is what the server writes before it closes.
#[derive(Clone)]
struct Script {
    max: usize,
    pieces: usize,
    http1: Builder,
    bytes: Bytes,
}

impl Script {
    fn read(data: &[u8]) -> Option<Self> {
        let ([max, pieces, lenient], bytes) = data.split_first_chunk()?;
        let mut http1 = Builder::new();
        http1
            .allow_obsolete_multiline_headers_in_responses(lenient & 1 != 0)
            .ignore_invalid_headers_in_responses(lenient & 2 != 0)
            .allow_spaces_after_header_name_in_responses(lenient & 4 != 0);
        Some(Self {
            max: usize::from(max % 8),
            pieces: if *pieces == 0 {
                usize::MAX
            } else {
                (*pieces).into()
            },
            http1,
            bytes: Bytes::copy_from_slice(bytes),
        })
    }

    /// The other end of a connection, on which the server waits for a request and then writes.
    fn connect(&self) -> DuplexStream {
        let (here, mut there) = duplex(1 << 16);
        let (bytes, pieces) = (self.bytes.clone(), self.pieces);
        tokio::spawn(async move {
            if there.read(&mut [0; 1024]).await.is_ok() {
                for piece in bytes.chunks(pieces) {
                    if there.write_all(piece).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
        here
    }
}

fn request() -> Request<Empty<Bytes>> {
    Request::get("http://host/")
        .body(Empty::new())
        .expect("it is one")
}

/// The status that hyper alone comes to, and how many interim responses it skipped before.
async fn reference(script: &Script) -> (Option<StatusCode>, usize) {
    let io = TokioIo::new(script.connect());
    let (mut sender, connection) = script.http1.handshake(io).await.expect("it does no I/O");
    tokio::spawn(connection);
    let skipped = Arc::new(AtomicUsize::new(0));
    let mut request = request();
    let count = skipped.clone();
    hyper::ext::on_informational(&mut request, move |_| {
        count.fetch_add(1, SeqCst);
    });
    let response = tokio::time::timeout(FOR_EVER, sender.send_request(request)).await;
    let response = response.expect("hyper does not end");
    (response.ok().map(|it| it.status()), skipped.load(SeqCst))
}

async fn run(script: Script) {
    let (status, skipped) = reference(&script).await;
    let layer = KeepAliveLayer::new()
        .http1(script.http1.clone())
        .max_interim_responses(script.max);
    let handle = layer.handle();
    let max = script.max;
    let connector = service_fn(move |_: Destination| ready(Ok::<_, io::Error>(script.connect())));
    let client = layer.layer(connector);
    let response = tokio::time::timeout(FOR_EVER, client.oneshot(request())).await;
    let response = response.expect("the request does not end");
    let expected = status.filter(|_| skipped <= max);
    let got = response.as_ref().ok().map(|it| it.status());
    assert_eq!(
        got,
        expected,
        "{skipped} of {max}: {:?}",
        response.as_ref().err()
    );
    drop(response);
    let gone = tokio::time::timeout(FOR_EVER, handle.drain()).await;
    gone.expect("connections are left behind");
}

fuzz_target!(|data: &[u8]| {
    let Some(script) = Script::read(data) else {
        return;
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("it needs nothing of the system")
        .block_on(run(script));
});
