//! Counting what anyone's connector makes.

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

/// Counts and times the connects of any connector, and changes no type.
///
/// It works where this crate's pool cannot: below hyper-util's `Client`, and as reqwest's `connector_layer`. It sees
/// connects only; what is reused, idle or closed there, it cannot know. Below [`KeepAliveLayer`](crate::KeepAliveLayer)
/// the [`AgentHandle`](crate::AgentHandle) tells more.
///
/// # Clone
///
/// Clones, and all services that they make, count together: keep one, and ask it for its [`connects`](Self::connects).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_keep_alive::BoxError> {
/// use http::Uri;
/// use tower::{ServiceBuilder, ServiceExt};
/// use tower_keep_alive::CountConnectsLayer;
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
    /// One that has counted nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was counted so far.
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

/// What a [`CountConnectsLayer`] has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connects {
    /// Connects begun.
    pub begun: u64,
    /// Those that came to a connection.
    pub connected: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that were dropped before their end.
    pub abandoned: u64,
    /// The time of all that came to a connection together.
    pub total_time: Duration,
    /// The time of the longest one that came to a connection.
    pub longest_time: Duration,
}

impl Connects {
    /// Those under way.
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

/// The service that [`CountConnectsLayer`] makes: what it wraps, counted.
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
    /// A connect that is counted.
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

/// A connect between its beginning and its end, which comes once: with a result, or by the drop.
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

/// Behind one lock, so that what is read adds up; connects are rare.
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
