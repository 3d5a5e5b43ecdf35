//! The clients in Rust. Each says `ready` when it is warm, waits for a line, sends its requests, and says how many seconds they took.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use tokio::runtime::Builder;
use tokio::sync::Barrier;
use tower::Layer;
use tower_keep_alive::KeepAliveLayer;
use tower_keep_alive::connect::rustls::client::Resumption;
use tower_keep_alive::connect::rustls::crypto::ring;
use tower_keep_alive::connect::rustls::pki_types::{CertificateDer, pem::PemObject};
use tower_keep_alive::connect::rustls::{ClientConfig, RootCertStore};
use tower_keep_alive::connect::{TcpConnector, TlsLayer};
use tower_keep_alive_benches::ask::Ask;
use tower_keep_alive_benches::peers::{AgentOf, Peer as Client, Reqwest};

use crate::{Mode, Peer, Work};

type Body = Full<Bytes>;

pub(crate) fn run(peer: Peer, work: &Work) {
    let tls = work.tls();
    match peer {
        Peer::Agent => {
            let layer = KeepAliveLayer::new()
                .max_connections_per_host(work.callers)
                .keep_alive(work.mode == Mode::Kept);
            let tls = TlsLayer::with_config(tls).layer(TcpConnector::new());
            work.by(AgentOf::new(&layer, tls));
        }
        Peer::Reqwest => work.by(Reqwest::over_tls(tls, work.mode == Mode::Kept)),
        Peer::Go => unreachable!("a program of its own"),
    }
}

impl Work {
    fn tls(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_file(&self.root).expect("the server has written it");
        roots.add(root).expect("a certificate");
        let mut config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("versions of the provider")
            .with_root_certificates(roots)
            .with_no_client_auth();
        if self.mode == Mode::Full {
            config.resumption = Resumption::disabled();
        }
        config
    }

    fn by<P>(&self, client: P)
    where
        P: Client<Body> + Clone + Send + 'static,
    {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let ask = Ask::over_tls(
            Method::GET,
            &self.server.to_string(),
            self.length,
            Body::default(),
        );
        // Makes the connections, or the sessions: all callers at the same time.
        let all = Arc::new(Barrier::new(self.callers));
        let warm = Arc::new(AtomicUsize::new(20 * self.callers));
        runtime.block_on(self.send(client.clone(), ask.clone(), warm, Some(all)));
        println!("ready");
        let mut line = String::new();
        io::stdin()
            .read_line(&mut line)
            .expect("the bench says when");
        let left = Arc::new(AtomicUsize::new(self.requests));
        let begun = Instant::now();
        runtime.block_on(self.send(client, ask, left, None));
        println!("{}", begun.elapsed().as_secs_f64());
        // To be asked what it has cost.
        let _ = io::stdin().read_line(&mut line);
    }

    async fn send<P>(
        &self,
        client: P,
        ask: Ask<Body>,
        left: Arc<AtomicUsize>,
        together: Option<Arc<Barrier>>,
    ) where
        P: Client<Body> + Clone + Send + 'static,
    {
        let length = self.length;
        let callers: Vec<_> = (0..self.callers)
            .map(|_| {
                let (mut client, ask) = (client.clone(), ask.clone());
                let (left, together) = (left.clone(), together.clone());
                tokio::spawn(async move {
                    if let Some(all) = together {
                        all.wait().await;
                    }
                    while left
                        .fetch_update(Relaxed, Relaxed, |it| it.checked_sub(1))
                        .is_ok()
                    {
                        let answer = client.send(ask.request()).await;
                        assert_eq!(answer.expect("nothing is wrong"), length);
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.expect("callers do not panic");
        }
    }
}
