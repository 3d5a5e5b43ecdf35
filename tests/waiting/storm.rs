//! Never a permit too many, and never one lost, whatever callers do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::agent::{agent_over, at_rest, fetch, get};
use crate::support::{CountingConnector, Over, Server, Sockets, eventually, over};
use tower_keep_alive::KeepAliveLayer;

/// The next of a series of numbers that looks random, and is the same every time.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn trust_06_a_storm_of_cancels_loses_no_slot() {
    storm(6, 20, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn trust_09_a_thousand_callers_who_come_and_go_never_have_an_eleventh_transport() {
    storm(9, 1000, 10).await;
}

/// For five seconds callers send and give up, at random moments; then as many as the limit allows are served at once.
async fn storm(number: u32, callers: u64, limit: usize) {
    let server = Server::echo().await;
    let connector = CountingConnector::new(Sockets);
    let layer = KeepAliveLayer::new().max_connections_per_host(limit);
    let (client, handle) = agent_over(layer, connector.clone());
    let end = Instant::now() + Duration::from_secs(5);
    let answered = Arc::new(AtomicUsize::new(0));
    let given_up = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..callers)
        .map(|caller| {
            let (client, url) = (client.clone(), server.url(&format!("/{caller}")));
            let (answered, given_up) = (answered.clone(), given_up.clone());
            tokio::spawn(async move {
                let mut state = 0x9E37_79B9_7F4A_7C15 ^ (caller + 1);
                while Instant::now() < end {
                    // From at once to long enough for the whole line.
                    let patience = Duration::from_micros(next(&mut state) % (callers * 200));
                    match next(&mut state) % 4 {
                        0 => {
                            // Given up with the response in hand, its body unread.
                            let call = client.request(get(&url));
                            match tokio::time::timeout(patience, call).await {
                                Ok(response) => drop(response.expect("an answer")),
                                Err(_) => drop(given_up.fetch_add(1, Ordering::Relaxed)),
                            }
                        }
                        // However slow it all is, some are served.
                        1 => {
                            let answer = fetch(&client, &url).await.expect("an answer");
                            assert_eq!(answer.body, format!("/{caller}"));
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        _ => match tokio::time::timeout(patience, fetch(&client, &url)).await {
                            Ok(answer) => {
                                let answer = answer.expect("an answer");
                                assert_eq!(answer.body, format!("/{caller}"));
                                answered.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(_) => drop(given_up.fetch_add(1, Ordering::Relaxed)),
                        },
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("a caller that does not panic");
    }

    let answered = answered.load(Ordering::Relaxed);
    assert!(answered > enough(100), "{answered}");
    assert!(given_up.load(Ordering::Relaxed) > 100);
    assert!(connector.max_alive() <= limit, "{}", connector.max_alive());
    at_rest(&handle).await;
    // One that was given up on its way may have reached the server; where none was, the two are equal.
    eventually("every connect is one accept", || {
        (connector.connected()..=connector.made()).contains(&server.accepted())
    })
    .await;
    // A connect that is no longer wanted before it is polled for the first time counts, and asks the connector nothing.
    assert!(connector.made() as u64 <= handle.status().created);

    // Nothing is lost: as many as may be are served at once.
    let started = Instant::now();
    let calls = (0..limit).map(|_| fetch(&client, server.url("/last")));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.expect("an answer").body, "/last");
    }
    assert!(started.elapsed() < Duration::from_secs(1));
    println!(
        "trust {number}: at most {} transports of {limit} alive; {} connects, {} accepts; {answered:?} answered, {given_up:?} given up, 0 slots lost",
        connector.max_alive(),
        connector.connected(),
        server.accepted(),
    );
    at_rest(&handle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_hosts_under_one_total_with_callers_who_come_and_go() {
    const TOTAL: usize = 6;
    let mut servers = Vec::new();
    for _ in 0..5 {
        servers.push(Server::echo().await);
    }
    let connector = CountingConnector::new(Sockets);
    let layer = KeepAliveLayer::new()
        .max_connections(TOTAL)
        .max_connections_per_host(3);
    let (client, handle) = agent_over(layer, connector.clone());
    let end = Instant::now() + Duration::from_secs(3);
    let answered = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..60u64)
        .map(|caller| {
            let urls: Vec<_> = servers
                .iter()
                .map(|server| server.url(&format!("/{caller}")))
                .collect();
            let (client, answered) = (client.clone(), answered.clone());
            tokio::spawn(async move {
                let mut state = 0x9E37_79B9_7F4A_7C15 ^ (caller + 1);
                while Instant::now() < end {
                    let url = &urls[next(&mut state) as usize % urls.len()];
                    let patience = Duration::from_micros(next(&mut state) % 100_000);
                    if let Ok(answer) = tokio::time::timeout(patience, fetch(&client, url)).await {
                        assert_eq!(answer.expect("an answer").body, format!("/{caller}"));
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("a caller that does not panic");
    }

    let answered = answered.load(Ordering::Relaxed);
    assert!(answered > enough(100), "{answered}");
    assert!(connector.max_alive() <= TOTAL, "{}", connector.max_alive());
    at_rest(&handle).await;
    for server in &servers {
        let answer = tokio::time::timeout(Duration::from_secs(1), fetch(&client, server.url("/x")));
        assert_eq!(
            answer.await.expect("in time").expect("an answer").body,
            "/x"
        );
    }
    at_rest(&handle).await;
}

/// How many answers show that the storm was one. Under TLS a connect that is given up has cost a handshake.
fn enough(answers: usize) -> usize {
    match over() {
        Over::Tls => answers / 10,
        _ => answers,
    }
}
