//! Defaults for requests that do not set them themselves.

use std::sync::Arc;
use std::time::Duration;

use http::Request;

use crate::agent::HostOverrides;
use crate::target::Target;
use crate::target::extensions::Partition;
use crate::target::key::Key;
use crate::target::route::Route;

/// The defaults of a service; `None` for most.
#[derive(Clone, Debug, Default)]
pub(super) struct Defaults(Option<Arc<RequestDefaults>>);

#[derive(Clone, Debug, Default)]
struct RequestDefaults {
    route: Option<Route>,
    /// Hosts with limits of their own for exchanges.
    hosts: Option<HostOverrides>,
}

/// The limits of the request's host, in the extensions of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HostTimeouts {
    pub(super) request: Option<Duration>,
    pub(super) response: Option<Duration>,
}

impl Defaults {
    pub(super) const NONE: Self = Self(None);

    pub(super) fn set_route(&mut self, route: Route) {
        self.get_mut().route = Some(route);
    }

    pub(super) fn set_hosts(&mut self, hosts: HostOverrides) {
        self.get_mut().hosts = Some(hosts);
    }

    /// Adds the defaults that the request does not set itself.
    pub(super) fn apply<B>(&self, request: &mut Request<B>) {
        if let Some(defaults) = &self.0 {
            defaults.apply(request);
        }
    }

    pub(super) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    fn get_mut(&mut self) -> &mut RequestDefaults {
        Arc::make_mut(self.0.get_or_insert_default())
    }
}

impl RequestDefaults {
    fn apply<B>(&self, request: &mut Request<B>) {
        if let Some(route) = &self.route {
            let extensions = request.extensions_mut();
            extensions.get_or_insert_with(|| route.clone());
        }
        if let Some(hosts) = &self.hosts {
            let found = hosts.find(&key_of(request));
            let found = found.unwrap_or_default();
            let timeouts = HostTimeouts {
                request: found.get_request_timeout(),
                response: found.get_response_timeout(),
            };
            if timeouts != HostTimeouts::default() {
                request.extensions_mut().insert(timeouts);
            }
        }
    }
}

/// The key of the request's connection.
fn key_of<B>(request: &Request<B>) -> Key {
    let mut key = request.uri().key();
    if let Some(partition) = request.extensions().get::<Partition>() {
        key = key.partition(partition.name());
    }
    if let Some(route) = request.extensions().get::<Route>() {
        key = match route.is_empty() {
            true => key,
            false => key.route(route),
        };
    }
    key.into()
}
