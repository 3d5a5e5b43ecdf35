use tower_layer::Layer;

use crate::reqwest::Reqwest;

/// Serves reqwest's requests and responses over any service of `http` requests.
///
/// # Order
///
/// Above [`KeepAliveLayer`](crate::KeepAliveLayer). Layers between the two, such as tower-http's, see
/// `http::Request<reqwest::Body>`. Layers above it, such as `RetryLayer` with
/// [`ReusedReset`](crate::retry::ReusedReset), see `reqwest::Request`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_keep_alive::BoxError> {
/// use reqwest::{Method, Request};
/// use tower::retry::RetryLayer;
/// use tower::{ServiceBuilder, ServiceExt};
/// use tower_keep_alive::KeepAliveLayer;
/// use tower_keep_alive::connect::TcpConnector;
/// use tower_keep_alive::reqwest::ReqwestLayer;
/// use tower_keep_alive::retry::ReusedReset;
///
/// # let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
/// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// # let url = format!("http://{}/", listener.local_addr()?);
/// # tokio::spawn(async { axum::serve(listener, app).await });
/// let client = ServiceBuilder::new()
///     .layer(RetryLayer::new(ReusedReset::new()))
///     .layer(ReqwestLayer::new())
///     .layer(KeepAliveLayer::new())
///     .service(TcpConnector::new());
///
/// let request = Request::new(Method::GET, url.parse()?);
/// let response = client.oneshot(request).await?;
/// assert_eq!(response.url().as_str(), url);
/// assert_eq!(response.text().await?, "hello");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ReqwestLayer {
    _private: (),
}

impl ReqwestLayer {
    /// Makes the layer, which has no settings.
    #[must_use]
    pub const fn new() -> Self {
        Self { _private: () }
    }
}

impl<S> Layer<S> for ReqwestLayer {
    type Service = Reqwest<S>;

    fn layer(&self, inner: S) -> Reqwest<S> {
        Reqwest::new(inner)
    }
}
