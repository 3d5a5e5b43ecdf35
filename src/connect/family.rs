use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::vec;

use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

use crate::error::BoxError;
use crate::route::Family;

/// A resolver's addresses, those of the other family left out.
#[derive(Clone)]
pub(super) struct OneFamily<R> {
    pub(super) resolver: R,
    pub(super) family: Option<Family>,
}

impl<R> Service<Name> for OneFamily<R>
where
    R: Service<Name>,
    R::Response: Iterator<Item = SocketAddr>,
    R::Error: Into<BoxError>,
    R::Future: Send + 'static,
{
    type Response = vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.resolver.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let family = self.family;
        let told = name.clone();
        let resolving = self.resolver.call(name);
        Box::pin(async move {
            let found = resolving.await.map_err(Into::into)?;
            let Some(family) = family else {
                return Ok(found.collect::<Vec<_>>().into_iter());
            };
            let of_family = |address: &SocketAddr| Family::of(address.ip()) == family;
            let left: Vec<_> = found.filter(of_family).collect();
            if left.is_empty() {
                return Err(format!("{told} has no {family} address").into());
            }
            Ok(left.into_iter())
        })
    }
}
