//! Limits of time, and servers that do not answer any more.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::connection::close_reason::CloseReason;
use crate::error::TimeoutKind;
use crate::target::extensions::{RequestTimeout, ResponseTimeout};

const SECOND: Duration = Duration::from_secs(1);

/// With an active timeout of eight seconds.
fn active() -> Setup {
    let mut setup = Setup::new();
    setup.limit = |lifespan| lifespan.limit_inactivity(8 * SECOND);
    setup
}

/// Answers `/`, and nothing else.
async fn one_path(io: DuplexStream) {
    let mut kept = Vec::new();
    let mut connection = accept(io, 100).await;
    while let Some(Ok((request, respond))) = connection.accept().await {
        match request.uri().path() {
            "/" => path(request, respond).await,
            _ => kept.push((request, respond)),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_ends_and_its_connection_goes_on() {
    let client = active().client(one_path);
    client.text("/").await.unwrap();
    let begun = Instant::now();
    let silent = client.get("/silent");
    let others = async {
        // Something is read all the time.
        for _ in 0..20 {
            client.text("/").await.unwrap();
            sleep(SECOND / 2).await;
        }
    };
    let (error, ()) = tokio::join!(silent, others);
    let error = error.unwrap_err();
    assert_eq!(
        error.timeout_kind(),
        Some(TimeoutKind::Inactivity),
        "{error:?}"
    );
    assert_eq!(error.timeout(), Some(8 * SECOND));
    let took = begun.elapsed();
    assert!((8 * SECOND..11 * SECOND).contains(&took), "{took:?}");
    assert_eq!(client.agent.status().created, 1);
    client.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_which_a_little_comes_now_and_then_is_not_silent() {
    let client = active().client(|io| async {
        serve(accept(io, 100).await, |_, mut respond| async move {
            sleep(6 * SECOND).await;
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            for _ in 0..5 {
                sleep(6 * SECOND).await;
                body.send_data("x".into(), false).unwrap();
            }
            body.send_data("".into(), true).unwrap();
        })
        .await;
    });
    assert_eq!(client.text("/").await.unwrap(), "xxxxx");
    // Nor one whose caller does not read.
    let mut body = client.get("/").await.unwrap().into_body();
    sleep(100 * SECOND).await;
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += frame.unwrap().into_data().map_or(0, |data| data.len());
    }
    assert_eq!(read, 5);
    client.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_finds_no_room_is_silent() {
    let client = active().client(|io| async {
        let mut kept = Vec::new();
        let mut connection = accept(io, 100).await;
        while let Some(Ok(stream)) = connection.accept().await {
            kept.push(stream);
        }
    });
    let begun = Instant::now();
    let error = client
        .send(post("/", full(vec![0; 1 << 20])))
        .await
        .unwrap_err();
    assert_eq!(
        error.timeout_kind(),
        Some(TimeoutKind::Inactivity),
        "{error:?}"
    );
    assert!(begun.elapsed() < 11 * SECOND);
    client.at_rest().await;
}

/// The caller of the first request owes more of its body; that of the next one owes nothing.
#[tokio::test(start_paused = true)]
async fn silence_counts_after_an_upload_that_the_server_did_not_want() {
    let client = active().client(|io| async {
        serve(accept(io, 100).await, |request, mut respond| async move {
            if request.method() == http::Method::POST {
                respond.send_response(Response::new(()), true).unwrap();
                // The response goes out first.
                sleep(SECOND / 10).await;
                respond.send_reset(h2::Reason::NO_ERROR);
            } else {
                let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            }
        })
        .await;
    });
    let (sender, upload) = http_body_util::channel::Channel::<Bytes, BoxError>::new(1);
    let response = client.send(post("/", upload.boxed())).await.unwrap();
    response.into_body().text(100).await.unwrap();
    // The upload has ended, and its use is the next one.
    sleep(SECOND / 2).await;
    let silent = timeout(100 * SECOND, client.get("/")).await;
    let error = silent.expect("it is silent").unwrap_err();
    assert_eq!(
        error.timeout_kind(),
        Some(TimeoutKind::Inactivity),
        "{error:?}"
    );
    assert_eq!(client.agent.status().created, 1);
    drop(sender);
    client.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn an_exchange_has_its_time_whether_or_not_it_is_polled() {
    static RESETS: AtomicUsize = AtomicUsize::new(0);
    let client = client(|io| async {
        serve(accept(io, 100).await, |request, mut respond| async move {
            if request.uri().path() == "/" {
                return path(request, respond).await;
            }
            if request.uri().path() == "/body" {
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                let _ = std::future::poll_fn(|cx| body.poll_reset(cx)).await;
            } else {
                let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            }
            RESETS.fetch_add(1, Ordering::SeqCst);
        })
        .await;
    });
    client.text("/").await.unwrap();
    for (path, kind, after) in [
        ("/head", TimeoutKind::Request, 3),
        ("/head", TimeoutKind::Response, 2),
        ("/body", TimeoutKind::Request, 3),
    ] {
        let mut request = get(path);
        request.extensions_mut().insert(RequestTimeout(3 * SECOND));
        if kind == TimeoutKind::Response || path == "/body" {
            request.extensions_mut().insert(ResponseTimeout(2 * SECOND));
        }
        let before = RESETS.load(Ordering::SeqCst);
        let mut exchange = Box::pin(client.send(request));
        let error = if path == "/body" {
            let mut body = exchange.await.unwrap().into_body();
            sleep(4 * SECOND).await;
            assert_eq!(RESETS.load(Ordering::SeqCst), before + 1);
            body.frame().await.unwrap().unwrap_err()
        } else {
            assert!(timeout(SECOND, &mut exchange).await.is_err());
            sleep(3 * SECOND).await;
            assert_eq!(RESETS.load(Ordering::SeqCst), before + 1);
            exchange.await.unwrap_err()
        };
        assert_eq!(error.timeout_kind(), Some(kind), "{error:?}");
        assert_eq!(error.timeout(), Some(after * SECOND));
        client.text("/").await.unwrap();
    }
    assert_eq!(client.agent.status().created, 1);
    client.at_rest().await;
}

/// Another caller has its place, and nobody has a place twice.
#[tokio::test(start_paused = true)]
async fn an_exchange_that_nobody_polls_keeps_its_place_for_its_time_and_no_longer() {
    let mut setup = active();
    setup.pool = PoolConfig::new().max_connections_per_host(1);
    let client = setup.client(|io| async {
        let mut kept = Vec::new();
        let mut connection = accept(io, 1).await;
        while let Some(Ok((request, respond))) = connection.accept().await {
            match request.uri().path() {
                "/" => path(request, respond).await,
                _ => kept.push((request, respond)),
            }
        }
    });
    client.text("/").await.unwrap();
    for limit in [Some(3), None] {
        let mut request = get("/silent");
        if let Some(limit) = limit {
            request
                .extensions_mut()
                .insert(RequestTimeout(limit * SECOND));
        }
        let mut exchange = Box::pin(client.send(request));
        assert!(timeout(SECOND, &mut exchange).await.is_err());
        for _ in 0..3 {
            let other = timeout(60 * SECOND, client.text("/")).await;
            assert_eq!(other.expect("it has its place").unwrap(), "/");
        }
        let error = exchange.await.unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
        client.text("/").await.unwrap();
    }
    assert_eq!(client.agent.status().created, 1);
    client.at_rest().await;
}

/// Answers the first request and every PING until then, and reads on after that.
async fn falls_silent(mut io: DuplexStream) {
    let (mut there, mut here) = tokio::io::duplex(1 << 16);
    let server = async {
        let mut connection = accept(there_of(&mut there), 100).await;
        let (request, respond) = connection.accept().await.unwrap().unwrap();
        path(request, respond).await;
        while connection.accept().await.is_some() {}
    };
    let pass = async {
        let mut sent = Instant::now();
        let mut answered = false;
        let (mut from_client, mut from_server) = ([0; 4096], [0; 4096]);
        loop {
            tokio::select! {
                read = io.read(&mut from_client) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(_) if answered && sent.elapsed() > SECOND => {}
                    Ok(read) => here.write_all(&from_client[..read]).await.unwrap(),
                },
                read = here.read(&mut from_server) => {
                    let read = read.unwrap();
                    io.write_all(&from_server[..read]).await.unwrap();
                    (answered, sent) = (true, Instant::now());
                }
            }
        }
    };
    tokio::select! {
        () = server => {}
        () = pass => {}
    }
}

fn there_of(there: &mut DuplexStream) -> DuplexStream {
    std::mem::replace(there, tokio::io::duplex(1).0)
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_gone_without_a_word_costs_what_is_under_way_and_no_more() {
    static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);
    let client = active().client(|io| async {
        match CONNECTIONS.fetch_add(1, Ordering::SeqCst) {
            0 => falls_silent(io).await,
            _ => one_path(io).await,
        }
    });
    client.text("/").await.unwrap();
    sleep(2 * SECOND).await;
    let mut under_way = Box::pin(client.get("/"));
    assert!(timeout(SECOND / 100, &mut under_way).await.is_err());
    // Its caller has no patience.
    assert!(timeout(SECOND / 2, client.get("/")).await.is_err());
    let begun = Instant::now();
    assert_eq!(client.text("/").await.unwrap(), "/");
    // It does not wait for the answer to the PING, but has another connection.
    let took = begun.elapsed();
    assert!(took < SECOND, "{took:?}");
    under_way.await.unwrap_err();
    let status = client.agent.status();
    assert_eq!(status.closes[&CloseReason::Silence], 1, "{status:?}");
    assert_eq!(status.created, 2);
    client.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_only_slow_is_asked_and_goes_on() {
    let client = active().client(one_path);
    client.text("/").await.unwrap();
    for _ in 0..3 {
        assert!(timeout(SECOND, client.get("/slow")).await.is_err());
        let begun = Instant::now();
        client.text("/").await.unwrap();
        assert!(begun.elapsed() < SECOND);
    }
    sleep(SECOND).await;
    let status = client.agent.status();
    // The server answers when it is asked, so nobody needs another one.
    assert_eq!((status.created, status.closed), (1, 0), "{status:?}");
    client.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn pings_by_interval_find_a_server_that_has_gone() {
    let mut setup = Setup::new();
    setup.settings = Http2::new()
        .ping_interval(10 * SECOND)
        .ping_timeout(3 * SECOND);
    let client = setup.client(falls_silent);
    client.text("/").await.unwrap();
    assert_eq!(client.agent.status().open(), 1);
    sleep(30 * SECOND).await;
    let status = client.agent.status();
    assert_eq!(status.closes[&CloseReason::Silence], 1, "{status:?}");
    client.at_rest().await;
}
