//! Status and control, without type parameters.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::agent::{
    AgentState, ConnectionStatus, Event, Mode, PrewarmError, ProtocolStatus, Status, prewarm,
};
use crate::target::Destination;
use crate::target::key::Key;

/// Shows the status of an agent, and controls it, without the type parameters of its service.
///
/// A handle keeps no connection and no service alive. It covers all services that one layer has made.
///
/// # Clone
///
/// Clones are handles to the same agent. Each has its own state of [`status_changed`](Self::status_changed); a clone
/// begins with the state of its original.
///
/// ```
/// use tower_keep_alive::KeepAliveLayer;
///
/// let layer = KeepAliveLayer::<http_body_util::Empty<bytes::Bytes>>::new();
/// let mut agent = layer.handle();
/// assert!(!agent.status_changed());
/// println!("{}", agent.status());
/// ```
#[derive(Clone, Debug)]
pub struct AgentHandle {
    agent: Arc<AgentState>,
    seen: [u64; 6],
}

impl AgentHandle {
    pub(crate) fn new(agent: Arc<AgentState>) -> Self {
        Self {
            agent,
            seen: [0; 6],
        }
    }

    /// The counts of the agent since its start, and its present connections (agentkeepalive: `getCurrentStatus()`).
    #[doc(alias = "getCurrentStatus")]
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = self.agent.counts();
        self.agent.each_pool(|pool| {
            pool.key_counts(&mut |key, key_counts| {
                status.answered += key_counts.answering as u64;
                for (map, count) in [
                    (&mut status.idle, key_counts.idle),
                    (&mut status.active, key_counts.active),
                    (&mut status.pending, key_counts.pending),
                ] {
                    if count > 0 {
                        *map.entry(key.clone()).or_default() += count;
                    }
                }
                if key_counts.protocols != ProtocolStatus::default() {
                    let of_key = status.protocols.entry(key.clone()).or_default();
                    of_key.add(&key_counts.protocols);
                }
            });
            pool.addresses(&mut |key, address, counts| {
                let of_key = match status.addresses.get_mut(key) {
                    Some(of_key) => of_key,
                    None => status.addresses.entry(key.clone()).or_default(),
                };
                of_key.entry(address).or_default().add(&counts);
            });
            pool.learned(&mut |key, learned| {
                status.learned.insert(key.clone(), learned);
            });
            pool.lookups(&mut |key, lookups| {
                status.lookups.insert(key.clone(), lookups);
            });
            pool.host_settings(&mut |key, settings| {
                status.hosts.insert(key.clone(), settings.clone());
            });
        });
        status
    }

    /// The open connections of one key, oldest first.
    ///
    /// ```
    /// # fn looked_at(agent: &tower_keep_alive::AgentHandle) {
    /// let busiest = agent.status().active.into_iter().max_by_key(|(_, count)| *count);
    /// if let Some((key, _)) = busiest {
    ///     for connection in agent.connections(&key) {
    ///         println!("{key} {connection:?}");
    ///     }
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn connections(&self, key: &Key) -> Vec<ConnectionStatus> {
        let mut list = Vec::new();
        self.agent
            .each_pool(|pool| pool.connections(key, &mut list));
        list.sort_by_key(|connection| connection.id.unwrap_or(u64::MAX));
        list
    }

    /// Whether one of agentkeepalive's six counters has changed since the last call on this handle (agentkeepalive: the
    /// getter `statusChanged`, which also updates what it compares with).
    #[doc(alias = "statusChanged")]
    pub fn status_changed(&mut self) -> bool {
        let now = self.agent.counts().counters();
        std::mem::replace(&mut self.seen, now) != now
    }

    /// Calls `hook` with every event of this agent's connections from now on, for your own logs and metrics. The features
    /// `tracing` and `metrics` need no hook.
    ///
    /// The hook is called where the event happens, without a lock held, and should be quick. It may use the handle that it is
    /// given; it should not hold a handle of its own, which would keep the hook alive for ever. A panic of the hook is caught.
    /// The events of one connection come in their order; those of different connections may come in any order.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use std::sync::Arc;
    /// use tower_keep_alive::{EventKind, KeepAliveLayer};
    ///
    /// let layer = KeepAliveLayer::<http_body_util::Empty<bytes::Bytes>>::new();
    /// let evicted = Arc::new(AtomicU64::new(0));
    /// let count = evicted.clone();
    /// layer.handle().on_event(move |_agent, event| {
    ///     if let EventKind::Evicted { reason, .. } = event.kind {
    ///         eprintln!("{}: {reason:?}", event.key);
    ///         count.fetch_add(1, Ordering::Relaxed);
    ///     }
    /// });
    /// # assert_eq!(evicted.load(Ordering::Relaxed), 0);
    /// ```
    pub fn on_event(&self, hook: impl Fn(&Self, &Event<'_>) + Send + Sync + 'static) {
        self.agent.listeners.add(hook);
    }

    /// Opens connections to a target in advance, until `count` are idle, within all limits, and not while callers wait in the
    /// queue. Resolves to the number of connections made when the last connect is over. The first request on such a connection
    /// finds it [reused](crate::ConnectionInfo::is_reused).
    ///
    /// Each service of a [`KeepAliveLayer`](crate::KeepAliveLayer) opens its own connections, all services at the same time. The
    /// handle of a [`CheckoutLayer`](crate::layers::CheckoutLayer) opens none.
    ///
    /// # Errors
    ///
    /// The error of the first connect that failed, as a request would get it, or one for which
    /// [`is_shut_down`](crate::Error::is_shut_down) is true. The other connects go on; their connections are kept, and
    /// [counted](PrewarmError::made).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the connects that are under way, and nothing else.
    ///
    /// ```
    /// # async fn warmed(agent: tower_keep_alive::AgentHandle) -> Result<(), tower_keep_alive::Error> {
    /// use tower_keep_alive::connect::Destination;
    ///
    /// let target = Destination::try_from(http::Uri::from_static("http://localhost:3000/"))?;
    /// agent.prewarm(target, 4).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn prewarm(&self, target: Destination, count: usize) -> Result<usize, PrewarmError> {
        let makers = self.agent.makers().into_iter();
        let warming = makers.map(|maker| maker.prewarm(target.clone(), count));
        prewarm::all(warming.collect()).await
    }

    /// Closes all connections that are idle now. Requests under way go on, and new requests open new connections.
    pub fn close_idle(&self) {
        self.agent.each_pool(|pool| pool.close_idle());
    }

    /// Refuses new requests from now on, with an error that [`is_shut_down`](crate::Error::is_shut_down), and finishes those in
    /// the queue and under way. The future resolves when the last connection that is not detached is closed. It does not
    /// resolve while a transport is open that cannot be closed from outside
    /// ([`Probe::with_close`](crate::connect::Probe::with_close)) and whose runtime is alive but not driven.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the agent still refuses new requests.
    pub fn drain(&self) -> Drained {
        self.agent.close(Mode::Draining);
        self.close_idle();
        let agent = self.agent.clone();
        Drained(Box::pin(async move {
            loop {
                let mut quiet = std::pin::pin!(agent.quiet.notified());
                // Registered before the check, so that a pool that becomes quiet in between is noticed.
                quiet.as_mut().enable();
                let mut all = true;
                agent.each_pool(|pool| all &= pool.is_quiet());
                if all {
                    return;
                }
                if Handle::try_current().is_err() {
                    quiet.await;
                } else if tokio::time::timeout(LOOK, quiet).await.is_err() {
                    // A connection that closes slowly may be in a runtime that is not driven; this one is.
                    agent.each_pool(|pool| pool.check_overdue());
                }
            }
        }))
    }

    /// Closes all connections at once, including those in use and detached (Node: `agent.destroy()`, after which the requests
    /// in the queue go on; here they fail). Requests in the queue, under way and from now on fail with an error that
    /// [`is_shut_down`](crate::Error::is_shut_down).
    pub fn destroy(&self) {
        self.agent.close(Mode::Destroyed);
        self.agent.each_pool(|pool| pool.destroy());
        self.agent.kill_detached();
    }
}

/// How often a drain checks for overdue work.
const LOOK: Duration = Duration::from_millis(50);

/// Resolves when an agent that refuses new requests has closed its last connection; see [`AgentHandle::drain`].
#[must_use = "it resolves when the last connection is closed"]
pub struct Drained(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Future for Drained {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl std::fmt::Debug for Drained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Drained")
    }
}
