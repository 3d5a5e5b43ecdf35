//! Who is served, by which connection, and in which order: trust tests 10, 11 and 12.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::time::Instant;
use tower_keep_alive::CloseReason;

use crate::environment::{Layers, closes, closes_all, in_paused_time, runs};
use crate::support::agent::{agent_paused, at_rest, fetch, get, read};
use crate::support::{Conn, CountingConnector, Gate, Server, eventually, script, settle};

const TURN: Duration = Duration::from_millis(1);

/// Echoes, one turn later.
async fn one_turn(mut conn: Conn) {
    while let Some(head) = conn.request().await {
        tokio::time::sleep(TURN).await;
        conn.respond(&head.target).await;
    }
}

#[test]
fn trust_10_late_binding_while_a_connect_hangs() {
    in_paused_time(|| async {
        let connects = Gate::new();
        let server = Server::in_memory(one_turn);
        let connector = CountingConnector::new(server.connector()).gate(&connects);
        let limit = Duration::from_millis(500);
        let layer = Layers::new()
            .max_connections_per_host(2)
            .connect_timeout(limit);
        let (client, handle) = agent_paused(layer, connector.clone());
        connects.open(1);
        let first = client.request(get(server.url("/first"))).await.unwrap();
        let id = first.body().connection().id();

        // Its connect hangs; it is served by the first connection as soon as that is free.
        let started = Instant::now();
        let second = tokio::spawn({
            let (client, url) = (client.clone(), server.url("/second"));
            async move { fetch(&client, url).await }
        });
        eventually("the second connects", || connects.waiting() == 1).await;
        read(first).await.unwrap();
        let second = second.await.unwrap().unwrap();
        assert_eq!((second.body.as_str(), second.info.id()), ("/second", id));
        assert!(second.info.is_reused());
        assert!(started.elapsed() < 20 * TURN, "{:?}", started.elapsed());

        // The connect that is nobody's any more is bounded as well, and its permit comes back.
        assert_eq!((connector.alive(), connects.waiting()), (2, 1));
        tokio::time::sleep(limit).await;
        eventually("the connect is given up", || connects.waiting() == 0).await;
        assert!(started.elapsed() < limit + 20 * TURN);
        let status = handle.status();
        assert_eq!((status.create_errors, status.open()), (1, 1), "{status}");
        assert_eq!(closes(&handle, CloseReason::ConnectTimeout), 1);
        println!(
            "trust 10: served by a freed connection while its own connect hung, which ended at its timeout"
        );
        at_rest(&handle).await;
        closes_all(client, &handle).await;
    });
}

/// A connect that outlives its caller's wish serves the next.
#[test]
fn trust_10_what_was_left_behind_is_used_later() {
    in_paused_time(|| async {
        let connects = Gate::new();
        let server = Server::in_memory(one_turn);
        let connector = CountingConnector::new(server.connector()).gate(&connects);
        let (client, handle) =
            agent_paused(Layers::new().max_connections_per_host(2), connector.clone());
        connects.open(1);
        let first = client.request(get(server.url("/first"))).await.unwrap();
        let id = first.body().connection().id();
        let second = tokio::spawn({
            let (client, url) = (client.clone(), server.url("/second"));
            async move { fetch(&client, url).await }
        });
        eventually("the second connects", || connects.waiting() == 1).await;
        read(first).await.unwrap();
        assert_eq!(second.await.unwrap().unwrap().info.id(), id);
        connects.open(1);
        eventually("two are idle", || {
            handle.status().idle.values().sum::<usize>() == 2
        })
        .await;
        let calls = ["/a", "/b"].map(|path| fetch(&client, server.url(path)));
        let ids = join_all(calls).await.into_iter().map(|answer| {
            let answer = answer.unwrap();
            assert!(answer.info.is_reused());
            answer.info.id()
        });
        let mut ids: Vec<_> = ids.collect();
        ids.sort_unstable();
        assert_eq!((ids[0], connector.made()), (id, 2));
        assert!(ids[1] != id);
        println!("trust 10: the connect that was not waited for carries a later request");
        at_rest(&handle).await;
        closes_all(client, &handle).await;
    });
}

/// 200 callers at once, 10 connections, of which so many fail to be made.
async fn herd(failing: usize) {
    const CALLERS: usize = 200;
    const LIMIT: usize = 10;
    let server = Server::in_memory(one_turn);
    let latency = Duration::from_millis(100);
    let connector = CountingConnector::new(server.connector()).delay(latency);
    connector.fail_next(failing);
    let layer = Layers::new().max_connections_per_host(LIMIT);
    let (client, handle) = agent_paused(layer, connector.clone());
    let started = Instant::now();
    let calls = (0..CALLERS).map(|at| fetch(&client, server.url(&format!("/{at}"))));
    let mut failed = 0;
    for (at, answer) in join_all(calls).await.into_iter().enumerate() {
        match answer {
            Ok(answer) => assert_eq!(answer.body, format!("/{at}")),
            Err(error) => {
                assert!(error.is_connect() && !error.is_timeout(), "{error:?}");
                failed += 1;
            }
        }
    }
    let took = started.elapsed();
    assert_eq!(failed, failing, "a failed connect is its own caller's");
    assert!(connector.made() <= LIMIT + failing, "{}", connector.made());
    assert!(connector.max_alive() <= LIMIT);
    assert!(took < 4 * latency, "{took:?}");
    assert_eq!(handle.status().create_errors, failing as u64);
    println!(
        "trust 11: {} connects for {CALLERS} callers at a limit of {LIMIT}; {failing} failed, and so many callers ({took:?})",
        connector.made()
    );
    at_rest(&handle).await;
    closes_all(client, &handle).await;
}

#[test]
fn trust_11_no_herd() {
    in_paused_time(|| herd(0));
}

#[test]
fn trust_11_a_failed_connect_fails_exactly_one() {
    in_paused_time(|| herd(1));
    in_paused_time(|| herd(7));
}

#[test]
fn trust_12_served_in_the_order_of_arrival() {
    for limit in [1, 4] {
        in_paused_time(|| async {
            let callers = runs(1000, 10_000);
            let server = Server::in_memory(script::echo);
            let layer = Layers::new().max_connections_per_host(limit);
            let (client, handle) = agent_paused(layer, server.connector());
            let mut calls = Vec::new();
            for at in 0..callers {
                let (client, url) = (client.clone(), server.url(&format!("/{at}")));
                let mut call = Box::pin(async move { fetch(&client, url).await });
                // In line now.
                assert!((&mut call).now_or_never().is_none());
                calls.push(tokio::spawn(call));
            }
            for (at, call) in join_all(calls).await.into_iter().enumerate() {
                assert_eq!(call.unwrap().unwrap().body, format!("/{at}"));
            }
            let order: Vec<usize> = server
                .heads()
                .iter()
                .map(|head| head.target[1..].parse().unwrap())
                .collect();
            // Several connections may overtake each other on the wire, but not the line.
            let late = order
                .iter()
                .enumerate()
                .map(|(place, at)| place.abs_diff(*at));
            let late = late.max().unwrap();
            assert!(late < limit, "{late}");
            println!(
                "trust 12: {callers} callers served in their order by {limit}, none more than {late} late"
            );
            at_rest(&handle).await;
            closes_all(client, &handle).await;
        });
    }
}

/// The longest waits of the callers of two hosts that share `total` connections.
async fn longest_waits(total: usize, arrivals: impl Fn(usize) -> usize) -> [Duration; 2] {
    let server = Server::in_memory(one_turn);
    let connector = CountingConnector::new(server.connector());
    let (client, handle) = agent_paused(Layers::new().max_connections(total), connector.clone());
    let longest = Arc::new(Mutex::new([Duration::ZERO; 2]));
    let mut calls = Vec::new();
    for at in 0..400 {
        let host = arrivals(at);
        let (client, longest) = (client.clone(), longest.clone());
        let started = Instant::now();
        let mut call = Box::pin(async move {
            let url = format!("http://host-{host}.test/{at}");
            assert_eq!(fetch(&client, url).await.unwrap().body, format!("/{at}"));
            let mut longest = longest.lock().unwrap();
            longest[host] = longest[host].max(started.elapsed());
        });
        assert!((&mut call).now_or_never().is_none());
        calls.push(tokio::spawn(call));
    }
    for call in join_all(calls).await {
        call.unwrap();
    }
    settle().await;
    assert!(connector.max_alive() <= total, "{}", connector.max_alive());
    at_rest(&handle).await;
    closes_all(client, &handle).await;
    *longest.lock().unwrap()
}

#[test]
fn trust_12_two_hosts_share_a_total_fairly() {
    let arrivals: [(&str, fn(usize) -> usize); 3] = [
        ("in turn", |at| at % 2),
        ("one in ten", |at| usize::from(at % 10 == 9)),
        ("in tens", |at| at / 10 % 2),
    ];
    for total in [1, 2, 5] {
        for (name, arrivals) in arrivals {
            let [one, other] = in_paused_time(|| longest_waits(total, arrivals));
            let ratio = one.max(other).as_secs_f64() / one.min(other).as_secs_f64();
            println!(
                "trust 12: longest waits {one:?} and {other:?} (ratio {ratio:.2}), {name}, under a total of {total}"
            );
            assert!(ratio <= 2.0, "{ratio}");
        }
    }
}
