//! Upgrades: the offer of a request, whether the answer matches it, and copying between the two streams.

use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Extensions, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use crate::forward::fields::{has_token, joined, set, tokens};

/// An upgrade that a request offers.
#[derive(Debug)]
pub(super) struct Offer {
    /// The offered protocols, as the value of `Upgrade`.
    protocols: HeaderValue,
    /// The caller's stream; `None` if the request does not come from hyper's server.
    caller: Option<OnUpgrade>,
}

impl Offer {
    /// Takes the offer out of a request with an `Upgrade`. A request of HTTP/1.0 cannot make one (RFC 9110 §7.8).
    pub(super) fn take(request: &mut Parts) -> Option<Self> {
        let fields = &request.headers;
        if request.version != Version::HTTP_11
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

    /// Makes the same offer to the upstream.
    pub(super) fn ask(&self, fields: &mut HeaderMap) {
        announce(fields, self.protocols.clone());
    }

    /// The protocols of an answer, if it names at least one and all of them were offered.
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

    /// Connects the caller with the upstream, if both streams are there. A stream without its counterpart stays with
    /// the response.
    pub(super) fn connect(self, answer: &mut Extensions) {
        if let Some(caller) = self.caller
            && let Some(upstream) = answer.remove::<OnUpgrade>()
        {
            tokio::spawn(copy(caller, upstream));
        }
    }
}

/// Sets `Connection: upgrade` and `Upgrade`.
pub(super) fn announce(fields: &mut HeaderMap, protocols: HeaderValue) {
    set(fields, CONNECTION, HeaderValue::from_static("upgrade"));
    set(fields, UPGRADE, protocols);
}

/// Copies in both directions until both sides have stopped sending, or either fails. The task owns nothing but the two
/// streams, so each ends with its server or its agent.
async fn copy(caller: OnUpgrade, upstream: OnUpgrade) {
    // Either fails if its connection fails before the upgrade; dropping the other one closes it.
    let Ok(upstream) = upstream.await else { return };
    let Ok(caller) = caller.await else { return };
    let (mut caller, mut upstream) = (TokioIo::new(caller), TokioIo::new(upstream));
    // If one side fails, both are closed by their drop; there is nobody to report the error to.
    copy_bidirectional(&mut caller, &mut upstream).await.ok();
}
