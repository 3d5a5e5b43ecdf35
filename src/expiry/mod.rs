//! Layers that each state one limit of a connection. The pool keeps to it.

mod active;
mod age;
mod future;
mod idle;
mod ttl;
mod uses;

pub use active::{ActiveTimeout, ActiveTimeoutLayer};
pub use future::ExpiryFuture;
pub use idle::{IdleEviction, IdleEvictionLayer};
pub use ttl::{Ttl, TtlLayer};
pub use uses::{MaxUses, MaxUsesLayer};

/// A layer and its service that put one limit on every connection that passes.
macro_rules! expiry_layer {
    ($layer:ident, $service:ident, $limit:ty) => {
        impl<M> ::tower_layer::Layer<M> for $layer {
            type Service = $service<M>;

            fn layer(&self, inner: M) -> $service<M> {
                $service {
                    inner,
                    limit: self.limit,
                }
            }
        }

        impl<M> $service<M> {
            /// The service that gives the connections.
            pub const fn get_ref(&self) -> &M {
                &self.inner
            }

            /// The service that gives the connections.
            pub const fn get_mut(&mut self) -> &mut M {
                &mut self.inner
            }

            /// The service that gives the connections.
            pub fn into_inner(self) -> M {
                self.inner
            }
        }

        impl<M, T> ::tower_service::Service<T> for $service<M>
        where
            M: ::tower_service::Service<T>,
            M::Response: $crate::connection::poolable::Poolable,
        {
            type Response = M::Response;
            type Error = M::Error;
            type Future = $crate::expiry::ExpiryFuture<M::Future>;

            fn poll_ready(
                &mut self,
                cx: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<Result<(), M::Error>> {
                self.inner.poll_ready(cx)
            }

            fn call(&mut self, target: T) -> Self::Future {
                $crate::expiry::ExpiryFuture::new(self.inner.call(target), self.limit.into())
            }
        }
    };
}
use expiry_layer;
