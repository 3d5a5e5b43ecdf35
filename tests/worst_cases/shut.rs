//! Ends: of an agent, of a transport that takes its time, of a runtime. Trust tests 22 and 24.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use http::{Request, Uri};
use http_body_util::Full;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tower::{ServiceBuilder, ServiceExt};
use tower_keep_alive::{
    AgentHandle, Error, KeepAlive,
    connect::Destination,
    custom::{CloseHook, Poolable},
    layers::{CheckinLayer, CheckoutLayer, ExchangeLayer, HandshakeLayer, PoolConfig},
};

use crate::environment::{
    self, Layers, alone, closes_all, fd_count, in_paused_time, leaves_nothing, on_current_thread,
};
use crate::support::agent::{
    Answer, Client, agent, agent_over, agent_paused, at_rest, fetch, get, read,
};
use crate::support::{
    Conn, CountingConnector, Gate, MemoryStream, Server, Sockets, eventually, script, settle,
};

/// Answers with half a body at once and the rest when told; upgrades are echoed.
async fn halves(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::start(move |mut conn: Conn| {
        let gate = gate.clone();
        async move {
            while let Some(head) = conn.request().await {
                if head.header("upgrade").is_some() {
                    conn.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: it\r\n\r\n").await;
                    return conn.closed().await;
                }
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha").await;
                tokio::select! {
                    () = gate.pass() => conn.send("lf").await,
                    () = conn.gone() => return,
                }
            }
        }
    })
    .await
}

type Over<M> = KeepAlive<M, Full<bytes::Bytes>>;
type Caller = tokio::task::JoinHandle<Result<Answer, Error>>;

/// An agent with a request in every state: in flight, unread, upgraded, connecting, in line.
struct Busy {
    server: Server,
    gate: Gate,
    connects: Gate,
    connector: CountingConnector<Sockets>,
    client: Over<CountingConnector<Sockets>>,
    handle: AgentHandle,
    upgraded: hyper::upgrade::Upgraded,
    unread: http::Response<tower_keep_alive::Body>,
    callers: Vec<Caller>,
}

impl Busy {
    async fn new() -> Self {
        let (gate, connects) = (Gate::new(), Gate::new());
        let server = halves(&gate).await;
        let connector = CountingConnector::new(Sockets).gate(&connects);
        let layer = Layers::new().max_connections_per_host(3);
        let (client, handle) = agent_over(layer, connector.clone());
        connects.open(3);
        let upgrade = Request::get(server.url("/"))
            .header("connection", "upgrade")
            .header("upgrade", "it")
            .body(Full::default())
            .unwrap();
        let response = client.request(upgrade).await.unwrap();
        let upgraded = hyper::upgrade::on(response).await.unwrap();
        let unread = client.request(get(server.url("/"))).await.unwrap();
        let mut busy = Self {
            server,
            gate,
            connects,
            connector,
            client,
            handle,
            upgraded,
            unread,
            callers: Vec::new(),
        };
        busy.call();
        eventually("one is in flight", || busy.server.requests() == 3).await;
        busy.call();
        eventually("one connects", || busy.connects.waiting() == 1).await;
        busy.call();
        busy.call();
        eventually("two are in line", || {
            busy.handle.status().pending.values().sum::<usize>() == 2
        })
        .await;
        let status = busy.handle.status();
        assert_eq!((status.detached, status.open()), (1, 3), "{status}");
        busy
    }

    fn call(&mut self) {
        let (client, url) = (self.client.clone(), self.server.url("/"));
        let caller = tokio::spawn(async move { fetch(&client, url).await });
        self.callers.push(caller);
    }
}

#[test]
fn trust_22_drain_loses_nobody_who_is_let_in() {
    on_current_thread(|| async {
        let busy = Busy::new().await;
        let mut drained = Box::pin(busy.handle.drain());
        let late = fetch(&busy.client, busy.server.url("/")).now_or_never();
        assert!(late.expect("at once").unwrap_err().is_shut_down());
        assert!((&mut drained).now_or_never().is_none());

        busy.connects.open_for_all();
        busy.gate.open_for_all();
        let callers = busy.callers.len();
        for caller in busy.callers {
            assert_eq!(caller.await.unwrap().unwrap().body, "half");
            // One response is still unread.
            assert!((&mut drained).now_or_never().is_none());
        }
        assert_eq!(busy.connector.alive(), 2, "the unread and the upgraded one");
        assert_eq!(read(busy.unread).await.unwrap().body, "half");
        drained.await;
        assert_eq!(busy.connector.alive(), 1, "sockets are closed by then");
        let status = busy.handle.status();
        // The upgraded one's too.
        assert_eq!((status.open(), status.completed), (0, callers as u64 + 2));
        println!(
            "trust 22: a drain lost 0 of {} that were let in, and ended when their sockets were closed",
            callers + 1
        );
        drop(busy.upgraded);
        eventually("the upgraded one is closed", || busy.connector.alive() == 0).await;
        at_rest(&busy.handle).await;
        closes_all(busy.client, &busy.handle).await;
    });
}

#[test]
fn trust_22_destroy_ends_everything_soon() {
    on_current_thread(|| async {
        let busy = Busy::new().await;
        let started = Instant::now();
        busy.handle.destroy();
        let callers = busy.callers.len();
        for caller in busy.callers {
            let error = caller.await.unwrap().unwrap_err();
            assert!(error.is_shut_down(), "{error:?}");
        }
        assert!(read(busy.unread).await.unwrap_err().is_shut_down());
        let mut upgraded = hyper_util::rt::TokioIo::new(busy.upgraded);
        let ended = tokio::io::AsyncReadExt::read(&mut upgraded, &mut [0; 8]).await;
        assert!(!matches!(ended, Ok(1..)), "{ended:?}");
        drop(upgraded);
        eventually("all sockets are closed", || busy.connector.alive() == 0).await;
        let took = started.elapsed();
        assert!(took < Duration::from_millis(100), "{took:?}");
        busy.handle.drain().await;
        let late = fetch(&busy.client, busy.server.url("/")).now_or_never();
        assert!(late.expect("at once").unwrap_err().is_shut_down());
        println!(
            "trust 22: all of {} told, and every socket closed, {took:.1?} after a destroy",
            callers + 2
        );
        at_rest(&busy.handle).await;
        closes_all(busy.client, &busy.handle).await;
    });
}

/// A transport whose closing takes two seconds.
struct SlowToClose {
    inner: MemoryStream,
    closing: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for SlowToClose {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for SlowToClose {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closing = self
            .closing
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(SLOW)));
        std::task::ready!(closing.as_mut().poll(cx));
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

const SLOW: Duration = Duration::from_secs(2);

#[test]
fn trust_24_a_slow_close_blocks_nobody() {
    in_paused_time(|| async {
        let server = Server::in_memory(script::echo);
        let connector = server.connector();
        let connector = tower::service_fn(move |to: Destination| {
            let connecting = tower::Service::call(&mut connector.clone(), to);
            async move {
                let inner = connecting.await?;
                io::Result::Ok(SlowToClose {
                    inner,
                    closing: None,
                })
            }
        });
        let layer = Layers::new().max_connections_per_host(4);
        let (client, handle) = agent_paused(layer, connector);
        let urls = ["http://slow.test/", "http://other.test/"];
        for url in urls {
            fetch(&client, url).await.unwrap();
        }
        settle().await;
        // All of both hosts begin to close, and take their time.
        handle.close_idle();
        let started = Instant::now();
        for round in 0..100 {
            for url in urls {
                let url = format!("{url}{round}");
                assert_eq!(
                    fetch(&client, &url).await.unwrap().body,
                    format!("/{round}")
                );
            }
            let _ = handle.status().to_string();
        }
        let took = started.elapsed();
        assert_eq!(took, Duration::ZERO, "no time has gone by");
        println!(
            "trust 24: 200 requests took {took:?} while two connections took {SLOW:?} to close"
        );
        at_rest(&handle).await;
        drop(client);
        eventually("all are closed", || handle.status().open() == 0).await;
        // First those that were closed at the start, then those that were in use until now.
        assert!(started.elapsed() < 2 * SLOW + Duration::from_millis(100));
    });
}

/// Does everything that an agent can be asked for, when it is dropped.
struct Reenters {
    handle: AgentHandle,
    client: Client,
    url: String,
    dropped: Arc<AtomicUsize>,
}

impl Reenters {
    fn act(&self) {
        let _ = self.handle.status();
        self.handle.close_idle();
        if tokio::runtime::Handle::try_current().is_ok() {
            let call = fetch(&self.client, &self.url).now_or_never();
            assert!(call.is_none_or(|answer| answer.is_err()));
        }
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Reenters {
    fn drop(&mut self) {
        self.act();
    }
}

/// What is tied to connections asks the agent that is closing them, and another one.
#[test]
fn trust_24_hooks_may_ask_the_agent() {
    on_current_thread(|| async {
        let server = Server::ok().await;
        let url = server.url("/");
        let (other, other_handle) = agent(Layers::new().max_connections_per_host(1));
        let (dropped, hooked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let checkout =
            CheckoutLayer::new(PoolConfig::new().max_connections_per_host(2).max_idle(1));
        let handle = checkout.handle();
        let tie = {
            let (handle, other, url) = (handle.clone(), other.clone(), url.clone());
            let (dropped, hooked) = (dropped.clone(), hooked.clone());
            move |mut conn: tower_keep_alive::layers::HttpConnection<Full<bytes::Bytes>>| {
                let guard = || Reenters {
                    handle: handle.clone(),
                    client: other.clone(),
                    url: url.clone(),
                    dropped: dropped.clone(),
                };
                conn.lifespan_mut().attach(guard());
                let (guard, hooked) = (guard(), hooked.clone());
                conn.lifespan_mut().on_close(CloseHook::new(move |_| {
                    guard.act();
                    hooked.fetch_add(1, Ordering::SeqCst);
                }));
                conn
            }
        };
        let client = ServiceBuilder::new()
            .layer(ExchangeLayer::new())
            .layer(CheckinLayer::new())
            .layer(checkout)
            .map_response(tie)
            .map_request(|destination: Destination| Uri::from(destination))
            .layer(HandshakeLayer::<Full<bytes::Bytes>>::new())
            .service(crate::support::agent::Connector);
        for round in 0..20 {
            let calls = (0..6).map(|_| fetch(&client, &url));
            for answer in join_all(calls).await {
                assert_eq!(answer.unwrap().body, "ok");
            }
            match round % 4 {
                0 => handle.close_idle(),
                // In the middle of its body.
                1 => drop(client.clone().oneshot(get(&url)).await.unwrap()),
                2 => drop(client.clone().oneshot(get(&url)).now_or_never()),
                _ => {}
            }
        }
        at_rest(&handle).await;
        handle.destroy();
        drop(client);
        eventually("all are closed", || handle.status().open() == 0).await;
        let closed = handle.status().closed as usize;
        eventually("every hook has run", || hooked.load(Ordering::SeqCst) > 0).await;
        println!(
            "trust 24: {closed} connections closed, with {} hooks and guards that asked the agent again; no deadlock",
            hooked.load(Ordering::SeqCst) + dropped.load(Ordering::SeqCst)
        );
        drop(other);
        eventually("the other one too", || other_handle.status().open() == 0).await;
        at_rest(&other_handle).await;
    });
}

/// A connection is used on the runtime where it was made, and nowhere else; a runtime that ends takes its own along.
#[test]
fn trust_runtimes_are_kept_apart() {
    alone(|| {
        let home = environment::multi_thread(1);
        let server = home.block_on(Server::echo());
        let fds = fd_count();
        let (client, handle) = agent(Layers::new().max_connections_per_host(2));
        for round in 0..10 {
            let one = environment::current_thread();
            let other = environment::current_thread();
            let ids = [&one, &other, &one, &other].map(|runtime| {
                runtime.block_on(async {
                    let url = server.url(&format!("/{round}"));
                    let answer = tokio::time::timeout(Duration::from_secs(5), fetch(&client, &url));
                    let answer = answer.await.expect("it does not hang").unwrap();
                    assert_eq!(answer.body, format!("/{round}"));
                    settle().await;
                    answer.info.id()
                })
            });
            assert_eq!((ids[0], ids[1]), (ids[2], ids[3]));
            assert_ne!(ids[0], ids[1]);
            // In the middle of a request as well.
            let mut stuck = Box::pin(client.request(get(server.url("/stuck"))));
            let sent = one.block_on(async { stuck.as_mut().now_or_never() });
            assert!(sent.is_none());
            drop(one);
            drop(stuck);
            drop(other);
            let status = handle.status();
            assert_eq!((status.open(), status.pending.len()), (0, 0), "{status}");
        }
        leaves_nothing(&home, async {
            eventually("the server sees all go", || server.open() == 0).await;
            println!(
                "trust, runtimes: 20 ended under the agent, no slot lost, none used on another's"
            );
            at_rest(&handle).await;
            closes_all(client, &handle).await;
        });
        home.block_on(eventually("no descriptor is left", || fd_count() <= fds));
    });
}
