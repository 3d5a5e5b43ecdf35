use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use http::uri::Scheme;
use tower_layer::Layer;

use crate::forward::forwarded::Forwarded;
use crate::forward::{ConfigError, Forward, Upstream};

/// Makes [`Forward`] services: a reverse proxy to an upstream, over any client.
///
/// The [module](crate::forward) describes what happens to requests and responses.
///
/// # Order
///
/// Above [`KeepAliveLayer`](crate::KeepAliveLayer), and above tower's `RetryLayer` if there is one. Layers above this
/// one see the caller's request and response; layers below it see the upstream's.
///
/// The client below gets the bodies of the server above, such as axum's. `KeepAliveLayer` over a connector takes any;
/// [`KeepAlive::new`](crate::KeepAlive::new) takes a [`RequestBody`](crate::RequestBody) only, and
/// [the guide](crate::guides::when_a_stack_does_not_compile#what-is-below-forwardlayer) says how to share one.
///
/// # Examples
///
/// ```
/// use std::net::SocketAddr;
/// use axum::body::Body;
/// use axum::extract::ConnectInfo;
/// use http::uri::Scheme;
/// use tower::ServiceBuilder;
/// use tower_keep_alive::connect::TcpConnector;
/// use tower_keep_alive::forward::{ConfigError, Forward, ForwardLayer};
/// use tower_keep_alive::{KeepAlive, KeepAliveLayer};
///
/// # fn main() -> Result<(), ConfigError> {
/// let forward = ForwardLayer::to("http://127.0.0.1:3000/base")?
///     .via("edge")?
///     // axum's, where it serves `into_make_service_with_connect_info::<SocketAddr>()`.
///     .forwarded_for(|request| {
///         let info = request.extensions.get::<ConnectInfo<SocketAddr>>()?;
///         Some(info.0.ip())
///     })
///     .forwarded_host(true)
///     .forwarded_proto(Scheme::HTTPS);
///
/// let upstream: Forward<KeepAlive<TcpConnector, Body>> = ServiceBuilder::new()
///     .layer(forward)
///     .layer(KeepAliveLayer::new())
///     .service(TcpConnector::new());
/// # let _ = upstream;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ForwardLayer {
    settings: Arc<Settings>,
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    upstream: Choice,
    pub(super) preserve_host: bool,
    pub(super) upgrades: bool,
    pub(super) via: Option<Arc<str>>,
    pub(super) forwarded: Forwarded,
}

#[derive(Clone)]
enum Choice {
    One(Upstream),
    Each(Arc<dyn Fn(&Parts) -> Upstream + Send + Sync>),
}

impl Settings {
    /// The upstream that this request is forwarded to.
    pub(super) fn upstream_of(&self, request: &Parts) -> Upstream {
        match &self.upstream {
            Choice::One(upstream) => upstream.clone(),
            Choice::Each(choose) => choose(request),
        }
    }
}

impl ForwardLayer {
    /// Forwards every request to one upstream: a `&str`, a `String`, a `Uri`, or an [`Upstream`].
    ///
    /// # Errors
    ///
    /// If the upstream is not an absolute URI of `http` or `https` with a host. An [`Upstream`] never fails. The
    /// upstream is checked only here: no request fails later because of an invalid upstream.
    pub fn to<U>(upstream: U) -> Result<Self, U::Error>
    where
        U: TryInto<Upstream>,
    {
        Ok(Self::of(Choice::One(upstream.try_into()?)))
    }

    /// Forwards each request to the upstream that `choose` returns for it. `choose` is given the caller's request,
    /// before it is rewritten.
    ///
    /// ```
    /// use tower_keep_alive::forward::{ConfigError, ForwardLayer, Upstream};
    ///
    /// # fn main() -> Result<(), ConfigError> {
    /// let users = Upstream::try_from("http://127.0.0.1:3001")?;
    /// let others = Upstream::try_from("http://127.0.0.1:3002")?;
    /// let forward = ForwardLayer::to_each(move |request| {
    ///     match request.uri.path().starts_with("/users/") {
    ///         true => users.clone(),
    ///         false => others.clone(),
    ///     }
    /// });
    /// # let _ = forward;
    /// # Ok(())
    /// # }
    /// ```
    pub fn to_each<F>(choose: F) -> Self
    where
        F: Fn(&Parts) -> Upstream + Send + Sync + 'static,
    {
        Self::of(Choice::Each(Arc::new(choose)))
    }

    fn of(upstream: Choice) -> Self {
        Self {
            settings: Arc::new(Settings {
                upstream,
                preserve_host: false,
                upgrades: true,
                via: None,
                forwarded: Forwarded::default(),
            }),
        }
    }

    /// Whether the upstream gets the `Host` that the caller asked for, instead of the upstream's own host (nginx:
    /// `proxy_set_header Host $host`). For a request in absolute form or by HTTP/2, it is the authority of the
    /// request's URI. Default: false.
    #[must_use]
    pub fn preserve_host(mut self, preserve: bool) -> Self {
        self.settings().preserve_host = preserve;
        self
    }

    /// Whether upgrades, such as to WebSocket, are passed on. Default: true.
    #[must_use]
    pub fn upgrades(mut self, pass: bool) -> Self {
        self.settings().upgrades = pass;
        self
    }

    /// Adds `1.1 name` to `Via` in requests and responses; the number is the version in which the message was received
    /// (RFC 9110 §7.6.3). Default: nothing is added, as in nginx. The RFC requires a gateway to add it to requests.
    ///
    /// # Errors
    ///
    /// If the name is neither a token nor a host with a port.
    ///
    /// ```
    /// use tower_keep_alive::forward::ForwardLayer;
    ///
    /// # fn main() -> Result<(), tower_keep_alive::forward::ConfigError> {
    /// assert!(ForwardLayer::to("http://127.0.0.1:3000")?.via("edge").is_ok());
    /// assert!(ForwardLayer::to("http://127.0.0.1:3000")?.via("an edge").is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn via(mut self, name: impl AsRef<str>) -> Result<Self, ConfigError> {
        let name = name.as_ref();
        if name.is_empty() || !name.bytes().all(is_in_name) {
            let why = format!("{name:?} is neither a token nor a host with a port");
            return Err(ConfigError::new("name for Via", &why));
        }
        self.settings().via = Some(name.into());
        Ok(self)
    }

    /// Adds the caller's address to `X-Forwarded-For`. `address` finds the address in the caller's request before it is
    /// rewritten, usually in an extension that the server has set; if it returns `None`, no address is added. Default:
    /// nothing is added.
    #[must_use]
    pub fn forwarded_for<F>(mut self, address: F) -> Self
    where
        F: Fn(&Parts) -> Option<IpAddr> + Send + Sync + 'static,
    {
        self.settings().forwarded.address = Some(Arc::new(address));
        self
    }

    /// Whether `X-Forwarded-Host` names the host that the caller asked for. Default: false.
    #[must_use]
    pub fn forwarded_host(mut self, tell: bool) -> Self {
        self.settings().forwarded.host = tell;
        self
    }

    /// Sets `X-Forwarded-Proto` to the scheme of the server in front of this layer, which the request itself does not
    /// carry. Default: the field is not set.
    #[must_use]
    pub fn forwarded_proto(mut self, scheme: Scheme) -> Self {
        self.settings().forwarded.proto = Some(scheme);
        self
    }

    /// Whether the clients of the server in front of this layer are trusted proxies. The `X-Forwarded-Host` and
    /// `X-Forwarded-Proto` of such a proxy are kept, and the address is appended to its `X-Forwarded-For`.
    ///
    /// Default: false. If any of the three fields is set by this layer, then every `X-Forwarded-*`, `Forwarded` and
    /// `X-Real-IP` of the caller is removed, also when it is written with `_` instead of `-`.
    #[must_use]
    pub fn trust_forwarded(mut self, trust: bool) -> Self {
        self.settings().forwarded.trusted = trust;
        self
    }

    fn settings(&mut self) -> &mut Settings {
        Arc::make_mut(&mut self.settings)
    }
}

impl<S> Layer<S> for ForwardLayer {
    type Service = Forward<S>;

    fn layer(&self, inner: S) -> Forward<S> {
        Forward::new(inner, self.settings.clone())
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(upstream) => upstream.fmt(f),
            Self::Each(_) => f.write_str("each"),
        }
    }
}

/// Whether the byte may occur in a token (RFC 9110 §5.6.2), or in a host with a port.
fn is_in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:[]".contains(&byte)
}
