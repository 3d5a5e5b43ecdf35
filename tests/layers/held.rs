//! The end of a response is held back until its connection is free, where that is a matter of a moment.

use std::future::{Ready, ready};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response, Uri};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_keep_alive::{
    AgentHandle, Body, BoxError, CloseReason,
    connect::Destination,
    custom::{Lifespan, Poolable},
    layers::{
        Checkin, CheckinLayer, Checkout, CheckoutLayer, Exchange, ExchangeLayer, PoolConfig,
        SendError,
    },
};

use crate::support::eventually;

/// When the connections are free is for the test to say.
#[derive(Default)]
struct Say {
    free: AtomicBool,
    almost: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Say {
    fn free(&self) {
        self.free.store(true, SeqCst);
        if let Some(waker) = self.waker.lock().unwrap().take() {
            waker.wake();
        }
    }
}

struct Slow {
    say: Arc<Say>,
    frames: fn() -> Frames,
    lifespan: Lifespan,
}

impl Poolable for Slow {
    fn is_open(&self) -> bool {
        true
    }

    fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        *self.say.waker.lock().unwrap() = Some(cx.waker().clone());
        match self.say.free.load(SeqCst) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    fn is_almost_free(&self) -> bool {
        self.say.almost.load(SeqCst)
    }

    fn lifespan(&self) -> &Lifespan {
        &self.lifespan
    }

    fn lifespan_mut(&mut self) -> &mut Lifespan {
        &mut self.lifespan
    }
}

impl Service<Request<Full<Bytes>>> for Slow {
    type Response = Response<Frames>;
    type Error = SendError<Full<Bytes>>;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
        ready(Ok(Response::new((self.frames)())))
    }
}

/// What a response has for a body.
struct Frames {
    frames: Vec<Frame<Bytes>>,
    says_end: bool,
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.frames.pop().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.says_end && self.frames.is_empty()
    }
}

fn data() -> Frame<Bytes> {
    Frame::data(Bytes::from_static(b"answer"))
}

fn known() -> Frames {
    Frames {
        frames: vec![data()],
        says_end: true,
    }
}

fn unknown() -> Frames {
    Frames {
        frames: vec![data()],
        says_end: false,
    }
}

fn trailers() -> Frames {
    Frames {
        frames: vec![Frame::trailers(HeaderMap::new()), data()],
        says_end: true,
    }
}

fn empty() -> Frames {
    Frames {
        frames: Vec::new(),
        says_end: true,
    }
}

type Make = tower::util::BoxCloneSyncService<Destination, Slow, BoxError>;
type Client = Exchange<Checkin<Checkout<Make, Slow>>>;

fn client(frames: fn() -> Frames) -> (Client, AgentHandle, Arc<Say>) {
    let say = Arc::new(Say::default());
    say.almost.store(true, SeqCst);
    let shared = say.clone();
    let make = service_fn(move |_: Destination| {
        ready(Ok::<_, BoxError>(Slow {
            say: shared.clone(),
            frames,
            lifespan: Lifespan::new(),
        }))
    });
    let checkout = CheckoutLayer::new(PoolConfig::new());
    let handle = checkout.handle();
    let connections = checkout.layer(Make::new(make));
    let client = ExchangeLayer::new().layer(CheckinLayer::new().layer(connections));
    (client, handle, say)
}

fn get() -> Request<Full<Bytes>> {
    let uri = Uri::from_static("http://h/");
    Request::get(uri).body(Full::default()).unwrap()
}

/// One that is free and idle, after one use.
fn is_idle(handle: &AgentHandle) -> bool {
    let status = handle.status();
    status.idle.values().sum::<usize>() == 1 && status.completed == 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_frame_comes_when_the_connection_is_free() {
    for (frames, before) in [(known as fn() -> Frames, 0), (unknown, 1), (trailers, 1)] {
        let (client, handle, say) = client(frames);
        let mut body = client.clone().oneshot(get()).await.unwrap().into_body();
        for _ in 0..before {
            let frame = body.frame().now_or_never().expect("there is more to come");
            assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "answer");
        }
        assert!(body.frame().now_or_never().is_none());
        assert!(!body.is_end_stream());
        let length = if before == 0 { 6 } else { 0 };
        assert_eq!(body.size_hint().exact(), Some(length));
        assert!(body.frame().now_or_never().is_none());
        assert!(!is_idle(&handle));
        let (last, ()) = tokio::join!(body.frame(), async { say.free() });
        match last {
            Some(frame) if before == 0 => {
                assert_eq!(frame.unwrap().into_data().unwrap(), "answer");
            }
            Some(frame) => assert!(frame.unwrap().is_trailers()),
            None => {}
        }
        assert!(is_idle(&handle), "before the caller can ask again");
        assert!(body.frame().await.is_none());
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_without_a_body_comes_when_the_connection_is_free() {
    let (client, handle, say) = client(empty);
    let mut sent = pin!(client.clone().oneshot(get()));
    for _ in 0..3 {
        assert!(sent.as_mut().now_or_never().is_none());
    }
    let (response, ()) = tokio::join!(sent, async { say.free() });
    assert!(is_idle(&handle));
    let body = response.unwrap().into_body();
    assert!(body.is_end_stream());
    drop(body);
    assert!(is_idle(&handle));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_is_dropped_while_it_is_held_back_costs_no_connection() {
    for (frames, has_body) in [(known as fn() -> Frames, true), (empty, false)] {
        let (client, handle, say) = client(frames);
        if has_body {
            let mut body = client.clone().oneshot(get()).await.unwrap().into_body();
            assert!(body.frame().now_or_never().is_none());
        } else {
            let mut sent = pin!(client.clone().oneshot(get()));
            assert!(sent.as_mut().now_or_never().is_none());
        }
        assert!(!is_idle(&handle));
        say.free();
        eventually("it is given back", || is_idle(&handle)).await;
        assert!(handle.status().closes.is_empty());
        drop(client);
    }
}

/// Its caller does something else, and does not drop it either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_is_held_back_and_not_polled_keeps_no_connection() {
    for (frames, has_body) in [(known as fn() -> Frames, true), (empty, false)] {
        let (client, handle, say) = client(frames);
        let mut sent = Box::pin(client.clone().oneshot(get()));
        let mut body = None;
        if has_body {
            let body = body.insert(sent.await.unwrap().into_body());
            assert!(body.frame().now_or_never().is_none());
        } else {
            assert!(sent.as_mut().now_or_never().is_none());
        }
        say.free();
        eventually("it is given back", || is_idle(&handle)).await;
        assert!(handle.status().closes.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_held_back_for_a_second_at_the_most() {
    for (frames, almost_after) in [
        (known as fn() -> Frames, true),
        (known, false),
        (empty, true),
    ] {
        let (client, handle, say) = client(frames);
        let begun = Instant::now();
        let answer = async {
            let body = client.clone().oneshot(get()).await.unwrap().into_body();
            body.collect().await.unwrap().to_bytes()
        };
        let turn = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            // It is looked at again, although nobody wakes for it.
            say.almost.store(almost_after, SeqCst);
        };
        let (bytes, ()) = tokio::join!(answer, turn);
        assert_eq!(bytes.len(), frames().frames.len() * 6);
        let took = begun.elapsed();
        assert!(!almost_after || took >= Duration::from_secs(1), "{took:?}");
        eventually("it is given up", || handle.status().closed == 1).await;
        assert_eq!(handle.status().closes, [(CloseReason::Abandoned, 1)].into());
    }
}

/// At the first poll, whether or not anybody drives anything.
fn comes_at_once(client: Client) {
    let response = client.clone().oneshot(get()).now_or_never();
    let mut body: Body = response.expect("no wait").unwrap().into_body();
    let frame = body.frame().now_or_never().expect("no wait");
    assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_held_back_for_a_connection_that_will_not_be_free_by_itself() {
    let (client, _handle, say) = client(known);
    say.almost.store(false, SeqCst);
    comes_at_once(client);
}

#[tokio::test]
async fn nothing_is_held_back_on_a_runtime_of_one_thread() {
    comes_at_once(client(known).0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_held_back_outside_of_the_connections_runtime() {
    for elsewhere in [true, false] {
        let (client, _handle, _say) = client(known);
        let response = client
            .clone()
            .oneshot(get())
            .now_or_never()
            .expect("no wait");
        let mut body = response.unwrap().into_body();
        let mut read = move || body.frame().now_or_never().is_some();
        let thread = std::thread::spawn(move || match elsewhere {
            true => {
                let other = tokio::runtime::Builder::new_multi_thread().build().unwrap();
                other.block_on(async { read() })
            }
            false => read(),
        });
        assert!(thread.join().unwrap());
    }
}
