//! The agent's pool without connections behind it, and what is done with any pool.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Runtime;
use tower::Service;
use tower_keep_alive::{
    custom::{KeyRef, Lifespan, Liveness, Poolable, Target},
    layers::{Checkin, Checkout, Lease, Pool, PoolConfig},
};

/// Connections by host, so many for each at the most.
pub trait Pools: Send + Sync + 'static {
    const NAME: &'static str;

    type Lease: Send + 'static;

    fn checkout(
        &self,
        host: &Arc<str>,
    ) -> impl Future<Output = Self::Lease> + Send + 'static + use<Self>;
}

/// A connection that is always open, and free at once.
#[derive(Debug)]
pub struct Dummy(Lifespan);

impl Poolable for Dummy {
    fn is_open(&self) -> bool {
        true
    }

    fn poll_free(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn probe(&mut self) -> Liveness {
        Liveness::Open
    }

    fn lifespan(&self) -> &Lifespan {
        &self.0
    }

    fn lifespan_mut(&mut self) -> &mut Lifespan {
        &mut self.0
    }
}

/// A target without anything behind it.
#[derive(Clone, Debug)]
pub struct Host(Arc<str>);

impl Target for Host {
    fn key(&self) -> KeyRef<'_> {
        KeyRef::new("test", &self.0, None)
    }
}

/// Makes one at once.
#[derive(Clone, Debug)]
pub struct Connect;

impl Service<Host> for Connect {
    type Response = Dummy;
    type Error = Infallible;
    type Future = Ready<Result<Dummy, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Host) -> Self::Future {
        ready(Ok(Dummy(Lifespan::new())))
    }
}

/// This crate's.
#[derive(Debug)]
pub struct Agent(Checkin<Checkout<Connect, Dummy>>);

/// So many connections for each host.
pub fn agent(_: &Runtime, _: &[Arc<str>], limit: usize) -> Agent {
    let config = PoolConfig::new().max_connections_per_host(limit);
    // Nobody's turn passes on where the machine holds the bench up.
    Agent::new(config.hand_over_timeout(Duration::from_secs(60)))
}

impl Agent {
    pub fn new(config: PoolConfig) -> Self {
        Self(Checkin::new(Checkout::with_pool(
            Connect,
            Pool::new(config),
        )))
    }
}

impl Pools for Agent {
    const NAME: &'static str = "tower-keep-alive";

    type Lease = Lease<Dummy>;

    fn checkout(&self, host: &Arc<str>) -> impl Future<Output = Self::Lease> + Send + use<> {
        let leased = self.0.clone().call(Host(host.clone()));
        async { leased.await.expect("nothing fails here") }
    }
}

/// Names of hosts, in a random order that is the same each time.
pub fn names(count: usize) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = (0..count)
        .map(|number| format!("host-{number:06}.example").into())
        .collect();
    fastrand::Rng::with_seed(7).shuffle(&mut names);
    names
}

/// Leaves each host an idle connection.
pub fn fill<P: Pools>(runtime: &Runtime, pools: &P, hosts: &[Arc<str>]) {
    runtime.block_on(async {
        for host in hosts {
            drop(pools.checkout(host).await);
        }
    });
}

type Caller<P> = Pin<Box<dyn Future<Output = <P as Pools>::Lease> + Send>>;

/// One connection, and callers in line for it.
pub struct Line<'a, P: Pools> {
    pools: &'a P,
    host: Arc<str>,
    lease: Option<P::Lease>,
    callers: VecDeque<Caller<P>>,
}

impl<'a, P: Pools> Line<'a, P> {
    pub fn new(runtime: &Runtime, pools: &'a P, length: usize) -> Self {
        let host = names(1).remove(0);
        let lease = Some(runtime.block_on(pools.checkout(&host)));
        let mut line = Self {
            pools,
            host,
            lease,
            callers: VecDeque::with_capacity(length),
        };
        for _ in 0..length {
            line.join();
        }
        line
    }

    fn join(&mut self) {
        let mut caller: Caller<P> = Box::pin(self.pools.checkout(&self.host));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(caller.as_mut().poll(&mut cx).is_pending());
        self.callers.push_back(caller);
    }

    /// So many times: from one caller to the next.
    pub fn turn(&mut self, turns: usize) {
        for _ in 0..turns {
            self.lease = None;
            let mut head = self.callers.pop_front().expect("the line has a head");
            let mut cx = Context::from_waker(Waker::noop());
            let Poll::Ready(lease) = head.as_mut().poll(&mut cx) else {
                panic!("{}: the head of the line was not served", P::NAME);
            };
            self.lease = Some(lease);
            drop(head);
            self.join();
        }
    }
}
