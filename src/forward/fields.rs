//! Hop-by-hop fields, and lists of tokens.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};

/// The names of a message's hop-by-hop fields: those of RFC 9110 §7.6.1, and those that Go's `httputil.ReverseProxy`
/// removes, without `Trailer`, which is end to end.
///
/// Each name in the message is compared once. Most messages have none of these fields, and looking all of them up would
/// take longer than the rest of the rewriting.
pub(super) struct HopByHop(Vec<HeaderName>);

impl HopByHop {
    pub(super) fn of(fields: &HeaderMap) -> Self {
        let names = fields.keys().filter(|name| is_hop_by_hop(name));
        Self(names.cloned().collect())
    }

    pub(super) fn has(&self, name: &HeaderName) -> bool {
        self.0.contains(name)
    }

    /// Removes the hop-by-hop fields, and the fields that `Connection` names.
    pub(super) fn remove_from(self, fields: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        // Read before the named fields are removed: `Connection` may name `Transfer-Encoding`, which frames the message
        // nevertheless.
        let coding = coding_that_stays(fields);
        if self.has(&TRANSFER_ENCODING) {
            // RFC 9112 §6.3: `Transfer-Encoding` overrides `Content-Length`, which must not be passed on then.
            fields.remove(CONTENT_LENGTH);
        }
        let named: Vec<_> = tokens(fields, &CONNECTION)
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            // Every recipient needs the length of the body. `Host` is set after this.
            .filter(|name| *name != CONTENT_LENGTH)
            .collect();
        for name in named.into_iter().chain(self.0) {
            fields.remove(name);
        }
        if let Some(coding) = coding {
            set_framing(fields, TRANSFER_ENCODING, coding);
        }
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            // RFC 9110 §11.7.3: only for the next client.
            | "proxy-authentication-info"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            // RFC 7540 §3.2.1.
            | "http2-settings"
    )
}

/// A transfer coding that hyper has not decoded: the body is still encoded, so the recipient has to know it.
fn coding_that_stays(fields: &HeaderMap) -> Option<HeaderValue> {
    let is_undone =
        |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked") || is(coding, "identity");
    if tokens(fields, &TRANSFER_ENCODING).all(is_undone) {
        return None;
    }
    joined(fields, &TRANSFER_ENCODING, b", ")
}

/// The tokens in all fields of this name. Each field is read by itself, so invalid bytes in one do not hide the tokens
/// of the others.
pub(super) fn tokens<'a>(
    fields: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> {
    fields
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// Whether the fields of this name contain `token`, in any case.
pub(super) fn has_token(fields: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(fields, name).any(|it| is(it, token))
}

pub(super) fn is(token: &[u8], name: &str) -> bool {
    token.eq_ignore_ascii_case(name.as_bytes())
}

/// The values of all fields of this name, joined; `None` if there is no such field.
pub(super) fn joined(
    fields: &HeaderMap,
    name: &HeaderName,
    separator: &[u8],
) -> Option<HeaderValue> {
    let mut values = fields.get_all(name).iter();
    let first = values.next()?;
    let mut is_sensitive = first.is_sensitive();
    let mut bytes = first.as_bytes().to_vec();
    for value in values {
        bytes.extend_from_slice(separator);
        bytes.extend_from_slice(value.as_bytes());
        is_sensitive |= value.is_sensitive();
    }
    let mut whole = HeaderValue::from_maybe_shared(bytes::Bytes::from(bytes)).ok()?;
    whole.set_sensitive(is_sensitive);
    Some(whole)
}

/// Sets a field. A full map (24,576 fields) stays unchanged.
pub(super) fn set(fields: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    fields.try_insert(name, value).ok();
}

/// Sets a field that frames the body. In a full map it replaces another field: a body whose end is read wrongly is
/// worse than a missing field.
pub(super) fn set_framing(fields: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    if fields.try_insert(name.clone(), value.clone()).is_err() {
        let other = fields.keys().find(|it| *it != CONTENT_LENGTH).cloned();
        other.map(|other| fields.remove(other));
        set(fields, name, value);
    }
}

/// Appends `value` to the fields of this name, as one list.
pub(super) fn add_to_list(fields: &mut HeaderMap, name: HeaderName, value: &[u8]) {
    let before = joined(fields, &name, b", ");
    let whole = match &before {
        Some(before) => [before.as_bytes(), b", ", value].concat(),
        None => value.to_vec(),
    };
    if let Ok(whole) = HeaderValue::from_maybe_shared(bytes::Bytes::from(whole)) {
        set(fields, name, whole);
    }
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;

    use super::*;

    #[test]
    fn the_end_of_a_body_is_told_in_a_map_without_room_too() {
        let mut fields = HeaderMap::new();
        let names = (0..).map(|at| HeaderName::try_from(format!("x-{at}")).unwrap());
        for name in names {
            if fields
                .try_append(name, HeaderValue::from_static(""))
                .is_err()
            {
                break;
            }
        }
        let full = fields.keys_len();
        let chunked = HeaderValue::from_static("chunked");
        set(&mut fields, TRANSFER_ENCODING, chunked.clone());
        assert!(!fields.contains_key(TRANSFER_ENCODING), "there is no room");
        set_framing(&mut fields, TRANSFER_ENCODING, chunked);
        assert_eq!(fields[TRANSFER_ENCODING], "chunked");
        assert_eq!(fields.keys_len(), full);
    }

    /// What one of them is not to be shown for, the whole is not.
    #[test]
    fn what_is_joined_of_a_secret_is_a_secret() {
        for secrets in [[false, false], [true, false], [false, true]] {
            let mut fields = HeaderMap::new();
            for (at, secret) in secrets.into_iter().enumerate() {
                let mut value = HeaderValue::from(at);
                value.set_sensitive(secret);
                fields.append(COOKIE, value);
            }
            let whole = joined(&fields, &COOKIE, b"; ").unwrap();
            assert_eq!(whole, "0; 1");
            assert_eq!(whole.is_sensitive(), secrets.contains(&true));
        }
    }
}
