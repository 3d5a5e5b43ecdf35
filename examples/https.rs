//! HTTPS, with a certificate of its own: connections are used again, and where they are not, their sessions are resumed.
//!
//! `cargo run --example https`

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use axum::serve::Listener;
use rcgen::{CertifiedKey, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::ServiceBuilder;
use tower::util::MapResponseLayer;
use tower_keep_alive::connect::rustls::crypto::ring;
use tower_keep_alive::connect::rustls::pki_types::PrivateKeyDer;
use tower_keep_alive::connect::rustls::{HandshakeKind, ServerConfig};
use tower_keep_alive::connect::{MaybeTls, Tcp, TcpConnector, TlsLayer};
use tower_keep_alive::{KeepAlive, KeepAliveLayer};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    // In place of the platform's roots: the server's own certificate, as from a file.
    let tls = TlsLayer::new().roots_pem(identity.cert.pem())?;
    let port = start_server(identity).await?;

    let client: KeepAlive<_> = ServiceBuilder::new()
        .layer(KeepAliveLayer::new())
        .layer(MapResponseLayer::new(told as fn(_) -> _))
        .layer(tls)
        .service(TcpConnector::new());
    let agent = client.handle();

    for round in ["At first:", "After they were closed:"] {
        agent.close_idle();
        println!("{round}");
        for name in ["a", "b", "c"] {
            let url = format!("https://localhost:{port}/{name}");
            let response = client.get(url).await?;
            let connection = response.body().connection().clone();
            let text = response.into_body().text(1024).await?;
            println!(
                "  {text} on connection {}, {}",
                connection.id(),
                match connection.is_reused() {
                    true => "reused",
                    false => "new",
                },
            );
        }
    }

    println!("At the end: {}", agent.status());
    Ok(())
}

/// Says how the handshake of a new connection went.
fn told(transport: MaybeTls<Tcp>) -> MaybeTls<Tcp> {
    if let Some(tls) = transport.tls_connection() {
        let handshake = match tls.handshake_kind() {
            Some(HandshakeKind::Resumed) => "resumed",
            _ => "full",
        };
        println!("  a new connection: {handshake} handshake");
    }
    transport
}

/// A server on a free port of `localhost`, under TLS.
async fn start_server(identity: CertifiedKey<KeyPair>) -> Result<u16, Box<dyn Error>> {
    let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der())?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![identity.cert.der().clone()], key)?;
    let listener = TlsListener {
        tcp: TcpListener::bind("127.0.0.1:0").await?,
        acceptor: Arc::new(config).into(),
    };
    let port = listener.local_addr()?.port();
    let hello = |axum::extract::Path(name): axum::extract::Path<String>| async move {
        format!("hello {name}")
    };
    let app = Router::new().route("/{name}", get(hello));
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(port)
}

/// Accepts one after the other: good enough for an example, as a client that dawdles holds the others up.
struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, addr) = Listener::accept(&mut self.tcp).await;
            match self.acceptor.accept(stream).await {
                Ok(stream) => return (stream, addr),
                Err(error) => eprintln!("  the server: {error}"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
