//! Names with several addresses of this machine, which change: the resolver of one round's agent.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use fastrand::Rng;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::time::sleep;
use tower::Service;
use tower_keep_alive::connect::{ResolvedAddrs, TcpConnector};
use tower_keep_alive::status::Status;
use tower_keep_alive::{BoxError, Ejection, FollowDns};

use crate::ledger::{Ledger, lock};

/// 127.0.0.1 to 127.0.0.5.
const ADDRESSES: usize = 5;

/// The agent asks as often, and leaves an address that two answers lack.
const EVERY: Duration = Duration::from_millis(30);

/// After so many times of that, no request may be sent to an address that is gone: two answers, and what a busy runtime may
/// add. They are counted in the agent's own runtime, so that one that stands still counts none.
const GRACE: u32 = 20;

/// Clones share the addresses.
#[derive(Clone)]
pub(crate) struct Names(Arc<Mutex<State>>);

struct State {
    has: [bool; ADDRESSES],
    failure: Option<Failure>,
    /// For how long each address has been in no answer, while lookups did not fail.
    absent: [u32; ADDRESSES],
}

#[derive(Clone, Copy)]
enum Failure {
    Error,
    Nothing,
    NoAnswer,
}

impl Names {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            has: [true; ADDRESSES],
            failure: None,
            absent: [0; ADDRESSES],
        })))
    }

    pub(crate) fn connector(&self) -> TcpConnector<Self> {
        TcpConnector::with_resolver(self.clone())
    }

    pub(crate) fn follow() -> FollowDns {
        FollowDns::default().every(EVERY).lookup_timeout(EVERY)
    }

    pub(crate) fn ejection() -> Ejection {
        let ejection = Ejection::new().consecutive(2);
        ejection.base_time(EVERY).max_time(10 * EVERY)
    }

    /// Addresses come and go, and lookups fail, until `end`.
    pub(crate) async fn change(self, mut rng: Rng, end: Instant, ledger: Arc<Ledger>) {
        let mut stays = rng.u8(10..50);
        while Instant::now() < end {
            sleep(EVERY).await;
            let mut state = lock(&self.0);
            state.note();
            stays -= 1;
            if stays > 0 {
                continue;
            }
            stays = rng.u8(10..50);
            ledger.dns_changes.fetch_add(1, Ordering::Relaxed);
            state.failure = match rng.u8(..8) {
                0 => Some(Failure::Error),
                1 => Some(Failure::Nothing),
                2 => Some(Failure::NoAnswer),
                _ => None,
            };
            if state.failure.is_none() {
                state.has.fill_with(|| rng.bool());
                // Never none.
                state.has[rng.usize(..ADDRESSES)] = true;
            }
        }
    }

    /// The addresses to which no request may go from now on.
    pub(crate) fn gone(&self) -> Vec<SocketAddr> {
        let state = lock(&self.0);
        let each = (1..).zip(state.has.iter().zip(state.absent));
        // One that has just come back was absent until then.
        let gone = each.filter(|(_, (has, absent))| !**has && *absent > GRACE);
        gone.map(|(nth, _)| address(nth)).collect()
    }
}

impl State {
    fn note(&mut self) {
        for (has, absent) in self.has.iter().zip(&mut self.absent) {
            *absent = match *has || self.failure.is_some() {
                true => 0,
                false => *absent + 1,
            };
        }
    }
}

/// Whether no more than half of the addresses of each name are ejected, while no answer is being taken in.
pub(crate) fn half_serve(status: &Status) -> bool {
    status.addresses.iter().all(|(key, addresses)| {
        let left_out = addresses.values().filter_map(|it| it.left_out);
        let ejected = left_out.filter(|it| it.is_ejected()).count();
        let all = status.lookups.get(key).map_or(1, |it| it.addresses);
        ejected * 2 <= all
    })
}

fn address(nth: u8) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, nth), 0).into()
}

impl Service<Name> for Names {
    type Response = ResolvedAddrs;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<ResolvedAddrs, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        let state = lock(&self.0);
        let has = (1..).zip(state.has).filter(|(_, has)| *has);
        let found: Vec<_> = has.map(|(nth, _)| address(nth)).collect();
        let failure = state.failure;
        drop(state);
        Box::pin(async move {
            match failure {
                None => Ok(ResolvedAddrs::new(found)),
                Some(Failure::Nothing) => Ok(ResolvedAddrs::new([])),
                Some(Failure::Error) => Err("no server".into()),
                Some(Failure::NoAnswer) => std::future::pending().await,
            }
        })
    }
}
