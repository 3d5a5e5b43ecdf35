//! The order in which the addresses of a name are tried, if the pool spreads its load.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::connect::dial::in_order;
use crate::pool::Choice;

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
