//! What a user gets wrong is told.

use std::task::{Context, Poll};

use tower::{ServiceBuilder, ServiceExt};
use tower_keep_alive::{CheckinLayer, CheckoutLayer, Lifespan, PoolConfig, Poolable};

use crate::line::{Line, Shard, answer, maker};
use crate::support::Server;
use crate::support::agent::at_rest;

struct Wrapped(Line);

impl Poolable for Wrapped {
    fn is_open(&self) -> bool {
        self.0.is_open()
    }

    fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_free(cx)
    }

    fn lifespan(&self) -> &Lifespan {
        self.0.lifespan()
    }

    fn lifespan_mut(&mut self) -> &mut Lifespan {
        self.0.lifespan_mut()
    }
}

#[tokio::test]
async fn a_layer_that_changes_the_connection_above_checkout_panics_in_debug() {
    let server = Server::in_memory(answer);
    let checkout = CheckoutLayer::new(PoolConfig::new().max_connections_per_host(1));
    let handle = checkout.handle();
    let lines = ServiceBuilder::new()
        .layer(CheckinLayer::new())
        .map_response(Wrapped)
        .layer(checkout)
        .service(maker(&server));
    for at in 1..=2 {
        let leased = tokio::spawn(lines.clone().oneshot(Shard(1))).await;
        if cfg!(debug_assertions) {
            let panic = leased.expect_err("it is told").into_panic();
            let text = panic.downcast_ref::<&str>().expect("a message");
            assert!(text.contains("between Checkin and Checkout"), "{text}");
            assert!(text.contains("type"), "{text}");
        } else {
            drop(leased);
        }
        // It costs the connection and no slot.
        at_rest(&handle).await;
        let status = handle.status();
        assert_eq!((status.created, status.closed), (at, at), "{status}");
    }
}

/// Below Checkout it is nobody's mistake.
#[tokio::test]
async fn a_layer_that_changes_the_connection_below_checkout_is_fine() {
    let server = Server::in_memory(answer);
    let checkout = CheckoutLayer::new(PoolConfig::new());
    let handle = checkout.handle();
    let lines = ServiceBuilder::new()
        .layer(CheckinLayer::new())
        .layer(checkout)
        .map_response(Wrapped)
        .service(maker(&server));
    for _ in 0..2 {
        let mut line = lines.clone().oneshot(Shard(1)).await.unwrap();
        assert_eq!(line.0.ask("hello").await.unwrap(), "hello!");
    }
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}
