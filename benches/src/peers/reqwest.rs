use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tower_keep_alive::BoxError;
use tower_keep_alive::connect::rustls::ClientConfig;
use tower_keep_alive::connect::rustls::crypto::ring;

use super::Peer;

/// reqwest, which makes its own transports.
#[derive(Clone, Debug)]
pub struct Reqwest(reqwest::Client);

impl Reqwest {
    pub fn new() -> Self {
        Self::with(reqwest::Client::builder())
    }

    /// By HTTP/2, with prior knowledge.
    pub fn over_http2() -> Self {
        Self::with(reqwest::Client::builder().http2_prior_knowledge())
    }

    /// By `https`, with this configuration, over connections that are kept or not.
    pub fn over_tls(config: ClientConfig, keeps: bool) -> Self {
        let builder = reqwest::Client::builder().tls_backend_preconfigured(config);
        Self::with(match keeps {
            true => builder,
            false => builder.pool_max_idle_per_host(0),
        })
    }

    /// This name has these addresses.
    pub fn resolving(name: &str, addresses: &[SocketAddr]) -> Self {
        Self::with(reqwest::Client::builder().resolve_to_addrs(name, addresses))
    }

    fn with(builder: reqwest::ClientBuilder) -> Self {
        // One for the process; with a configuration of its own it is not used.
        let _ = ring::default_provider().install_default();
        let client = builder.no_proxy().build();
        Self(client.expect("it needs nothing of the system"))
    }
}

impl Default for Reqwest {
    fn default() -> Self {
        Self::new()
    }
}

impl Peer<Full<Bytes>> for Reqwest {
    const NAME: &'static str = "reqwest";

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<usize, BoxError> {
        let request = request.map(|body| body.into_inner().unwrap_or_default());
        let mut response = self.0.execute(request.try_into()?).await?;
        let mut length = 0;
        while let Some(chunk) = response.chunk().await? {
            length += chunk.len();
        }
        Ok(length)
    }
}
