//! A reverse proxy whose connections are pingora's: `LISTEN UPSTREAM keep|close`.

use std::time::Duration;

use async_trait::async_trait;
use pingora::prelude::*;
use pingora::server::configuration::ServerConf;

struct Peer {
    upstream: String,
    keeps: bool,
}

#[async_trait]
impl ProxyHttp for Peer {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        let mut peer = HttpPeer::new(&self.upstream, false, String::new());
        if !self.keeps {
            // Such a connection is not pooled.
            peer.options.idle_timeout = Some(Duration::ZERO);
        }
        Ok(Box::new(peer))
    }
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [listen, upstream, keep] = &*arguments else {
        panic!("usage: pingora-peer LISTEN UPSTREAM keep|close");
    };
    let conf = ServerConf {
        threads: 2,
        upstream_keepalive_pool_size: 256,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let peer = Peer {
        upstream: upstream.clone(),
        keeps: keep == "keep",
    };
    let mut service = http_proxy_service(&server.configuration, peer);
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever();
}
