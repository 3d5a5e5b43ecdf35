//! Resolves a host to the addresses to try.

use std::any::Any;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};

use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

use crate::error::BoxError;
use crate::error::connect::{ConnectError, reason};
use crate::target::lookup::Lookup;
use crate::target::resolved_addrs::ResolvedAddrs;
use crate::target::route::Family;

/// The addresses of a host, at least one, in the resolver's order, without those of another family, and each with the
/// port to connect to.
///
/// The port is the URI's, if the caller wrote one; otherwise the resolver's, if it is not 0 (as in hyper-util's
/// `HttpConnector`); otherwise the default of the scheme.
///
/// # Errors
///
/// The resolver's error, or an error if the name has no usable address. The text names the host.
pub(crate) async fn resolve<R>(
    resolver: &mut R,
    lookup: &Lookup,
) -> Result<ResolvedAddrs, ConnectError>
where
    R: Service<Name>,
    R::Response: Iterator<Item = SocketAddr> + 'static,
    R::Error: Into<BoxError>,
{
    let Lookup { host, port, .. } = lookup;
    let fits = |address: IpAddr| {
        lookup
            .family
            .is_none_or(|family| Family::of(address) == family)
    };
    let kind = lookup
        .family
        .map_or(String::new(), |family| format!("{family} "));
    if let Some(address) = literal(lookup) {
        if fits(address) {
            return Ok(ResolvedAddrs::new([SocketAddr::new(address, *port)]));
        }
        return Err(ConnectError::new(format!(
            "connect: {address} is no {kind}address"
        )));
    }
    let cannot = |error: BoxError| {
        let tried = format!("resolve {host}: {}", describe(&error));
        ConnectError::Lookup(tried.into(), Some(error))
    };
    // RFC 6874: in a URI, the `%` before the zone of an address is written as `%25`.
    let written = host.replacen("%25", "%", usize::from(host.contains(':')));
    let name: Name = written.parse().map_err(|error| cannot(Box::new(error)))?;
    poll_fn(|cx| resolver.poll_ready(cx))
        .await
        .map_err(|error| cannot(error.into()))?;
    let found = resolver.call(name).await;
    let found = found.map_err(|error| cannot(error.into()))?;
    // A resolver may return any iterator. Only this one has a TTL.
    let ttl = (&found as &dyn Any)
        .downcast_ref::<ResolvedAddrs>()
        .and_then(ResolvedAddrs::ttl);
    let fitting = found.filter(|address| fits(address.ip()));
    let found = ResolvedAddrs::new(fitting.map(|mut address| {
        if lookup.has_port || address.port() == 0 {
            address.set_port(*port);
        }
        address
    }));
    if found.as_slice().is_empty() {
        let why = format!("connect: {host} has no {kind}address");
        return Err(ConnectError::Lookup(why.into(), None));
    }
    Ok(match ttl {
        Some(ttl) => found.with_ttl(ttl),
        None => found,
    })
}

fn describe(error: &BoxError) -> String {
    match error.downcast_ref() {
        Some(io) => reason(io),
        None => error.to_string(),
    }
}

/// The host, if it is an address.
pub(super) fn literal(lookup: &Lookup) -> Option<IpAddr> {
    lookup.host.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::ready;
    use std::time::Duration;

    use super::*;

    /// What is found for a host that the resolver says has these addresses.
    async fn found(lookup: Lookup, given: &[&str]) -> Result<Vec<String>, String> {
        let given: Vec<SocketAddr> = given.iter().map(|it| it.parse().unwrap()).collect();
        let mut resolver = tower::service_fn(|name: Name| {
            assert_eq!(name.as_str(), "host.test");
            ready(Ok::<_, Infallible>(given.clone().into_iter()))
        });
        let found = resolve(&mut resolver, &lookup).await;
        let found = found.map_err(|error| error.to_string())?;
        Ok(found.map(|address| address.to_string()).collect())
    }

    fn lookup(host: &str, has_port: bool, family: Option<Family>) -> Lookup {
        Lookup {
            host: host.to_owned(),
            port: 81,
            has_port,
            family,
        }
    }

    #[tokio::test]
    async fn the_uris_port_goes_before_the_resolvers_and_that_before_the_default() {
        let given = ["192.0.2.7:0", "[2001:db8::7]:82"];
        for (has_port, expected) in [
            (true, ["192.0.2.7:81", "[2001:db8::7]:81"]),
            (false, ["192.0.2.7:81", "[2001:db8::7]:82"]),
        ] {
            let lookup = lookup("host.test", has_port, None);
            assert_eq!(found(lookup, &given).await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn an_answer_keeps_its_ttl() {
        let ttl = Duration::from_secs(7);
        let given = ResolvedAddrs::new([([192, 0, 2, 7], 0).into()]).with_ttl(ttl);
        let mut resolver = tower::service_fn(|_: Name| ready(Ok::<_, Infallible>(given.clone())));
        let lookup = lookup("host.test", true, None);
        let found = resolve(&mut resolver, &lookup).await.unwrap();
        assert_eq!((found.ttl(), found.len()), (Some(ttl), 1));
    }

    #[tokio::test]
    async fn a_host_that_is_an_address_is_not_asked_for() {
        for (host, address) in [("192.0.2.7", "192.0.2.7:81"), ("::1", "[::1]:81")] {
            assert_eq!(
                found(lookup(host, false, None), &[]).await.unwrap(),
                [address]
            );
        }
    }

    #[tokio::test]
    async fn addresses_of_another_family_are_left_out() {
        let given = ["[2001:db8::7]:0", "192.0.2.7:0", "192.0.2.8:0"];
        let v4 = Some(Family::V4);
        let lookup = |host| lookup(host, false, v4);
        let left = found(lookup("host.test"), &given).await.unwrap();
        assert_eq!(left, ["192.0.2.7:81", "192.0.2.8:81"]);
        for (host, given, told) in [
            (
                "host.test",
                &given[..1],
                "connect: host.test has no IPv4 address",
            ),
            ("::1", &[], "connect: ::1 is no IPv4 address"),
        ] {
            assert_eq!(found(lookup(host), given).await.unwrap_err(), told);
        }
    }
}
