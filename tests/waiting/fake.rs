//! A connection whose transport goes when the test says so.

use std::future::{Ready, ready};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::Service;
use tower_keep_alive::{
    BoxError,
    connect::Destination,
    custom::{Lifespan, Liveness, Poolable, TransportGuard},
    layers::SendError,
};

/// Makes [`Fake`] connections, and has their transports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Maker(pub(crate) Arc<Shared>);

#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// What a look tells of every connection.
    pub(crate) dead: AtomicBool,
    pub(crate) transports: Mutex<Vec<TransportGuard>>,
}

#[derive(Debug)]
pub(crate) struct Fake {
    shared: Arc<Shared>,
    lifespan: Lifespan,
}

impl Service<Destination> for Maker {
    type Response = Fake;
    type Error = BoxError;
    type Future = Ready<Result<Fake, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Destination) -> Self::Future {
        let mut lifespan = Lifespan::new();
        let transport = lifespan.take_transport_guard().expect("taken once");
        self.0.transports.lock().unwrap().push(transport);
        let shared = self.0.clone();
        ready(Ok(Fake { shared, lifespan }))
    }
}

impl Poolable for Fake {
    fn is_open(&self) -> bool {
        true
    }

    fn poll_free(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn probe(&mut self) -> Liveness {
        if self.shared.dead.load(SeqCst) {
            Liveness::Dead
        } else {
            Liveness::Open
        }
    }

    fn lifespan(&self) -> &Lifespan {
        &self.lifespan
    }

    fn lifespan_mut(&mut self) -> &mut Lifespan {
        &mut self.lifespan
    }
}

/// Answers on a new connection, and takes no request on a used one.
impl Service<Request<Full<Bytes>>> for Fake {
    type Response = Response<Full<Bytes>>;
    type Error = SendError<Full<Bytes>>;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        ready(if self.lifespan.is_reused() {
            let reset = io::Error::from(io::ErrorKind::ConnectionReset);
            Err(SendError::unsent(reset, Some(Box::new(request))))
        } else {
            Ok(Response::new(Full::new(Bytes::from_static(b"answer"))))
        })
    }
}
