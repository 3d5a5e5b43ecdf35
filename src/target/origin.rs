use std::ops::Range;

use http::Uri;

use crate::target::authority::HostPort;
use crate::target::invalid::TargetError;

/// The origin of a URI.
pub(crate) struct Origin {
    /// The place of the host in the authority, without brackets.
    pub(super) host: Range<u16>,
    pub(super) port: u16,
    /// `https` if true, `http` if false.
    pub(super) https: bool,
}

impl Origin {
    #[inline(always)]
    pub(crate) fn of(uri: &Uri, connects: bool) -> Result<Self, TargetError> {
        let Some(authority) = uri.authority() else {
            return Err(match uri.scheme() {
                Some(_) => TargetError::NoHost,
                None => TargetError::NoScheme,
            });
        };
        let HostPort { host, port } = HostPort::parse(authority.as_str());
        if host.is_empty() {
            return Err(TargetError::NoHost);
        }
        let port = port.map_err(|port| TargetError::Port(port.to_owned()))?;
        if connects && port.is_none() {
            return Err(TargetError::Method("CONNECT needs a port in its URI"));
        }
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            // `http::Uri` lowers the case of a scheme only if it was parsed as part of a URI.
            Some(other) if other.eq_ignore_ascii_case("http") => false,
            Some(other) if other.eq_ignore_ascii_case("https") => true,
            Some(other) => return Err(TargetError::Scheme(other.to_owned())),
            // A `CONNECT` without a scheme is for the proxy that the connection leads to.
            None if connects => false,
            None => return Err(TargetError::NoScheme),
        };
        // A URI has at most 65,534 bytes.
        let place = |at: usize| u16::try_from(at).map_err(|_| TargetError::NoHost);
        Ok(Self {
            host: place(host.start)?..place(host.end)?,
            port: port.unwrap_or(if https { 443 } else { 80 }),
            https,
        })
    }

    /// Whether anything precedes the host: user information, or the bracket of an IPv6 literal.
    #[inline]
    pub(crate) fn may_have_user(&self) -> bool {
        self.host.start > 0
    }
}
