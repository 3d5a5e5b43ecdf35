//! Which locks a request takes.

use std::sync::mpsc;
use std::time::Duration;

use http::Uri;

use super::tests::{ask, at_rest, made};
use super::*;
use crate::target::key::Key;
use crate::target::{Reuse, Target};

const HOST: &str = "http://a/";
const OTHERS: [&str; 3] = ["http://b/", "https://a/", "http://a:81/"];

fn key(host: &'static str) -> Key {
    Key::from(Uri::from_static(host).key())
}

/// Takes and returns a connection while every lock of the other keys is held.
fn ask_beside_locks(config: PoolConfig) {
    let pool = Pool::new(config);
    for host in [HOST].iter().chain(&OTHERS) {
        made(&pool, host).give_back();
    }
    let (done, is_done) = mpsc::channel();
    std::thread::scope(|scope| {
        let others = OTHERS.map(|host| pool.shared().table.find(&key(host).as_ref()).unwrap());
        let hosts = others.each_ref().map(|host| host.lock());
        let shards = pool.shared().table.lock_others(key(HOST).as_ref());
        let asking = scope.spawn(|| {
            for _ in 0..1000 {
                let Decision::Take(pooled) = ask(&pool, HOST, Reuse::Any) else {
                    panic!("there is an idle one");
                };
                pooled.give_back();
            }
            done.send(()).unwrap();
        });
        let ended = is_done.recv_timeout(Duration::from_secs(10));
        drop((hosts, shards));
        asking.join().unwrap();
        ended.expect("a lock of another host was asked for");
    });
    at_rest(pool);
}

#[test]
fn a_request_takes_no_lock_of_another_host() {
    ask_beside_locks(PoolConfig::new());
}

#[test]
fn a_request_takes_no_lock_of_another_host_under_a_total_limit_either() {
    ask_beside_locks(PoolConfig::new().max_connections(8));
}
