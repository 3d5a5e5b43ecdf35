//! The pools, behind one face.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Future, pending, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use deadpool::managed::{self, Metrics, RecycleResult};
use hyper_util::client::pool::cache;
use tokio::runtime::Runtime;
use tower::{Service, ServiceExt};
use tower_keep_alive_benches::pools::Pools;

/// What the others are given for more than one host.
type ByHost<P> = HashMap<Arc<str>, P>;

pub(crate) struct Deadpool(ByHost<managed::Pool<Manager>>);

#[derive(Debug)]
pub(crate) struct Manager;

impl managed::Manager for Manager {
    type Type = Arc<()>;
    type Error = Infallible;

    async fn create(&self) -> Result<Arc<()>, Infallible> {
        Ok(Arc::new(()))
    }

    async fn recycle(&self, _: &mut Arc<()>, _: &Metrics) -> RecycleResult<Infallible> {
        Ok(())
    }
}

pub(crate) fn deadpool(_: &Runtime, hosts: &[Arc<str>], limit: usize) -> Deadpool {
    let pool = || managed::Pool::builder(Manager).max_size(limit).build();
    let pool = || pool().expect("no timeout that needs a runtime");
    Deadpool(hosts.iter().map(|host| (host.clone(), pool())).collect())
}

impl Pools for Deadpool {
    const NAME: &'static str = "deadpool";

    type Lease = managed::Object<Manager>;

    fn checkout(&self, host: &Arc<str>) -> impl Future<Output = Self::Lease> + Send + use<> {
        let pool = self.0[host].clone();
        async move { pool.get().await.expect("nothing fails here") }
    }
}

pub(crate) struct Bb8(ByHost<bb8::Pool<Manager>>);

impl bb8::ManageConnection for Manager {
    type Connection = Arc<()>;
    type Error = Infallible;

    async fn connect(&self) -> Result<Arc<()>, Infallible> {
        Ok(Arc::new(()))
    }

    async fn is_valid(&self, _: &mut Arc<()>) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _: &mut Arc<()>) -> bool {
        false
    }
}

pub(crate) fn bb8(runtime: &Runtime, hosts: &[Arc<str>], limit: usize) -> Bb8 {
    let _inside = runtime.enter();
    let pool = || {
        // Without limits of age there is no task for each host.
        let builder = bb8::Pool::builder().max_lifetime(None).idle_timeout(None);
        builder.max_size(limit as u32).build_unchecked(Manager)
    };
    Bb8(hosts.iter().map(|host| (host.clone(), pool())).collect())
}

impl Pools for Bb8 {
    const NAME: &'static str = "bb8";

    type Lease = bb8::PooledConnection<'static, Manager>;

    fn checkout(&self, host: &Arc<str>) -> impl Future<Output = Self::Lease> + Send + use<> {
        let pool = self.0[host].clone();
        async move { pool.get_owned().await.expect("nothing fails here") }
    }
}

/// It has no limit: beyond it, a connect takes for ever.
pub(crate) struct Cache<C>(ByHost<C>);

pub(crate) fn cache(_: &Runtime, hosts: &[Arc<str>], limit: usize) -> impl Pools + use<> {
    let pool = || {
        let made = Arc::new(AtomicUsize::new(0));
        let connect = tower::service_fn(move |()| -> Connecting {
            match made.fetch_add(1, Ordering::Relaxed) < limit {
                true => Box::pin(ready(Ok(Arc::new(())))),
                false => Box::pin(pending()),
            }
        });
        cache::builder().build(connect)
    };
    Cache(hosts.iter().map(|host| (host.clone(), pool())).collect())
}

type Connecting = Pin<Box<dyn Future<Output = Result<Arc<()>, Infallible>> + Send + Sync>>;

impl<C> Pools for Cache<C>
where
    C: Service<(), Error = Infallible, Response: Send + 'static, Future: Send> + Clone,
    C: Send + Sync + 'static,
{
    const NAME: &'static str = "hyper-util pool::cache";

    type Lease = C::Response;

    fn checkout(&self, host: &Arc<str>) -> impl Future<Output = Self::Lease> + Send + use<C> {
        let mut cache = self.0[host].clone();
        async move {
            let Ok(cache) = cache.ready().await;
            let Ok(lent) = cache.call(()).await;
            lent
        }
    }
}
