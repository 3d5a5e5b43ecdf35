//! A reverse proxy as a user writes it, and callers that speak raw HTTP/1 to it.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::error_handling::HandleErrorLayer;
use axum::extract::ConnectInfo;
use axum::http::StatusCode;
use axum::{Router, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tower::ServiceBuilder;
use tower_keep_alive::forward::ForwardLayer;
use tower_keep_alive::{AgentHandle, Error, KeepAliveLayer};

use crate::support::agent::{Connector, at_rest, belongs_here, probe};

pub(crate) struct Front {
    pub(crate) addr: SocketAddr,
    pub(crate) agent: AgentHandle,
    accepts: JoinHandle<()>,
}

impl Front {
    /// In front of the upstream at this URL.
    pub(crate) async fn to(upstream: &str) -> Self {
        Self::of(ForwardLayer::to(upstream).unwrap()).await
    }

    pub(crate) async fn of(forward: ForwardLayer) -> Self {
        let agent = KeepAliveLayer::<Body>::new().probe_with(probe);
        let handle = agent.handle();
        belongs_here(&handle);
        let upstream = ServiceBuilder::new()
            .layer(HandleErrorLayer::new(refusal))
            .layer(forward)
            .layer(agent)
            .service(Connector);
        let app = Router::new().fallback_service(upstream);
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            addr: listener.local_addr().unwrap(),
            agent: handle,
            accepts: tokio::spawn(async move { serve(listener, app).await.unwrap() }),
        }
    }

    pub(crate) async fn connect(&self) -> Caller {
        Caller {
            stream: TcpStream::connect(self.addr).await.unwrap(),
            read: Vec::new(),
        }
    }

    /// The whole answer to a request that says `Connection: close`.
    pub(crate) async fn ask(&self, request: impl AsRef<[u8]>) -> String {
        let mut caller = self.connect().await;
        caller.send(request).await;
        caller.rest().await
    }

    /// Accepts nobody any more; when the callers have gone, nothing may be left.
    pub(crate) async fn at_rest(self) {
        self.accepts.abort();
        self.accepts.await.ok();
        at_rest(&self.agent).await;
    }
}

/// The address that axum has accepted a request's connection from.
pub(crate) fn peer(request: &http::request::Parts) -> Option<std::net::IpAddr> {
    let info = request.extensions.get::<ConnectInfo<SocketAddr>>()?;
    Some(info.0.ip())
}

async fn refusal(error: Error) -> (StatusCode, String) {
    (StatusCode::BAD_GATEWAY, format!("{error}\n"))
}

pub(crate) struct Caller {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Caller {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads up to where `end` comes for the first time, and takes that away.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        let end = end.as_bytes();
        loop {
            let found = self.read.windows(end.len()).position(|it| it == end);
            if let Some(at) = found {
                let rest = self.read.split_off(at + end.len());
                let taken = std::mem::replace(&mut self.read, rest);
                return String::from_utf8(taken).unwrap();
            }
            let read = self.stream.read_buf(&mut self.read);
            let read = timeout(Duration::from_secs(10), read).await;
            let so_far = String::from_utf8_lossy(&self.read);
            assert_ne!(
                read.expect("more within 10 s").unwrap(),
                0,
                "it ends with {so_far:?}"
            );
        }
    }

    /// Reads to the end of the stream.
    pub(crate) async fn rest(&mut self) -> String {
        let read = self.stream.read_to_end(&mut self.read);
        let read = timeout(Duration::from_secs(10), read).await;
        read.expect("it ends within 10 s").unwrap();
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }
}

/// The value of a field in a raw head; the name in lower case.
pub(crate) fn field<'a>(response: &'a str, name: &str) -> Option<&'a str> {
    let head = response.split("\r\n\r\n").next().unwrap();
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// The names of the fields in a raw head, in lower case and sorted.
pub(crate) fn names(response: &str) -> Vec<String> {
    let head = response.split("\r\n\r\n").next().unwrap();
    let lines = head.lines().skip(1);
    let mut names: Vec<_> = lines
        .map(|line| line.split(':').next().unwrap().to_lowercase())
        .collect();
    names.sort();
    names
}
