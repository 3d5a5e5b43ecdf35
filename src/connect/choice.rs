//! In which order the addresses of a name are tried, where the pool has a say in that.

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

/// Runs a connect whose addresses are chosen by `choice`: connectors below see it, as they see the deadline of the connect.
pub(crate) fn by<F: Future>(
    choice: Option<Arc<Choice>>,
    connect: F,
) -> impl Future<Output = F::Output> {
    CHOICE.scope(choice, connect)
}

/// What the connect that is being polled chooses by, where there is such.
pub(super) fn current() -> Option<Arc<Choice>> {
    CHOICE.try_with(Option::clone).ok().flatten()
}

/// The order to try addresses in. The two families take turns; what the pool leaves out comes last.
pub(super) fn order(choice: Option<&Arc<Choice>>, found: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let Some(choice) = choice else {
        return in_order(found);
    };
    let order = choice.order(found);
    let mut all = in_order(order.good);
    all.extend(in_order(order.left_out));
    all
}

/// An attempt, of which the pool is told what became of it.
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
