//! hickory's resolver below the agent, with a scripted server of DNS.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::net::{TcpListener, UdpSocket};
use tower::Layer;
use tower_keep_alive::connect::{HickoryResolver, TcpConnector};
use tower_keep_alive::{FollowDns, KeepAlive, KeepAliveLayer, RequestBody};

/// The answer to a query: this address with this TTL, or none of the type that was asked for.
fn answer(query: &[u8], address: Ipv4Addr, ttl: u32) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let name = query.get(HEADER..)?.iter().position(|byte| *byte == 0)? + 1;
    let question = query.get(HEADER..HEADER + name + 4)?;
    let is_a = question.get(name..name + 2)? == [0, 1];
    // A response, without an error; one question, and one answer or none.
    let mut reply = query.get(..2)?.to_vec();
    reply.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    reply.extend(question);
    if is_a {
        // The name of the question, A, IN.
        reply.extend([0xc0, HEADER as u8, 0, 1, 0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend([0, 4]);
        reply.extend(address.octets());
    }
    Some(reply)
}

/// Counts the queries for addresses of IPv4.
async fn dns(ttl: u32) -> io::Result<(SocketAddr, Arc<AtomicUsize>)> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let (address, asked) = (socket.local_addr()?, Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    tokio::spawn(async move {
        let mut query = [0; 1500];
        while let Ok((length, client)) = socket.recv_from(&mut query).await {
            if let Some(reply) = answer(&query[..length], Ipv4Addr::LOCALHOST, ttl) {
                count.fetch_add(usize::from(reply[7]), Ordering::SeqCst);
                socket.send_to(&reply, client).await.ok();
            }
        }
    });
    Ok((address, asked))
}

#[tokio::test]
async fn a_name_is_asked_for_again_when_the_ttl_that_dns_gives_is_over() {
    let (server, asked) = dns(1).await.unwrap();
    let mut connection = ConnectionConfig::udp();
    connection.port = server.port();
    let name_server = NameServerConfig::new(server.ip(), true, vec![connection]);
    let config = ResolverConfig::from_name_servers(vec![name_server]);
    let resolver =
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build();
    let resolver = HickoryResolver::new(resolver.unwrap());

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://api.test:{}/", listener.local_addr().unwrap().port());
    let app = Router::new().route("/", get(|| async { "here" }));
    tokio::spawn(async move { axum::serve(listener, app).await });

    // Without the TTL, it would be asked in an hour.
    let follow = FollowDns::default().every(Duration::from_secs(3600));
    let layer = KeepAliveLayer::<RequestBody>::new()
        .follow_dns(follow)
        .idle_timeout(Duration::from_secs(60));
    let agent = layer.handle();
    let client: KeepAlive<_> = layer.layer(TcpConnector::with_resolver(resolver));
    let response = client.get(url.as_str()).await.unwrap();
    assert_eq!(response.into_body().text(10).await.unwrap(), "here");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let begun = Instant::now();
    while asked.load(Ordering::SeqCst) < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "not asked again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        begun.elapsed() > Duration::from_millis(900),
        "the TTL is 1 s"
    );
    let lookups = agent.status().lookups;
    assert!(
        lookups
            .values()
            .all(|it| it.addresses == 1 && it.failing.is_none())
    );
}
