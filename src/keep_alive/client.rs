//! The one-call client: the whole stack with its own connector and body type.

use std::fmt;

use http::{Method, Request, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use crate::connect::DefaultConnector;
use crate::error::{BoxError, Error, Kind};
use crate::keep_alive::into_body::IntoBody;
use crate::keep_alive::{KeepAlive, KeepAliveFuture, KeepAliveLayer, RequestBody, RequestFuture};
use crate::target::Destination;
use crate::target::invalid::TargetError;
use crate::target::protocol::Protocol;

impl KeepAlive {
    /// A client for `http` and `https` with agentkeepalive's defaults, which checks server certificates against the
    /// platform's trust store (see [`DefaultConnector`]).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_keep_alive::Error> {
    /// # let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
    /// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    /// # let url = format!("http://{}/", listener.local_addr().unwrap());
    /// # tokio::spawn(async { axum::serve(listener, app).await });
    /// use tower_keep_alive::KeepAlive;
    ///
    /// let agent = KeepAlive::new();
    /// let response = agent.get(url.as_str()).await?;
    /// println!("{} {}", response.status(), response.body().connection().is_reused());
    /// println!("{}", agent.handle().status());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// The settings of a client; [`build`](KeepAliveLayer::build) makes the client.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_keep_alive::KeepAlive;
    ///
    /// let agent: KeepAlive = KeepAlive::builder()
    ///     .max_connections_per_host(10)
    ///     .ttl(Duration::from_secs(600))
    ///     .build();
    /// # let _ = agent;
    /// ```
    pub fn builder() -> KeepAliveLayer<RequestBody> {
        KeepAliveLayer::new()
    }
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self::new()
    }
}

/// The protocol of the one-call client.
#[cfg(feature = "http2")]
const BEST: Protocol = Protocol::Auto;
#[cfg(not(feature = "http2"))]
const BEST: Protocol = Protocol::Http1;

/// How many fields a response to the one-call client may have: hyper's 100 are too few for some servers, and whoever starts
/// with one call should not have to know the setting.
const RESPONSE_FIELDS: usize = 256;

impl KeepAliveLayer<RequestBody> {
    /// Makes the client with these settings, over a [`DefaultConnector`].
    ///
    /// Two defaults differ from those of the same layer over a connector of your own. With the feature `http2` the
    /// client speaks HTTP/2 with `https` servers that choose it, unless [`protocol`](Self::protocol) is set. A response
    /// may have 256 header fields instead of 100, unless [`max_response_fields`](Self::max_response_fields) or
    /// [`http1`](Self::http1) is set.
    ///
    /// For another connector or another body type, use the layer as a tower layer:
    /// [`Layer::layer`](tower_layer::Layer::layer), or tower's `ServiceBuilder`.
    #[must_use]
    pub fn build(&self) -> KeepAlive {
        self.client(DefaultConnector::new())
    }

    /// Like [`build`](Self::build), with these TLS settings: a certificate authority of your own, or a client
    /// certificate.
    ///
    /// ```
    /// use tower_keep_alive::KeepAlive;
    /// use tower_keep_alive::connect::TlsLayer;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let path = std::env::temp_dir().join(format!("tower-keep-alive-dev-{}.pem", std::process::id()));
    /// # let key = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    /// # std::fs::write(&path, key.cert.pem())?;
    /// let tls = TlsLayer::new().roots_pem_file(&path)?;
    /// let agent: KeepAlive = KeepAlive::builder().build_with_tls(tls);
    /// # let _ = agent;
    /// # std::fs::remove_file(path)?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn build_with_tls(&self, tls: crate::connect::TlsLayer) -> KeepAlive {
        self.client(DefaultConnector::with_tls(tls))
    }

    fn client(&self, connector: DefaultConnector) -> KeepAlive {
        let layer = self.with_defaults(BEST, RESPONSE_FIELDS);
        tower_layer::Layer::layer(&layer, connector)
    }
}

impl<M> KeepAlive<M, RequestBody>
where
    M: Service<Destination> + Clone + Send + Sync + 'static,
    M::Response: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
{
    /// Sends a GET. The future resolves to the response when its head has arrived. Read the body to its end, so that
    /// the connection can be reused.
    ///
    /// # Errors
    ///
    /// See [`Error`]. If `uri` cannot be parsed, [`is_target`](Error::is_target) is true for the error, and nothing is
    /// sent.
    pub fn get<U>(&self, uri: U) -> RequestFuture<M>
    where
        U: TryInto<Uri>,
        U::Error: fmt::Display,
    {
        RequestFuture::new(self.start(Method::GET, uri, RequestBody::empty()))
    }

    /// Sends a HEAD; see [`get`](Self::get).
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub fn head<U>(&self, uri: U) -> RequestFuture<M>
    where
        U: TryInto<Uri>,
        U::Error: fmt::Display,
    {
        RequestFuture::new(self.start(Method::HEAD, uri, RequestBody::empty()))
    }

    /// Sends a POST with a body (`T: Into<RequestBody>`). No `Content-Type` is set; to set header fields, use [`request`](Self::request).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_keep_alive::Error> {
    /// # let app = axum::Router::new().route("/", axum::routing::post(|body: String| async { body }));
    /// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    /// # let url = format!("http://{}/", listener.local_addr().unwrap());
    /// # tokio::spawn(async { axum::serve(listener, app).await });
    /// let agent = tower_keep_alive::KeepAlive::new();
    /// let response = agent.post(&url, "a text").await?;
    /// assert!(response.status().is_success());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub fn post<U, T>(&self, uri: U, body: T) -> RequestFuture<M>
    where
        U: TryInto<Uri>,
        U::Error: fmt::Display,
        T: IntoBody<RequestBody>,
    {
        RequestFuture::new(self.start(Method::POST, uri, body.into_body()))
    }

    fn start<U>(
        &self,
        method: Method,
        uri: U,
        body: RequestBody,
    ) -> Result<KeepAliveFuture<M, RequestBody>, Error>
    where
        U: TryInto<Uri>,
        U::Error: fmt::Display,
    {
        let uri = uri.try_into().map_err(|error| {
            let error = error.to_string();
            let why = if error == text_without_scheme() {
                format!(
                    "the URI has no scheme, or no host: write http:// or https:// before the host, as in http://host:3000/path \
                     ({error})"
                )
            } else {
                format!(
                    "the URI cannot be parsed ({error}): it has to be like http://host:3000/path, all in ASCII; a host name in \
                     other letters has to be in Punycode (xn--…), other characters percent-encoded"
                )
            };
            Error::new(Kind::Target(TargetError::Uri(why)))
        })?;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        Ok(self.request(request))
    }
}

/// What the parser says of a URI such as `example.com/path`. Its errors are told apart by their texts alone.
fn text_without_scheme() -> String {
    Uri::try_from("host/path")
        .map_err(|error| error.to_string())
        .expect_err("a host and a path are no URI")
}
