//! A server that runs a script for each connection and counts what it sees.

use super::{
    conn::Conn,
    connector::InMemory,
    head::Head,
    leaks::{Tag, What},
    listener::{Listener, Place},
    over::{Over, over},
    script,
    stream::Stream,
    tally::{Tally, lock},
    tls,
};
use std::{
    future::Future,
    net::SocketAddr,
    panic::resume_unwind,
    pin::Pin,
    sync::{Arc, Mutex},
    thread,
};
use tokio::task::JoinSet;
use tokio_rustls::rustls::{ServerConfig, ServerConnection};

/// A server on a socket, of what the run is [`over`](super::over), or in memory; dropped, it stops accepting and aborts its scripts.
///
/// # Panics
///
/// A panic in a script comes again from the next method called, or from the drop of the server.
pub struct Server {
    stage: Arc<Stage>,
    place: Option<Place>,
    scheme: &'static str,
}

impl Server {
    /// Listens on `127.0.0.1` (or what stands for it), and runs `script` once for every accepted connection.
    pub async fn start<F, Fut>(script: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::listen("127.0.0.1:0", script).await
    }

    /// As [`start`](Self::start), on `[::1]`.
    pub async fn start_ipv6<F, Fut>(script: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::listen("[::1]:0", script).await
    }

    /// As [`start`](Self::start), on a Unix socket whatever the run is over; its path is [`unix_path`](Self::unix_path).
    #[cfg(unix)]
    pub async fn start_unix<F, Fut>(script: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::perform(
            Listener::unix("127.0.0.1:0"),
            None,
            Speaks::AsTheRun,
            script,
        )
    }

    /// As [`start`](Self::start), over TCP whatever the run is over.
    pub async fn start_tcp<F, Fut>(script: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::perform(
            Listener::tcp("127.0.0.1:0").await,
            None,
            Speaks::AsTheRun,
            script,
        )
    }

    /// As [`start`](Self::start), and over TLS whatever the run is over, with an URL that says so. The script begins after
    /// the handshake, and not at all if that fails.
    pub async fn start_tls<F, Fut>(config: impl Into<Arc<ServerConfig>>, script: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::listen_tls("127.0.0.1:0", config, script).await
    }

    /// As [`start_tls`](Self::start_tls), at an address of a loopback interface.
    pub async fn listen_tls<F, Fut>(
        addr: &str,
        config: impl Into<Arc<ServerConfig>>,
        script: F,
    ) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = Listener::tcp(addr).await;
        Self::perform(listener, Some(config.into()), Speaks::AsTheRun, script).with_https()
    }

    /// An URL of this server says `https`.
    pub(super) fn with_https(mut self) -> Self {
        self.scheme = "https";
        self
    }

    /// As [`ok`](Self::ok), over TCP whatever the run is over, at this address.
    pub async fn listen_at(addr: SocketAddr) -> Self {
        Self::perform(
            Listener::tcp(&addr.to_string()).await,
            None,
            Speaks::AsTheRun,
            script::ok,
        )
    }

    /// As [`ok`](Self::ok), over TCP whatever the run is over, at each address of IPv4.
    pub async fn everywhere() -> Self {
        Self::perform(
            Listener::tcp("0.0.0.0:0").await,
            None,
            Speaks::AsTheRun,
            script::ok,
        )
    }

    /// Has no socket: connections come from its [`connector`](Self::connector) only.
    pub fn in_memory<F, Fut>(script: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::in_memory_speaking(Speaks::AsTheRun, script)
    }

    pub(super) fn in_memory_speaking<F, Fut>(speaks: Speaks, script: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self {
            stage: Arc::new(Stage::new(script, None, speaks)),
            place: None,
            scheme: "http",
        }
    }

    /// Starts with [`script::ok`].
    pub async fn ok() -> Self {
        Self::start(script::ok).await
    }

    /// Starts with [`script::echo`].
    pub async fn echo() -> Self {
        Self::start(script::echo).await
    }

    /// Connects to this server in memory, whatever the target; refuses when the server is gone.
    pub fn connector(&self) -> InMemory {
        InMemory::new(&self.stage)
    }

    /// Where it listens. Panics in memory.
    pub fn addr(&self) -> SocketAddr {
        let place = self.place.as_ref();
        place.expect("an in-memory server has no address").addr
    }

    /// The Unix socket that it listens on. Panics where it has none.
    #[cfg(unix)]
    pub fn unix_path(&self) -> &std::path::Path {
        let place = self.place.as_ref().and_then(|place| place.unix.as_ref());
        &place.expect("the server has a Unix socket").path
    }

    /// `http://127.0.0.1:port/path`, or `https`; in memory `http://in-memory.test/path`.
    pub fn url(&self, path: &str) -> String {
        match &self.place {
            Some(Place { addr, .. }) => format!("{}://{addr}{path}", self.scheme),
            None => format!("http://in-memory.test{path}"),
        }
    }

    /// [`url`](Self::url) with another host in it.
    pub fn url_of(&self, host: &str, path: &str) -> String {
        format!("{}://{host}:{}{path}", self.scheme, self.addr().port())
    }

    /// How many connections were accepted, ever.
    pub fn accepted(&self) -> usize {
        self.tally(|tally| tally.accepted)
    }

    /// How many connections are open: neither dropped by their script nor seen closed by the client.
    ///
    /// A script sees the client's close when it reads, writes, or is in `stall`, `gone` or `closed`.
    pub fn open(&self) -> usize {
        self.tally(|tally| tally.open)
    }

    /// The most that were [`open`](Self::open) at one moment.
    ///
    /// An accept can overtake the FIN of an earlier connection, and then this is too high: for strict limits take
    /// [`CountingConnector::max_alive`](super::CountingConnector::max_alive).
    pub fn max_open(&self) -> usize {
        self.tally(|tally| tally.max_open)
    }

    /// How many request heads were read completely.
    pub fn requests(&self) -> usize {
        self.tally(|tally| tally.heads.len())
    }

    /// Every request head, in the order they came, with its body as far as that was asked for and complete.
    pub fn heads(&self) -> Vec<Head> {
        self.tally(|tally| tally.heads.clone())
    }

    async fn listen<F, Fut>(addr: &str, script: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let tls = (over() == Over::Tls).then(tls::server_config);
        Self::perform(Listener::bind(addr).await, tls, Speaks::AsTheRun, script)
    }

    pub(super) fn perform<F, Fut>(
        (listener, place): (Listener, Place),
        tls: Option<Arc<ServerConfig>>,
        speaks: Speaks,
        script: F,
    ) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let stage = Arc::new(Stage::new(script, tls, speaks));
        stage.accept_from(listener, Tag::new(What::Listener(place.addr)));
        Self {
            stage,
            place: Some(place),
            scheme: "http",
        }
    }

    fn tally<R>(&self, look: impl FnOnce(&Tally) -> R) -> R {
        self.stage.rethrow();
        look(&lock(&self.stage.tally))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Tests that never look at the server again must fail as well.
        if !thread::panicking() {
            self.stage.rethrow();
        }
    }
}

/// What scripts are about.
#[derive(Clone, Copy)]
pub(super) enum Speaks {
    /// Requests of HTTP/1.1, over whatever the run is over.
    AsTheRun,
    /// The bytes of the transport.
    Bytes,
}

impl Speaks {
    /// Whether HTTP/2 comes first.
    fn http2_on(self, conn: &mut Conn) -> bool {
        let is_agreed = |tls: &mut ServerConnection| tls.alpn_protocol() == Some(b"h2");
        matches!(self, Self::AsTheRun) && over() == Over::Http2 && conn.tls().is_none_or(is_agreed)
    }
}

type Script = dyn Fn(Conn) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

/// Where the scripts run. Owned by the server alone, so that the tasks end with it.
pub(super) struct Stage {
    script: Arc<Script>,
    /// Whose handshake comes first.
    tls: Option<Arc<ServerConfig>>,
    speaks: Speaks,
    tally: Arc<Mutex<Tally>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Stage {
    fn new<F, Fut>(script: F, tls: Option<Arc<ServerConfig>>, speaks: Speaks) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self {
            script: Arc::new(move |conn| Box::pin(script(conn))),
            tls,
            speaks,
            tally: Arc::default(),
            tasks: Mutex::default(),
        }
    }

    /// Runs the script over `stream`, which counts as accepted from here.
    pub(super) fn perform(&self, stream: Stream) {
        let mut conn = Conn::new(stream, &self.tally);
        let (script, tls, speaks) = (self.script.clone(), self.tls.clone(), self.speaks);
        self.spawn(async move {
            if let Some(tls) = tls
                && !conn.secure(tls).await
            {
                return;
            }
            if speaks.http2_on(&mut conn) {
                let transport = conn.translate();
                tokio::join!(script(conn), transport);
            } else {
                script(conn).await;
            }
        });
    }

    fn accept_from(self: &Arc<Self>, listener: Listener, listens: Tag) {
        // Weak: the stage has this task.
        let stage = Arc::downgrade(self);
        self.spawn(async move {
            let _listens = listens;
            loop {
                let stream = listener.accept().await.expect("accept");
                let Some(stage) = stage.upgrade() else { return };
                stage.perform(stream);
            }
        });
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let tag = Tag::new(What::Task);
        lock(&self.tasks).spawn(async move {
            let _tag = tag;
            task.await;
        });
    }

    fn rethrow(&self) {
        let panic = {
            let mut tasks = lock(&self.tasks);
            std::iter::from_fn(|| tasks.try_join_next())
                .filter_map(Result::err)
                .find_map(|error| error.try_into_panic().ok())
        };
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}
