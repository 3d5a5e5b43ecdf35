//! The clients, behind one face.

mod agent;
mod cache;
mod http2;
mod hyper_alone;
mod legacy;
mod reqwest;

use std::future::Future;

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use tower_keep_alive::BoxError;

pub use agent::{Agent, AgentOf, Forwarding};
pub use cache::{Cache, cache};
pub use http2::{H2Alone, HyperHttp2};
pub use hyper_alone::{HandPool, HyperAlone};
pub use legacy::{Legacy, LegacyInMemory, LegacyTcp};
pub use reqwest::Reqwest;

/// A client with its pool, or with its one connection.
pub trait Peer<B> {
    /// As in the reports.
    const NAME: &'static str;

    /// Whether requests have to come with their `Host`.
    const WANTS_HOST: bool = false;

    /// Sends a request, and reads the response to its end: how long its body is.
    fn send(
        &mut self,
        request: http::Request<B>,
    ) -> impl Future<Output = Result<usize, BoxError>> + Send;
}

/// Reads a body to its end.
async fn length<R>(mut body: R) -> Result<usize, BoxError>
where
    R: Body<Data = Bytes> + Unpin,
    R::Error: Into<BoxError>,
{
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.map_err(Into::into)?.data_ref().map_or(0, Bytes::len);
    }
    Ok(length)
}
