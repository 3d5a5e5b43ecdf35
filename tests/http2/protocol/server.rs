//! A server of several versions, which speaks what it has negotiated.

use std::ops::Deref;

use crate::support::frames::{self, Behaviour, Log};
use crate::support::tls::localhost;
use crate::support::{Conn, Server, script};

pub(crate) struct Speaking {
    server: Server,
    /// What came over HTTP/2.
    pub(crate) log: Log,
}

/// Offers protocols of these names, the preferred one first, and answers each request with its path.
pub(crate) async fn speaking(names: &[&str]) -> Speaking {
    speaking_as(names, Behaviour::default()).await
}

/// The same, that does over HTTP/2 what `behaviour` says.
pub(crate) async fn speaking_as(names: &[&str], behaviour: Behaviour) -> Speaking {
    let mut config = localhost().server();
    let names = names.iter().map(|name| name.as_bytes().to_vec());
    config.alpn_protocols = names.collect();
    let log = Log::default();
    let kept = log.clone();
    let server = Server::start_tls(config, move |mut conn: Conn| {
        let (log, behaviour) = (log.clone(), behaviour.clone());
        async move {
            let chosen = conn.tls().and_then(|tls| tls.alpn_protocol());
            match chosen == Some(b"h2") {
                true => behaviour.serve(frames::Conn::new(conn, &log)).await,
                false => script::echo(conn).await,
            }
        }
    });
    Speaking {
        server: server.await,
        log: kept,
    }
}

impl Deref for Speaking {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}
