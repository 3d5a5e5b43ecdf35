//! Chooses the version of HTTP for a transport.

use crate::connect::transport::Negotiated;
use crate::error::connect::ConnectError;
use crate::target::protocol::Protocol;

/// The version of HTTP on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    Http2,
}

/// Chooses the version for `host` from the wanted protocol and from what the transport has negotiated.
pub(super) fn choose(
    wanted: Protocol,
    negotiated: Negotiated,
    host: &str,
) -> Result<Spoken, ConnectError> {
    let not = |why: String| Err(ConnectError::Protocol(why.into(), None));
    match (wanted, negotiated) {
        (Protocol::Http1 | Protocol::Auto, Negotiated::Untold | Negotiated::Nothing)
        | (Protocol::Http1 | Protocol::Auto, Negotiated::Http1) => Ok(Spoken::Http1),
        (Protocol::Http2 | Protocol::Auto, Negotiated::Http2)
        | (Protocol::Http2, Negotiated::Untold) => Ok(Spoken::Http2),
        (Protocol::Http1, Negotiated::Http2) => not(format!(
            "speak HTTP/1.1 with {host}: the connector has agreed on HTTP/2 with it; have it offer http/1.1 alone, or set the \
             protocol of HandshakeLayer, KeepAliveLayer or Route to Auto"
        )),
        (Protocol::Http2, Negotiated::Nothing) => not(format!(
            "speak HTTP/2 with {host}: the server has chosen no protocol, as one that speaks only HTTP/1.1; set the protocol of \
             HandshakeLayer, KeepAliveLayer or Route to Auto"
        )),
        (Protocol::Http2, Negotiated::Http1) => not(format!(
            "speak HTTP/2 with {host}: HTTP/1.1 was agreed on; have the connector offer h2 (TlsLayer::protocol), or set the \
             protocol of HandshakeLayer, KeepAliveLayer or Route to Auto"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_agreed_on_is_spoken_where_it_is_wanted() {
        use Negotiated::{Http1, Http2, Nothing, Untold};
        for (wanted, negotiated, spoken) in [
            (Protocol::Http1, Untold, Some(Spoken::Http1)),
            (Protocol::Http1, Nothing, Some(Spoken::Http1)),
            (Protocol::Http1, Http1, Some(Spoken::Http1)),
            (Protocol::Http1, Http2, None),
            (Protocol::Auto, Untold, Some(Spoken::Http1)),
            (Protocol::Auto, Nothing, Some(Spoken::Http1)),
            (Protocol::Auto, Http1, Some(Spoken::Http1)),
            (Protocol::Auto, Http2, Some(Spoken::Http2)),
            (Protocol::Http2, Untold, Some(Spoken::Http2)),
            (Protocol::Http2, Nothing, None),
            (Protocol::Http2, Http1, None),
            (Protocol::Http2, Http2, Some(Spoken::Http2)),
        ] {
            let chosen = choose(wanted, negotiated, "h.test");
            assert_eq!(
                chosen.as_ref().ok(),
                spoken.as_ref(),
                "{wanted} {negotiated:?}"
            );
            if let Err(error) = chosen {
                let text = error.to_string();
                assert!(
                    text.contains("h.test") && text.contains("HandshakeLayer"),
                    "{text}"
                );
            }
        }
    }
}
