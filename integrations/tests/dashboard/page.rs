//! The example that serves the page, and what it says apart from the browser.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tower::Layer;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{KeepAlive, KeepAliveLayer};

use crate::told::Told;

/// Waits until `condition` holds; panics with `what` if it does not within 20 s.
pub(crate) async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "not within 20 s: {what}"
        );
        sleep(Duration::from_millis(50)).await;
    }
}

/// The example, running, and every beat that it has told.
pub(crate) struct Dashboard {
    url: String,
    beats: Arc<Mutex<Vec<Value>>>,
    client: KeepAlive<TcpConnector, Empty<Bytes>>,
    _process: Child,
}

impl Dashboard {
    pub(crate) async fn start() -> Self {
        let cargo = std::env::var_os("CARGO").expect("cargo runs the tests");
        let mut process = Command::new(cargo)
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .args([
                "run",
                "--locked",
                "--quiet",
                "--package",
                "tower-keep-alive",
            ])
            .args([
                "--example",
                "dashboard",
                "--",
                "--listen",
                "127.0.0.1:0",
                "--for",
                "5min",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("cargo starts");
        let mut says = BufReader::new(process.stdout.take().expect("piped above")).lines();
        // It may have to be built.
        let line = timeout(Duration::from_secs(300), says.next_line()).await;
        let line = line.expect("the dashboard listens within 5 min");
        let url = line.expect("text").expect("it says where it listens");

        let client = KeepAliveLayer::new().layer(TcpConnector::new());
        let beats = Arc::new(Mutex::new(Vec::new()));
        let dashboard = Self {
            url,
            beats: beats.clone(),
            client,
            _process: process,
        };
        let request = dashboard.get("events");
        let events = dashboard.client.request(request).await.expect("events");
        let mut events = events.into_body();
        tokio::spawn(async move {
            let mut text = String::new();
            while let Some(Ok(frame)) = events.frame().await {
                let data = frame.into_data().unwrap_or_default();
                text.push_str(std::str::from_utf8(&data).expect("ASCII"));
                while let Some((event, rest)) = text.split_once("\n\n") {
                    let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                    if let Some(data) = data {
                        let told: Value = serde_json::from_str(data).expect("JSON");
                        let mut beats = beats.lock().unwrap_or_else(PoisonError::into_inner);
                        match told {
                            Value::Array(past) => beats.extend(past),
                            beat => beats.push(beat),
                        }
                    }
                    text = rest.to_owned();
                }
            }
        });
        dashboard
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// How many beats it has told.
    pub(crate) fn beats(&self) -> usize {
        self.beats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Waits for as many.
    pub(crate) async fn has_beats(&self, count: usize) {
        let begun = Instant::now();
        while self.beats() < count {
            assert!(
                begun.elapsed() < Duration::from_secs(90),
                "{} beats",
                self.beats()
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// What it had told a page when it told the beat of this time: that one, and those of the minute before it.
    pub(crate) async fn told_before(&self, at: u64) -> Told {
        let find = || {
            let beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
            Told::of_minute(&beats, at)
        };
        eventually("the page shows a beat", async || find().is_some()).await;
        find().expect("found above")
    }

    /// The open connections of one pool.
    pub(crate) async fn connections(&self, key: &str) -> Vec<Value> {
        let path = format!("connections?key={}", key.replace(':', "%3A"));
        let response = self
            .client
            .request(self.get(&path))
            .await
            .expect("a response");
        let body = response.into_body().collect().await.expect("a body");
        serde_json::from_slice(&body.to_bytes()).expect("JSON")
    }

    fn get(&self, path: &str) -> Request<Empty<Bytes>> {
        let request = Request::get(format!("{}{path}", self.url)).body(Empty::new());
        request.expect("a valid request")
    }
}
