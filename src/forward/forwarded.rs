//! `X-Forwarded-*`: what the upstream learns about the caller.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::Scheme;

use crate::forward::fields::{add_to_list, set};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Finds the caller's address in a request.
pub(super) type Address = Arc<dyn Fn(&Parts) -> Option<IpAddr> + Send + Sync>;

/// The settings; by default no field is set.
#[derive(Clone, Default)]
pub(super) struct Forwarded {
    pub(super) address: Option<Address>,
    pub(super) host: bool,
    pub(super) proto: Option<Scheme>,
    /// The caller is a trusted proxy: its fields are kept.
    pub(super) trusted: bool,
}

impl Forwarded {
    /// Whether any field is sent.
    pub(super) fn is_any(&self) -> bool {
        self.address.is_some() || self.host || self.proto.is_some()
    }

    /// The caller's address, found before the request is rewritten.
    pub(super) fn address_of(&self, request: &Parts) -> Option<IpAddr> {
        self.address.as_ref()?(request)
    }

    /// Sets the fields of the upstream's request; called after the hop-by-hop fields are removed.
    pub(super) fn add_to(
        &self,
        fields: &mut HeaderMap,
        address: Option<IpAddr>,
        host: Option<&HeaderValue>,
    ) {
        if !self.is_any() {
            return;
        }
        if !self.trusted {
            remove_claims(fields);
        }
        if let Some(address) = address {
            add_to_list(fields, FOR, address.to_string().as_bytes());
        }
        if let Some(host) = host.filter(|_| self.host && !fields.contains_key(HOST)) {
            set(fields, HOST, host.clone());
        }
        if let Some(proto) = self.proto.as_ref().filter(|_| !fields.contains_key(PROTO))
            && let Ok(proto) = HeaderValue::from_str(proto.as_str())
        {
            set(fields, PROTO, proto);
        }
    }
}

/// Removes every field in which a caller may claim an address, a host or a scheme, including those that this layer
/// never sets.
fn remove_claims(fields: &mut HeaderMap) {
    let claims: Vec<_> = fields.keys().filter(|it| is_claim(it)).cloned().collect();
    for name in claims {
        fields.remove(name);
    }
}

/// Whether an upstream may trust this field as a proxy's. CGI and similar interfaces do not distinguish `_` from `-`.
fn is_claim(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    matches!(&*name, "forwarded" | "x-forwarded" | "x-real-ip") || name.starts_with("x-forwarded-")
}

impl fmt::Debug for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarded")
            .field("for", &self.address.is_some())
            .field("host", &self.host)
            .field("proto", &self.proto)
            .field("trusted", &self.trusted)
            .finish()
    }
}
