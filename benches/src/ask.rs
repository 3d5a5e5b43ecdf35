//! The request that all peers get, made anew each time.

use http::header::{HOST, HeaderValue};
use http::{Method, Request, Uri};

/// One kind of request. Its URI is parsed each time, as by a caller whose URLs come from somewhere.
#[derive(Clone, Debug)]
pub struct Ask<B> {
    method: Method,
    url: String,
    /// For peers that send what they get, and nothing else.
    host: Option<HeaderValue>,
    body: B,
}

impl<B: Clone> Ask<B> {
    /// For `length` bytes of response body from `authority`.
    pub fn new(method: Method, authority: &str, length: usize, body: B) -> Self {
        Self::of(method, "http", authority, length, body)
    }

    /// The same, by `https`.
    pub fn over_tls(method: Method, authority: &str, length: usize, body: B) -> Self {
        Self::of(method, "https", authority, length, body)
    }

    fn of(method: Method, scheme: &str, authority: &str, length: usize, body: B) -> Self {
        Self {
            method,
            url: format!("{scheme}://{authority}/{length}"),
            host: None,
            body,
        }
    }

    /// The same, with the `Host` that hyper by itself does not add.
    pub fn with_host(mut self) -> Self {
        let uri: Uri = self.url.parse().expect("a valid URL");
        let authority = uri.authority().expect("an absolute URL").as_str();
        self.host = Some(HeaderValue::from_str(authority).expect("a valid authority"));
        self
    }

    /// The request.
    pub fn request(&self) -> Request<B> {
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.url.parse().expect("a valid URL");
        if let Some(host) = &self.host {
            request.headers_mut().insert(HOST, host.clone());
        }
        request
    }
}
