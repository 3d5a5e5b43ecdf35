//! A transport that takes nothing more, because the server reads nothing: what the server says is heard, and what is due
//! happens in its time.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tower_keep_alive::{AgentHandle, Error, Http2, KeepAlive, KeepAliveLayer, Protocol};

use crate::support::InMemory;
use crate::support::agent::{Answer, agent_paused, at_rest, fetch, post, send};
use crate::support::frames::{code, kind, setting};
use crate::support::http2::{Conn, Server};

type Body = http_body_util::Full<Bytes>;

/// Paused time passes only when nobody can go on: after this, the transport is full.
const FULL: Duration = Duration::from_millis(1);

/// For so long the server reads nothing.
const READS_NOTHING: Duration = Duration::from_secs(100);

const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a connection may take to close.
const CLOSES_WITHIN: Duration = Duration::from_millis(1_100);

/// Answers, until the client closes.
async fn answer(conn: &mut Conn) {
    while let Some(request) = conn.request().await {
        conn.respond(request.stream, 200, b"ok").await;
    }
}

/// What the server does once the transport is full.
#[derive(Clone, Copy, Debug)]
enum Does {
    Nothing,
    /// It sends its first SETTINGS, by which it allows one stream.
    Begins,
    LowersTheLimit,
    GoesAway,
    /// It sends what ends a connection.
    Breaks,
    /// It sends nothing more.
    ClosesItsHalf,
}

async fn serve(mut conn: Conn, does: Does) {
    assert!(conn.preface().await);
    if conn.index > 0 {
        conn.settings([]).await;
        return answer(&mut conn).await;
    }
    if !matches!(does, Does::Begins) {
        let window = (setting::INITIAL_WINDOW_SIZE, 1 << 20);
        let limit = (setting::MAX_CONCURRENT_STREAMS, 10);
        conn.settings([window, limit]).await;
    }
    while conn.frame().await.expect("a head").kind != kind::HEADERS {}
    sleep(FULL).await;
    match does {
        Does::Nothing => {}
        Does::Begins | Does::LowersTheLimit => {
            conn.settings([(setting::MAX_CONCURRENT_STREAMS, 1)]).await;
        }
        Does::GoesAway => conn.go_away(1, code::NO_ERROR, b"").await,
        Does::Breaks => conn.raw(kind::DATA, 0, 0, b"x").await,
        Does::ClosesItsHalf => conn.io().half_close().await,
    }
    sleep(READS_NOTHING).await;
    conn.closed().await;
}

/// A server, and an agent with a request to it whose body has filled the transport.
struct Full {
    server: Server,
    client: KeepAlive<InMemory, Body>,
    handle: AgentHandle,
    upload: JoinHandle<Result<Answer, Error>>,
}

impl Full {
    async fn new(does: Does, max_connections: usize) -> Self {
        let server = Server::in_memory(move |conn| serve(conn, does));
        let layer = KeepAliveLayer::new()
            .protocol(Protocol::Http2)
            .http2(Http2::new().ping_timeout(PING_TIMEOUT))
            .active_timeout(READS_NOTHING / 2)
            .max_connections_per_host(max_connections);
        let (client, handle) = agent_paused(layer, server.connector());
        let upload = tokio::spawn({
            let (client, url) = (client.clone(), server.url("/upload"));
            async move { send(&client, post(url, vec![b'u'; 1 << 20])).await }
        });
        // The client has heard what the server has done.
        sleep(2 * FULL).await;
        Self {
            server,
            client,
            handle,
            upload,
        }
    }

    /// The next request is answered over another connection within this time.
    async fn answers_elsewhere(self, within: Duration) -> AgentHandle {
        let url = self.server.url("/next");
        let next = timeout(within, fetch(&self.client, url)).await;
        let next = next.expect("nobody answers").expect("it is answered");
        assert_eq!(next.body, "ok");
        let log = &self.server.log;
        assert_eq!(log.requests().last().expect("a request").connection, 1);
        self.upload.abort();
        self.handle
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_server_says_is_heard_while_the_transport_takes_nothing() {
    for does in [Does::Begins, Does::LowersTheLimit, Does::GoesAway] {
        let full = Full::new(does, 2).await;
        assert!(!full.upload.is_finished(), "{does:?}");
        full.answers_elsewhere(FULL).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_ping_that_cannot_be_written_is_unanswered_in_its_time() {
    let full = Full::new(Does::Nothing, 1).await;
    full.upload.abort();
    let handle = full.answers_elsewhere(PING_TIMEOUT + FULL).await;
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_has_ended_gives_its_permit_back_while_the_transport_takes_nothing() {
    for does in [Does::Breaks, Does::ClosesItsHalf] {
        let mut full = Full::new(does, 1).await;
        let upload = timeout(FULL, &mut full.upload).await;
        let error = upload.expect("it has ended").unwrap().unwrap_err();
        assert!(!error.is_timeout(), "{does:?}: {error:?}");
        // Without a request that would find out.
        sleep(CLOSES_WITHIN).await;
        let status = full.handle.status();
        assert_eq!(
            (status.closed, status.open()),
            (1, 0),
            "{does:?}: {status:?}"
        );
        let handle = full.answers_elsewhere(FULL).await;
        at_rest(&handle).await;
    }
}
