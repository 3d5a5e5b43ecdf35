//! Settings about the servers behind a name.

use crate::agent::{Ejection, FollowDns, Spread};
use crate::keep_alive::KeepAliveLayer;

/// # The servers behind a name
impl<B> KeepAliveLayer<B> {
    /// Which addresses of a name connections are made to: the first that answers, each in turn, or the one with the
    /// fewest connections; see [`Spread`] and [the guide](crate::guides::many_addresses). Default: the first address
    /// that answers.
    ///
    /// ```
    /// use tower_keep_alive::{KeepAlive, Spread};
    ///
    /// let agent = KeepAlive::builder().spread(Spread::FewestOpenFirst).build();
    /// # let _ = agent;
    /// ```
    pub fn spread(mut self, spread: Spread) -> Self {
        self.settings.config = self.settings.config.spread(spread);
        self
    }

    /// Whether the agent learns after how long a server closes idle connections, and closes them before that; see
    /// [`PoolConfig::learn_idle_limit`](crate::layers::PoolConfig::learn_idle_limit). Default: true.
    ///
    /// ```
    /// use tower_keep_alive::KeepAlive;
    ///
    /// let agent = KeepAlive::builder().learn_idle_limit(false).build();
    /// # let _ = agent;
    /// ```
    pub fn learn_idle_limit(mut self, learn: bool) -> Self {
        self.settings.config = self.settings.config.learn_idle_limit(learn);
        self
    }

    /// As many spare connections are kept idle for each [`Key`](crate::Key) while it is in use; see
    /// [`PoolConfig::min_idle_per_host`](crate::layers::PoolConfig::min_idle_per_host). Default: 0.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_keep_alive::KeepAlive;
    ///
    /// // The first request after a minute of silence pays no handshake.
    /// let agent = KeepAlive::builder()
    ///     .min_idle_per_host(2)
    ///     .idle_timeout(Duration::from_secs(30))
    ///     .build();
    /// # let _ = agent;
    /// ```
    #[doc(alias = "min_idle")]
    pub fn min_idle_per_host(mut self, min: usize) -> Self {
        self.settings.config = self.settings.config.min_idle_per_host(min);
        self
    }

    /// Looks names up again in the background while they have connections: new addresses get connections, and addresses that are
    /// gone take no further requests; see [`FollowDns`] and [the guide](crate::guides::many_addresses#follow-dns). Default:
    /// off.
    ///
    /// ```
    /// use tower_keep_alive::{FollowDns, KeepAlive, Spread};
    ///
    /// let agent = KeepAlive::builder()
    ///     .spread(Spread::FewestOpenFirst)
    ///     .follow_dns(FollowDns::default())
    ///     .build();
    /// # let _ = agent;
    /// ```
    pub fn follow_dns(mut self, follow: FollowDns) -> Self {
        self.settings.config = self.settings.config.follow_dns(follow);
        self
    }

    /// Takes out for a while addresses whose connections or responses fail, so that requests go to the others; see
    /// [`Ejection`] and [the guide](crate::guides::many_addresses#eject-addresses-that-fail). Default: off.
    ///
    /// ```
    /// use tower_keep_alive::{Ejection, KeepAlive, Spread};
    ///
    /// let agent = KeepAlive::builder()
    ///     .spread(Spread::FewestOpenFirst)
    ///     .eject(Ejection::new().server_errors(true))
    ///     .build();
    /// # let _ = agent;
    /// ```
    #[doc(alias = "outlier_detection")]
    pub fn eject(mut self, ejection: Ejection) -> Self {
        self.settings.config = self.settings.config.eject(ejection);
        self
    }
}
