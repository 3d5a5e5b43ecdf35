//! A server that writes whatever it likes, against the agent: every request comes to an end, a connection is used again
//! only after exactly one response, and nothing is left behind.
#![no_main]

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::TRANSFER_ENCODING;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt, Limited};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tower::service_fn;
use tower_keep_alive::{KeepAlive, KeepAliveLayer, connect::Destination};

/// On paused time: whoever waits for longer than this waits for ever.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// What a server does, told by the first two bytes of the input; the rest is what it writes.
struct Script<'a> {
    method: Method,
    /// It closes when it has written.
    closes: bool,
    /// It writes in pieces of so many bytes, with a pause between them.
    pieces: usize,
    /// What is left of the body is not asked for.
    drops: bool,
    /// The request has a body that pauses for long: whatever is answered comes early.
    uploads: bool,
    bytes: &'a [u8],
}

impl<'a> Script<'a> {
    fn read(data: &'a [u8]) -> Option<Self> {
        let ([how, pieces], bytes) = data.split_first_chunk()?;
        Some(Self {
            method: [Method::GET, Method::HEAD, Method::POST, Method::OPTIONS]
                [usize::from(how >> 4 & 3)]
            .clone(),
            closes: how & 1 != 0,
            drops: how & 2 != 0,
            uploads: how & 4 != 0,
            pieces: if *pieces == 0 {
                usize::MAX
            } else {
                (*pieces).into()
            },
            bytes,
        })
    }
}

/// How long the response at the beginning is, where that is beyond doubt: one head that everybody reads the same, and a
/// length.
fn plain_length(method: &Method, bytes: &[u8]) -> Option<usize> {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(bytes).ok()? else {
        return None;
    };
    let code = head.code?;
    if head.version? != 1 || code < 200 {
        return None;
    }
    let named = |name: &'static str| {
        head.headers
            .iter()
            .filter(move |it| it.name.eq_ignore_ascii_case(name))
    };
    if named("transfer-encoding").next().is_some() {
        return None;
    }
    if *method == Method::HEAD || code == 204 || code == 304 {
        return Some(length);
    }
    let mut lengths = named("content-length");
    let text = str::from_utf8(lengths.next()?.value).ok()?;
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || lengths.next().is_some() {
        return None;
    }
    length.checked_add(text.parse().ok()?)
}

/// Answers the first request with the script's bytes, and any other of the same connection with an empty response of its
/// own; says how many came.
async fn serve(
    mut io: DuplexStream,
    bytes: Vec<u8>,
    pieces: usize,
    closes: bool,
    came: Arc<AtomicUsize>,
) {
    let mut first = true;
    let mut head = Vec::new();
    loop {
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        head.clear();
        came.fetch_add(1, SeqCst);
        if !first {
            let _ = io
                .write_all(b"HTTP/1.1 204 No Content\r\nX-Own: 1\r\n\r\n")
                .await;
            continue;
        }
        first = false;
        for piece in bytes.chunks(pieces.max(1)) {
            if io.write_all(piece).await.is_err() {
                return;
            }
            if pieces < bytes.len() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        if closes {
            return;
        }
    }
}

/// A body that has begun and is given up only long after any limit of silence, or none. Its caller's pause is not the server's
/// silence, and so nobody ends the request before that if nothing is answered.
struct Upload {
    begun: Option<bool>,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// How long an upload pauses; less than [`FOR_EVER`].
const PAUSE: Duration = Duration::from_secs(1000);

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        match &mut this.begun {
            None => Poll::Ready(None),
            Some(true) => {
                let pause = || Box::pin(tokio::time::sleep(PAUSE));
                let pause = this.pause.get_or_insert_with(pause);
                let given_up = || io::Error::other("the upload is given up");
                pause.as_mut().poll(cx).map(|()| Some(Err(given_up())))
            }
            Some(begun) => {
                *begun = true;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"begun")))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.begun.is_none()
    }
}

async fn ask<M>(
    client: &KeepAlive<M, Upload>,
    method: &Method,
    drops: bool,
    uploads: bool,
) -> Result<Option<u64>, ()>
where
    KeepAlive<M, Upload>: Clone
        + tower::Service<
            Request<Upload>,
            Response = http::Response<tower_keep_alive::Body>,
            Error = tower_keep_alive::Error,
        >,
{
    let mut request = Request::builder().method(method).uri("http://host/");
    if uploads {
        // Without it hyper sends no body of unknown length with GET and HEAD.
        request = request.header(TRANSFER_ENCODING, "chunked");
    }
    let request = request
        .body(Upload {
            begun: uploads.then_some(false),
            pause: None,
        })
        .expect("it is one");
    let response = tower::ServiceExt::oneshot(client.clone(), request)
        .await
        .map_err(drop)?;
    let own = response.headers().contains_key("x-own");
    let id = response.body().connection().id();
    if !drops {
        Limited::new(response.into_body(), 1 << 20)
            .collect()
            .await
            .map_err(drop)?;
    }
    Ok(own.then_some(id))
}

async fn run(script: Script<'_>) {
    let came: Arc<Mutex<Vec<Arc<AtomicUsize>>>> = Arc::default();
    let bytes = script.bytes.to_vec();
    let (pieces, closes) = (script.pieces, script.closes);
    let layer = KeepAliveLayer::new();
    let agent = layer.handle();
    let counts = came.clone();
    let connector = service_fn(move |_: Destination| {
        let (here, there) = tokio::io::duplex(1 << 16);
        let mut counts = counts.lock().expect("nobody panics with it");
        let count = Arc::new(AtomicUsize::new(0));
        // The first server is the one that does as it likes.
        if counts.is_empty() {
            tokio::spawn(serve(there, bytes.clone(), pieces, closes, count.clone()));
        } else {
            let own = b"HTTP/1.1 204 No Content\r\nX-Own: 1\r\n\r\n".to_vec();
            tokio::spawn(serve(there, own, usize::MAX, false, count.clone()));
        }
        counts.push(count);
        std::future::ready(Ok::<_, io::Error>(here))
    });
    let client = tower::Layer::layer(&layer, connector);
    let first = tokio::time::timeout(
        FOR_EVER,
        ask(&client, &script.method, script.drops, script.uploads),
    )
    .await;
    let first = first.expect("the first request does not end");
    // What the server writes late is there before the second one.
    tokio::time::sleep(Duration::from_millis(500)).await;
    if script.uploads {
        let open = agent.status().open();
        assert_eq!(open, 0, "kept, and the upload is not over");
    }
    let second = tokio::time::timeout(FOR_EVER, ask(&client, &Method::GET, false, false)).await;
    let second = second.expect("the second request does not end");

    let on_first = came.lock().expect("nobody panics with it")[0].load(SeqCst);
    if on_first > 1 {
        assert!(first.is_ok(), "used again after an error");
        assert!(!script.closes, "used again after its end");
        if let Some(length) = plain_length(&script.method, script.bytes) {
            let written = script.bytes.len();
            assert_eq!(
                written, length,
                "used again, and the response was not what was written"
            );
        }
    }
    if script.uploads {
        assert_eq!(on_first, 1, "used again, and the upload was not over");
        assert!(
            second.is_ok(),
            "{second:?}: the next request is lost with the upload"
        );
    }
    // The bytes of the first server are never taken for an answer to the second request.
    assert!(
        !matches!(second, Ok(None)),
        "an answer that nobody gave to this request"
    );

    drop(client);
    let gone = tokio::time::timeout(FOR_EVER, agent.drain()).await;
    gone.expect("connections are left behind");
    let status = agent.status();
    assert_eq!(status.open(), 0);
    assert_eq!(
        status.created,
        status.closed + status.detached,
        "{status:?}"
    );
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
