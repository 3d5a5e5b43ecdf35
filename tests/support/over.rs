//! What the tests with real sockets run over: TCP, or what `TEST_OVER` says.

#[cfg(unix)]
use std::path::PathBuf;
use std::{net::SocketAddr, sync::OnceLock};
use tokio::net::TcpSocket;

/// What servers listen on, and what the connectors of the tests connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Tcp,
    /// `TEST_OVER=unix`
    #[cfg(unix)]
    Unix,
    /// `TEST_OVER=tls`: TCP, and TLS on it
    Tls,
    /// `TEST_OVER=h2`: TCP, and HTTP/2 on it
    Http2,
}

/// What this run is over.
///
/// # Panics
///
/// If `TEST_OVER` says what there is not.
pub fn over() -> Over {
    static OVER: OnceLock<Over> = OnceLock::new();
    // A process of its own, which connects over TCP alone; and tests that say themselves where proxies are, and TLS.
    if let "addresses" | "printed" | "proxies" | "proxy" | "tls" = env!("CARGO_CRATE_NAME") {
        return Over::Tcp;
    }
    *OVER.get_or_init(|| match std::env::var("TEST_OVER").as_deref() {
        Err(_) | Ok("" | "tcp") => Over::Tcp,
        #[cfg(unix)]
        Ok("unix") => Over::Unix,
        Ok("tls") => Over::Tls,
        // The other suites are about HTTP/1.1, or choose the protocol themselves.
        Ok("h2") if env!("CARGO_CRATE_NAME") != "conformance" => Over::Tcp,
        Ok("h2") => Over::Http2,
        Ok(other) => panic!("TEST_OVER={other}: the tests run over tcp, unix, tls and h2"),
    })
}

/// Whether a test that is about TCP itself has nothing to say in this run; it returns then, and the run says why.
#[must_use]
pub fn only_over_tcp(why: &str) -> bool {
    says_why(!matches!(over(), Over::Tcp | Over::Http2), why)
}

/// The same, of a test that needs what Unix sockets do not have.
#[must_use]
pub fn not_over_unix(why: &str) -> bool {
    says_why(!matches!(over(), Over::Tcp | Over::Tls | Over::Http2), why)
}

/// The same, of a test that TLS leaves nothing of.
#[must_use]
pub fn not_over_tls(why: &str) -> bool {
    says_why(over() == Over::Tls, why)
}

/// The same, of a test about what HTTP/1.1 has and HTTP/2 does not, or has in another way.
#[must_use]
pub fn not_over_h2(why: &str) -> bool {
    says_why(over() == Over::Http2, why)
}

fn says_why(skips: bool, why: &str) -> bool {
    if skips {
        println!("not over {:?}: {why}", over());
    }
    skips
}

/// The Unix socket that stands for a TCP address. Its port is held while the socket lives, so nobody else has it.
#[cfg(unix)]
pub(super) fn unix_path(port: u16) -> PathBuf {
    std::env::temp_dir().join(format!("tower-keep-alive-{port}.sock"))
}

/// An address of a loopback interface that is ours, and nobody listens on.
pub(super) fn hold(addr: SocketAddr) -> (SocketAddr, TcpSocket) {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
    .expect("a socket");
    socket.bind(addr).expect("loopback can be bound");
    let addr = socket.local_addr().expect("bound above");
    (addr, socket)
}
