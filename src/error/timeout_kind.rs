/// What took too long.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::{KeepAlive, TimeoutKind};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // A server that accepts connections and never answers.
/// let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let agent = KeepAlive::builder()
///     .response_timeout(Duration::from_millis(50))
///     .build();
/// let error = agent.get(format!("http://{}/", silent.local_addr()?)).await.unwrap_err();
/// assert_eq!(error.timeout_kind(), Some(TimeoutKind::Response));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TimeoutKind {
    /// Making the connection: DNS, TCP, TLS.
    Connect,
    /// Waiting in the queue for a connection.
    Checkout,
    /// The silence of a server during an exchange.
    Inactivity,
    /// Waiting for a connection to be closed that has to make room: its runtime is alive but not driven, and its transport
    /// cannot be closed from outside. Drive that runtime, or say how transports of your own are closed, by
    /// [`Probe::with_close`](crate::connect::Probe::with_close). The limit is three quarters of the connect timeout, at most
    /// 6 s.
    Close,
    /// The whole exchange, from the first poll of its future to the end of the response body.
    Request,
    /// The wait for the head of the response, after the request was sent.
    Response,
    /// The wait for the answer to an HTTP/2 PING (feature `http2`: `Http2::ping_timeout`). The server or the network is
    /// gone, and all requests on the connection fail. Send them again if they are idempotent; raise the limit for a
    /// server that lives and answers late.
    Ping,
}
