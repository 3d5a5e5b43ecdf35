//! Layers of a user's own in the stack. Those that do not fit do not compile: `docs/when-a-stack-does-not-compile.md`.

use std::task::{Context, Poll};

use tower::{ServiceBuilder, ServiceExt};
use tower_keep_alive::{
    custom::{Lifespan, Poolable},
    layers::{CheckinLayer, CheckoutLayer, PoolConfig},
};

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
