//! How long a connection lives, and by which clock: trust tests 17 and 18.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio::time::Instant;
use tower_keep_alive::{
    CloseReason,
    custom::{Clock, Moment},
};

use crate::environment::{Dice, Layers, closes, closes_all, in_paused_time, runs};
use crate::support::agent::{agent_over, agent_paused, at_rest, fetch, get, read};
use crate::support::{Conn, Server, eventually, script, settle};

const TTL: Duration = Duration::from_millis(100);

/// Echoes, after so many milliseconds as the target says.
async fn takes_its_time(mut conn: Conn) {
    while let Some(head) = conn.request().await {
        let millis = head.target[1..].parse().unwrap();
        tokio::time::sleep(Duration::from_millis(millis)).await;
        conn.respond(&head.target).await;
    }
}

#[test]
fn trust_17_a_ttl_never_interrupts() {
    in_paused_time(|| async {
        let server = Server::in_memory(takes_its_time);
        let (client, handle) = agent_paused(Layers::new().ttl(TTL), server.connector());
        let first = fetch(&client, server.url("/350")).await.unwrap();
        assert_eq!(first.body, "/350");
        settle().await;
        assert_eq!(handle.status().open(), 0, "not kept when it comes back");
        assert_eq!(closes(&handle, CloseReason::Age), 1);
        let second = fetch(&client, server.url("/1")).await.unwrap();
        assert!(!second.info.is_reused());
        println!(
            "trust 17: an exchange of 3.5 TTLs was not interrupted, and its connection not kept"
        );
        at_rest(&handle).await;
        closes_all(client, &handle).await;
    });
}

/// Whoever waits in line gets no connection that is too old either.
#[test]
fn trust_17_a_ttl_is_kept_on_a_hand_over() {
    in_paused_time(|| async {
        let server = Server::in_memory(takes_its_time);
        let layer = Layers::new().ttl(TTL).max_connections_per_host(1);
        let (client, handle) = agent_paused(layer, server.connector());
        let calls = ["/150", "/1", "/2"].map(|path| fetch(&client, server.url(path)));
        let answers = join_all(calls).await;
        let ids: Vec<_> = answers
            .into_iter()
            .map(|it| it.unwrap().info.id())
            .collect();
        assert_ne!(ids[0], ids[1]);
        assert_eq!(ids[1], ids[2]);
        assert_eq!(
            (server.accepted(), closes(&handle, CloseReason::Age)),
            (2, 1)
        );
        at_rest(&handle).await;
        closes_all(client, &handle).await;
    });
}

#[test]
fn trust_17_nothing_is_reused_past_its_ttl() {
    in_paused_time(|| async {
        let requests = runs(1_500, 10_000);
        let server = Server::in_memory(takes_its_time);
        let layer = Layers::new()
            .ttl(TTL)
            .ttl_jitter(0.5)
            .max_connections_per_host(3);
        let (client, handle) = agent_paused(layer, server.connector());
        // When each connection carried its first request: it is not younger than that.
        let born: Mutex<HashMap<u64, Instant>> = Mutex::default();
        let callers = (0..6).map(|caller| {
            let (client, server, born) = (&client, &server, &born);
            async move {
                let mut dice = Dice::new(caller);
                let mut reused = 0;
                for _ in 0..requests / 6 {
                    tokio::time::sleep(Duration::from_millis(dice.roll(30))).await;
                    let response = client.request(get(server.url(&format!("/{}", dice.roll(10)))));
                    let answer = read(response.await.unwrap()).await.unwrap();
                    let took: u64 = answer.body[1..].parse().unwrap();
                    let sent = Instant::now() - Duration::from_millis(took);
                    let mut born = born.lock().unwrap();
                    let born = *born.entry(answer.info.id()).or_insert(sent);
                    reused += usize::from(answer.info.is_reused());
                    // A timer of tokio's is up to 1 ms late.
                    let age = sent.duration_since(born);
                    assert!(age <= TTL + Duration::from_millis(2), "{age:?}");
                }
                reused
            }
        });
        let reused: usize = join_all(callers).await.into_iter().sum();
        assert!(reused > requests / 2, "{reused}");
        println!(
            "trust 17: 0 of {requests} requests on a connection past its TTL ({reused} reused)"
        );
        at_rest(&handle).await;
        closes_all(client, &handle).await;
    });
}

#[test]
fn trust_17_jitter_has_its_bounds() {
    in_paused_time(|| async {
        let server = Server::in_memory(script::ok);
        let layer = Layers::new().ttl(TTL).ttl_jitter(0.2);
        let (client, handle) = agent_paused(layer, server.connector());
        let started = Instant::now();
        let held = (0..200).map(|_| client.request(get(server.url("/"))));
        let held = join_all(held).await;
        assert_eq!(server.accepted(), 200);
        for response in held {
            read(response.unwrap()).await.unwrap();
        }
        assert!(started.elapsed() < TTL / 10);
        tokio::time::sleep_until(started + TTL.mul_f64(0.8) - Duration::from_millis(1)).await;
        assert_eq!(handle.status().open(), 200);
        tokio::time::sleep_until(started + TTL.mul_f64(0.9)).await;
        let half = handle.status().open();
        assert!((50..150).contains(&half), "{half}");
        tokio::time::sleep_until(started + TTL + Duration::from_millis(3)).await;
        settle().await;
        assert_eq!(handle.status().open(), 0);
        println!(
            "trust 17: 200 connections end between 0.8 and 1 TTL, {} of them in the first half",
            200 - half
        );
        at_rest(&handle).await;
        closes_all(client, &handle).await;
    });
}

/// A clock whose hands the test moves.
#[derive(Clone)]
struct Hands(Arc<Mutex<Moment>>, Arc<Mutex<Option<Instant>>>);

impl Hands {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Moment::now())), Arc::default())
    }

    /// The wall clock goes with the runtime's, from where it was set; the monotonic one too, unless it is stopped.
    fn clock(&self) -> Clock {
        let (start, stopped) = (self.0.clone(), self.1.clone());
        Clock::new(move || {
            let start = *start.lock().unwrap();
            let mono = Instant::now();
            Moment::new(
                stopped.lock().unwrap().unwrap_or(mono),
                start.wall + mono.duration_since(start.mono),
            )
        })
    }

    fn set_wall(&self, set: impl FnOnce(SystemTime) -> SystemTime) {
        let mut start = self.0.lock().unwrap();
        start.wall = set(start.wall);
    }

    fn stop_mono(&self) {
        *self.1.lock().unwrap() = Some(Instant::now());
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// Whether a connection is reused when, a second after its first use, `happens` has happened, and after that its idle
/// time, and then its TTL.
async fn reused_after(happens: impl FnOnce(&Hands)) -> [bool; 3] {
    let server = Server::in_memory(script::echo);
    let hands = Hands::new();
    let layer = Layers::new()
        .idle_timeout(Duration::from_secs(4))
        .ttl(Duration::from_secs(60))
        .clock(hands.clock());
    let (client, handle) = agent_over(layer, server.connector());
    fetch(&client, server.url("/")).await.unwrap();
    settle().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    happens(&hands);
    let at_once = fetch(&client, server.url("/"))
        .await
        .unwrap()
        .info
        .is_reused();
    settle().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after_idle = fetch(&client, server.url("/"))
        .await
        .unwrap()
        .info
        .is_reused();
    let mut after_ttl = fetch(&client, server.url("/")).await.unwrap().info;
    let id = after_ttl.id();
    for _ in 0..30 {
        settle().await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        after_ttl = fetch(&client, server.url("/")).await.unwrap().info;
    }
    at_rest(&handle).await;
    closes_all(client, &handle).await;
    [at_once, after_idle, after_ttl.id() == id]
}

#[test]
fn trust_18_neither_clock_makes_a_connection_immortal_or_old() {
    let undisturbed = in_paused_time(|| reused_after(|_| {}));
    assert_eq!(undisturbed, [true, false, false]);
    let forward = in_paused_time(|| reused_after(|it| it.set_wall(|wall| wall + HOUR)));
    assert_eq!(
        forward,
        [false, false, false],
        "the wall clock says it is old"
    );
    let backward = in_paused_time(|| reused_after(|it| it.set_wall(|wall| wall - HOUR)));
    assert_eq!(
        backward,
        [true, false, false],
        "the wall clock says nothing"
    );
    let suspended = in_paused_time(|| {
        reused_after(|it| {
            it.stop_mono();
            it.set_wall(|wall| wall + HOUR);
        })
    });
    assert!(!suspended[0], "the machine slept");
    let stopped = in_paused_time(|| reused_after(Hands::stop_mono));
    assert_eq!(stopped, [true, false, false], "the wall clock goes on");
    println!(
        "trust 18: after an hour's jump forward or a suspend nothing stale is reused; after one backward nothing is immortal, and nothing ends early"
    );
}

/// The sweeper's timer is the runtime's: it closes what only the wall clock says is over when it next looks.
#[test]
fn trust_18_a_wall_clock_set_back_does_not_hold_up_eviction() {
    in_paused_time(|| async {
        let server = Server::in_memory(script::ok);
        let hands = Hands::new();
        let layer = Layers::new()
            .idle_timeout(Duration::from_secs(4))
            .clock(hands.clock());
        let (client, handle) = agent_over(layer, server.connector());
        fetch(&client, server.url("/")).await.unwrap();
        settle().await;
        hands.set_wall(|wall| wall - HOUR);
        tokio::time::sleep(Duration::from_millis(3990)).await;
        assert_eq!(handle.status().open(), 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
        eventually("it is evicted", || handle.status().open() == 0).await;
        assert_eq!(closes(&handle, CloseReason::Idle), 1);
        at_rest(&handle).await;
        closes_all(client, &handle).await;
    });
}
