//! The server under TLS 1.3, with a certificate of its own.

use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{HandshakeKind, ServerConfig};

use crate::server::{Tally, serve};
use crate::server_delay::Delay;

/// How many handshakes there were.
#[derive(Debug, Default)]
struct Handshakes {
    full: AtomicU64,
    resumed: AtomicU64,
}

/// Where the first argument of the program is `serve-tls`, it is this server, until its standard input is closed. It
/// writes the certificate of its authority to the file that is named next, and answers each line of its standard input with
/// the handshakes so far: full ones, and those that resumed a session.
pub fn be_one_if_told() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some("serve-tls") {
        return;
    }
    let file = PathBuf::from(arguments.next().expect("a file for the certificate"));
    let config = config(&file).expect("a certificate");
    let handshakes: Arc<Handshakes> = Arc::default();
    let count = handshakes.clone();
    std::thread::spawn(move || {
        for _ in io::stdin().lock().lines() {
            let (full, resumed) = (count.full.load(Relaxed), count.resumed.load(Relaxed));
            println!("{full} {resumed}");
        }
        std::process::exit(0);
    });
    run(config, &handshakes, |addr| println!("listening on {addr}"));
}

fn config(file: &PathBuf) -> Result<ServerConfig, Box<dyn std::error::Error>> {
    let (key, its_key) = (KeyPair::generate()?, KeyPair::generate()?);
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = authority.self_signed(&key)?;
    std::fs::write(file, root.pem())?;
    let names = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let certificate = names.signed_by(&its_key, &Issuer::new(authority, key))?;
    let chain = vec![certificate.der().clone()];
    let its_key = PrivatePkcs8KeyDer::from(its_key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, its_key.into())?;
    // Sessions are in the tickets, which can be used more than once: Go keeps one alone.
    config.ticketer = ring::Ticketer::new()?;
    Ok(config)
}

/// Does not return.
fn run(config: ServerConfig, handshakes: &Arc<Handshakes>, tell: impl FnOnce(SocketAddr)) {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let delay = Delay::of(Duration::ZERO, Semaphore::MAX_PERMITS);
    let runtime = Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async {
        let tally = Tally::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        tell(listener.local_addr().expect("it is bound"));
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let _ = stream.set_nodelay(true);
            let (acceptor, handshakes) = (acceptor.clone(), handshakes.clone());
            let (delay, tally) = (delay.clone(), tally.clone());
            spawn_local(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let count = match stream.get_ref().1.handshake_kind() {
                    Some(HandshakeKind::Resumed) => &handshakes.resumed,
                    _ => &handshakes.full,
                };
                count.fetch_add(1, Relaxed);
                serve(stream, delay, tally).await;
            });
        }
    });
}
