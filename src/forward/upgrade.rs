//! Upgrades: what is offered, whether the answer fits, and the two streams behind it.

use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Extensions, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use crate::forward::fields::{has_token, joined, set, tokens};

/// An upgrade that a request asks for.
#[derive(Debug)]
pub(super) struct Offer {
    /// The protocols, as a field of the request.
    protocols: HeaderValue,
    /// The caller's stream; none where the request is not from hyper's server.
    caller: Option<OnUpgrade>,
}

impl Offer {
    /// Takes the offer off a request that makes one (RFC 9110 §7.8: one of HTTP/1.0 cannot).
    pub(super) fn take(request: &mut Parts) -> Option<Self> {
        let fields = &request.headers;
        if !fields.contains_key(UPGRADE)
            || request.version != Version::HTTP_11
            || !has_token(fields, &CONNECTION, "upgrade")
            || has_token(fields, &UPGRADE, "h2c")
        {
            return None;
        }
        Some(Self {
            protocols: joined(fields, &UPGRADE, b", ")?,
            caller: request.extensions.remove(),
        })
    }

    /// Asks the next server for the same.
    pub(super) fn ask(&self, fields: &mut HeaderMap) {
        announce(fields, self.protocols.clone());
    }

    /// The protocols of an answer, if it names some and all were offered.
    pub(super) fn agreed(&self, answer: &HeaderMap) -> Option<HeaderValue> {
        let offered = |protocol: &[u8]| {
            let mut offers = self.protocols.as_bytes().split(|&byte| byte == b',');
            offers.any(|it| it.trim_ascii().eq_ignore_ascii_case(protocol))
        };
        let mut agreed = tokens(answer, &UPGRADE).peekable();
        agreed.peek()?;
        agreed
            .all(offered)
            .then(|| joined(answer, &UPGRADE, b", "))?
    }

    /// Connects the caller with the upstream, if both streams are there. What is not stays with the response.
    pub(super) fn connect(self, answer: &mut Extensions) {
        if let Some(caller) = self.caller
            && let Some(upstream) = answer.remove::<OnUpgrade>()
        {
            tokio::spawn(copy(caller, upstream));
        }
    }
}

/// `Connection: upgrade` and `Upgrade`.
pub(super) fn announce(fields: &mut HeaderMap, protocols: HeaderValue) {
    set(fields, CONNECTION, HeaderValue::from_static("upgrade"));
    set(fields, UPGRADE, protocols);
}

/// Copies both ways until both sides have ended what they send, or either fails. It has nothing but the two streams: each
/// ends with its server or its agent.
async fn copy(caller: OnUpgrade, upstream: OnUpgrade) {
    // Either fails where its connection does before it is upgraded; the other is closed by its drop.
    let Ok(upstream) = upstream.await else { return };
    let Ok(caller) = caller.await else { return };
    let (mut caller, mut upstream) = (TokioIo::new(caller), TokioIo::new(upstream));
    // Whoever has failed is closed with the other; there is nobody left to be told.
    copy_bidirectional(&mut caller, &mut upstream).await.ok();
}
