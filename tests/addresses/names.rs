//! A resolver for which every name has the same addresses, which may change.

use std::future::{Pending, Ready, pending, ready};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures_util::future::Either;
use hyper_util::client::legacy::connect::dns::Name;
use tower::Service;
use tower_keep_alive::BoxError;
use tower_keep_alive::connect::{ResolvedAddrs, TcpConnector};

use crate::support::Server;

/// Clones share the addresses.
#[derive(Clone)]
pub(crate) struct Names {
    /// `None`: it does not answer.
    answer: Arc<Mutex<Option<Result<Vec<SocketAddr>, String>>>>,
    asked: Arc<AtomicUsize>,
}

impl Names {
    pub(crate) fn new(addresses: Vec<SocketAddr>) -> Self {
        Self {
            answer: Arc::new(Mutex::new(Some(Ok(addresses)))),
            asked: Arc::default(),
        }
    }

    pub(crate) fn of(servers: &[Server]) -> Self {
        Self::new(servers.iter().map(Server::addr).collect())
    }

    /// What every name has from now on.
    pub(crate) fn set(&self, answer: Result<Vec<SocketAddr>, &str>) {
        *self.answer.lock().unwrap() = Some(answer.map_err(str::to_owned));
    }

    /// It does not answer from now on.
    pub(crate) fn hang(&self) {
        *self.answer.lock().unwrap() = None;
    }

    pub(crate) fn connector(&self) -> TcpConnector<Self> {
        TcpConnector::with_resolver(self.clone())
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Service<Name> for Names {
    type Response = ResolvedAddrs;
    type Error = BoxError;
    type Future =
        Either<Ready<Result<ResolvedAddrs, BoxError>>, Pending<Result<ResolvedAddrs, BoxError>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.answer.lock().unwrap().clone();
        match answer {
            Some(answer) => Either::Left(ready(answer.map(ResolvedAddrs::new).map_err(Into::into))),
            None => Either::Right(pending()),
        }
    }
}
