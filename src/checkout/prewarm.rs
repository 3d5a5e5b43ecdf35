//! Connections that nobody has asked for yet.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tower_service::Service;

use crate::agent::{MakingSpare, Prewarm, Prewarmed, Prewarming, Spare};
use crate::checkout::connect::{Connect, Ended};
use crate::checkout::service::Parts;
use crate::checkout::span::CheckoutSpan;
use crate::connection::poolable::Poolable;
use crate::error::{BoxError, CheckoutError, Error};
use crate::pool::ConnPermit;
use crate::target::{Destination, Target};

impl<M, C> Prewarm for Parts<M, C>
where
    M: Service<Destination, Response = C> + Clone + Send + Sync + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    C: Poolable,
{
    fn prewarm(self: Arc<Self>, target: Destination, count: usize) -> Prewarming {
        Box::pin(async move {
            let permits = match self.pool.prewarm(&target.key(), count) {
                Ok(permits) => permits,
                Err(denied) => {
                    let denied = CheckoutError::from(denied);
                    return Prewarmed {
                        made: 0,
                        failed: Some(Error::from_checkout(denied.into())),
                    };
                }
            };
            let maker = self.maker.clone();
            // Not kept by connects that take long.
            drop(self);
            make(maker, permits, &target, false).await
        })
    }

    fn make_spare(self: Arc<Self>, target: Destination, keeps_idle: bool) -> MakingSpare {
        Box::pin(async move {
            let permits = match self.pool.spare(&target.key(), keeps_idle) {
                Ok((permits, until)) if permits.is_empty() => return Spare::Enough(until),
                Ok((permits, _)) => permits,
                Err(_) => return Spare::Over,
            };
            self.make_ahead(permits, &target, false).await
        })
    }

    fn make_to_spread(self: Arc<Self>, target: Destination) -> MakingSpare {
        Box::pin(async move {
            let permit = match self.pool.permit_to_spread(&target.key()) {
                Ok(Some(permit)) => permit,
                Ok(None) => return Spare::Enough(None),
                Err(_) => return Spare::Over,
            };
            self.make_ahead(vec![permit], &target, true).await
        })
    }

    fn has_key(&self, target: &Destination) -> bool {
        self.pool.has_key(&target.key())
    }
}

impl<M, C> Parts<M, C>
where
    M: Service<Destination, Response = C> + Clone + Send + Sync + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    C: Poolable,
{
    async fn make_ahead(
        self: Arc<Self>,
        permits: Vec<ConnPermit<C>>,
        target: &Destination,
        is_to_spread: bool,
    ) -> Spare {
        let maker = self.maker.clone();
        // Not kept by connects that take long.
        drop(self);
        match make(maker, permits, target, is_to_spread).await.failed {
            None => Spare::Made,
            Some(_) => Spare::Failed,
        }
    }
}

/// A connection for each of these permits, to be idle; or, to spread the load, to an address without one.
async fn make<M, C>(
    maker: M,
    permits: Vec<ConnPermit<C>>,
    target: &Destination,
    is_to_spread: bool,
) -> Prewarmed
where
    M: Service<Destination, Response = C> + Clone + Send + Sync + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    C: Poolable,
{
    let mut connects: Vec<_> = permits
        .into_iter()
        .map(|permit| {
            let span = CheckoutSpan::begin(target, permit.key_pool().agent());
            let limit = permit.key_pool().config().connect_timeout;
            let key_pool = permit.key_pool();
            let choice = match is_to_spread {
                true => key_pool.choice_to_spread(),
                false => key_pool.choice(),
            };
            let (maker, target) = (maker.clone(), target.clone());
            Connect::begin(permit, None, choice, maker, target, limit, span)
        })
        .collect();
    let mut made = 0;
    let mut failed = None;
    poll_fn(|cx| {
        connects.retain_mut(|connect| match connect.poll(cx) {
            Poll::Pending => true,
            Poll::Ready(Ended::Made(pooled)) => {
                made += 1;
                pooled.give_back();
                false
            }
            Poll::Ready(Ended::Delivered) => {
                made += 1;
                false
            }
            Poll::Ready(Ended::Failed(error)) => {
                failed.get_or_insert(error);
                false
            }
        });
        if connects.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    let failed = failed.map(|error| Error::from_checkout(error.into()));
    Prewarmed { made, failed }
}
