//! The load is spread over the addresses of a name.

use std::collections::BTreeMap;
use std::mem;
use std::net::SocketAddr;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use tokio::sync::watch;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{
    AgentHandle, Error, KeepAlive, KeepAliveLayer, Protocol, Spread, status::LeftOutReason,
};

use crate::names::Names;
use crate::support::agent::{agent_over, at_rest, fetch, get, read};
use crate::support::frames::{Behaviour, code, setting};
use crate::support::{RefusingPort, Server, eventually, http2};

#[cfg(target_os = "linux")]
use crate::support::SwallowingPort;

const URL: &str = "http://host.test/";

fn layer(spread: Spread) -> KeepAliveLayer<Full<Bytes>> {
    KeepAliveLayer::new().spread(spread)
}

async fn ten() -> Vec<Server> {
    join_all((0..10).map(|_| Server::ok())).await
}

fn accepted(servers: &[Server]) -> Vec<usize> {
    servers.iter().map(Server::accepted).collect()
}

fn in_flight(handle: &AgentHandle) -> BTreeMap<SocketAddr, usize> {
    let addresses = handle.status().addresses.into_values().flatten();
    addresses
        .map(|(address, it)| (address, it.requests))
        .collect()
}

#[tokio::test]
async fn new_connections_go_to_each_address_or_all_to_one() {
    for (spread, expected) in [
        (Spread::AsResolved, [40, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (Spread::InTurn, [4; 10]),
        (Spread::FewestOpenFirst, [4; 10]),
    ] {
        let servers = ten().await;
        let names = Names::of(&servers);
        let (client, handle) = agent_over(layer(spread), names.connector());
        let requests = (0..40).map(|_| client.request(get(URL)));
        for response in join_all(requests).await {
            read(response.unwrap()).await.unwrap();
        }
        assert_eq!(accepted(&servers), expected, "{spread:?}");
        at_rest(&handle).await;
    }
}

/// Of each address as many are idle as of any other, and the requests one after the other and at the same time are
/// shared out evenly.
#[tokio::test]
async fn what_is_idle_is_taken_where_the_fewest_requests_are_in_flight() {
    for spread in [Spread::InTurn, Spread::FewestOpenFirst] {
        let servers = ten().await;
        let names = Names::of(&servers);
        let (client, handle) = agent_over(layer(spread), names.connector());
        let requests = (0..40).map(|_| client.request(get(URL)));
        let first = join_all(requests).await;
        for response in first {
            read(response.unwrap()).await.unwrap();
        }
        let before: Vec<_> = servers.iter().map(Server::requests).collect();
        for _ in 0..30 {
            fetch(&client, URL).await.unwrap();
        }
        let mut held = Vec::new();
        for taken in 1..=40 {
            held.push(client.request(get(URL)).await.unwrap());
            let in_flight = in_flight(&handle);
            let fewest = in_flight.values().min().unwrap();
            let most = in_flight.values().max().unwrap();
            assert!(most - fewest <= 1, "{spread:?}: {taken}: {in_flight:?}");
        }
        for (server, before) in servers.iter().zip(before) {
            assert_eq!(server.requests() - before, 7, "{spread:?}");
        }
        for response in held {
            read(response).await.unwrap();
        }
        assert_eq!(accepted(&servers), [4; 10], "{spread:?}");
        at_rest(&handle).await;
    }
}

/// Where answers are slow, requests go to the others.
#[tokio::test]
async fn an_address_that_is_slow_has_fewer_requests() {
    let servers = ten().await;
    let names = Names::of(&servers);
    let (client, handle) = agent_over(layer(Spread::FewestOpenFirst), names.connector());
    let requests = (0..20).map(|_| client.request(get(URL)));
    let mut held = Vec::new();
    // Those of the first address stay under way.
    for response in join_all(requests).await {
        let response = response.unwrap();
        let address = response.body().connection().remote_addr();
        if address == Some(servers[0].addr()) {
            held.push(response);
        } else {
            read(response).await.unwrap();
        }
    }
    let before = servers[0].requests();
    for _ in 0..50 {
        fetch(&client, URL).await.unwrap();
    }
    assert_eq!(servers[0].requests(), before);
    for response in held {
        read(response).await.unwrap();
    }
    at_rest(&handle).await;
}

/// An address that refuses, and one that says nothing, fail no request: they are left out, and the others have their share.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_that_fails_is_left_out_and_the_others_serve() {
    let nobody = RefusingPort::new();
    let hole = SwallowingPort::new().await;
    for spread in [Spread::InTurn, Spread::FewestOpenFirst] {
        let servers = [Server::ok().await, Server::ok().await, Server::ok().await];
        let mut addresses = vec![nobody.addr(), hole.addr()];
        addresses.extend(servers.iter().map(Server::addr));
        let names = Names::new(addresses);
        let (client, handle) = agent_over(layer(spread), names.connector());
        // One after the other, each with a connection of its own: the first two find out.
        let mut held = Vec::new();
        for _ in 0..14 {
            held.push(client.request(get(URL)).await.unwrap());
        }
        let mut accepted = accepted(&servers);
        accepted.sort_unstable();
        assert!(
            accepted[0] >= 4 && accepted[2] <= 5,
            "{spread:?}: {accepted:?}"
        );
        for response in held {
            read(response).await.unwrap();
        }
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn an_address_that_serves_again_is_found_by_one_connect() {
    // The port is held, and listened on later.
    let (servers, nobody) = ([Server::ok().await], RefusingPort::new());
    let names = Names::new(vec![nobody.addr(), servers[0].addr()]);
    let (client, handle) = agent_over(layer(Spread::FewestOpenFirst), names.connector());
    // Held, so that each needs a connection.
    let mut held = Vec::new();
    for expected in 1..=3 {
        held.push(client.request(get(URL)).await.unwrap());
        assert_eq!(servers[0].accepted(), expected);
    }
    let address = nobody.addr();
    // Without ejection, an address is left out for its connects alone.
    let status = handle.status();
    let of_key = status.addresses.values().next().unwrap();
    let left_out = of_key[&address].left_out.expect("the connect has failed");
    assert!(!left_out.is_ejected());
    assert_eq!(left_out.reason, LeftOutReason::Connect);
    let told = format!("{address} left out for ");
    assert!(status.to_string().contains(&told), "{status}");
    let json = serde_json::to_value(&status).unwrap();
    let json = &json["addresses"]["host.test:80:"][address.to_string()]["leftOut"];
    let expected = (&"connect failed".into(), &false.into());
    assert_eq!((&json["reason"], &json["isEjected"]), expected);
    drop(nobody);
    let back = Server::listen_at(address).await;
    // It is left out for a second at the most.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    held.push(client.request(get(URL)).await.unwrap());
    assert_eq!(back.accepted(), 1);
    for response in held {
        read(response).await.unwrap();
    }
    at_rest(&handle).await;
}

#[tokio::test]
async fn of_a_thousand_addresses_and_of_one_twice_each_has_its_share() {
    let servers = [Server::ok().await, Server::ok().await];
    let twice: Vec<_> = [0, 1, 0, 0].map(|at: usize| servers[at].addr()).to_vec();
    let names = Names::new(twice);
    let (client, handle) = agent_over(layer(Spread::FewestOpenFirst), names.connector());
    let requests = (0..10).map(|_| client.request(get(URL)));
    for response in join_all(requests).await {
        read(response.unwrap()).await.unwrap();
    }
    assert_eq!(accepted(&servers), [5, 5]);
    at_rest(&handle).await;
    // Of loopback, where one server listens on them all.
    let server = Server::everywhere().await;
    let port = server.addr().port();
    let address = |n: u32| SocketAddr::from((0x7f00_0101_u32.wrapping_add(n).to_be_bytes(), port));
    let names = Names::new((0..1000).map(address).collect());
    let (client, handle) = agent_over(layer(Spread::FewestOpenFirst), names.connector());
    let requests = (0..100).map(|_| client.request(get(URL)));
    let responses = join_all(requests).await;
    let in_flight = in_flight(&handle);
    assert_eq!(in_flight.len(), 100, "each to another");
    for response in responses {
        read(response.unwrap()).await.unwrap();
    }
    at_rest(&handle).await;
}

/// Servers of HTTP/2 that allow a hundred streams and more, and take a moment for each answer.
pub(crate) async fn http2_servers(count: usize) -> Vec<http2::Server> {
    let servers = (0..count).map(|_| {
        let behaviour = Arc::new(Behaviour {
            delay: Duration::from_millis(2),
            ..Behaviour::default()
        });
        http2::Server::start_tcp(move |conn| {
            let behaviour = behaviour.clone();
            async move { behaviour.serve(conn).await }
        })
    });
    join_all(servers).await
}

/// So many callers, each of which sends one request after the other until `is_over`.
pub(crate) async fn call_until(
    client: &KeepAlive<TcpConnector<Names>, Full<Bytes>>,
    callers: usize,
    is_over: impl Fn() -> bool,
) -> Result<(), Error> {
    let all = (0..callers).map(|_| async {
        while !is_over() {
            fetch(client, URL).await?;
        }
        Ok(())
    });
    join_all(all).await.into_iter().collect()
}

fn asked(servers: &[http2::Server]) -> Vec<usize> {
    let of = |it: &http2::Server| it.log.seen(|seen| seen.requests.len());
    servers.iter().map(of).collect()
}

fn open_http2(servers: &[http2::Server]) -> Vec<usize> {
    servers.iter().map(|it| it.open()).collect()
}

/// One connection could carry them all.
#[tokio::test]
async fn over_http2_each_of_four_addresses_has_its_share_of_forty_callers() {
    for spread in [Spread::InTurn, Spread::FewestOpenFirst] {
        let servers = http2_servers(4).await;
        let names = Names::new(servers.iter().map(|it| it.addr()).collect());
        let layer = layer(spread).protocol(Protocol::Http2);
        let (client, handle) = agent_over(layer, names.connector());
        let has_begun = Instant::now();
        let are_spread = || {
            let addresses = handle.status().addresses.into_values().flatten();
            addresses.filter(|(_, it)| it.served > 0).count() == 4
        };
        let is_over = || are_spread() || has_begun.elapsed() > Duration::from_secs(30);
        call_until(&client, 40, is_over).await.unwrap();
        assert_eq!(open_http2(&servers), [1; 4], "{spread:?}");
        let before = asked(&servers);
        let since = || -> Vec<_> {
            let now = asked(&servers).into_iter();
            now.zip(&before).map(|(now, before)| now - before).collect()
        };
        let is_over = || since().iter().sum::<usize>() >= 4_000;
        call_until(&client, 40, is_over).await.unwrap();
        let shares = since();
        let share = shares.iter().sum::<usize>() / 4;
        let is_even = shares.iter().all(|it| it.abs_diff(share) * 10 <= share);
        assert!(is_even, "{spread:?}: {shares:?}");
        assert_eq!(open_http2(&servers), [1; 4], "one each is enough");
        handle.close_idle();
        at_rest(&handle).await;
    }
}

/// A server that allows so many streams a connection, and answers them when `may_answer` says so.
async fn holding(limit: u32, may_answer: &watch::Receiver<bool>) -> http2::Server {
    let may_answer = may_answer.clone();
    http2::Server::start_tcp(move |mut conn| {
        let mut may_answer = may_answer.clone();
        async move {
            conn.open([(setting::MAX_CONCURRENT_STREAMS, limit)]).await;
            let mut held = Vec::new();
            loop {
                tokio::select! {
                    request = conn.request() => match request {
                        Some(request) => held.push(request.stream),
                        None => return,
                    },
                    _ = may_answer.wait_for(|it| *it) => break,
                }
            }
            for stream in held {
                conn.respond(stream, 200, b"").await;
            }
            conn.closed().await;
        }
    })
    .await
}

/// All of them wait for the first connection, and no caller comes after them.
#[tokio::test]
async fn over_http2_a_burst_that_waited_for_one_connection_is_enough_to_reach_each_address() {
    for spread in [Spread::InTurn, Spread::FewestOpenFirst] {
        let (answer, may_answer) = watch::channel(false);
        let servers = join_all((0..4).map(|_| holding(100, &may_answer))).await;
        let names = Names::new(servers.iter().map(|it| it.addr()).collect());
        let layer = layer(spread).protocol(Protocol::Http2);
        let (client, handle) = agent_over(layer, names.connector());
        let burst = join_all((0..40).map(|_| fetch(&client, URL)));
        let are_reached = async {
            let are_all = || {
                let asked = asked(&servers).iter().sum::<usize>();
                asked == 40 && open_http2(&servers) == [1; 4]
            };
            eventually("each address has a connection", are_all).await;
            answer.send(true).unwrap();
        };
        let (responses, ()) = tokio::join!(burst, are_reached);
        for response in responses {
            response.unwrap();
        }
        handle.close_idle();
        at_rest(&handle).await;
    }
}

/// It accepts the connection, and sends nothing.
#[tokio::test]
async fn over_http2_nobody_waits_for_an_address_that_says_nothing() {
    let (answer, may_answer) = watch::channel(false);
    let good = holding(2, &may_answer).await;
    let mute = http2::Server::start_tcp(|mut conn| async move { conn.silence().await }).await;
    let names = Names::new(vec![good.addr(), mute.addr()]);
    let layer = layer(Spread::FewestOpenFirst).protocol(Protocol::Http2);
    let (client, handle) = agent_over(layer, names.connector());
    let ask = || {
        let client = client.clone();
        tokio::spawn(async move { fetch(&client, URL).await })
    };
    let first = [ask(), ask()];
    eventually("the other address has a connection", || {
        let mut addresses = handle.status().addresses.into_values().flatten();
        addresses.any(|(address, it)| address == mute.addr() && it.idle + it.active == 1)
    })
    .await;
    // One of them is the one stream that a connection may have before it says more.
    let next = [ask(), ask()];
    eventually("another connection is made", || good.accepted() == 2).await;
    eventually("it has the request", || {
        asked(slice::from_ref(&good)) == [3]
    })
    .await;
    answer.send(true).unwrap();
    for task in first {
        task.await.unwrap().unwrap();
    }
    eventually("it is answered", || next.iter().any(|it| it.is_finished())).await;
    handle.destroy();
    let next = join_all(next).await;
    let served = next.into_iter().filter(|it| matches!(it, Ok(Ok(_))));
    assert_eq!(served.count(), 1);
    at_rest(&handle).await;
}

/// A server that lets each connection go after a hundred requests, as gRPC's do after some time, and answers the first request of
/// the first one when `may_answer` says so.
async fn letting_go(may_answer: &watch::Receiver<bool>) -> http2::Server {
    let may_answer = may_answer.clone();
    let is_first = Arc::new(AtomicBool::new(true));
    http2::Server::start_tcp(move |mut conn| {
        let mut may_answer = may_answer.clone();
        let mut is_held = is_first.swap(false, Relaxed);
        async move {
            conn.open([]).await;
            let mut held = None;
            let mut requests = 0;
            loop {
                let may_go_on = async {
                    drop(may_answer.wait_for(|it| *it).await);
                };
                tokio::select! {
                    request = conn.request() => match request {
                        Some(request) if mem::take(&mut is_held) => held = Some(request.stream),
                        Some(request) => conn.respond(request.stream, 200, b"").await,
                        None => return,
                    },
                    () = may_go_on, if held.is_some() => {
                        conn.respond(held.take().expect("checked"), 200, b"").await;
                    }
                }
                requests += 1;
                if requests == 100 {
                    conn.go_away(i32::MAX as u32, code::NO_ERROR, b"").await;
                }
            }
        }
    })
    .await
}

/// A stream may last for hours.
#[tokio::test]
async fn over_http2_an_address_gets_another_connection_while_its_last_one_drains() {
    for spread in [Spread::InTurn, Spread::FewestOpenFirst] {
        let (answer, may_answer) = watch::channel(false);
        let steady = http2_servers(1).await.pop().unwrap();
        let letting_go = letting_go(&may_answer).await;
        let names = Names::new(vec![steady.addr(), letting_go.addr()]);
        let layer = layer(spread).protocol(Protocol::Http2);
        let (client, handle) = agent_over(layer, names.connector());
        let is_again = || letting_go.accepted() >= 2;
        let has_begun = Instant::now();
        let is_over = || is_again() || has_begun.elapsed() > Duration::from_secs(10);
        let is_reached = async {
            eventually("it has another connection", is_again).await;
            answer.send(true).unwrap();
        };
        let (responses, ()) = tokio::join!(call_until(&client, 10, is_over), is_reached);
        responses.unwrap();
        handle.close_idle();
        at_rest(&handle).await;
    }
}

/// No connect fails there, and each connection ends at once: the next one comes after 1 s, and then after 2 s.
#[tokio::test]
async fn over_http2_an_address_that_closes_each_connection_is_not_connected_to_without_end() {
    let good = http2_servers(1).await.pop().unwrap();
    let closing = http2::Server::start_tcp(|mut conn| async move {
        conn.open([]).await;
        conn.go_away(0, code::NO_ERROR, b"").await;
    })
    .await;
    let names = Names::new(vec![good.addr(), closing.addr()]);
    let layer = layer(Spread::FewestOpenFirst).protocol(Protocol::Http2);
    let (client, handle) = agent_over(layer, names.connector());
    let has_begun = Instant::now();
    let is_over = || closing.accepted() > 3 || has_begun.elapsed() > Duration::from_millis(1500);
    call_until(&client, 10, is_over).await.unwrap();
    let accepted = closing.accepted();
    assert!((1..=3).contains(&accepted), "{accepted}");
    handle.close_idle();
    at_rest(&handle).await;
}

/// By default an origin has one connection (RFC 9113 §9.1), and with one request at a time no other is needed.
#[tokio::test]
async fn over_http2_one_connection_is_enough_unless_a_spread_is_set_and_it_has_several_requests() {
    for (spread, callers, most, expected) in [
        (Spread::AsResolved, 40, 9, 1),
        (Spread::FewestOpenFirst, 1, 9, 1),
        (Spread::FewestOpenFirst, 40, 2, 2),
    ] {
        let servers = http2_servers(4).await;
        let names = Names::new(servers.iter().map(|it| it.addr()).collect());
        let layer = layer(spread)
            .protocol(Protocol::Http2)
            .max_connections_per_host(most);
        let (client, handle) = agent_over(layer, names.connector());
        let is_over = || asked(&servers).iter().sum::<usize>() >= 50 * callers;
        call_until(&client, callers, is_over).await.unwrap();
        let open: usize = open_http2(&servers).iter().sum();
        assert_eq!(open, expected, "{spread:?}, {callers} callers");
        handle.close_idle();
        at_rest(&handle).await;
    }
}

/// The connect that is to spread the load goes nowhere else, so no other address has a second connection.
#[tokio::test]
async fn over_http2_an_address_that_refuses_adds_no_connection_to_the_others() {
    let servers = http2_servers(2).await;
    let nobody = RefusingPort::new();
    let addresses = servers.iter().map(|it| it.addr()).chain([nobody.addr()]);
    let names = Names::new(addresses.collect());
    let layer = layer(Spread::FewestOpenFirst).protocol(Protocol::Http2);
    let (client, handle) = agent_over(layer, names.connector());
    let has_begun = Instant::now();
    // It is tried again after a second at the most.
    let is_over = || {
        let status = handle.status();
        let failed_twice = status.create_errors >= 2 && open_http2(&servers) == [1; 2];
        failed_twice || has_begun.elapsed() > Duration::from_secs(30)
    };
    call_until(&client, 10, is_over).await.unwrap();
    assert_eq!(open_http2(&servers), [1; 2]);
    assert!(handle.status().create_errors >= 2);
    handle.close_idle();
    at_rest(&handle).await;
}
