//! How connections end, and what becomes of their requests.

use std::future::poll_fn;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use futures_util::stream::unfold;
use h2::Reason;
use http_body::Frame;
use http_body_util::StreamBody;

use super::*;
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;

/// Whatever the server has executed, with its body.
type Log = Arc<Mutex<Vec<String>>>;

fn executed(log: &Log) -> Vec<String> {
    let mut executed = log.lock().unwrap().clone();
    executed.sort();
    executed
}

/// Notes the request, and answers.
async fn execute(log: Log, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let path = request.uri().path().to_string();
    let body = read(request.into_body()).await;
    log.lock().unwrap().push(format!("{path} {body}"));
    answer(respond, body).await;
}

/// Every other stream is refused.
fn refusing(log: &Log) -> Client {
    let log = log.clone();
    client(move |io| {
        let log = log.clone();
        async move {
            let mut connection = accept(io, 100).await;
            let mut streams = 0;
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                streams += 1;
                if streams % 2 == 0 {
                    // When a part of the body has come, so that it was taken out of what the caller gave.
                    tokio::spawn(async move {
                        let _ = request.into_body().data().await;
                        respond.send_reset(Reason::REFUSED_STREAM);
                    });
                } else {
                    tokio::spawn(execute(log.clone(), request, respond));
                }
            }
        }
    })
}

#[tokio::test]
async fn what_the_server_refuses_is_sent_again_whatever_it_is() {
    let log = Log::default();
    let client = refusing(&log);
    client.text("/first").await.unwrap();
    let mut expected = vec!["/first ".to_string()];
    for n in 0..10 {
        let (path, body) = (format!("/{n}"), format!("body {n}"));
        let response = client.send(post(&path, full(body.clone()))).await.unwrap();
        assert_eq!(response.into_body().text(100).await.unwrap(), body);
        expected.push(format!("{path} {body}"));
    }
    expected.sort();
    assert_eq!(
        executed(&log),
        expected,
        "none is lost, none is executed twice"
    );
    assert_eq!(client.agent.status().created, 1);
    client.at_rest().await;
}

#[tokio::test]
async fn a_refused_body_in_pieces_is_sent_from_its_beginning() {
    let log = Log::default();
    let client = refusing(&log);
    client.text("/first").await.unwrap();
    for n in 0..4 {
        let (sender, body) = http_body_util::channel::Channel::<Bytes, BoxError>::new(1);
        let sending = tokio::spawn(async move {
            let mut sender = sender;
            for piece in ["a", "", "b", "c"] {
                sender.send_data(piece.into()).await.unwrap();
                tokio::task::yield_now().await;
            }
            let mut trailers = http::HeaderMap::new();
            trailers.insert("t", "1".parse().unwrap());
            sender.send_trailers(trailers).await.unwrap();
        });
        let response = client.send(post(&format!("/{n}"), body.boxed())).await;
        assert_eq!(
            response.unwrap().into_body().text(100).await.unwrap(),
            "abc/1"
        );
        sending.await.unwrap();
    }
    client.at_rest().await;
}

/// Its end is read before it is refused, and is read once: `unfold` panics if it is asked again.
#[tokio::test]
async fn a_refused_body_that_turned_out_to_be_empty_is_sent_again_as_one() {
    let log = Log::default();
    let client = refusing(&log);
    client.text("/first").await.unwrap();
    let frames = unfold((), |()| async {
        None::<(Result<Frame<Bytes>, BoxError>, ())>
    });
    let response = client.send(post("/second", StreamBody::new(frames).boxed()));
    assert_eq!(
        response.await.unwrap().into_body().text(9).await.unwrap(),
        ""
    );
    assert_eq!(executed(&log), ["/first ", "/second "]);
    client.at_rest().await;
}

#[tokio::test]
async fn after_a_refusal_no_stream_begins_until_another_ends() {
    static REFUSED: AtomicUsize = AtomicUsize::new(0);
    static OPEN: AtomicUsize = AtomicUsize::new(0);
    let mut setup = Setup::new();
    setup.pool = PoolConfig::new().max_connections_per_host(1);
    let client = setup.client(|io| async {
        let mut connection = accept(io, 100).await;
        let mut open = Vec::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            match request.uri().path() {
                "/open" if OPEN.load(Ordering::SeqCst) < 3 => {
                    OPEN.fetch_add(1, Ordering::SeqCst);
                    open.push((request, respond));
                }
                "/open" => {
                    REFUSED.fetch_add(1, Ordering::SeqCst);
                    respond.send_reset(Reason::REFUSED_STREAM);
                    let (request, respond) = open.remove(0);
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        OPEN.fetch_sub(1, Ordering::SeqCst);
                        path(request, respond).await;
                    });
                }
                _ => path(request, respond).await,
            }
        }
    });
    client.text("/").await.unwrap();
    let begun = tokio::time::Instant::now();
    let mut all: Vec<_> = (0..4).map(|_| Box::pin(client.get("/open"))).collect();
    let (first, ..) = futures_util::future::select_all(&mut all).await;
    assert!(first.is_ok() && begun.elapsed() >= Duration::from_millis(20));
    tokio::time::sleep(Duration::from_millis(20)).await;
    // Sent again once, when there was room: while it waited nothing was refused.
    assert_eq!(REFUSED.load(Ordering::SeqCst), 1);
    drop((first, all));
    client.at_rest().await;
}

#[tokio::test]
async fn more_of_a_body_than_is_kept_is_an_error_that_says_what_happened() {
    let client = client(|io| async {
        let mut connection = accept(io, 100).await;
        let mut refused = None;
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            if request.uri().path() == "/" {
                path(request, respond).await;
                continue;
            }
            refused = Some(tokio::spawn(async move {
                let mut body = request.into_body();
                let mut received = 0;
                // More than the first window of a stream.
                while received <= 65_535 {
                    let data = body.data().await.unwrap().unwrap();
                    body.flow_control().release_capacity(data.len()).unwrap();
                    received += data.len();
                }
                respond.send_reset(Reason::REFUSED_STREAM);
            }));
        }
        drop(refused);
    });
    client.text("/").await.unwrap();
    let error = client.send(post("/large", full(vec![b'x'; 100_000]))).await;
    let error = error.unwrap_err();
    assert!(error.is_refused() && !error.is_unsent(), "{error:?}");
    assert_eq!(error.http2_reason(), Some(7));
    client.text("/").await.unwrap();
    assert_eq!(client.agent.status().created, 1);
    client.at_rest().await;
}

#[tokio::test]
async fn after_goaway_no_request_goes_there_and_those_that_are_there_end() {
    static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);
    let log = Log::default();
    let served = log.clone();
    let client = client(move |io| {
        let log = served.clone();
        CONNECTIONS.fetch_add(1, Ordering::SeqCst);
        async move {
            let mut connection = accept(io, 100).await;
            let mut streams = 0;
            while let Some(Ok((request, respond))) = connection.accept().await {
                streams += 1;
                if streams == 10 {
                    connection.graceful_shutdown();
                }
                tokio::spawn(execute(log.clone(), request, respond));
            }
        }
    });
    for round in 0..10 {
        let paths: Vec<_> = (0..20).map(|n| format!("/{round}-{n}")).collect();
        let requests = paths.iter().map(|path| client.send(post(path, full("x"))));
        for response in join_all(requests).await {
            let body = response.unwrap().into_body();
            assert_eq!(body.text(100).await.unwrap(), "x");
        }
    }
    let mut executed = executed(&log);
    assert_eq!(executed.len(), 200);
    executed.dedup();
    assert_eq!(executed.len(), 200, "none twice");
    let connections = CONNECTIONS.load(Ordering::SeqCst);
    assert!(connections >= 10, "{connections}");
    let closes = client.agent.status().closes;
    assert!(closes[&CloseReason::GoAway] >= 9, "{closes:?}");
    client.at_rest().await;
}

#[tokio::test]
async fn a_goaway_that_says_why_is_told() {
    let client = client(|io| async {
        let mut connection = accept(io, 100).await;
        let _request = connection.accept().await;
        connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        while connection.accept().await.is_some() {}
    });
    let error = client.get("/").await.unwrap_err();
    assert_eq!(error.http2_reason(), Some(11), "{error:?}");
    // It was seen, and what became of it is not known.
    assert!(error.is_reset() && !error.is_refused() && !error.is_unsent());
    client.at_rest().await;
}

#[tokio::test]
async fn a_connection_that_has_had_all_its_streams_is_replaced() {
    let mut setup = Setup::new();
    setup.settings.begun = (1 << 30) - 4;
    let client = setup.client(|io| async { serve(accept(io, 100).await, path).await });
    for n in 0..10 {
        let path = format!("/{n}");
        assert_eq!(client.text(&path).await.unwrap(), path);
    }
    let status = client.agent.status();
    // Four each.
    assert_eq!((status.created, status.closes[&CloseReason::Uses]), (3, 2));
    client.at_rest().await;
}

#[tokio::test]
async fn what_was_sent_on_a_connection_that_was_closed_meanwhile_goes_elsewhere() {
    let client = client(|io| async {
        let mut connection = accept(io, 100).await;
        let (request, respond) = connection.accept().await.unwrap().unwrap();
        path(request, respond).await;
        // The answer goes out, and then the connection ends without a word.
        tokio::select! {
            _ = connection.accept() => {}
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    });
    client.text("/").await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let sent = client.send(post("/again", full("x"))).await.unwrap();
    assert_eq!(sent.into_body().text(100).await.unwrap(), "/again");
    assert_eq!(client.agent.status().created, 2);
    client.at_rest().await;
}

#[tokio::test]
async fn a_server_that_wants_calm_has_it_for_a_second() {
    static STREAMS: AtomicUsize = AtomicUsize::new(0);
    let mut setup = Setup::new();
    setup.pool = PoolConfig::new().max_connections_per_host(1);
    let client = setup.client(|io| async {
        let mut connection = accept(io, 100).await;
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            match STREAMS.fetch_add(1, Ordering::SeqCst) {
                1 => respond.send_reset(Reason::ENHANCE_YOUR_CALM),
                _ => path(request, respond).await,
            }
        }
    });
    client.text("/").await.unwrap();
    let error = client.get("/").await.unwrap_err();
    assert_eq!(error.http2_reason(), Some(11), "{error:?}");
    let begun = tokio::time::Instant::now();
    client.text("/").await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(900));
    assert_eq!(client.agent.status().created, 1);
    client.at_rest().await;
}

#[tokio::test]
async fn a_server_that_wants_http1_for_ever_is_asked_a_few_times_and_refuses_nothing_else() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let mut setup = Setup::new();
    setup.pool = PoolConfig::new().max_connections_per_host(1);
    // Its connector makes connections of HTTP/2 whatever is wanted.
    let client = setup.client(|io| async {
        let mut connection = accept(io, 100).await;
        let mut open = Vec::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            match request.uri().path() {
                "/http1" => {
                    ASKED.fetch_add(1, Ordering::SeqCst);
                    respond.send_reset(Reason::HTTP_1_1_REQUIRED);
                }
                "/open" => open.push((request, respond)),
                _ => path(request, respond).await,
            }
        }
    });
    client.text("/").await.unwrap();
    let mut open = Box::pin(client.get("/open"));
    let early = tokio::time::timeout(Duration::from_millis(10), &mut open).await;
    assert!(early.is_err());
    let refused = tokio::time::timeout(Duration::from_secs(10), client.get("/http1"));
    let error = refused.await.expect("it ends").unwrap_err();
    assert_eq!(error.http2_reason(), Some(13), "{error:?}");
    assert_eq!(ASKED.load(Ordering::SeqCst), 8);
    // The connection has room for others, as it is.
    let other = tokio::time::timeout(Duration::from_secs(10), client.text("/"));
    assert_eq!(other.await.expect("there is room").unwrap(), "/");
    drop(open);
    client.at_rest().await;
}

/// Sends a response, of which five bytes are promised, and resets the stream with NO_ERROR.
async fn cut(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let path = request.uri().path();
    let response = Response::builder();
    let response = match path {
        "/untold" => response,
        _ => response.header(http::header::CONTENT_LENGTH, 5),
    };
    let sent = if path == "/all" { "12345" } else { "123" };
    let mut body = respond
        .send_response(response.body(()).unwrap(), false)
        .unwrap();
    body.send_data(sent.into(), false).unwrap();
    // The frames go out one after the other.
    tokio::time::sleep(Duration::from_millis(5)).await;
    body.send_reset(Reason::NO_ERROR);
}

#[tokio::test]
async fn a_reset_without_an_error_ends_a_response_only_if_all_of_it_is_there() {
    let client = client(|io| async {
        serve(accept(io, 100).await, |request, respond| async move {
            match request.uri().path() {
                "/" => path(request, respond).await,
                _ => cut(request, respond).await,
            }
        })
        .await;
    });
    client.text("/").await.unwrap();
    for (path, is_all) in [("/part", false), ("/untold", false), ("/all", true)] {
        let (_sender, upload) = http_body_util::channel::Channel::<Bytes, BoxError>::new(1);
        let response = client.send(post(path, upload.boxed())).await.unwrap();
        let body = response.into_body().text(100).await;
        match is_all {
            true => assert_eq!(body.unwrap(), "12345"),
            false => assert_eq!(body.unwrap_err().http2_reason(), Some(0), "{path}"),
        }
    }
    assert_eq!(client.text("/").await.unwrap(), "/");
    assert_eq!(client.agent.status().created, 1);
    client.at_rest().await;
}

/// Its body is kept.
#[tokio::test(start_paused = true)]
async fn a_use_that_is_dropped_resets_its_stream_and_no_other() {
    let (here, there) = tokio::io::duplex(1 << 16);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let answer = |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
            let tell = tell.clone();
            async move {
                let path = request.uri().path().to_owned();
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                let reason = poll_fn(|cx| body.poll_reset(cx)).await;
                tell.send((path, reason.ok())).unwrap();
            }
        };
        serve(accept(there, 10).await, answer).await;
    });
    let handshake = Http2::new().handshake(here, None, Lifespan::new()).await;
    let mut conn: Http2Connection<RequestBody> = handshake.unwrap();
    let mut uses = [(); 2].map(|()| conn.another().unwrap());
    let mut bodies = Vec::new();
    for (of_conn, path) in uses.iter_mut().zip(["/kept", "/dropped"]) {
        let request = Request::get(path).header("host", "h").body(empty());
        bodies.push(of_conn.call(request.unwrap()).await.unwrap());
    }
    let [kept, dropped] = uses;
    drop(dropped);
    let told_in_time = tokio::time::timeout(Duration::from_secs(1), told.recv());
    let (path, reason) = told_in_time.await.expect("it is reset").unwrap();
    assert_eq!((&*path, reason), ("/dropped", Some(Reason::CANCEL)));
    drop((kept, bodies));
    assert_eq!(told.recv().await.unwrap().0, "/kept");
}
