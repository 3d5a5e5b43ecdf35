//! One service for each address of a name, for tower's [`Balance`](https://docs.rs/tower/latest/tower/balance/p2c/struct.Balance.html).
//!
//! The agent itself spreads load by connections and requests ([`Spread`](crate::Spread)). Take this instead if the load is to
//! be measured otherwise, for example by response times (tower's `PeakEwma`). All services share one agent, with its
//! limits over all keys and its status; [the guide](crate::guides::many_addresses#with-towers-balance) shows a stack.

mod at_address;

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use foldhash::fast::RandomState;
use futures_core::Stream;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::time::{Sleep, sleep};
use tower::discover::Change;
use tower_service::Service;

use crate::agent::FollowDns;
use crate::connect::ResolvedAddrs;
use crate::connect::resolve::resolve;
use crate::error::connect::ConnectError;
use crate::error::{BoxError, Error};
use crate::target::Destination;
use crate::target::lookup::Lookup;
use crate::target::route::Route;

pub use at_address::AtAddress;
use at_address::Origin;

/// The addresses of a name as a tower [`Discover`](tower::discover::Discover): an [`AtAddress`] service for each, inserted
/// when an answer has the address, and removed when [`FollowDns::answers`] answers in a row lack it.
///
/// The name is looked up again while this is polled, as `Balance` does whenever it is asked whether it is ready. A lookup that
/// fails changes nothing, however long lookups fail: there is no [`FollowDns::max_stale`] here. With the feature `tracing` it
/// is recorded.
///
/// Requests under way to an address that is removed are finished. Its idle connections take no further requests, and close
/// after the `idle_timeout`. Limits for each host hold for each address, since each has a [`Key`](crate::Key) of its own;
/// `max_connections` and `max_idle` hold for all.
///
/// For the same reason [`eject`](crate::KeepAliveLayer::eject) ejects nothing here: the last address of a key is never ejected. tower's
/// `PeakEwma` does not replace it. It measures the time until a response or an error, so a server that fails at once looks
/// fast and gets most of the requests. The lookups are not in [`Status::lookups`](crate::status::Status::lookups).
///
/// ```
/// use std::time::Duration;
///
/// use http::Uri;
/// use hyper_util::client::legacy::connect::dns::GaiResolver;
/// use tower::balance::p2c::Balance;
/// use tower::load::{CompleteOnResponse, PeakEwmaDiscover};
/// use tower_keep_alive::discover::DnsDiscover;
/// use tower_keep_alive::{Error, FollowDns, KeepAlive, RequestBody, connect::Destination};
///
/// async fn balanced(agent: KeepAlive) -> Result<(), Error> {
///     let name = Destination::try_from(Uri::from_static("http://api.internal"))?;
///     let services = DnsDiscover::new(agent, GaiResolver::new(), name, FollowDns::default()).await?;
///     // Until an address has answered, as if it took 20 ms; what was measured counts for 10 s.
///     let (rtt, decay) = (Duration::from_millis(20), Duration::from_secs(10));
///     let loads = PeakEwmaDiscover::new::<http::Request<RequestBody>>(
///         services, rtt, decay, CompleteOnResponse::default(),
///     );
///     let balance = Balance::<_, http::Request<RequestBody>>::new(loads);
///     # let _ = balance;
///     Ok(())
/// }
/// # let _ = balanced;
/// ```
#[must_use = "streams do nothing unless polled"]
pub struct DnsDiscover<S> {
    service: S,
    origin: Arc<Origin>,
    follow: FollowDns,
    lookup: Lookup,
    resolve: Box<dyn Fn() -> Resolving + Send>,
    step: Step,
    /// How many answers in a row lack each address that has a service.
    lacking: HashMap<SocketAddr, u32, RandomState>,
    changes: VecDeque<AddressChange>,
}

type Resolving = Pin<Box<dyn Future<Output = Result<ResolvedAddrs, ConnectError>> + Send>>;

enum Step {
    Waiting(Pin<Box<Sleep>>),
    LookingUp(Resolving),
}

#[derive(Clone, Copy, Debug)]
enum AddressChange {
    Insert(SocketAddr),
    Remove(SocketAddr),
}

impl<S> DnsDiscover<S> {
    /// Looks up the name of `target` with this resolver, as [`TcpConnector::with_resolver`] takes it, and gives each of its
    /// addresses a clone of `service`: an agent, or layers above one. The route of `target`, if it has one, is the route of
    /// requests that have none, and sets the family of the addresses.
    ///
    /// [`TcpConnector::with_resolver`]: crate::connect::TcpConnector::with_resolver
    ///
    /// # Errors
    ///
    /// If the first lookup fails, takes too long or finds no address; [`is_dns`](Error::is_dns) is true then.
    ///
    /// # Panics
    ///
    /// If it is not called within a tokio runtime that has its time driver enabled.
    pub async fn new<R>(
        service: S,
        resolver: R,
        target: Destination,
        follow: FollowDns,
    ) -> Result<Self, Error>
    where
        R: Service<Name> + Clone + Send + 'static,
        R::Response: Iterator<Item = SocketAddr>,
        R::Error: Into<BoxError>,
        R::Future: Send + 'static,
    {
        let lookup = Lookup::of(&target, target.route().and_then(Route::family));
        let asked = lookup.clone();
        let resolve = move || -> Resolving {
            let (mut resolver, lookup) = (resolver.clone(), asked.clone());
            Box::pin(async move { resolve(&mut resolver, &lookup).await })
        };
        let found = follow.limit(&lookup, resolve()).await;
        let found = found.map_err(|error| Error::not_connected(error.into()))?;
        let mut discover = Self {
            service,
            origin: Arc::new(Origin::of(&target)),
            step: Step::Waiting(Box::pin(sleep(follow.wait(found.ttl())))),
            follow,
            lookup,
            resolve: Box::new(resolve),
            lacking: HashMap::default(),
            changes: VecDeque::new(),
        };
        discover.follow(found.as_slice());
        Ok(discover)
    }

    /// What an answer changes.
    fn follow(&mut self, found: &[SocketAddr]) {
        for lacking in self.lacking.values_mut() {
            *lacking += 1;
        }
        for &address in found {
            if self.lacking.insert(address, 0).is_none() {
                self.changes.push_back(AddressChange::Insert(address));
            }
        }
        let answers = self.follow.answers;
        let gone = self.lacking.extract_if(|_, lacking| *lacking >= answers);
        let gone = gone.map(|(address, _)| AddressChange::Remove(address));
        self.changes.extend(gone);
    }
}

impl<S: Clone + Unpin> Stream for DnsDiscover<S> {
    type Item = Result<Change<SocketAddr, AtAddress<S>>, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match this.changes.pop_front() {
                Some(AddressChange::Insert(address)) => {
                    let origin = this.origin.clone();
                    let service = AtAddress::new(this.service.clone(), origin, address);
                    return Poll::Ready(Some(Ok(Change::Insert(address, service))));
                }
                Some(AddressChange::Remove(address)) => {
                    return Poll::Ready(Some(Ok(Change::Remove(address))));
                }
                None => {}
            }
            match &mut this.step {
                Step::Waiting(sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    let (follow, lookup) = (this.follow.clone(), this.lookup.clone());
                    let resolving = (this.resolve)();
                    this.step =
                        Step::LookingUp(Box::pin(
                            async move { follow.limit(&lookup, resolving).await },
                        ));
                }
                Step::LookingUp(resolving) => {
                    let ttl = match ready!(resolving.as_mut().poll(cx)) {
                        Ok(found) => {
                            this.follow(found.as_slice());
                            found.ttl()
                        }
                        Err(error) => {
                            #[cfg(feature = "tracing")]
                            tracing::debug!(target: crate::agent::TARGET, %error, "lookup failed");
                            #[cfg(not(feature = "tracing"))]
                            drop(error);
                            None
                        }
                    };
                    this.step = Step::Waiting(Box::pin(sleep(this.follow.wait(ttl))));
                }
            }
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for DnsDiscover<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsDiscover")
            .field("service", &self.service)
            .field("follow", &self.follow)
            .field("lookup", &self.lookup)
            .finish_non_exhaustive()
    }
}
