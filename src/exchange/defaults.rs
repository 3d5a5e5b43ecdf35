//! Defaults for requests that do not set them themselves.

use std::sync::Arc;

use http::Request;

use crate::agent::HostOverrides;
use crate::target::Target;
use crate::target::extensions::{Partition, RequestTimeout, ResponseTimeout};
use crate::target::key::Key;
use crate::target::route::Route;

/// `None` for most services.
#[derive(Clone, Debug, Default)]
pub(super) struct Defaults(Option<Arc<Said>>);

#[derive(Clone, Debug, Default)]
struct Said {
    route: Option<Route>,
    /// Hosts with limits of their own for exchanges.
    hosts: Option<HostOverrides>,
}

impl Defaults {
    pub(super) const NONE: Self = Self(None);

    pub(super) fn set_route(&mut self, route: Route) {
        self.said().route = Some(route);
    }

    pub(super) fn set_hosts(&mut self, hosts: HostOverrides) {
        self.said().hosts = Some(hosts);
    }

    /// Adds the defaults that the request does not set itself.
    pub(super) fn give<B>(&self, request: &mut Request<B>) {
        if let Some(said) = &self.0 {
            said.say(request);
        }
    }

    pub(super) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    fn said(&mut self) -> &mut Said {
        Arc::make_mut(self.0.get_or_insert_default())
    }
}

impl Said {
    fn say<B>(&self, request: &mut Request<B>) {
        if let Some(route) = &self.route {
            let extensions = request.extensions_mut();
            extensions.get_or_insert_with(|| route.clone());
        }
        if let Some(hosts) = &self.hosts {
            let found = hosts.find(&key_of(request));
            let extensions = request.extensions_mut();
            let found = found.unwrap_or_default();
            if let Some(max) = found.get_request_timeout() {
                extensions.get_or_insert_with(|| RequestTimeout(max));
            }
            if let Some(max) = found.get_response_timeout() {
                extensions.get_or_insert_with(|| ResponseTimeout(max));
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
