//! `AgentHandle::on_event`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tower_keep_alive::{AgentHandle, CloseReason, Event, EventKind, KeepAliveLayer};

use crate::support::agent::{agent, agent_over, agent_paused, at_rest, fetch, get, read};
use crate::support::{CountingConnector, Gate, RefusingPort, Server, Sockets, eventually, script};

/// The events, in order.
type Events = Arc<Mutex<Vec<(Option<u64>, EventKind)>>>;

fn listen(handle: &AgentHandle) -> Events {
    let events = Events::default();
    let list = events.clone();
    handle.on_event(move |_, event: &Event<'_>| {
        list.lock().unwrap().push((event.connection, event.kind));
    });
    events
}

fn kinds(events: &Events) -> Vec<String> {
    let events = events.lock().unwrap();
    // Without the durations.
    let name = |kind: &EventKind| format!("{kind:?}").split(' ').next().unwrap().to_owned();
    events.iter().map(|(_, kind)| name(kind)).collect()
}

#[tokio::test]
async fn a_connection_is_told_of_from_its_connect_to_its_end() {
    let server = Server::ok().await;
    let layer = KeepAliveLayer::new();
    let events = listen(&layer.handle());
    let (client, handle) = agent(layer);
    let first = fetch(&client, server.url("/")).await.unwrap();
    fetch(&client, server.url("/")).await.unwrap();
    handle.close_idle();
    eventually("it is closed", || handle.status().closed == 1).await;
    eventually("its end is reported", || events.lock().unwrap().len() == 4).await;
    assert_eq!(kinds(&events), ["Created", "Connected", "Reused", "Closed"]);
    let events = events.lock().unwrap().clone();
    assert_eq!(events[0].0, None, "it has no number yet");
    for (connection, kind) in &events[1..] {
        assert_eq!(*connection, Some(first.info.id()), "{kind:?}");
    }
    assert!(matches!(
        events[3].1,
        EventKind::Closed { reason: CloseReason::Shutdown, age, .. } if age > Duration::ZERO
    ));
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn an_eviction_is_told_with_its_limit_and_before_the_end() {
    let server = Server::in_memory(script::ok);
    let layer = KeepAliveLayer::new().idle_timeout(Duration::from_secs(2));
    let events = listen(&layer.handle());
    let (client, handle) = agent_paused(layer, server.connector());
    fetch(&client, server.url("/")).await.unwrap();
    eventually("it is evicted", || events.lock().unwrap().len() == 4).await;
    assert_eq!(kinds(&events)[2..], ["Evicted", "Closed"]);
    let ends: Vec<_> = events.lock().unwrap()[2..].to_vec();
    assert!(matches!(
        ends[0].1,
        EventKind::Evicted {
            reason: CloseReason::Idle,
            ..
        }
    ));
    let age = Duration::from_secs(2);
    assert!(
        matches!(ends[1].1, EventKind::Closed { reason: CloseReason::Idle, age: it, .. } if it >= age)
    );
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_hand_over_is_told_with_the_wait_and_a_stale_one_as_stale() {
    let gate = Gate::new();
    let held = gate.clone();
    let server = Server::start(move |mut conn| {
        let gate = held.clone();
        async move {
            gate.pass().await;
            for _ in 0..2 {
                conn.request().await;
                conn.respond("ok").await;
            }
            conn.fin().await;
        }
    })
    .await;
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let events = listen(&layer.handle());
    let (client, handle) = agent(layer);
    let url = server.url("/");
    let both = join_all([fetch(&client, &url), fetch(&client, &url)]);
    let steps = async {
        eventually("one waits", || handle.status().pending.len() == 1).await;
        gate.open(9);
    };
    let (answers, ()) = tokio::join!(both, steps);
    answers.into_iter().for_each(|it| drop(it.unwrap()));
    assert_eq!(kinds(&events)[..3], ["Created", "Connected", "HandedOver"]);
    let waited = events.lock().unwrap()[2].1;
    assert!(matches!(waited, EventKind::HandedOver { waited, .. } if waited > Duration::ZERO));
    // Whoever asks before its end is seen may meet it closing.
    eventually("its end is reported", || {
        kinds(&events).iter().any(|it| it == "Closed")
    })
    .await;
    fetch(&client, &url).await.unwrap();
    let closed = kinds(&events).iter().filter(|it| *it == "Closed").count();
    let created = kinds(&events).iter().filter(|it| *it == "Created").count();
    assert_eq!((created, closed >= 1), (2, true), "{:?}", kinds(&events));
    let stale = kinds(&events).iter().filter(|it| *it == "Stale").count();
    assert_eq!(stale as u64, handle.status().stale);
    at_rest(&handle).await;
}

#[tokio::test]
async fn what_leaves_the_agent_is_told_as_detached_and_not_as_closed() {
    let server = Server::ok().await;
    let layer = KeepAliveLayer::new();
    let events = listen(&layer.handle());
    let (client, handle) = agent(layer);
    let response = client.request(get(server.url("/"))).await.unwrap();
    response.body().connection().detach();
    read(response).await.unwrap();
    eventually("its transport is gone", || server.open() == 0).await;
    assert_eq!(kinds(&events), ["Created", "Connected", "Detached"]);
    assert_eq!(handle.status().detached, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_connect_that_fails_is_told_as_closed_without_a_number() {
    let port = RefusingPort::new();
    let layer = KeepAliveLayer::new();
    let events = listen(&layer.handle());
    let (client, handle) = agent(layer);
    fetch(&client, port.url("/")).await.unwrap_err();
    let events = events.lock().unwrap().clone();
    assert!(
        matches!(
            events[..],
            [
                (None, EventKind::Created),
                (
                    None,
                    EventKind::Closed {
                        reason: CloseReason::Connect,
                        age: Duration::ZERO,
                        ..
                    }
                )
            ]
        ),
        "{events:?}"
    );
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_hook_may_use_its_handle_and_may_panic() {
    let server = Server::ok().await;
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let list = seen.clone();
    layer.handle().on_event(move |agent, event| {
        // Whoever held a lock here would wait for itself.
        list.lock().unwrap().push(agent.status().created);
        let _ = agent.connections(event.key);
        agent.close_idle();
        agent.on_event(|_, _| {});
        panic!("a hook that is broken");
    });
    let (client, handle) = agent_over(layer, CountingConnector::new(Sockets));
    let answers = join_all((0..4).map(|_| fetch(&client, server.url("/")))).await;
    for answer in answers {
        assert_eq!(answer.unwrap().body, "ok");
    }
    assert!(seen.lock().unwrap().len() >= 3);
    assert_eq!(seen.lock().unwrap()[0], 1, "counted before it is reported");
    assert_eq!(handle.status().completed, 4);
    at_rest(&handle).await;
}
