//! `OPTIONS *` to a proxy.

use http::{Method, Request};

use crate::connection::shared::ConnShared;

/// RFC 9112 §3.2.4: through a proxy, the target `*` is an absolute URI with an empty path. `http::Uri` cannot print
/// that, and hyper writes what it prints. So the request has the path `*`, and the transport leaves that byte out.
#[inline]
pub(super) fn begin<B>(request: &Request<B>, shared: &ConnShared) {
    if *request.method() == Method::OPTIONS {
        omit_path(request, shared);
    }
}

#[cold]
fn omit_path<B>(request: &Request<B>, shared: &ConnShared) {
    let uri = request.uri();
    if let (Some(scheme), Some(authority), "*") = (uri.scheme_str(), uri.authority(), uri.path()) {
        let before = ["OPTIONS ", scheme, "://", authority.as_str()];
        shared.omit_byte_at(before.into_iter().map(str::len).sum());
    }
}
