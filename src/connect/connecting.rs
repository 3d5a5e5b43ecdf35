use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::error::BoxError;

/// Resolves to a transport: the future of every connector in this module. Boxed, because the futures inside have no
/// names; connects are rare.
///
/// # Cancel safety
///
/// Dropping it cancels the connect.
pub struct Connecting<C>(Pin<Box<dyn Future<Output = Result<C, BoxError>> + Send>>);

impl<C> Connecting<C> {
    pub(super) fn new(connect: impl Future<Output = Result<C, BoxError>> + Send + 'static) -> Self {
        Self(Box::pin(connect))
    }
}

impl<C> Future for Connecting<C> {
    type Output = Result<C, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<C> fmt::Debug for Connecting<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connecting")
    }
}
