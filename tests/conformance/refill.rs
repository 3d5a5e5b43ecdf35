//! E. Removal and refill.

use std::time::Duration;

use futures_util::future::join_all;
use tower_keep_alive::{CloseReason, KeepAliveLayer};

use crate::support::agent::{agent, agent_over, agent_paused, at_rest, fetch, get, read, send};
use crate::support::{CountingConnector, Gate, Server, Sockets, eventually, not_over_h2, settle};

#[tokio::test]
async fn node_49_a_close_leaves_nothing_behind() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new().keep_alive(false));
    let answers = join_all((0..3).map(|_| fetch(&client, server.url("/")))).await;
    assert!(answers.iter().all(Result::is_ok));
    eventually("all are closed", || handle.status().open() == 0).await;
    let status = handle.status();
    assert!(status.idle.is_empty() && status.active.is_empty() && status.pending.is_empty());
    assert_eq!(status.closes, [(CloseReason::Final, 3)].into());
    assert_eq!(server.accepted(), 3);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_49_whoever_closes_an_idle_connection_its_key_goes() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(handle.status().idle.len(), 1);
    handle.close_idle();
    eventually("the key is gone", || handle.status().open() == 0).await;
    assert_eq!(handle.status().closes, [(CloseReason::Shutdown, 1)].into());
    eventually("the server sees it", || server.open() == 0).await;
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_50_a_closed_connection_is_replaced_for_the_head_of_its_own_line() {
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        if conn.index == 0 {
            return conn.rst();
        }
        conn.respond("ok").await;
        while conn.request().await.is_some() {
            conn.respond("ok").await;
        }
    })
    .await;
    let counting = CountingConnector::new(Sockets);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, counting.clone());
    let urls = ["/0", "/1", "/2"].map(|path| server.url(path));
    let answers = join_all(urls.iter().map(|url| fetch(&client, url))).await;
    let error = answers[0].as_ref().expect_err("reset by the server");
    assert!(error.is_reset() && !error.is_reused(), "{error:?}");
    assert!(answers[1].is_ok() && answers[2].is_ok(), "{answers:?}");
    let heads = server.heads();
    let served: Vec<_> = heads
        .iter()
        .map(|head| (&*head.target, head.connection))
        .collect();
    assert_eq!(served, [("/0", 0), ("/1", 1), ("/2", 1)]);
    assert_eq!((counting.made(), counting.max_alive()), (2, 1));
    assert_eq!(handle.status().created, 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_51_a_removal_makes_room_once() {
    if not_over_h2("an abort ends its stream, and not its connection") {
        return;
    }
    let server = Server::start(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")
                .await;
        }
    })
    .await;
    let counting = CountingConnector::new(Sockets);
    let layer = KeepAliveLayer::new().max_connections_per_host(2);
    let (client, handle) = agent_over(layer, counting.clone());
    let aborted = (0..6).map(|_| async {
        let response = client.request(get(server.url("/"))).await.unwrap();
        assert!(counting.alive() <= 2);
        drop(response);
    });
    join_all(aborted).await;
    eventually("all are closed", || counting.alive() == 0).await;
    assert_eq!((counting.made(), counting.max_alive()), (6, 2));
    eventually("and counted", || handle.status().closed == 6).await;
    assert_eq!(handle.status().closes, [(CloseReason::Abandoned, 6)].into());
    at_rest(&handle).await;
}

/// Answers what does not ask to be held at once, and the rest when `gate` lets it.
fn holding(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::in_memory(move |mut conn| {
        let gate = gate.clone();
        async move {
            while let Some(head) = conn.request().await {
                if head.target == "/held" {
                    gate.pass().await;
                }
                conn.respond("ok").await;
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn node_52_a_slot_goes_to_the_oldest_of_all_keys() {
    if not_over_h2("a key's first connection is made once for all who wait") {
        return;
    }
    let gate = Gate::new();
    let server = holding(&gate);
    let counting = CountingConnector::new(server.connector());
    let layer = KeepAliveLayer::new().max_connections(2);
    let (client, handle) = agent_paused(layer, counting.clone());
    let (gate, client) = (&gate, &client);
    let busy = async {
        let both = ["http://a.test/held", "http://a.test/held"];
        join_all(both.map(|url| fetch(client, url))).await
    };
    let lined_up = async {
        // The third of `a` was first in line, and so takes over what `a` gives back first.
        let (third, b, c) = (
            fetch(client, "http://a.test/held"),
            fetch(client, "http://b.test/"),
            fetch(client, "http://c.test/"),
        );
        let steps = async {
            eventually("both are held", || gate.waiting() == 2).await;
            gate.open(1);
            settle().await;
            assert_eq!(gate.waiting(), 2, "the third is served by a hand-over");
            // `a` is still in use, and `b` and `c` are served all the same.
            gate.open(1);
            settle().await;
            assert_eq!(gate.waiting(), 1);
            let status = handle.status();
            assert!(status.pending.is_empty(), "{status:?}");
            assert_eq!(server.requests(), 5);
            gate.open(1);
        };
        let (third, b, c, ()) = tokio::join!(third, b, c, steps);
        [third, b, c]
    };
    let (busy, lined_up) = tokio::join!(busy, lined_up);
    assert!(busy.iter().chain(&lined_up).all(Result::is_ok));
    let targets: Vec<_> = server
        .heads()
        .into_iter()
        .map(|head| head.header("host").unwrap().to_owned())
        .collect();
    assert_eq!(targets, ["a.test", "a.test", "a.test", "b.test", "c.test"]);
    assert_eq!(counting.max_alive(), 2);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_52_all_free_slots_are_filled() {
    let gate = Gate::new();
    let server = holding(&gate);
    let counting = CountingConnector::new(server.connector());
    let layer = KeepAliveLayer::new().max_connections(2);
    let (client, handle) = agent_paused(layer, counting.clone());
    let busy = [(); 2].map(|()| tokio::spawn(client.request(get("http://a.test/held"))));
    eventually("both are held", || gate.waiting() == 2).await;
    let others = ["http://b.test/held", "http://c.test/held"];
    let others = join_all(others.map(|url| fetch(&client, url)));
    let steps = async {
        eventually("two are in line", || handle.status().pending.len() == 2).await;
        // Both permits come free at once.
        for request in &busy {
            request.abort();
        }
        eventually("nobody waits", || handle.status().pending.is_empty()).await;
        settle().await;
        assert_eq!(handle.status().active.len(), 2, "{}", handle.status());
        gate.open_for_all();
    };
    let (answers, ()) = tokio::join!(others, steps);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!((counting.made(), counting.max_alive()), (4, 2));
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_53_a_failed_refill_strands_nobody() {
    if not_over_h2("HTTP/2 has no field Connection") {
        return;
    }
    let gate = Gate::new();
    let server = {
        let gate = gate.clone();
        Server::in_memory(move |mut conn| {
            let gate = gate.clone();
            async move {
                conn.request().await;
                gate.pass().await;
                conn.respond_with("HTTP/1.1 200 OK\r\nConnection: close", "ok")
                    .await;
            }
        })
    };
    let counting = CountingConnector::new(server.connector()).delay(Duration::from_millis(5));
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_paused(layer, counting.clone());
    let requests = join_all((0..4).map(|_| fetch(&client, server.url("/"))));
    let steps = async {
        eventually("the first is under way", || gate.waiting() == 1).await;
        counting.fail_next(3);
        gate.open_for_all();
    };
    let (answers, ()) = tokio::join!(requests, steps);
    assert!(answers[0].is_ok());
    for answer in &answers[1..] {
        let error = answer.as_ref().expect_err("its connect fails");
        assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    }
    // No permit is lost.
    fetch(&client, server.url("/")).await.unwrap();
    eventually("the last is closed", || handle.status().open() == 0).await;
    let status = handle.status();
    assert_eq!((status.created, status.create_errors), (5, 3));
    assert_eq!((counting.made(), counting.max_alive()), (5, 1));
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_54_an_abort_in_flight_serves_the_next_on_a_new_connection() {
    if not_over_h2("an abort ends its stream, and not its connection") {
        return;
    }
    let server = Server::start(|mut conn| async move {
        if conn.index == 0 {
            conn.request().await;
            return conn.stall().await;
        }
        while conn.request().await.is_some() {
            conn.respond("ok").await;
        }
    })
    .await;
    let counting = CountingConnector::new(Sockets);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, counting.clone());
    let aborted = tokio::spawn(client.request(get(server.url("/0"))));
    eventually("it is sent", || server.requests() == 1).await;
    let queued = fetch(&client, server.url("/1"));
    let steps = async {
        eventually("the other is in line", || {
            handle.status().pending.len() == 1
        })
        .await;
        aborted.abort();
    };
    let (answer, ()) = tokio::join!(queued, steps);
    let answer = answer.unwrap();
    assert!(!answer.info.is_reused());
    assert_eq!(server.heads()[1].connection, 1);
    assert_eq!((counting.made(), counting.max_alive()), (2, 1));
    assert_eq!(handle.status().closes, [(CloseReason::Abandoned, 1)].into());
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_54_thirty_requests_of_which_every_other_gives_up_all_settle() {
    let server = Server::in_memory(|mut conn| async move {
        while let Some(head) = conn.request().await {
            if head.target == "/slow" {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            conn.respond("ok").await;
        }
    });
    let counting = CountingConnector::new(server.connector());
    let layer = KeepAliveLayer::new().max_connections_per_host(2);
    let (client, handle) = agent_paused(layer, counting.clone());
    let requests = (0..30).map(|n| {
        let (client, server) = (&client, &server);
        async move {
            if n % 2 == 0 {
                let response = client.request(get(server.url("/fast"))).await;
                return read(response.unwrap()).await.is_ok();
            }
            let slow = send(client, get(server.url("/slow")));
            tokio::time::timeout(Duration::from_millis(50), slow)
                .await
                .is_ok()
        }
    });
    let settled = join_all(requests).await;
    for (n, succeeded) in settled.into_iter().enumerate() {
        assert_eq!(succeeded, n % 2 == 0, "request {n}");
    }
    assert!(counting.max_alive() <= 2);
    assert_eq!(handle.status().completed, 15);
    at_rest(&handle).await;
}
