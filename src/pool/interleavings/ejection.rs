//! An address is ejected, or readmitted, while a connection to it is made.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use loom::thread::spawn;

use super::{A, Conn, Scene, explore};
use crate::agent::Ejection;
use crate::clock::Moment;
use crate::connection::poolable::Poolable;
use crate::connection::shared::{ConnShared, TransportInfo};
use crate::pool::PoolConfig;

fn address(last: u8) -> SocketAddr {
    ([192, 0, 2, last], 80).into()
}

fn connection_to(scene: &Scene, address: SocketAddr) -> Conn {
    let conn = scene.connection();
    conn.lifespan()
        .shared()
        .set_transport(TransportInfo::to(address));
    conn
}

fn answers(shared: &Arc<ConnShared>, status: StatusCode) {
    let observer = shared.outcome_observer().expect("addresses are ejected");
    let verdict = observer.judge_head(status, &HeaderMap::new());
    observer.on_response(shared.id(), verdict);
}

#[test]
fn an_ejection_against_a_connection_that_is_made() {
    explore("an ejection while a permit is filled", 4, || {
        let ejection = Ejection::new().server_errors(true).consecutive(1);
        let config = PoolConfig::new()
            .max_connections_per_host(2)
            .eject(ejection);
        let scene = Scene::new(config);
        let mut permit = scene.may_make(A);
        let choice = permit.key_pool().choice().expect("it has a book");
        choice.order([1, 2].map(address).to_vec());
        drop(choice);
        let begun = permit.begin();
        let first = permit.fill(connection_to(&scene, address(1)), begun);
        let mut permit = scene.may_make(A);
        let begun = permit.begin();
        let conn = connection_to(&scene, address(1));
        let shared = first.connection_ref().lifespan().shared().clone();
        let ejects = spawn(move || answers(&shared, StatusCode::BAD_GATEWAY));
        let second = permit.fill(conn, begun);
        ejects.join().expect("ejected");
        for pooled in [first, second] {
            let lifespan = pooled.connection_ref().lifespan();
            let over = lifespan.close_reason_after(1, Moment::now());
            assert!(over.is_some(), "it has no second use");
            drop(pooled);
        }
        scene.at_rest();
    });
}
