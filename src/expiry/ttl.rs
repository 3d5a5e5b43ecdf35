use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tower_layer::Layer;

use crate::clock::Moment;
use crate::connection::close_reason::CloseReason;
use crate::connection::lifespan::Lifespan;
use crate::expiry::Limited;
use crate::expiry::limited::Limit;

/// Limits the age of a connection, counted from its connect (agentkeepalive: `socketActiveTTL`).
///
/// A connection that is too old is closed while it is idle or when it returns to the pool, not in the middle of an
/// exchange. So connections are renewed under constant traffic too: names are resolved again, and new back ends get
/// their share of the load.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::layers::TtlLayer;
///
/// // Between nine and ten minutes, so that what was opened at once is not closed at once.
/// let layer = TtlLayer::new(Duration::from_secs(600)).jitter(0.1);
/// # let _ = layer;
/// ```
#[doc(alias = "socketActiveTTL")]
#[derive(Clone, Copy, Debug)]
pub struct TtlLayer {
    max: Duration,
    jitter: f64,
    hard: bool,
}

impl TtlLayer {
    /// `max` is the maximum age; `Duration::MAX` means no limit.
    #[must_use]
    pub const fn new(max: Duration) -> Self {
        Self {
            max,
            jitter: 0.0,
            hard: false,
        }
    }

    /// Shortens the TTL of each connection by a random part of up to this fraction, between 0 and 1, so that
    /// connections that were made together do not expire together. Default: 0.
    ///
    /// # Panics
    ///
    /// If `part` is not between 0 and 1.
    #[must_use]
    pub const fn jitter(mut self, part: f64) -> Self {
        assert!(part >= 0.0 && part <= 1.0, "ttl_jitter must be from 0 to 1");
        self.jitter = part;
        self
    }

    /// Closes a connection at its TTL even in the middle of an exchange, which then fails. Default: off.
    #[must_use]
    pub const fn hard(mut self) -> Self {
        self.hard = true;
        self
    }
}

impl Limit for TtlLayer {
    fn put_on(&self, lifespan: &mut Lifespan) {
        if self.max == Duration::MAX {
            return;
        }
        let max = lifespan.with_jitter(self.max, self.jitter);
        if self.hard {
            end_at(lifespan, max);
        } else {
            lifespan.limit_age(max);
        }
    }
}

impl<M> Layer<M> for TtlLayer {
    type Service = Limited<M>;

    fn layer(&self, inner: M) -> Limited<M> {
        Limited::new(inner, *self)
    }
}

/// Starts one timer for each connection, in a task that ends with the connection or with the timer, and keeps neither
/// alive.
fn end_at(lifespan: &mut Lifespan, max: Duration) {
    let Some(left) = lifespan.limit_age_hard(max, Moment::now()) else {
        return;
    };
    let shared = Arc::downgrade(lifespan.shared());
    if let Ok(runtime) = Handle::try_current() {
        let timer = runtime.spawn(async move {
            tokio::time::sleep(left).await;
            // A connection that was detached meanwhile is no longer the agent's.
            if let Some(shared) = shared.upgrade().filter(|it| !it.is_detached()) {
                shared.kill(CloseReason::Age);
            }
        });
        lifespan.attach(AbortOnDrop(timer.abort_handle()));
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
