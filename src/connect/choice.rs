//! The order in which the addresses of a name are tried, if the pool spreads its load.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper_util::client::legacy::connect::dns::Name;
use tokio::time::Instant;
use tower_service::Service;

use crate::connect::deadline;
use crate::connect::dial::in_order;
use crate::connect::resolve::resolve;
use crate::error::BoxError;
use crate::error::connect::ConnectError;
use crate::pool::Choice;
use crate::target::lookup::Lookup;

tokio::task_local! {
    static CHOICE: Option<Arc<Choice>>;
}

/// Runs a connect with the pool's `choice` of addresses. Connectors below can read it, as they can read the deadline.
pub(crate) fn by<F: Future>(
    choice: Option<Arc<Choice>>,
    connect: F,
) -> impl Future<Output = F::Output> {
    CHOICE.scope(choice, connect)
}

/// The choice of the connect that is being polled, if it has one.
pub(super) fn current() -> Option<Arc<Choice>> {
    CHOICE.try_with(Option::clone).ok().flatten()
}

/// The addresses of a name. If the pool follows names, it asks the resolver again later, and knows the last answer.
pub(super) async fn look_up<R>(
    choice: Option<&Arc<Choice>>,
    mut resolver: R,
    lookup: &Lookup,
) -> Result<Vec<SocketAddr>, ConnectError>
where
    R: Service<Name> + Clone + Send + Sync + 'static,
    R::Response: Iterator<Item = SocketAddr>,
    R::Error: Into<BoxError>,
    R::Future: Send + 'static,
{
    let Some(choice) = choice.filter(|choice| choice.follows()) else {
        return Ok(resolve(&mut resolver, lookup).await?.collect());
    };
    let left = deadline::current().map(|at| at.saturating_duration_since(Instant::now()));
    let asked = lookup.clone();
    let resolve = move || {
        let (mut resolver, lookup) = (resolver.clone(), asked.clone());
        async move { resolve(&mut resolver, &lookup).await }
    };
    choice
        .look_up(lookup, left.map(|left| left / 2), resolve)
        .await
}

/// The order in which to try the addresses. The two families take turns; addresses that the pool avoids come last.
pub(super) fn order(choice: Option<&Arc<Choice>>, found: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let Some(choice) = choice else {
        return in_order(found);
    };
    let order = choice.order(found);
    let mut all = in_order(order.good);
    all.extend(in_order(order.left_out));
    all
}

/// Runs an attempt, and reports its result to the pool.
pub(super) fn attempt<F, S>(
    choice: Option<&Arc<Choice>>,
    address: SocketAddr,
    connect: F,
) -> impl Future<Output = io::Result<S>> + use<F, S>
where
    F: Future<Output = io::Result<S>>,
{
    let attempt = choice.map(|choice| choice.attempt(address));
    async move {
        let connected = connect.await;
        if let Some(attempt) = attempt {
            attempt.ends(connected.is_ok());
        }
        connected
    }
}
