//! Upstreams of https, arguments that are wrong, and the end of the program.

use std::path::PathBuf;
use std::time::Duration;

use super::{Proxy, command};
use crate::support::agent::{agent, at_rest, fetch};
use crate::support::tls::{Authority, CA, localhost};
use crate::support::{Server, eventually, script};
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::{sleep, timeout};
use tower_keep_alive::KeepAliveLayer;

/// A file that is removed when it is dropped.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("proxy-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("a temporary file");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

#[tokio::test]
async fn an_upstream_of_https_is_whom_the_file_vouches_for() {
    let upstream = Server::start_tls(localhost().server(), script::ok).await;
    let ca = TempFile::new("ca.pem", &CA.pem());
    let proxy = Proxy::start(&upstream.url("/"), &["--ca", ca.path()]).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    for _ in 0..10 {
        let answer = fetch(&client, proxy.url("/")).await.unwrap();
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, "ok"));
    }
    let status = proxy.at_rest().await;
    assert_eq!(status["createSocketCount"], 1);
    let name = format!("https:{}:", upstream.addr());
    assert_eq!(status["freeSockets"][&name], 1);
    assert_eq!((upstream.accepted(), upstream.requests()), (1, 10));
    at_rest(&handle).await;
}

/// The platform's, as OpenSSL's variables name them: a machine without any, and one that trusts the tests.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_upstream_of_https_is_whom_the_platform_vouches_for() {
    let upstream = Server::start_tls(localhost().server(), script::ok).await;
    let plain = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let none = TempFile::new("none.pem", "");
    let ours = TempFile::new("ours.pem", &CA.pem());
    for (trusted, status, said) in [
        (
            &none,
            StatusCode::BAD_GATEWAY,
            "the platform has no certificates to trust",
        ),
        (&ours, StatusCode::OK, "ok"),
    ] {
        let variables = [("SSL_CERT_FILE", trusted.path()), ("SSL_CERT_DIR", "")];
        let proxy = Proxy::start_with(&upstream.url("/"), &[], &variables).await;
        let answer = fetch(&client, proxy.url("/")).await.unwrap();
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.body.contains(said), "{}", answer.body);
        let is_error = status != StatusCode::OK;
        assert_eq!(
            proxy.at_rest().await["createSocketErrorCount"],
            u64::from(is_error)
        );
        // For http that is nothing.
        let proxy = Proxy::start_with(&plain.url("/"), &[], &variables).await;
        let answer = fetch(&client, proxy.url("/")).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert_eq!(upstream.requests(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn an_upstream_of_https_that_nobody_vouches_for_is_a_bad_gateway() {
    let upstream = Server::start_tls(localhost().server(), script::ok).await;
    let stranger = TempFile::new("stranger.pem", &Authority::new("stranger").pem());
    let proxy = Proxy::start(&upstream.url("/"), &["--ca", stranger.path()]).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let answer = fetch(&client, proxy.url("/")).await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(answer.body.contains("UnknownIssuer"), "{}", answer.body);
    let status = proxy.at_rest().await;
    assert_eq!(status["createSocketErrorCount"], 1);
    assert_eq!(status["freeSockets"], serde_json::json!({}));
    assert_eq!(upstream.requests(), 0);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_file_without_certificates_ends_it_in_a_line() {
    let empty = TempFile::new("empty.pem", "");
    for file in [empty.path(), "/no/such/file"] {
        let arguments = [
            "--listen",
            "127.0.0.1:0",
            "--upstream",
            "https://localhost",
            "--ca",
            file,
        ];
        let output = timeout(Duration::from_secs(10), command(&arguments).output());
        let output = output.await.expect("it ends by itself").unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with(&format!("proxy: {file}: ")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[tokio::test]
async fn what_cannot_be_started_says_so_in_a_line() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let upstream = "http://127.0.0.1:1";

    let output = command(&["--listen", &taken, "--upstream", upstream])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("proxy: cannot listen on"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");

    for wrong in [
        &["--listen", "nowhere"][..],
        &["--upstream", "ftp://127.0.0.1"],
        &["--upstream", "/path"],
        &["--max-connections-per-host", "0"],
        &["--max-connections", "many"],
        &["--runtimes", "0"],
        &["--max-idle-per-host", "some"],
        &["--idle-timeout", "4"],
        &["--active-timeout", "0s"],
        &["--ttl", "long"],
        &["--no-such-thing"],
    ] {
        let mut arguments = vec!["--listen", "127.0.0.1:0", "--upstream", upstream];
        match wrong {
            ["--listen", value] => arguments[1] = value,
            ["--upstream", value] => arguments[3] = value,
            _ => arguments.extend(wrong),
        }
        let output = timeout(Duration::from_secs(10), command(&arguments).output());
        let output = output.await.expect("it ends by itself").unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {said}");
        assert!(
            said.starts_with("error: ") && said.contains(wrong[0]),
            "{said}"
        );
    }
}

#[cfg(unix)]
#[tokio::test]
async fn ctrl_c_ends_it_when_what_is_in_flight_has_ended() {
    for arguments in [&[][..], &["--runtimes", "2"]] {
        ctrl_c_ends(arguments).await;
    }
}

#[cfg(unix)]
async fn ctrl_c_ends(arguments: &[&str]) {
    let upstream = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            if head.target == "/slow" {
                sleep(Duration::from_millis(300)).await;
            }
            conn.respond(&head.target).await;
        }
    })
    .await;
    let mut proxy = Proxy::start(&upstream.url(""), arguments).await;
    let (client, handle) = agent(KeepAliveLayer::new());

    fetch(&client, proxy.url("/")).await.unwrap();
    let slow = {
        let client = client.clone();
        let url = proxy.url("/slow");
        tokio::spawn(async move { fetch(&client, url).await })
    };
    eventually("the slow request is at the upstream", || {
        upstream.requests() == 2
    })
    .await;
    let id = proxy.process.id().expect("it runs").to_string();
    let killed = Command::new("kill").args(["-INT", &id]).status().await;
    assert!(killed.unwrap().success());

    let answer = slow.await.unwrap().unwrap();
    assert_eq!(answer.body, "/slow");
    let code = timeout(Duration::from_secs(10), proxy.process.wait());
    let code = code.await.expect("it ends within 10 s").unwrap();
    assert_eq!(code.code(), Some(0));
    eventually("no connection to the upstream is left", || {
        upstream.open() == 0
    })
    .await;
    at_rest(&handle).await;
}
