//! Over TLS against OpenSSL: `openssl s_server`.
//!
//! Without its own pages it is a pipe under TLS: what a client sends it writes out, and what it reads it sends to the
//! client. So the HTTP behind it is played here, on its ends. It serves one connection after the other.

use std::io::{BufRead, BufReader, Lines, Write};
use std::iter::from_fn;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, spawn};

use bytes::Bytes;
use futures_util::future::try_join_all;
use http::Response;
use http_body_util::Full;
use tower::util::MapResponse;
use tower::{Layer, Service};
use tower_keep_alive::connect::rustls::{HandshakeKind, ProtocolVersion};
use tower_keep_alive::connect::{MaybeTls, Tcp, TcpConnector};
use tower_keep_alive::{AgentHandle, Body, CloseReason, Error, KeepAliveLayer};

use crate::running::{Running, program};
use crate::support::agent::{Req, agent_over, at_rest, fetch};
use crate::support::tls::CA;

const VERSIONS: [(&str, ProtocolVersion); 2] = [
    ("-tls1_2", ProtocolVersion::TLSv1_2),
    ("-tls1_3", ProtocolVersion::TLSv1_3),
];

/// How each handshake went for the client, one after the other.
type Handshakes = Arc<Mutex<Vec<(ProtocolVersion, HandshakeKind)>>>;

fn agent(
    layer: KeepAliveLayer<Full<Bytes>>,
) -> (
    impl Service<Req, Response = Response<Body>, Error = Error> + Clone,
    AgentHandle,
    Handshakes,
) {
    let handshakes = Handshakes::default();
    let watch = {
        let handshakes = handshakes.clone();
        move |transport: MaybeTls<Tcp>| {
            let tls = transport.tls_connection().expect("it is https");
            let version = tls.protocol_version().expect("after the handshake");
            let kind = tls.handshake_kind().expect("after the handshake");
            handshakes.lock().unwrap().push((version, kind));
            drop(tls);
            transport
        }
    };
    let tls = CA.trusted().layer(TcpConnector::new());
    let (client, handle) = agent_over(layer, MapResponse::new(tls, watch));
    (client, handle, handshakes)
}

fn command(openssl: &Path, folder: &Path) -> Command {
    let mut command = Command::new(openssl);
    command.args(["s_server", "-quiet"]);
    command.arg("-cert").arg(folder.join("cert.pem"));
    command.arg("-key").arg(folder.join("key.pem"));
    command
}

/// An application behind OpenSSL's TLS. It answers with the target of the request, and every so often closes.
struct Application {
    server: Running,
    answers: JoinHandle<usize>,
}

impl Application {
    fn start(version: &str, closes_after: usize) -> Option<Self> {
        let openssl = program("openssl")?;
        let (server, stdin, stdout) = Running::start_piped(|folder, addr| {
            let mut command = command(&openssl, folder);
            command.arg(version).arg("-accept").arg(addr.to_string());
            command
        });
        let answers = spawn(move || answer(stdin, stdout, closes_after));
        Some(Self { server, answers })
    }

    /// How many requests it has answered, ever.
    fn stop(self) -> usize {
        drop(self.server);
        self.answers.join().expect("it understood each request")
    }
}

/// Until OpenSSL ends.
fn answer(mut to_client: ChildStdin, from_client: ChildStdout, closes_after: usize) -> usize {
    let mut lines = BufReader::new(from_client).lines();
    let mut answered = 0;
    while let Some(target) = next_target(&mut lines) {
        answered += 1;
        let connection = match answered % closes_after {
            0 => "close",
            _ => "keep-alive",
        };
        let length = target.len();
        // In one piece: it sends what it reads at once.
        let answer = format!(
            "HTTP/1.1 200 OK\r\nconnection: {connection}\r\ncontent-length: {length}\r\n\r\n{target}"
        );
        to_client.write_all(answer.as_bytes()).expect("it reads");
    }
    answered
}

/// Reads a request, which has no body.
fn next_target(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<String> {
    let mut line = || lines.next()?.ok();
    let first = line()?;
    let target = first.strip_prefix("GET ").expect("a request");
    let target = target.strip_suffix(" HTTP/1.1").expect("a request");
    from_fn(line).find(String::is_empty)?;
    Some(target.to_owned())
}

/// Four of it, each with its port and so a host of its own: one alone serves one connection at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_carries_5000_requests_on_4_sockets() {
    const EACH: usize = 1250;
    for (argument, version) in VERSIONS {
        let servers = (0..4).map(|_| Application::start(argument, usize::MAX));
        let Some(servers) = servers.collect::<Option<Vec<_>>>() else {
            return;
        };
        let layer = KeepAliveLayer::new().max_connections_per_host(1);
        let (client, handle, handshakes) = agent(layer.max_connections(4));
        let callers = servers.iter().map(|it| async {
            let url = it.server.https();
            for request in 0..EACH {
                let answer = fetch(&client, format!("{url}{request}")).await?;
                assert_eq!(answer.status, 200);
                assert_eq!(answer.body, format!("/{request}"));
                assert_eq!(answer.info.is_reused(), request > 0);
            }
            Ok::<_, Error>(())
        });
        try_join_all(callers).await.unwrap();
        at_rest(&handle).await;
        let status = handle.status();
        println!("{version:?}, OpenSSL: {status}");
        assert_eq!((status.completed, status.created), (4 * EACH as u64, 4));
        assert_eq!((status.create_errors, status.errors), (0, 0));
        assert_eq!((status.timeouts, status.stale), (0, 0));
        // A session of one is none to another.
        let full = (version, HandshakeKind::Full);
        assert_eq!(*handshakes.lock().unwrap(), [full; 4]);
        let answered: Vec<_> = servers.into_iter().map(Application::stop).collect();
        assert_eq!(answered, [EACH; 4]);
    }
}

#[tokio::test]
async fn openssl_resumes_after_each_close() {
    const IN_A_ROW: usize = 7;
    for (argument, version) in VERSIONS {
        let Some(application) = Application::start(argument, IN_A_ROW) else {
            return;
        };
        let (client, handle, handshakes) = agent(KeepAliveLayer::new());
        let url = application.server.https();
        for request in 0..100 * IN_A_ROW {
            let answer = fetch(&client, format!("{url}{request}")).await.unwrap();
            assert_eq!(answer.body, format!("/{request}"));
            let is_first = request % IN_A_ROW == 0;
            assert_eq!(answer.info.is_reused(), !is_first, "request {request}");
        }
        at_rest(&handle).await;
        let status = handle.status();
        println!("{version:?}, OpenSSL: {status}");
        assert_eq!((status.created, status.create_errors), (100, 0));
        assert_eq!((status.completed, status.stale), (700, 0));
        assert_eq!(status.closes, [(CloseReason::Final, 100)].into());
        let handshakes = handshakes.lock().unwrap();
        assert_eq!(handshakes.len(), 100);
        assert_eq!(handshakes[0], (version, HandshakeKind::Full));
        let resumed = (version, HandshakeKind::Resumed);
        assert!(
            handshakes[1..].iter().all(|&it| it == resumed),
            "{handshakes:?}"
        );
        assert_eq!(application.stop(), 700);
    }
}

/// With its own pages it answers with HTTP/1.0, and its bodies end with the connection: each whole, by its close_notify.
#[tokio::test]
async fn openssl_ends_each_body_with_its_connection_and_resumes() {
    let Some(openssl) = program("openssl") else {
        return;
    };
    for (argument, version) in VERSIONS {
        let server = Running::start(|folder, addr| {
            let mut command = command(&openssl, folder);
            command.args(["-www", argument]);
            command.arg("-accept").arg(addr.to_string());
            command
        });
        let (client, handle, handshakes) = agent(KeepAliveLayer::new());
        for request in 0..20 {
            let answer = fetch(&client, server.https()).await.unwrap();
            assert_eq!(answer.status, 200);
            let end = answer.body.trim_end().to_ascii_lowercase();
            assert!(end.ends_with("</html>"), "{end}");
            let (how, kind) = match request {
                0 => ("New, ", HandshakeKind::Full),
                _ => ("Reused, ", HandshakeKind::Resumed),
            };
            assert!(answer.body.contains(how), "{request}: {}", answer.body);
            // Both ends say the same.
            assert_eq!(handshakes.lock().unwrap().pop(), Some((version, kind)));
        }
        at_rest(&handle).await;
        let status = handle.status();
        assert_eq!((status.created, status.closed), (20, 20));
        assert_eq!((status.create_errors, status.reused), (0, 0));
    }
}
