//! Over TLS against nginx and OpenSSL, as Debian has them; with `REAL_SERVERS=1` they have to be there.

#![cfg(unix)]

mod support;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use http_body_util::Full;
use tower_keep_alive::connect::{TcpConnector, Tls};
use tower_keep_alive::{AgentHandle, Cause, KeepAlive, KeepAliveLayer};

use support::agent::{agent_over, at_rest, fetch};
use support::tls::{CA, localhost};

type Client = KeepAlive<Tls<TcpConnector>, Full<Bytes>>;

fn agent(layer: KeepAliveLayer<Full<Bytes>>) -> (Client, AgentHandle) {
    let tls = tower::Layer::layer(&CA.trusted(), TcpConnector::new());
    agent_over(layer, tls)
}

/// Where Debian puts it. Without it there is nothing to test, unless the run says that it is here.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|program| program.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("REAL_SERVERS").is_none(),
            "{name} is not installed, and REAL_SERVERS says that it is",
        );
        println!("skipped: {name} is not installed");
    }
    found
}

/// A server of its own: a process, and a folder for its files.
struct Running {
    process: Child,
    folder: PathBuf,
    addr: SocketAddr,
}

impl Running {
    /// Starts it on a free port, with the certificate of the tests in its folder.
    fn start(start: impl Fn(&Path, SocketAddr) -> Command) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-keep-alive-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let identity = localhost();
        let (certificate, key) = identity.pem();
        std::fs::write(folder.join("cert.pem"), certificate).expect("a file");
        std::fs::write(folder.join("key.pem"), key).expect("a file");
        // Somebody else may have the port by then.
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
            let addr = free.local_addr().expect("bound above");
            drop(free);
            let mut process = start(&folder, addr)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .expect("it starts");
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(10) {
                if process.try_wait().expect("a child").is_some() {
                    break;
                }
                if TcpStream::connect(addr).is_ok() {
                    return Self {
                        process,
                        folder,
                        addr,
                    };
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            process.kill().ok();
            process.wait().ok();
        }
        panic!("it does not listen");
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/", self.addr.port())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // nginx' workers end with a master that is asked to end, and not with one that is killed.
        let id = self.process.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().ok();
        self.process.wait().ok();
        std::fs::remove_dir_all(&self.folder).ok();
    }
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
                let answer = fetch(&client, server.url()).await?;
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
        assert_eq!(status.requests, 5000);
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
            let answer = fetch(&client, server.url()).await.unwrap();
            connections.extend(answer.body.split(' ').next().map(str::to_owned));
        }
        assert_eq!(connections.len(), 1);
        at_rest(&handle).await;
        let status = handle.status();
        assert_eq!(
            (status.created, status.requests, status.stale),
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
            let answer = fetch(&client, server.url()).await.unwrap();
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
        assert_eq!((status.requests, status.stale), (700, 0));
        assert_eq!(status.closes.get(&Cause::Final), Some(&100), "{status:?}");
    }
}

/// It answers with HTTP/1.0, and its bodies end with the connection: each whole, by its close_notify.
#[tokio::test]
async fn openssl_ends_each_body_with_its_connection_and_resumes() {
    let Some(openssl) = program("openssl") else {
        return;
    };
    for protocol in ["-tls1_2", "-tls1_3"] {
        let server = Running::start(|folder, addr| {
            let mut command = Command::new(&openssl);
            command.args(["s_server", "-www", "-quiet", protocol]);
            command.arg("-accept").arg(addr.to_string());
            command.arg("-cert").arg(folder.join("cert.pem"));
            command.arg("-key").arg(folder.join("key.pem"));
            command
        });
        let (client, handle) = agent(KeepAliveLayer::new());
        for request in 0..20 {
            let answer = fetch(&client, server.url()).await.unwrap();
            assert_eq!(answer.status, 200);
            assert!(
                answer.body.trim_end().ends_with("</HTML>")
                    || answer.body.trim_end().ends_with("</html>"),
                "{}",
                answer.body
            );
            let how = if request == 0 { "New, " } else { "Reused, " };
            assert!(answer.body.contains(how), "{request}: {}", answer.body);
        }
        at_rest(&handle).await;
        let status = handle.status();
        assert_eq!((status.created, status.closed), (20, 20));
        assert_eq!((status.create_errors, status.reused), (0, 0));
    }
}
