//! Headless Chromium, by ChromeDriver.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder, Locator};
use http::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// One that has nothing of its own: no history, no cache, no errands.
pub(crate) struct Browser {
    client: Client,
    driver: Child,
    _says: tokio::io::Lines<BufReader<ChildStdout>>,
    profile: PathBuf,
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file());
    if found.is_none() {
        let promised = std::env::var_os("BROWSER").is_some();
        assert!(
            !promised,
            "{name} is not installed, and BROWSER says that it is"
        );
        println!("skipped: {name} is not installed");
    }
    found
}

impl Browser {
    pub(crate) async fn start() -> Option<Self> {
        let (chromium, driver) = (program("chromium")?, program("chromedriver")?);
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-keep-alive-browser-{}-{number}", std::process::id());
        let profile = std::env::temp_dir().join(name);
        let mut driver = Command::new(driver)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("ChromeDriver starts");
        let mut says = BufReader::new(driver.stdout.take().expect("piped above")).lines();
        let port = timeout(Duration::from_secs(30), async {
            loop {
                let line = says.next_line().await.expect("text");
                let line = line.expect("it says where it listens");
                if let Some((_, port)) = line.split_once("successfully on port ") {
                    break port.trim_end_matches('.').to_owned();
                }
            }
        })
        .await
        .expect("ChromeDriver listens within 30 s");

        let mut arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.push(format!("--user-data-dir={}", profile.display()));
        let mut capabilities = Capabilities::new();
        let options = json!({ "binary": chromium, "args": arguments });
        capabilities.insert("goog:chromeOptions".into(), options);
        capabilities.insert("goog:loggingPrefs".into(), json!({ "browser": "ALL" }));
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("a session");
        Some(Self {
            client,
            driver,
            _says: says,
            profile,
        })
    }

    pub(crate) async fn goto(&self, url: &str) {
        self.client.goto(url).await.expect("the page opens");
    }

    /// What `script` returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        let result = self.client.execute(script, Vec::new()).await;
        result.expect("the script runs")
    }

    /// Clicks as a person would: it has to be there, to be seen, and not to be covered.
    pub(crate) async fn click(&self, css: &str) {
        let element = self.client.find(Locator::Css(css)).await;
        element.expect(css).click().await.expect(css);
    }

    pub(crate) async fn text(&self, css: &str) -> String {
        let element = self.client.find(Locator::Css(css)).await;
        element.expect(css).text().await.expect(css)
    }

    pub(crate) async fn screenshot(&self) -> Vec<u8> {
        self.client.screenshot().await.expect("a picture")
    }

    /// Moves the pointer there.
    pub(crate) async fn point(&self, [x, y]: [f64; 2]) {
        let moved = json!({ "type": "mouseMoved", "x": x, "y": y });
        self.devtools("Input.dispatchMouseEvent", moved).await;
    }

    /// Makes the page so large, as if that were the device's.
    pub(crate) async fn resize(&self, (width, height): (u32, u32)) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 800 });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    /// `light` or `dark`.
    pub(crate) async fn prefers(&self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// What is in the console.
    pub(crate) async fn console(&self) -> Vec<Value> {
        let command = Vendor("se/log", json!({ "type": "browser" }));
        let log = self
            .client
            .issue_cmd(command)
            .await
            .expect("the console's log");
        log.as_array().expect("a list").clone()
    }

    async fn devtools(&self, name: &str, parameters: Value) {
        let command = Vendor(
            "goog/cdp/execute",
            json!({ "cmd": name, "params": parameters }),
        );
        self.client.issue_cmd(command).await.expect(name);
    }

    pub(crate) async fn quit(mut self) {
        self.client.clone().close().await.expect("the session ends");
        self.driver.kill().await.expect("ChromeDriver ends");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.profile).ok();
    }
}

/// A command of ChromeDriver's own: its path below the session's, and its body.
#[derive(Debug)]
struct Vendor(&'static str, Value);

impl WebDriverCompatibleCommand for Vendor {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!(
            "session/{}/{}",
            session.unwrap_or_default(),
            self.0
        ))
    }

    fn method_and_body(&self, _: &url::Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.1.to_string()))
    }
}
