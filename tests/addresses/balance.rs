//! tower's balance over one service for each address of a name.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use futures_util::{FutureExt, StreamExt};
use http::Uri;
use tower::balance::p2c::Balance;
use tower::buffer::Buffer;
use tower::discover::Change;
use tower::load::{CompleteOnResponse, PeakEwmaDiscover};
use tower::{Service, ServiceExt};
use tower_keep_alive::discover::DnsDiscover;
use tower_keep_alive::{FollowDns, KeepAliveLayer, connect::Destination};

use crate::names::Names;
use crate::support::agent::{Req, agent_paused, at_rest, get, read};
use crate::support::{Conn, InMemory, MemoryStream, Server};

const URL: &str = "http://host.test/";
const EVERY: Duration = Duration::from_millis(100);

/// Connects in memory to the server of the address that the route names.
#[derive(Clone)]
struct ByAddress(Arc<HashMap<SocketAddr, InMemory>>);

impl Service<Destination> for ByAddress {
    type Response = MemoryStream;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<MemoryStream>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Destination) -> Self::Future {
        let address = target.route().and_then(|it| it.address());
        let mut connector = self.0[&address.expect("balance says where")].clone();
        connector.call(target).boxed()
    }
}

fn address(last: u8) -> SocketAddr {
    ([192, 0, 2, last], 80).into()
}

fn target() -> Destination {
    Uri::from_static(URL).try_into().unwrap()
}

fn takes(time: Duration) -> Server {
    Server::in_memory(move |mut conn: Conn| async move {
        while conn.request().await.is_some() {
            tokio::time::sleep(time).await;
            conn.respond("ok").await;
        }
    })
}

#[tokio::test(start_paused = true)]
async fn p2c_avoids_a_slow_address_and_one_that_is_removed_in_mid_load() {
    let servers = [1, 1, 50].map(|millis| takes(Duration::from_millis(millis)));
    let addresses = [1, 2, 3].map(address);
    let connectors = addresses
        .into_iter()
        .zip(servers.iter().map(Server::connector));
    let connector = ByAddress(Arc::new(connectors.collect()));
    let (agent, handle) = agent_paused(KeepAliveLayer::new(), connector);
    let names = Names::new(addresses.to_vec());
    let follow = FollowDns::default().every(EVERY);
    let services = DnsDiscover::new(agent, names.clone(), target(), follow);
    let services = services.await.unwrap();
    let (rtt, decay) = (Duration::from_millis(1), Duration::from_secs(10));
    let loads = PeakEwmaDiscover::new::<Req>(services, rtt, decay, CompleteOnResponse::default());
    let client = Buffer::new(Balance::new(loads), 64);
    let run = async |requests: usize| {
        let before = servers.each_ref().map(Server::requests);
        let callers = (0..6).map(|_| {
            let mut client = client.clone();
            async move {
                for _ in 0..requests / 6 {
                    let response = client.ready().await.unwrap().call(get(URL)).await;
                    read(response.unwrap()).await.unwrap();
                }
            }
        });
        join_all(callers).await;
        let now = servers.each_ref().map(Server::requests);
        [0, 1, 2].map(|at| now[at] - before[at])
    };
    let [one, two, slow] = run(600).await;
    assert_eq!(one + two + slow, 600);
    assert!(slow < 30 && one > 200 && two > 200, "{one} {two} {slow}");
    // All at an address of the name, with the name's Host.
    assert_eq!(servers[0].heads()[0].header("host"), Some("host.test"));
    names.set(Ok(vec![address(1), address(3)]));
    let asked = names.asked();
    while names.asked() < asked + 2 {
        run(60).await;
    }
    let [one, gone, _] = run(600).await;
    assert!(gone == 0 && one > 500, "{one} {gone}");
    drop(client);
    handle.close_idle();
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn services_come_and_go_with_the_answers() {
    let names = Names::new([1, 2, 1].map(address).to_vec());
    let follow = FollowDns::default().every(EVERY);
    let services = DnsDiscover::new((), names.clone(), target(), follow);
    let mut services = services.await.unwrap();
    let mut next = async || match services.next().await.unwrap().unwrap() {
        Change::Insert(address, service) => {
            assert_eq!(service.address(), address);
            (true, address)
        }
        Change::Remove(address) => (false, address),
    };
    assert_eq!(next().await, (true, address(1)));
    assert_eq!(next().await, (true, address(2)));
    names.set(Ok(vec![address(1), address(3)]));
    assert_eq!(next().await, (true, address(3)));
    assert_eq!(names.asked(), 2);
    assert_eq!(next().await, (false, address(2)));
    assert_eq!(names.asked(), 3, "two answers lack it");
    // What fails changes nothing, nor does what hangs.
    names.set(Err("no server"));
    assert_eq!(tokio::time::timeout(EVERY * 10, next()).await.ok(), None);
    names.hang();
    assert_eq!(tokio::time::timeout(EVERY * 100, next()).await.ok(), None);
    names.set(Ok(vec![address(1), address(2), address(3)]));
    assert_eq!(next().await, (true, address(2)));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_cannot_be_resolved_is_told_at_once() {
    let names = Names::new(Vec::new());
    let new = async || {
        let follow = FollowDns::default().lookup_timeout(EVERY);
        let services = DnsDiscover::new((), names.clone(), target(), follow).await;
        services.unwrap_err()
    };
    let error = new().await;
    assert!(error.is_dns() && error.to_string().contains("host.test has no address"));
    names.set(Err("no server"));
    let error = new().await;
    assert!(error.is_dns() && error.to_string().contains("resolve host.test: no server"));
    names.hang();
    let error = new().await;
    assert!(error.is_dns() && error.is_timeout(), "{error}");
}
