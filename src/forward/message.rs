//! Rewrites a request for the upstream, and its response for the caller.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
    VIA,
};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::ext::ReasonPhrase;
use hyper::upgrade::OnUpgrade;

use crate::forward::fields::{HopByHop, add_to_list, has_token, joined, set, set_framing};
use crate::forward::layer::Settings;
use crate::forward::upgrade::{Offer, announce};
use crate::forward::upstream::without_user;

/// What is remembered about a request until its response arrives.
#[derive(Debug)]
pub(super) struct Asked {
    offer: Option<Offer>,
    connects: bool,
}

/// Rewrites a request for the upstream.
pub(super) fn outbound<B: Body>(request: Request<B>, settings: &Settings) -> (Request<B>, Asked) {
    let (mut head, body) = request.into_parts();
    // First everything that depends on the caller's request as it came.
    let uri = settings.upstream_of(&head).join(&head.uri);
    let address = settings.forwarded.address_of(&head);
    let host = match settings.preserve_host || settings.forwarded.host {
        true => host_of(&head),
        false => None,
    };
    let hop_by_hop = HopByHop::of(&head.headers);
    let offer = match settings.upgrades && hop_by_hop.has(&UPGRADE) {
        true => Offer::take(&mut head),
        false => None,
    };
    let takes_trailers = hop_by_hop.has(&TE) && has_token(&head.headers, &TE, "trailers");

    hop_by_hop.remove_from(&mut head.headers);
    if head.version <= Version::HTTP_10 {
        // RFC 9110 §10.1.1: the expectation of such a caller must be ignored, because it cannot wait for a 100.
        head.headers.remove(EXPECT);
    }
    if let Some(offer) = &offer {
        offer.ask(&mut head.headers);
    } else if takes_trailers {
        // RFC 9110 §10.1.4: `TE` requires the connection option.
        set(&mut head.headers, TE, HeaderValue::from_static("trailers"));
        set(
            &mut head.headers,
            CONNECTION,
            HeaderValue::from_static("te"),
        );
    }
    if head.version > Version::HTTP_11
        && let Some(cookies) = joined(&head.headers, &COOKIE, b"; ")
    {
        set(&mut head.headers, COOKIE, cookies);
    }
    match (&host, settings.preserve_host) {
        (Some(host), true) => set(&mut head.headers, HOST, host.clone()),
        (None, true) => {}
        // The client sets `Host` from the URI.
        (_, false) => drop(head.headers.remove(HOST)),
    }
    if let Some(name) = &settings.via {
        add_to_list(&mut head.headers, VIA, &received_by(head.version, name));
    }
    settings
        .forwarded
        .add_to(&mut head.headers, address, host.as_ref());

    // hyper's client sends a GET without its body if the length is unknown and no field announces the body.
    if !body.is_end_stream()
        && body.size_hint().exact().is_none()
        && !head.headers.contains_key(CONTENT_LENGTH)
        && !head.headers.contains_key(TRANSFER_ENCODING)
    {
        let chunked = HeaderValue::from_static("chunked");
        set_framing(&mut head.headers, TRANSFER_ENCODING, chunked);
    }
    let connects = head.method == Method::CONNECT;
    head.uri = uri;
    head.version = Version::HTTP_11;
    (Request::from_parts(head, body), Asked { offer, connects })
}

/// Rewrites a response of the upstream for the caller.
pub(super) fn inbound<R>(response: &mut Response<R>, asked: Asked, settings: &Settings) {
    let Asked { offer, connects } = asked;
    let status = response.status();
    let received = response.version();
    *response.version_mut() = Version::HTTP_11;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let agreed = offer.and_then(|offer| Some((offer.agreed(response.headers())?, offer)));
        let Some((protocols, offer)) = agreed else {
            return refuse(response, StatusCode::BAD_GATEWAY);
        };
        HopByHop::of(response.headers()).remove_from(response.headers_mut());
        announce(response.headers_mut(), protocols);
        offer.connect(response.extensions_mut());
    } else if connects && status.is_success() {
        return refuse(response, StatusCode::NOT_IMPLEMENTED);
    } else {
        // RFC 9110 §15.5.22: a 426 names the protocols to upgrade to.
        let wanted = match status == StatusCode::UPGRADE_REQUIRED && settings.upgrades {
            true => joined(response.headers(), &UPGRADE, b", "),
            false => None,
        };
        HopByHop::of(response.headers()).remove_from(response.headers_mut());
        if let Some(protocols) = wanted {
            announce(response.headers_mut(), protocols);
        }
    }
    if let Some(name) = &settings.via {
        add_to_list(response.headers_mut(), VIA, &received_by(received, name));
    }
}

/// Replaces a response that must not be passed on. The body stays: such a response has none on the wire.
fn refuse<R>(response: &mut Response<R>, status: StatusCode) {
    *response.status_mut() = status;
    response.headers_mut().clear();
    response.extensions_mut().remove::<ReasonPhrase>();
    // Dropping the upgrade closes the upstream's connection.
    response.extensions_mut().remove::<OnUpgrade>();
}

/// The host that the caller asked for: the authority of the request's URI, which has precedence over `Host` (RFC 9112
/// §3.2.2, RFC 9113 §8.3.1).
fn host_of(head: &Parts) -> Option<HeaderValue> {
    match head.uri.authority() {
        Some(authority) => HeaderValue::from_str(without_user(authority)).ok(),
        None => head.headers.get(HOST).cloned(),
    }
}

/// One entry of `Via` (RFC 9110 §7.6.3).
fn received_by(version: Version, name: &str) -> Vec<u8> {
    let version = match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        Version::HTTP_3 => "3.0",
        _ => "1.1",
    };
    format!("{version} {name}").into_bytes()
}
