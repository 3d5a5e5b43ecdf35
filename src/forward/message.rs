//! A request as the upstream gets it, and its response as the caller gets it.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
    VIA,
};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::ext::ReasonPhrase;
use hyper::upgrade::OnUpgrade;

use crate::forward::fields::{add_to_list, has_token, joined, remove_hop_by_hop, set, set_framing};
use crate::forward::layer::Settings;
use crate::forward::upgrade::{Offer, announce};
use crate::forward::upstream::without_user;

/// What is to be remembered of a request until its response is here.
#[derive(Debug)]
pub(super) struct Asked {
    offer: Option<Offer>,
    connects: bool,
}

/// Makes a request one for the upstream.
pub(super) fn outbound<B: Body>(request: Request<B>, settings: &Settings) -> (Request<B>, Asked) {
    let (mut head, body) = request.into_parts();
    // What looks at the request as it came is first.
    let uri = settings.upstream_of(&head).join(&head.uri);
    let address = settings.forwarded.address_of(&head);
    let host = match settings.preserve_host || settings.forwarded.host {
        true => host_of(&head),
        false => None,
    };
    let offer = match settings.upgrades {
        true => Offer::take(&mut head),
        false => None,
    };
    let takes_trailers = has_token(&head.headers, &TE, "trailers");

    remove_hop_by_hop(&mut head.headers);
    if head.version <= Version::HTTP_10 {
        // RFC 9110 §10.1.1: such a caller has no 100 to wait for, and its expectation is to be ignored.
        head.headers.remove(EXPECT);
    }
    if let Some(offer) = &offer {
        offer.ask(&mut head.headers);
    } else if takes_trailers {
        // RFC 9110 §10.1.4: never without the connection option.
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
        // The client sets that of the URI.
        (_, false) => drop(head.headers.remove(HOST)),
    }
    if let Some(name) = &settings.via {
        add_to_list(&mut head.headers, VIA, &received_by(head.version, name));
    }
    settings
        .forwarded
        .tell(&mut head.headers, address, host.as_ref());

    // hyper's client sends no body of unknown length with a GET unless it is told to.
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

/// Makes a response of the upstream's one for the caller.
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
        remove_hop_by_hop(response.headers_mut());
        announce(response.headers_mut(), protocols);
        offer.connect(response.extensions_mut());
    } else if connects && status.is_success() {
        return refuse(response, StatusCode::NOT_IMPLEMENTED);
    } else {
        // RFC 9110 §15.5.22: this status says what to upgrade to.
        let wanted = match status == StatusCode::UPGRADE_REQUIRED && settings.upgrades {
            true => joined(response.headers(), &UPGRADE, b", "),
            false => None,
        };
        remove_hop_by_hop(response.headers_mut());
        if let Some(protocols) = wanted {
            announce(response.headers_mut(), protocols);
        }
    }
    if let Some(name) = &settings.via {
        add_to_list(response.headers_mut(), VIA, &received_by(received, name));
    }
}

/// An answer of our own in place of one that must not be passed on. The body is that one's, which has none on the wire.
fn refuse<R>(response: &mut Response<R>, status: StatusCode) {
    *response.status_mut() = status;
    response.headers_mut().clear();
    response.extensions_mut().remove::<ReasonPhrase>();
    // Its connection closes.
    response.extensions_mut().remove::<OnUpgrade>();
}

/// Whom the caller has asked: the authority of the request's URI, which comes before `Host` (RFC 9112 §3.2.2, RFC 9113
/// §8.3.1).
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
