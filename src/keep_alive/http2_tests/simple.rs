//! One request after the other, and many beside one another.

use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use futures_util::FutureExt;
use futures_util::future::join_all;
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Barrier;
use tower::Layer;

use super::*;
use crate::keep_alive::KeepAliveLayer;
use crate::target::protocol::Protocol;

#[tokio::test]
async fn a_get_is_answered_and_its_connection_used_again() {
    let client = client(|io| async { serve(accept(io, 100).await, path).await });
    for n in 0..5 {
        let response = client.get(&format!("/{n}")).await.unwrap();
        assert_eq!(response.version(), http::Version::HTTP_2);
        let connection = response.body().connection().clone();
        assert_eq!((connection.is_reused(), connection.uses()), (n > 0, n + 1));
        assert_eq!(
            response.into_body().text(100).await.unwrap(),
            format!("/{n}")
        );
    }
    assert_eq!(client.agent.status().created, 1);
    client.at_rest().await;
}

/// In a stack that sends its requests itself.
#[tokio::test]
async fn a_use_is_ready_for_a_request_when_the_one_before_is_over() {
    let mut connector = Connector {
        serve: Arc::new(|io| Box::pin(async { serve(accept(io, 100).await, path).await })),
        settings: Http2::new(),
        limit: |_| {},
    };
    let target = Destination::try_from(http::Uri::from_static("http://h/")).unwrap();
    let mut conn = connector.call(target).await.unwrap();
    for _ in 0..2 {
        conn.ready().await.unwrap();
        let response = conn.call(get("/")).await.unwrap();
        assert!(conn.ready().now_or_never().is_none(), "its body is to come");
        response.into_body().collect().await.unwrap();
    }
}

#[tokio::test]
async fn the_end_of_a_body_is_known_without_another_poll() {
    let client = client(|io| async {
        serve(accept(io, 100).await, |request, mut respond| async move {
            match request.uri().path() {
                "/empty" => drop(respond.send_response(Response::new(()), true).unwrap()),
                _ => answer(respond, "all".to_owned()).await,
            }
        })
        .await;
    });
    let empty = client.get("/empty").await.unwrap();
    assert!(empty.body().is_end_stream());
    let mut body = client.get("/all").await.unwrap().into_body();
    assert!(!body.is_end_stream());
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.data_ref().unwrap(), "all");
    assert!(body.is_end_stream());
    client.at_rest().await;
}

/// Counts its writes.
struct Writes {
    io: DuplexStream,
    count: Arc<AtomicUsize>,
}

impl AsyncRead for Writes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Writes {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.count.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// On the scheduler of several threads, but with one thread, so that the order is always the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn callers_that_send_at_the_same_time_share_a_write() {
    const CALLERS: usize = 40;
    let writes = Arc::new(AtomicUsize::new(0));
    let count = writes.clone();
    let connector = tower::service_fn(move |_: Destination| {
        let (here, there) = tokio::io::duplex(1 << 16);
        let io = Writes {
            io: here,
            count: count.clone(),
        };
        tokio::spawn(async move {
            let mut builder = Builder::new();
            builder.max_concurrent_streams(100);
            let mut connection = builder.handshake::<_, Bytes>(there).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                path(request, respond).await;
            }
        });
        ready(Ok::<_, BoxError>(io))
    });
    let layer = KeepAliveLayer::<Empty<Bytes>>::new().protocol(Protocol::Http2);
    let client = layer.max_connections_per_host(1).layer(connector);
    let send = {
        let client = client.clone();
        move || {
            let client = client.clone();
            tokio::spawn(async move {
                let request = Request::get("http://h/").body(Empty::<Bytes>::new());
                let response = client.request(request.unwrap()).await.unwrap();
                response.into_body().text(100).await.unwrap()
            })
        }
    };
    send().await.unwrap();
    let all = tokio::spawn(async move {
        let before = writes.load(Ordering::SeqCst);
        let callers: Vec<_> = (0..CALLERS).map(|_| send()).collect();
        join_all(callers).await;
        writes.load(Ordering::SeqCst) - before
    });
    let writes = all.await.unwrap();
    assert!(writes <= CALLERS / 4, "{writes}");
    assert_eq!(client.handle().status().created, 1);
}

#[tokio::test]
async fn a_host_that_is_no_authority_is_an_error_on_a_connection_that_was_used() {
    let client = client(|io| async { serve(accept(io, 100).await, path).await });
    client.text("/").await.unwrap();
    for host in ["", "a b", "a/b"] {
        let mut request = get("/");
        let host = http::HeaderValue::from_static(host);
        request.headers_mut().insert(http::header::HOST, host);
        let error = client.send(request).await.unwrap_err();
        assert!(error.is_unsent(), "{error:?}");
    }
    assert_eq!(client.text("/").await.unwrap(), "/");
    assert_eq!(client.agent.status().created, 1);
    client.at_rest().await;
}

#[tokio::test]
async fn many_requests_share_one_connection_and_never_more_than_it_allows() {
    // Each waits for nine others: with fewer at a time none is answered.
    static TEN: LazyLock<Barrier> = LazyLock::new(|| Barrier::new(10));
    static NOW: AtomicUsize = AtomicUsize::new(0);
    let mut setup = Setup::new();
    setup.pool = PoolConfig::new().max_connections_per_host(1);
    let client = setup.client(|io| async {
        serve(accept(io, 10).await, |request, respond| async {
            assert!(NOW.fetch_add(1, Ordering::SeqCst) < 10);
            TEN.wait().await;
            NOW.fetch_sub(1, Ordering::SeqCst);
            path(request, respond).await;
        })
        .await;
    });
    let paths: Vec<_> = (0..100).map(|n| format!("/{n}")).collect();
    let texts = join_all(paths.iter().map(|path| client.text(path))).await;
    for (path, text) in paths.iter().zip(texts) {
        assert_eq!(*path, text.unwrap());
    }
    assert_eq!(client.agent.status().created, 1);
    client.at_rest().await;
}

#[tokio::test]
async fn a_response_that_is_given_up_ends_its_stream_and_nothing_else() {
    let client = client(|io| async {
        serve(accept(io, 100).await, |request, mut respond| async move {
            if request.uri().path() == "/" {
                return path(request, respond).await;
            }
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data("beginning".into(), false).unwrap();
            let reason = std::future::poll_fn(|cx| body.poll_reset(cx)).await;
            assert_eq!(reason.unwrap(), h2::Reason::CANCEL);
        })
        .await;
    });
    for _ in 0..3 {
        let mut body = client.get("/endless").await.unwrap().into_body();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "beginning");
        drop(body);
        assert_eq!(client.text("/").await.unwrap(), "/");
    }
    assert_eq!(client.agent.status().created, 1);
    client.at_rest().await;
}

#[tokio::test]
async fn two_thousand_requests_are_given_up_and_the_connection_lives() {
    let client = client(|io| async {
        serve(accept(io, 1_000).await, |request, respond| async move {
            tokio::task::yield_now().await;
            path(request, respond).await;
        })
        .await;
    });
    client.text("/").await.unwrap();
    for _ in 0..2 {
        let mut requests: Vec<_> = (0..1_000).map(|_| Box::pin(client.get("/"))).collect();
        for request in &mut requests {
            assert!(
                request
                    .as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()))
                    .is_pending()
            );
        }
        tokio::task::yield_now().await;
        drop(requests);
    }
    assert_eq!(client.text("/last").await.unwrap(), "/last");
    assert_eq!(client.agent.status().created, 1);
    client.at_rest().await;
}

#[tokio::test]
async fn a_body_is_sent_and_so_is_its_length() {
    let client = client(|io| async {
        serve(accept(io, 100).await, |request, respond| async move {
            let length = request.headers().get("content-length").cloned();
            let length = length.map(|it| it.to_str().unwrap().to_string());
            let all = read(request.into_body()).await;
            answer(respond, format!("{length:?} {all}")).await;
        })
        .await;
    });
    for text in ["", "text", &"long".repeat(100_000)] {
        let response = client
            .send(post("/", full(text.to_string())))
            .await
            .unwrap();
        let text = format!("Some(\"{}\") {text}", text.len());
        assert!(response.into_body().text(1 << 20).await.unwrap() == text);
    }
    assert_eq!(client.agent.status().created, 1);
    client.at_rest().await;
}
