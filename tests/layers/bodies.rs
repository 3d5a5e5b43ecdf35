//! Every common request body type can be sent from a spawned task: by `request`, by `Service::call`, and through a box.
//! These are tests because they compile. `reqwest::Body` is in the package `integrations`.

use std::convert::Infallible;

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{Either, Empty, Full, StreamBody};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceBuilder};
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{Body, BoxError, Error, KeepAlive, KeepAliveLayer};

type Sent = Result<http::Response<Body>, Error>;

macro_rules! can_be_spawned {
    ($name:ident, $body:ty) => {
        #[allow(dead_code, reason = "compiled, and not run")]
        fn $name(make: fn() -> Request<$body>) {
            let client: KeepAlive<TcpConnector, $body> = ServiceBuilder::new()
                .layer(KeepAliveLayer::new())
                .service(TcpConnector::new());
            let mut called = client.clone();
            let mut boxed: BoxCloneSyncService<Request<$body>, http::Response<Body>, Error> =
                BoxCloneSyncService::new(client.clone());
            tokio::spawn(async move {
                let sent: Sent = client.request(make()).await;
                drop(sent);
            });
            tokio::spawn(async move {
                let sent: Sent = called.call(make()).await;
                drop(sent);
            });
            tokio::spawn(async move {
                let sent: Sent = boxed.call(make()).await;
                drop(sent);
            });
        }
    };
}

type Frames = futures_util::stream::Empty<Result<Frame<Bytes>, BoxError>>;

can_be_spawned!(full, Full<Bytes>);
can_be_spawned!(empty, Empty<Bytes>);
can_be_spawned!(box_body, BoxBody<Bytes, BoxError>);
can_be_spawned!(box_body_infallible, BoxBody<Bytes, Infallible>);
can_be_spawned!(unsync_box_body, UnsyncBoxBody<Bytes, BoxError>);
can_be_spawned!(axum_body, axum::body::Body);
can_be_spawned!(incoming, hyper::body::Incoming);
can_be_spawned!(stream_body, StreamBody<Frames>);
can_be_spawned!(either, Either<Full<Bytes>, BoxBody<Bytes, BoxError>>);
can_be_spawned!(own, Body);
