//! Over TLS against nginx.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use futures_util::future::try_join_all;
use http_body_util::Full;
use tower_keep_alive::connect::{TcpConnector, Tls};
use tower_keep_alive::{AgentHandle, CloseReason, KeepAlive, KeepAliveLayer};

use crate::running::{Running, program};
use crate::support::agent::{agent_over, at_rest, fetch};
use crate::support::tls::CA;

type Client = KeepAlive<Tls<TcpConnector>, Full<Bytes>>;

fn agent(layer: KeepAliveLayer<Full<Bytes>>) -> (Client, AgentHandle) {
    let tls = tower::Layer::layer(&CA.trusted(), TcpConnector::new());
    agent_over(layer, tls)
}

/// nginx, which answers with the number of the connection and how its handshake went: `r` for a resumed one.
fn nginx(protocol: &str, keepalive_requests: usize) -> Option<Running> {
    let nginx = program("nginx")?;
    let conf = |folder: &Path, addr: SocketAddr| {
        let folder = folder.display();
        format!(
            "daemon off;
            master_process on;
            worker_processes 1;
            pid {folder}/nginx.pid;
            error_log {folder}/error.log;
            events {{ worker_connections 64; }}
            http {{
                access_log off;
                client_body_temp_path {folder}/body;
                proxy_temp_path {folder}/proxy;
                fastcgi_temp_path {folder}/fastcgi;
                uwsgi_temp_path {folder}/uwsgi;
                scgi_temp_path {folder}/scgi;
                keepalive_requests {keepalive_requests};
                server {{
                    listen {addr} ssl;
                    ssl_certificate {folder}/cert.pem;
                    ssl_certificate_key {folder}/key.pem;
                    ssl_protocols {protocol};
                    ssl_session_cache shared:sessions:1m;
                    location / {{ return 200 \"$connection $ssl_session_reused $ssl_protocol\"; }}
                }}
            }}"
        )
    };
    Some(Running::start(|folder, addr| {
        let file = folder.join("nginx.conf");
        std::fs::write(&file, conf(folder, addr)).expect("a file");
        let mut command = Command::new(&nginx);
        command.arg("-p").arg(folder).arg("-c").arg(file);
        command.arg("-e").arg(folder.join("error.log"));
        command
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_answers_5000_requests_on_at_most_4_sockets() {
    for protocol in ["TLSv1.2", "TLSv1.3"] {
        let Some(server) = nginx(protocol, 1_000_000) else {
            return;
        };
        let (client, handle) = agent(KeepAliveLayer::new().max_connections_per_host(4));
        let callers = (0..4).map(|_| async {
            let mut connections = BTreeSet::new();
            for _ in 0..1250 {
                let answer = fetch(&client, server.https()).await?;
                assert_eq!(answer.status, 200);
                assert!(answer.body.ends_with(protocol), "{}", answer.body);
                connections.extend(answer.body.split(' ').next().map(str::to_owned));
            }
            Ok::<_, tower_keep_alive::Error>(connections)
        });
        let connections = try_join_all(callers).await.unwrap();
        let connections: BTreeSet<_> = connections.into_iter().flatten().collect();
        assert!((1..=4).contains(&connections.len()), "{connections:?}");
        at_rest(&handle).await;
        let status = handle.status();
        println!(
            "{protocol}: 5000 requests, {} sockets; {status}",
            connections.len()
        );
        assert_eq!(status.completed, 5000);
        assert!(status.created <= 4 && status.create_errors == 0, "{status}");
        assert_eq!((status.errors, status.timeouts, status.stale), (0, 0, 0));
    }
}

/// One after the other there is no reason for a second connection.
#[tokio::test]
async fn nginx_answers_5000_requests_in_a_row_on_one_socket() {
    for protocol in ["TLSv1.2", "TLSv1.3"] {
        let Some(server) = nginx(protocol, 1_000_000) else {
            return;
        };
        let (client, handle) = agent(KeepAliveLayer::new());
        let mut connections = BTreeSet::new();
        for _ in 0..5000 {
            let answer = fetch(&client, server.https()).await.unwrap();
            connections.extend(answer.body.split(' ').next().map(str::to_owned));
        }
        assert_eq!(connections.len(), 1);
        at_rest(&handle).await;
        let status = handle.status();
        assert_eq!(
            (status.created, status.completed, status.stale),
            (1, 5000, 0)
        );
    }
}

#[tokio::test]
async fn nginx_resumes_after_each_close() {
    const IN_A_ROW: usize = 7;
    for protocol in ["TLSv1.2", "TLSv1.3"] {
        let Some(server) = nginx(protocol, IN_A_ROW) else {
            return;
        };
        let (client, handle) = agent(KeepAliveLayer::new());
        let mut handshakes = Vec::new();
        for request in 0..100 * IN_A_ROW {
            let answer = fetch(&client, server.https()).await.unwrap();
            assert_eq!(answer.status, 200);
            let is_first = request % IN_A_ROW == 0;
            assert_eq!(answer.info.is_reused(), !is_first, "request {request}");
            if is_first {
                handshakes.extend(answer.body.split(' ').nth(1).map(str::to_owned));
            }
        }
        assert_eq!(handshakes.len(), 100);
        assert_eq!(handshakes[0], ".", "a first handshake is a full one");
        assert!(handshakes[1..].iter().all(|it| it == "r"), "{handshakes:?}");
        at_rest(&handle).await;
        let status = handle.status();
        println!("{protocol}: {status}");
        assert_eq!((status.created, status.create_errors), (100, 0));
        assert_eq!((status.completed, status.stale), (700, 0));
        assert_eq!(
            status.closes.get(&CloseReason::Final),
            Some(&100),
            "{status:?}"
        );
    }
}
