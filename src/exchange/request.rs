//! Prepares a request for its origin.

use std::mem;

use http::header::{CONTENT_LENGTH, HOST, HeaderValue};
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{Extensions, HeaderMap, Method, Request, Uri, Version};
use http_body::Body;

use crate::connection::timings::Recorder;
use crate::exchange::defaults::HostTimeouts;
use crate::exchange::extras::Extras;
use crate::exchange::layer::{Settings, Timeouts};
use crate::exchange::time_limits::TimeLimits;
use crate::exchange::{credentials, fields, to_proxy, version};
use crate::target::extensions::{
    InactivityTimeout, OnFreshConnection, OneShot, Partition, RecordTimings, RequestTimeout,
    ResponseTimeout, is_repeatable,
};
use crate::target::invalid::TargetError;
use crate::target::protocol::Protocol;
use crate::target::route::Route;
use crate::target::{Destination, Origin, Reuse, Target};

/// Takes the origin out of the request's URI, and leaves the target that is sent. Adds the time limits of the exchange to
/// `extras`, if it has any.
#[inline]
pub(super) fn split_origin<B: Body>(
    request: &mut Request<B>,
    settings: &Settings,
    destination: &mut Option<Destination>,
    extras: &mut Option<Box<Extras>>,
) -> Result<(), TargetError> {
    settings.set_defaults(request);
    check_fields(request)?;
    if !request.headers().is_empty() {
        fields::name_te(request.headers_mut());
    }
    let connects = request.method() == Method::CONNECT;
    let has_extensions = !request.extensions().is_empty();
    let route = match has_extensions {
        true => request.extensions_mut().remove::<Route>(),
        false => None,
    };
    if let Some(route) = &route {
        default_to_localhost(request.uri_mut(), route);
    }
    let mut origin = Origin::of(request.uri(), connects)?;
    if origin.may_have_user() {
        origin = without_user(request, connects)?;
    }
    let path = request.uri().path_and_query().cloned();
    let form = path.map_or_else(Uri::default, Uri::from);
    let asked = mem::replace(request.uri_mut(), form);
    if !connects && !is_origin_form(request.uri()) {
        repair(request)?;
    }
    let destination = destination.insert(Destination::new(asked, origin));
    if let Some(route) = route {
        destination.set_route(route);
        to_proxy::prepare(request.headers_mut(), destination, connects)?;
    }
    if connects {
        let target = destination.authority().clone();
        name_target(request.headers_mut(), &target)?;
        *request.uri_mut() = Uri::from(target);
    } else if !destination.is_https() && (destination.is_read_by_proxy() || settings.absolute_form)
    {
        destination.set_read_by_proxy();
        *request.uri_mut() = absolute_form(destination, request.uri().path_and_query());
    }
    if request.version() != Version::HTTP_11
        || destination.spoken(settings.protocol) != Protocol::Http1
    {
        version::settle(request, settings.protocol, destination)?;
    }
    if (has_extensions || settings.affects_requests())
        && let Some(limits) = apply_settings(request, settings, destination)
    {
        extras.get_or_insert_default().limits = Some(limits);
    }
    Ok(())
}

/// RFC 9112 §3.2.1: a path, which begins with a slash, and a query. http accepts any UTF-8 for these, and an empty
/// path.
#[inline]
fn is_origin_form(form: &Uri) -> bool {
    form.path().starts_with('/')
        && form
            .path_and_query()
            .is_none_or(|it| it.as_str().is_ascii())
}

/// Takes the user information out of the URI; the origin is what remains.
#[cold]
fn without_user<B>(request: &mut Request<B>, connects: bool) -> Result<Origin, TargetError> {
    credentials::take(request)?;
    Origin::of(request.uri(), connects)
}

/// Converts a target that is not in origin form: `*` is a form of its own, and the others are written as in RFC 3986.
#[cold]
fn repair<B>(request: &mut Request<B>) -> Result<(), TargetError> {
    let form = request.uri();
    let path = form.path();
    if path == "*" {
        let why = "the target * is for the method OPTIONS alone";
        return match *request.method() {
            Method::OPTIONS => Ok(()),
            _ => Err(TargetError::Method(why)),
        };
    }
    if path.is_empty() {
        *request.uri_mut() = Uri::default();
        return Ok(());
    }
    let query = form.query().map(|it| format!("?{it}")).unwrap_or_default();
    let whole = format!("{path}{query}");
    let encoded = percent_encoding::utf8_percent_encode(&whole, percent_encoding::CONTROLS);
    let encoded = PathAndQuery::try_from(encoded.to_string());
    *request.uri_mut() = encoded.map(Uri::from).map_err(|_| TargetError::TooLong)?;
    Ok(())
}

/// Sets what the request and the settings require of the connection.
#[cold]
fn apply_settings<B>(
    request: &mut Request<B>,
    settings: &Settings,
    destination: &mut Destination,
) -> Option<Box<TimeLimits>> {
    let options = settings.options();
    let mut timeouts = options.timeouts();
    read_extensions(request.extensions_mut(), destination, &mut timeouts);
    if options.fresh_for_non_idempotent
        && destination.reuse() == Reuse::Any
        && !is_repeatable(request)
    {
        destination.set_reuse(Reuse::FreshUnlessShared);
    }
    // A tunnel leaves the pool by itself, as an upgrade does.
    let tunnels = request.method() == Method::CONNECT;
    if !tunnels && (destination.reuse() == Reuse::Never || !settings.keep_alive) {
        fields::put_connection_close(request.headers_mut());
    }
    let timed = request.extensions_mut().remove::<RecordTimings>().is_some() || options.timings;
    let recorder = timed.then(Recorder::begin);
    (timed || timeouts.are_wanted()).then(|| TimeLimits::begin(timeouts, recorder))
}

/// The `Host` of a CONNECT is its target, which always has a port (RFC 9110 §9.3.6, RFC 9112 §3.2).
#[cold]
fn name_target(headers: &mut HeaderMap, target: &Authority) -> Result<(), TargetError> {
    match headers.get(HOST) {
        Some(own)
            if own
                .as_bytes()
                .eq_ignore_ascii_case(target.as_str().as_bytes()) => {}
        Some(_) => {
            let why = "with CONNECT it has to be the target, with its port: leave it out";
            return Err(TargetError::Header("host", why));
        }
        None => {
            if let Ok(host) = HeaderValue::try_from(target.as_str()) {
                headers.insert(HOST, host);
            }
        }
    }
    Ok(())
}

/// A request over a Unix socket needs no origin: the default is `http://localhost`.
#[cold]
fn default_to_localhost(uri: &mut Uri, route: &Route) {
    if uri.scheme().is_none() && uri.authority().is_none() && route.unix_path().is_some() {
        let mut parts = mem::take(uri).into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(Authority::from_static("localhost"));
        let root = || PathAndQuery::from_static("/");
        parts.path_and_query.get_or_insert_with(root);
        *uri = Uri::from_parts(parts).expect("a path makes a URI with an origin");
    }
}

/// Reads the extensions that are for the agent only.
fn read_extensions(
    extensions: &mut Extensions,
    destination: &mut Destination,
    timeouts: &mut Timeouts,
) {
    if let Some(of_host) = extensions.remove::<HostTimeouts>() {
        timeouts.request = of_host.request.unwrap_or(timeouts.request);
        timeouts.response = of_host.response.unwrap_or(timeouts.response);
    }
    if let Some(RequestTimeout(max)) = extensions.remove() {
        timeouts.request = max;
        timeouts.blame.request = false;
    }
    if let Some(ResponseTimeout(max)) = extensions.remove() {
        timeouts.response = max;
        timeouts.blame.response = false;
    }
    if let Some(partition) = extensions.remove::<Partition>() {
        destination.set_partition(partition);
    }
    if let Some(InactivityTimeout(max)) = extensions.remove() {
        destination.set_connect_timeout(max);
    }
    if extensions.remove::<OnFreshConnection>().is_some() {
        destination.set_reuse(Reuse::Fresh);
    }
    if extensions.remove::<OneShot>().is_some() {
        destination.set_reuse(Reuse::Never);
    }
}

/// A `HeaderMap` has room for 24,576 names, and panics at the next one: some are reserved for the fields that are added
/// here.
const MOST_FIELDS: usize = 24_000;

/// Rejects fields that would leave the server waiting for bytes that never come, or uncertain about the host.
#[inline]
fn check_fields<B: Body>(request: &Request<B>) -> Result<(), TargetError> {
    let fields = request.headers();
    if fields.is_empty() {
        return Ok(());
    }
    if fields.keys_len() > MOST_FIELDS {
        return Err(TargetError::TooManyFields(MOST_FIELDS));
    }
    let mut lengths = fields.get_all(CONTENT_LENGTH).iter();
    if let Some(first) = lengths.next() {
        let wrong = |why| Err(TargetError::Header("content-length", why));
        let length = first.to_str().ok().filter(|it| is_digits(it));
        let Some(length) = length.and_then(|it| it.parse::<u64>().ok()) else {
            return wrong("it is not a number");
        };
        if lengths.any(|other| other != first) {
            return wrong("it is there more than once, with different values");
        }
        if fields::length_of(request.body()).is_some_and(|it| it != length) {
            return wrong("the body has another length");
        }
    }
    if fields.get_all(HOST).iter().nth(1).is_some() {
        return Err(TargetError::Header("host", "it is there more than once"));
    }
    Ok(())
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn absolute_form(destination: &Destination, path: Option<&PathAndQuery>) -> Uri {
    let mut form = Parts::default();
    form.scheme = Some(destination.scheme().clone());
    form.authority = Some(destination.authority().clone());
    let root = || PathAndQuery::from_static("/");
    form.path_and_query = Some(path.cloned().unwrap_or_else(root));
    Uri::from_parts(form).expect("a scheme, an authority and a path make a URI")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{Empty, Full};

    use super::*;
    use crate::exchange::ExchangeLayer;
    use crate::target::key::Key;

    fn settings(layer: ExchangeLayer) -> Settings {
        layer.settings()
    }

    fn aimed(method: &str, uri: &str, settings: &Settings) -> Result<String, TargetError> {
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .body(Empty::<Bytes>::new())
            .unwrap();
        split_origin(&mut request, settings, &mut None, &mut None)?;
        Ok(request.uri().to_string())
    }

    #[test]
    fn the_target_goes_out_in_its_form() {
        let plain = settings(ExchangeLayer::new());
        let proxied = settings(ExchangeLayer::new().absolute_form(true));
        for (method, uri, layer, sent) in [
            ("GET", "http://h", &plain, "/"),
            ("GET", "http://h/", &plain, "/"),
            ("GET", "http://h?q=1", &plain, "/?q=1"),
            ("GET", "http://u:p@h:81/a/b?c=d", &plain, "/a/b?c=d"),
            ("GET", "http://u:p@h:81/a", &proxied, "http://h:81/a"),
            ("GET", "https://h/a", &proxied, "/a"),
            ("CONNECT", "h:443", &plain, "h:443"),
            ("CONNECT", "http://u@h:8080/", &plain, "h:8080"),
        ] {
            assert_eq!(aimed(method, uri, layer).unwrap(), sent, "{method} {uri}");
        }
    }

    #[test]
    fn a_connect_is_sent_in_the_clear_unless_its_uri_says_https() {
        for (uri, host, key) in [
            ("h:443", "h:443", "h:443:"),
            ("h:80", "h:80", "h:80:"),
            ("me:secret@[::1]:443", "[::1]:443", "::1:443:"),
            ("http://h:443/", "h:443", "h:443:"),
            ("https://h:443/", "h:443", "https:h:443:"),
        ] {
            let mut request = Request::connect(uri).body(Empty::<Bytes>::new()).unwrap();
            let mut destination = None;
            let settings = settings(ExchangeLayer::new());
            split_origin(&mut request, &settings, &mut destination, &mut None).unwrap();
            assert_eq!(request.headers()[HOST], host, "{uri}");
            assert_eq!(Key::from(destination.unwrap().key()).to_string(), key);
        }
    }

    #[test]
    fn a_route_to_a_socket_needs_no_origin() {
        for (method, uri, sent) in [
            (Method::GET, Uri::builder().build().unwrap(), "/"),
            (Method::GET, Uri::default(), "/"),
            (Method::GET, Uri::from_static("/here?x=1"), "/here?x=1"),
            (Method::OPTIONS, Uri::from_static("*"), "*"),
        ] {
            let mut request = Request::new(Empty::<Bytes>::new());
            *request.method_mut() = method;
            *request.uri_mut() = uri;
            let route = Route::new().with_unix_path("/run/app.sock");
            request.extensions_mut().insert(route);
            let mut destination = None;
            split_origin(
                &mut request,
                &settings(ExchangeLayer::new()),
                &mut destination,
                &mut None,
            )
            .unwrap();
            assert_eq!(*request.uri(), sent);
            let key = Key::from(destination.unwrap().key());
            assert_eq!(key.to_string(), "localhost:80::/run/app.sock");
        }
    }

    #[test]
    fn what_cannot_be_sent_is_named() {
        let plain = settings(ExchangeLayer::new());
        for (method, uri, why) in [
            ("GET", "/relative", "no scheme"),
            ("GET", "h:80", "no scheme"),
            ("GET", "ftp://h/", "\"ftp\""),
            ("GET", "http://h:99999/", "\"99999\""),
            ("CONNECT", "h", "port"),
        ] {
            let error = aimed(method, uri, &plain).unwrap_err();
            assert!(error.to_string().contains(why), "{uri}: {error}");
        }
    }

    fn refused<B: Body>(mut request: Request<B>) -> TargetError {
        let settings = settings(ExchangeLayer::new());
        split_origin(&mut request, &settings, &mut None, &mut None).unwrap_err()
    }

    #[test]
    fn a_version_that_is_not_spoken_is_named() {
        for (version, why) in [
            (Version::HTTP_09, "HTTP/0.9"),
            (Version::HTTP_2, "HTTP/2.0"),
            (Version::HTTP_3, "HTTP/3.0"),
        ] {
            let request = Request::get("http://h/").version(version);
            let error = refused(request.body(Empty::<Bytes>::new()).unwrap());
            assert!(error.to_string().contains(why), "{error}");
            assert!(error.to_string().contains("Version::HTTP_11"), "{error}");
        }
    }

    #[test]
    fn contradictory_fields_are_named() {
        for (name, values, why) in [
            ("content-length", &["x"][..], "number"),
            ("content-length", &["-1"], "number"),
            ("content-length", &["+2"], "number"),
            ("content-length", &["2", "3"], "different"),
            ("content-length", &["3"], "another length"),
            ("host", &["a", "b"], "more than once"),
        ] {
            let mut request = Request::get("http://h/");
            for value in values {
                request = request.header(name, *value);
            }
            let error = refused(request.body(Full::new(Bytes::from_static(b"ab"))).unwrap());
            assert!(error.to_string().contains(why), "{values:?}: {error}");
            assert!(error.to_string().contains(name), "{values:?}: {error}");
        }
    }

    #[test]
    fn a_request_may_have_as_many_fields_as_there_is_room_for() {
        let mut request = Request::new(Empty::<Bytes>::new());
        for number in 0..MOST_FIELDS {
            let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
            let value = http::HeaderValue::from_static("1");
            request.headers_mut().insert(name, value);
        }
        assert_eq!(check_fields(&request), Ok(()));
        let one_more = http::HeaderValue::from_static("1");
        request.headers_mut().insert("x-one-more", one_more);
        let too_many = TargetError::TooManyFields(MOST_FIELDS);
        assert_eq!(check_fields(&request), Err(too_many));
    }
}
