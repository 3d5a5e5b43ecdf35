//! A resolver for which every name has the same addresses, which may change.

use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::vec;

use hyper_util::client::legacy::connect::dns::Name;
use tower::Service;
use tower_keep_alive::BoxError;
use tower_keep_alive::connect::TcpConnector;

use crate::support::Server;

/// Clones share the addresses.
#[derive(Clone)]
pub(crate) struct Names {
    answer: Arc<Mutex<Result<Vec<SocketAddr>, String>>>,
    asked: Arc<AtomicUsize>,
}

impl Names {
    pub(crate) fn new(addresses: Vec<SocketAddr>) -> Self {
        Self {
            answer: Arc::new(Mutex::new(Ok(addresses))),
            asked: Arc::default(),
        }
    }

    pub(crate) fn of(servers: &[Server]) -> Self {
        Self::new(servers.iter().map(Server::addr).collect())
    }

    /// What every name has from now on.
    pub(crate) fn set(&self, answer: Result<Vec<SocketAddr>, &str>) {
        *self.answer.lock().unwrap() = answer.map_err(str::to_owned);
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
    type Response = vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.answer.lock().unwrap().clone();
        ready(answer.map(Vec::into_iter).map_err(Into::into))
    }
}
