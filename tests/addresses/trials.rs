//! Which connection makes room, at a limit, for one to an ejected address that is tried again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::timeout;
use tower_keep_alive::{CloseReason, Ejection, EventKind, Http2, Protocol};

use crate::ejection::{PROTOCOLS, T, URL, ejected, hosts, in_time, layer, names};
use crate::support::agent::{agent_over, at_rest, fetch, get, read};
use crate::support::eventually;

const LONG: Duration = Duration::from_secs(20);

fn ejection() -> Ejection {
    let ejection = Ejection::new().server_errors(true).consecutive(1);
    ejection.base_time(T).max_time(T)
}

/// Nobody waits: the caller that tries the address could have an idle connection.
#[tokio::test]
async fn an_idle_connection_makes_room_for_a_trial() {
    for protocol in PROTOCOLS {
        let begun = Instant::now();
        let hosts = hosts(protocol, &[503, 200]).await;
        let names = names(&hosts);
        // None ends by itself.
        let layer = layer(protocol, ejection()).idle_timeout(60 * LONG);
        let layer = layer.max_connections_per_host(2);
        let layer = layer.http2(Http2::new().max_streams_per_connection(1));
        let (client, handle) = agent_over(layer, names.connector());
        let two = || join_all((0..2).map(|_| fetch(&client, URL)));
        let is_out = || ejected(&handle, hosts[0].addr()).is_some();
        let open_to_other = || {
            let status = handle.status();
            let mut addresses = status.addresses.values();
            let other = addresses.find_map(|it| it.get(&hosts[1].addr()));
            other.map_or(0, |it| it.idle + it.active)
        };
        // Meanwhile it is tried again, and answers with 503.
        while in_time(&begun) && !(is_out() && open_to_other() == 2) {
            two().await;
        }
        hosts[0].set(200);
        while in_time(&begun) && is_out() {
            let answer = timeout(LONG, fetch(&client, URL)).await;
            assert_eq!(answer.expect("it hangs").unwrap().status, 200);
        }
        let reasons: Vec<_> = handle.status().closes.into_keys().collect();
        assert_eq!(reasons, [CloseReason::Moved], "{protocol:?}");
        handle.close_idle();
        at_rest(&handle).await;
    }
}

/// The one to the address with the fewest requests under way.
#[tokio::test]
async fn a_connection_that_carries_a_request_makes_no_room_beside_an_idle_one() {
    let begun = Instant::now();
    let hosts = hosts(Protocol::Http2, &[503, 200, 200]).await;
    let names = names(&hosts);
    let layer = layer(Protocol::Http2, ejection()).idle_timeout(60 * LONG);
    let layer = layer.max_connections_per_host(2);
    let (client, handle) = agent_over(layer, names.connector());
    let ended = Arc::new(Mutex::new(BTreeSet::new()));
    let list = ended.clone();
    handle.on_event(move |_, event| {
        if let EventKind::Draining { .. } | EventKind::Closed { .. } = event.kind {
            list.lock().unwrap().extend(event.connection);
        }
    });
    let is_out = || ejected(&handle, hosts[0].addr()).is_some();
    while in_time(&begun) && !is_out() {
        fetch(&client, URL).await.unwrap();
        handle.close_idle();
    }
    let held = client.request(get(URL)).await.unwrap();
    assert_eq!(held.status(), 200);
    while in_time(&begun) && handle.status().open() < 2 {
        fetch(&client, URL).await.unwrap();
    }
    hosts[0].set(200);
    while in_time(&begun) && is_out() {
        let answer = timeout(LONG, fetch(&client, URL)).await;
        assert_eq!(answer.expect("it hangs").unwrap().status, 200);
    }
    let carries = held.body().connection().id();
    assert!(!ended.lock().unwrap().contains(&carries), "it carries one");
    read(held).await.unwrap();
    handle.close_idle();
    eventually("all are closed", || handle.status().open() == 0).await;
    at_rest(&handle).await;
}
