//! The reverse proxy of `examples/proxy.rs`, as it was built: what callers see, what the upstream sees, and its status.

#[path = "../support/mod.rs"]
mod support;

mod command_line;
mod failures;
mod passing_on;

use std::process::Stdio;
use std::time::Duration;

use crate::support::agent::{Client, agent, fetch};
use http::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tower_keep_alive::KeepAliveLayer;

/// A running proxy; it is killed when it is dropped.
struct Proxy {
    addr: String,
    process: Child,
    /// Asks for the status, apart from the callers.
    observer: Client,
}

impl Proxy {
    /// Starts one on a free port, with `arguments` beside the two that it needs.
    async fn start(upstream: &str, arguments: &[&str]) -> Self {
        Self::start_with(upstream, arguments, &[]).await
    }

    /// The same, with these variables.
    async fn start_with(upstream: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut process = command(&["--listen", "127.0.0.1:0", "--upstream", upstream])
            .args(arguments)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the proxy starts");
        let stdout = process.stdout.take().expect("piped above");
        let line = timeout(
            Duration::from_secs(10),
            BufReader::new(stdout).lines().next_line(),
        )
        .await
        .expect("the proxy listens within 10 s")
        .expect("its output can be read")
        .expect("it says where it listens");
        let addr = line.strip_prefix("listening on ").expect(&line).to_owned();
        let (observer, _) = agent(KeepAliveLayer::new());
        Self {
            addr,
            process,
            observer,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// What it says of its agent, as it stands there.
    async fn status(&self) -> String {
        let answer = fetch(&self.observer, self.url("/agent/status"))
            .await
            .expect("the proxy tells its status");
        assert_eq!(answer.status, StatusCode::OK);
        answer.body
    }

    /// The proxy's own `at_rest`: its status, once nothing is in motion and every connection is accounted for.
    async fn at_rest(&self) -> Value {
        let started = Instant::now();
        loop {
            let text = self.status().await;
            let status: Value = serde_json::from_str(&text).expect("the status is JSON");
            let count = |name: &str| status[name].as_u64().expect(name);
            let idle: u64 = status["freeSockets"]
                .as_object()
                .expect("a map")
                .values()
                .map(|count| count.as_u64().expect("a count"))
                .sum();
            let ended = count("closeSocketCount") + count("detachedSocketCount");
            if status["sockets"] == serde_json::json!({})
                && status["requests"] == serde_json::json!({})
                && count("createSocketCount") == ended + idle
            {
                return status;
            }
            assert!(
                started.elapsed() < Duration::from_secs(5),
                "not at rest within 5 s: {text}"
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Writes `request` as it stands, which should say `Connection: close`, and reads to the end.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.addr)
            .await
            .expect("the proxy listens");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("the request is written");
        let mut response = String::new();
        timeout(
            Duration::from_secs(10),
            stream.read_to_string(&mut response),
        )
        .await
        .expect("the response ends within 10 s")
        .expect("the response is text");
        response
    }
}

/// The example, beside the tests where cargo has built both: `target/<profile>/examples/proxy`.
fn command(arguments: &[&str]) -> Command {
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("tests are in target/<profile>/deps");
    let path = profile
        .join("examples")
        .join(format!("proxy{}", std::env::consts::EXE_SUFFIX));
    assert!(
        path.exists(),
        "{} is not built: `cargo test` builds it, `cargo test --test proxy` does not; run `cargo build --example proxy`",
        path.display(),
    );
    let mut command = Command::new(path);
    command.args(arguments).kill_on_drop(true);
    command
}

/// The names of a raw response's fields, sorted, and its body.
fn parts(response: &str) -> (Vec<String>, &str) {
    let (head, body) = response.split_once("\r\n\r\n").expect("a whole head");
    let mut names: Vec<_> = head
        .lines()
        .skip(1)
        .map(|line| line.split(':').next().expect("a name").to_lowercase())
        .collect();
    names.sort();
    (names, body)
}

/// Answers every request with its own target.
async fn targets(mut conn: crate::support::Conn) {
    while let Some(head) = conn.request().await {
        conn.respond(&head.target).await;
    }
}
