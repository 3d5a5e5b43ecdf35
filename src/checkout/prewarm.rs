//! Connections that nobody has asked for yet.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tower_service::Service;

use crate::agent::{Warm, Warmed, Warming};
use crate::checkout::connect::{Connect, Ended};
use crate::checkout::service::Parts;
use crate::checkout::span::Watch;
use crate::connection::poolable::Poolable;
use crate::error::{BoxError, CheckoutError, Error};
use crate::target::{Destination, Target};

impl<M, C> Warm for Parts<M, C>
where
    M: Service<Destination, Response = C> + Clone + Send + Sync + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    C: Poolable,
{
    fn warm(self: Arc<Self>, target: Destination, count: usize) -> Warming {
        Box::pin(async move {
            let limit = self.pool.limits().connect_timeout;
            let slots = match self.pool.warm(&target.key(), count) {
                Ok(slots) => slots,
                Err(denied) => {
                    let denied = CheckoutError::from(denied);
                    return Warmed {
                        made: 0,
                        failed: Some(Error::from_checkout(denied.into())),
                    };
                }
            };
            let mut connects: Vec<_> = slots
                .into_iter()
                .map(|slot| {
                    let watch = Watch::begin(&target);
                    Connect::begin(slot, None, self.maker.clone(), target.clone(), limit, watch)
                })
                .collect();
            let mut made = 0;
            let mut failed = None;
            poll_fn(|cx| {
                connects.retain_mut(|connect| match connect.poll(cx) {
                    Poll::Pending => true,
                    Poll::Ready(Ended::Made(berth)) => {
                        made += 1;
                        berth.give_back();
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
            Warmed { made, failed }
        })
    }
}
