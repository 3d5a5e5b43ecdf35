//! Counts the connects of any connector.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

/// Counts and times the connects of any connector, without changing its types.
///
/// It also works where this crate's pool cannot be used: below hyper-util's `Client`, and as reqwest's
/// `connector_layer`. It sees connects only, and not which connections are reused, idle or closed. Below
/// [`KeepAliveLayer`](crate::KeepAliveLayer), the [`AgentHandle`](crate::AgentHandle) reports more.
///
/// # Clone
///
/// Clones, and all services that they make, share their counts: keep one, and call its [`connects`](Self::connects).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_keep_alive::BoxError> {
/// use http::Uri;
/// use tower::{ServiceBuilder, ServiceExt};
/// use tower_keep_alive::connect::CountConnectsLayer;
/// use tower_keep_alive::connect::TcpConnector;
///
/// let observe = CountConnectsLayer::new();
/// let connector = ServiceBuilder::new()
///     .layer(observe.clone())
///     .service(TcpConnector::new());
/// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// # let url = format!("http://{}/", listener.local_addr()?);
/// let transport = connector.oneshot(url.parse::<Uri>()?).await?;
/// assert_eq!(observe.connects().connected, 1);
/// println!("{}", observe.connects());
/// # drop(transport);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct CountConnectsLayer {
    counts: Arc<Counts>,
}

impl CountConnectsLayer {
    /// A layer with no counts yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The counts so far.
    #[must_use]
    pub fn connects(&self) -> Connects {
        self.counts.read()
    }
}

impl<S> Layer<S> for CountConnectsLayer {
    type Service = CountConnects<S>;

    fn layer(&self, inner: S) -> CountConnects<S> {
        CountConnects {
            inner,
            counts: self.counts.clone(),
        }
    }
}

/// The counts of a [`CountConnectsLayer`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connects {
    /// Connects begun.
    pub begun: u64,
    /// Connects that succeeded.
    pub connected: u64,
    /// Connects that failed.
    pub failed: u64,
    /// Connects that were dropped before they were complete.
    pub abandoned: u64,
    /// The total time of all connects that succeeded.
    pub total_time: Duration,
    /// The longest time of a connect that succeeded.
    pub longest_time: Duration,
}

impl Connects {
    /// Connects under way.
    #[must_use]
    pub fn connecting(&self) -> u64 {
        self.begun - self.connected - self.failed - self.abandoned
    }
}

impl fmt::Display for Connects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} begun, {} connected, {} failed, {} abandoned, {} connecting; {:?} in all, {:?} the longest",
            self.begun,
            self.connected,
            self.failed,
            self.abandoned,
            self.connecting(),
            self.total_time,
            self.longest_time,
        )
    }
}

/// Counts the connects of the inner service; the service that [`CountConnectsLayer`] makes.
#[derive(Clone, Debug)]
pub struct CountConnects<S> {
    inner: S,
    counts: Arc<Counts>,
}

impl<S, T> Service<T> for CountConnects<S>
where
    S: Service<T>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CountConnectsFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, target: T) -> Self::Future {
        let underway = Underway::new(&self.counts);
        CountConnectsFuture {
            connecting: self.inner.call(target),
            underway,
        }
    }
}

pin_project! {
    /// A counted connect.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the connect, and counts it as abandoned.
    #[derive(Debug)]
    pub struct CountConnectsFuture<F> {
        #[pin]
        connecting: F,
        underway: Underway,
    }
}

impl<F, C, E> Future for CountConnectsFuture<F>
where
    F: Future<Output = Result<C, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let outcome = ready!(this.connecting.poll(cx));
        this.underway.end(match outcome {
            Ok(_) => End::Connected,
            Err(_) => End::Failed,
        });
        Poll::Ready(outcome)
    }
}

/// A connect from its beginning to its end, which is counted once: with its result, or when it is dropped.
#[derive(Debug)]
struct Underway {
    counts: Option<Arc<Counts>>,
    since: Instant,
}

enum End {
    Connected,
    Failed,
    Abandoned,
}

impl Underway {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.update(|connects| connects.begun += 1);
        Self {
            counts: Some(counts.clone()),
            since: Instant::now(),
        }
    }

    fn end(&mut self, end: End) {
        let Some(counts) = self.counts.take() else {
            return;
        };
        let took = self.since.elapsed();
        counts.update(|connects| match end {
            End::Connected => {
                connects.connected += 1;
                connects.total_time += took;
                connects.longest_time = connects.longest_time.max(took);
            }
            End::Failed => connects.failed += 1,
            End::Abandoned => connects.abandoned += 1,
        });
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.end(End::Abandoned);
    }
}

/// Behind one lock, so that the counts are consistent; connects are rare.
#[derive(Debug, Default)]
struct Counts(Mutex<Connects>);

impl Counts {
    fn update(&self, change: impl FnOnce(&mut Connects)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn read(&self) -> Connects {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
