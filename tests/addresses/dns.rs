//! Names are looked up again, and their new addresses kept to.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tower_keep_alive::{
    CloseReason, EventKind, FollowDns, KeepAliveLayer, Protocol, Spread, TimeoutKind,
    extensions::{Family, Route},
};

use crate::names::Names;
use crate::support::agent::{agent_over, agent_paused, at_rest, fetch, get, read};
use crate::support::frames::Behaviour;
use crate::support::{Conn, RefusingPort, Server, eventually, http2};

#[cfg(target_os = "linux")]
use crate::support::SwallowingPort;

const URL: &str = "http://host.test/";
const EVERY: Duration = Duration::from_millis(100);

fn layer() -> KeepAliveLayer<Full<Bytes>> {
    KeepAliveLayer::new().follow_dns(FollowDns::default().every(EVERY))
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

/// One address of the name.
struct Place {
    addr: SocketAddr,
    open: Box<dyn Fn() -> usize>,
    requests: Box<dyn Fn() -> usize>,
}

#[tokio::test]
async fn in_mid_load_a_new_address_has_its_share_and_one_that_is_gone_has_no_requests() {
    let place = async || {
        let server = Arc::new(Server::start_tcp(slow).await);
        let same = server.clone();
        Place {
            addr: server.addr(),
            open: Box::new(move || same.open()),
            requests: Box::new(move || server.requests()),
        }
    };
    let places = [place().await, place().await, place().await];
    follows_in_mid_load(&places, layer()).await;
}

/// Two requests at the same time on each connection.
#[tokio::test]
async fn over_http2_as_well() {
    let place = async || {
        let behaviour = Arc::new(Behaviour {
            delay: Duration::from_millis(2),
            limit: Some(2),
            ..Behaviour::default()
        });
        let serve = move |conn| {
            let behaviour = behaviour.clone();
            async move { behaviour.serve(conn).await }
        };
        let server = Arc::new(http2::Server::start_tcp(serve).await);
        let same = server.clone();
        Place {
            addr: server.addr(),
            open: Box::new(move || same.open()),
            requests: Box::new(move || server.log.seen(|seen| seen.requests.len())),
        }
    };
    let places = [place().await, place().await, place().await];
    follows_in_mid_load(&places, layer().protocol(Protocol::Http2)).await;
}

/// The name has the first two, then the first and the last.
async fn follows_in_mid_load(places: &[Place; 3], layer: KeepAliveLayer<Full<Bytes>>) {
    let names = Names::new(vec![places[0].addr, places[1].addr]);
    let layer = layer.spread(Spread::FewestOpenFirst);
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
    let [kept, gone, new] = places;
    assert_eq!((new.requests)(), 0);
    let changed = names.asked();
    names.set(Ok(vec![kept.addr, new.addr]));
    eventually("connections to the one that is gone are closed", || {
        (gone.open)() == 0
    })
    .await;
    let share = || {
        let addresses = handle.status().addresses;
        let open = |place: &Place| {
            let of = addresses.values().filter_map(|it| it.get(&place.addr));
            of.map(|it| it.idle + it.active).sum::<usize>()
        };
        (open(kept), open(new))
    };
    eventually("the new one has as many connections", || {
        let (old, new) = share();
        old.abs_diff(new) <= 2 && new * 3 >= old + new
    })
    .await;
    // One of these is every 100 ms at the most: two seconds, on a machine that is in time.
    let resolutions = names.asked() - changed;
    assert!(resolutions <= 20, "after {resolutions} resolutions");
    let requests = || places.each_ref().map(|it| (it.requests)());
    // A connect that had begun may end after all the others are closed, and is used until the next answers.
    let mut is_left = false;
    for _ in 0..20 {
        let before = requests();
        looked_up(&names, 4).await;
        let now = requests();
        let of_kept = now[0] - before[0];
        let of_new = now[2] - before[2];
        is_left = now[1] == before[1] && of_kept > 0 && of_new * 3 >= of_kept + of_new;
        if is_left {
            break;
        }
    }
    assert!(
        is_left,
        "the one that is gone has requests, or the new one less than a third"
    );
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(failed.load(Ordering::SeqCst), 0);
    handle.close_idle();
    at_rest(&handle).await;
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
    assert_eq!(handle.status().closes, [(CloseReason::Moved, 2)].into());
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

#[tokio::test]
async fn while_lookups_fail_connects_use_the_last_answer_and_status_and_events_say_so() {
    let server = Server::ok().await;
    for hangs in [false, true] {
        let names = Names::of(std::slice::from_ref(&server));
        // Not in the background, so that the lookup that fails is a connect's.
        let follow = FollowDns::default().lookup_timeout(Duration::from_millis(50));
        let layer = KeepAliveLayer::new().follow_dns(follow);
        let (client, handle) = agent_over(layer, names.connector());
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = events.clone();
        handle.on_event(move |_, event| {
            if let EventKind::LookupFailed { answer_age, .. } = event.kind {
                seen.lock().unwrap().push(answer_age.is_some());
            }
        });
        let mut held = vec![client.request(get(URL)).await.unwrap()];
        let status = handle.status();
        let (key, lookups) = status.lookups.first_key_value().unwrap();
        assert_eq!((lookups.addresses, &lookups.failing), (1, &None));
        assert!(!status.to_string().contains("lookup"), "{status}");
        match hangs {
            true => names.hang(),
            false => names.set(Err("no server")),
        }
        for _ in 0..3 {
            held.push(client.request(get(URL)).await.unwrap());
        }
        assert_eq!(names.asked(), 2, "the last answer is used at once then");
        assert_eq!(*events.lock().unwrap(), [true]);
        let why = match hangs {
            true => "resolve host.test: no answer within 50ms",
            false => "resolve host.test: no server",
        };
        let status = handle.status();
        let expected = format!("; {key} answer of 0 s ago, lookup failing: {why}");
        assert!(status.to_string().ends_with(&expected), "{status}");
        let json = serde_json::to_value(&status).unwrap();
        let json = &json["lookups"][key.to_string()];
        assert_eq!(json["failing"], why);
        assert!(json["age"].is_u64() && json["addresses"] == 1, "{json}");
        for response in held {
            read(response).await.unwrap();
        }
        handle.close_idle();
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_is_told_from_one_that_cannot_be_connected_to() {
    let follow = FollowDns::default().lookup_timeout(Duration::from_millis(50));
    for layer in [
        KeepAliveLayer::new(),
        KeepAliveLayer::new().follow_dns(follow),
    ] {
        let names = Names::new(Vec::new());
        let (client, handle) = agent_over(layer, names.connector());
        let mut v6 = get(URL);
        let route = Route::new().with_family(Family::V6);
        v6.extensions_mut().insert(route);
        let v4 = vec![([127, 0, 0, 1], 1).into()];
        for (answer, request, text) in [
            (Err("no server"), get(URL), "resolve host.test: no server"),
            (Ok(Vec::new()), get(URL), "host.test has no address"),
            (Ok(v4), v6, "host.test has no IPv6 address"),
        ] {
            names.set(answer);
            let error = client.request(request).await.unwrap_err();
            assert!(error.is_dns() && error.is_connect() && error.is_unsent());
            assert!(error.to_string().contains(text), "{error}");
        }
        // Nobody listens there.
        names.set(Ok(vec![RefusingPort::new().addr()]));
        let error = fetch(&client, URL).await.unwrap_err();
        assert!(error.is_connect() && !error.is_dns(), "{error}");
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn a_lookup_that_takes_too_long_is_a_timeout_of_dns() {
    let names = Names::new(Vec::new());
    names.hang();
    let follow = FollowDns::default().lookup_timeout(Duration::from_millis(50));
    let layer = KeepAliveLayer::new().follow_dns(follow);
    let (client, handle) = agent_over(layer, names.connector());
    let error = fetch(&client, URL).await.unwrap_err();
    assert!(error.is_dns() && error.is_timeout() && error.is_unsent());
    let told = error.to_string();
    assert!(
        told.contains("resolve host.test: no answer within 50ms"),
        "{told}"
    );
    at_rest(&handle).await;
}

/// Also where the name is not followed: the text names the host, and the connect timeout is that of every connect.
#[tokio::test(start_paused = true)]
async fn a_lookup_without_an_answer_until_the_connect_timeout_is_a_timeout_of_dns() {
    let limit = Duration::from_secs(2);
    let names = Names::new(Vec::new());
    names.hang();
    for layer in [
        KeepAliveLayer::new(),
        KeepAliveLayer::new().follow_dns(FollowDns::default()),
    ] {
        let (client, handle) = agent_paused(layer.connect_timeout(limit), names.connector());
        let begun = tokio::time::Instant::now();
        let error = fetch(&client, URL).await.unwrap_err();
        assert_eq!(begun.elapsed(), limit);
        assert!(error.is_dns() && error.is_connect() && error.is_unsent());
        assert_eq!(error.timeout_kind(), Some(TimeoutKind::Connect));
        assert_eq!(error.timeout(), Some(limit));
        let told = "cannot resolve host.test: no answer within 2s";
        assert_eq!(error.to_string(), told);
        let closes = handle.status().closes;
        assert_eq!(closes, [(CloseReason::ConnectTimeout, 1)].into());
        at_rest(&handle).await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_connect_without_an_answer_after_its_lookup_is_no_failure_of_dns() {
    let hole = SwallowingPort::new().await;
    let names = Names::new(vec![hole.addr()]);
    let layer = KeepAliveLayer::new().connect_timeout(EVERY);
    let (client, handle) = agent_over(layer, names.connector());
    let error = fetch(&client, URL).await.unwrap_err();
    assert_eq!(error.timeout_kind(), Some(TimeoutKind::Connect));
    assert!(!error.is_dns());
    let told = "no connection to host.test within 100ms";
    assert_eq!(error.to_string(), told);
    at_rest(&handle).await;
}
