//! Names are looked up again, and their new addresses kept to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tower_keep_alive::{CloseReason, KeepAliveLayer, Spread};

use crate::names::Names;
use crate::support::agent::{agent_over, at_rest, fetch, get, read};
use crate::support::{Conn, Server, eventually};

const URL: &str = "http://host.test/";
const EVERY: Duration = Duration::from_millis(100);

fn layer() -> KeepAliveLayer<Full<Bytes>> {
    KeepAliveLayer::new().follow_dns(EVERY, 2)
}

/// Takes a moment for each answer, so that several are under way.
async fn slow(mut conn: Conn) {
    while conn.request().await.is_some() {
        tokio::time::sleep(Duration::from_millis(2)).await;
        conn.respond("ok").await;
    }
}

async fn looked_up(names: &Names, times: usize) {
    let before = names.asked();
    eventually("it is looked up", || names.asked() >= before + times).await;
}

#[tokio::test]
async fn in_mid_load_a_new_address_has_its_share_and_one_that_is_gone_has_no_requests() {
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(Server::start_tcp(slow).await);
    }
    let names = Names::of(&servers[..2]);
    let layer = layer().spread(Spread::FewestOpenFirst);
    let (client, handle) = agent_over(layer, names.connector());
    let (stop, failed) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let callers: Vec<_> = (0..12)
        .map(|_| {
            let (client, stop, failed) = (client.clone(), stop.clone(), failed.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let is_failed = fetch(&client, URL).await.is_err();
                    failed.fetch_add(usize::from(is_failed), Ordering::SeqCst);
                }
            })
        })
        .collect();
    looked_up(&names, 2).await;
    assert_eq!(servers[2].accepted(), 0);
    let [_, gone, new] = &servers[..] else {
        unreachable!("three")
    };
    names.set(Ok(vec![servers[0].addr(), new.addr()]));
    eventually("connections to the one that is gone are closed", || {
        gone.open() == 0
    })
    .await;
    let share = || {
        let addresses = handle.status().addresses;
        let open = |server: &Server| {
            let of = addresses.values().filter_map(|it| it.get(&server.addr()));
            of.map(|it| it.idle + it.active).sum::<usize>()
        };
        (open(&servers[0]), open(new))
    };
    eventually("the new one has as many connections", || {
        let (old, new) = share();
        old.abs_diff(new) <= 2 && new >= 5
    })
    .await;
    // A connect that had begun may end after all the others are closed, and is used until the next answers.
    let mut is_left = false;
    for _ in 0..20 {
        let before = servers.each_requests();
        looked_up(&names, 4).await;
        let now = servers.each_requests();
        is_left = now[1] == before[1] && now[0] > before[0] && now[2] > before[2];
        if is_left {
            break;
        }
    }
    assert!(
        is_left,
        "the one that is gone has requests, or another has none"
    );
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(failed.load(Ordering::SeqCst), 0);
    handle.close_idle();
    at_rest(&handle).await;
}

trait Requests {
    fn each_requests(&self) -> Vec<usize>;
}

impl Requests for Vec<Server> {
    fn each_requests(&self) -> Vec<usize> {
        self.iter().map(Server::requests).collect()
    }
}

#[tokio::test]
async fn an_answer_that_fails_or_is_empty_changes_nothing() {
    let servers = [Server::ok().await, Server::ok().await];
    let names = Names::of(&servers[..1]);
    let (client, handle) = agent_over(layer(), names.connector());
    let held = client.request(get(URL)).await.unwrap();
    for answer in [Err("no answer"), Ok(Vec::new())] {
        names.set(answer);
        looked_up(&names, 4).await;
        assert_eq!(servers[0].open(), 1);
    }
    names.set(Ok(vec![servers[1].addr()]));
    // The exchange under way goes on to its end.
    looked_up(&names, 4).await;
    assert_eq!(servers[0].open(), 1);
    assert_eq!(read(held).await.unwrap().body, "ok");
    eventually("it is closed then", || servers[0].open() == 0).await;
    let answer = fetch(&client, URL).await.unwrap();
    assert_eq!(answer.info.remote_addr(), Some(servers[1].addr()));
    // What is idle is closed at once.
    names.set(Ok(vec![servers[0].addr()]));
    eventually("it is left", || servers[1].open() == 0).await;
    assert_eq!(handle.status().closes[&CloseReason::Moved], 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn names_are_looked_up_only_while_there_are_connections() {
    let server = Server::ok().await;
    let names = Names::of(std::slice::from_ref(&server));
    let (client, handle) = agent_over(layer(), names.connector());
    fetch(&client, URL).await.unwrap();
    looked_up(&names, 2).await;
    handle.close_idle();
    at_rest(&handle).await;
    // The task has ended: else it would have been found.
    let before = names.asked();
    fetch(&client, URL).await.unwrap();
    assert_eq!(names.asked(), before + 1);
    handle.close_idle();
    at_rest(&handle).await;
}
