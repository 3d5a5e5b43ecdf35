//! `Keep-Alive` and `Connection` of a response: whatever stands there, it is read without a panic, in one way, and only
//! ever shortens what may be left of the connection.
#![no_main]

use std::time::Duration;

use http::Response;
use http::header::{CONNECTION, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tower_keep_alive::fuzzing::read_hint;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const MARGIN: Duration = Duration::from_secs(1);

type Field = (HeaderName, Vec<u8>);

/// A field a line: those that begin with `!` are `Connection`, the others `Keep-Alive`. What no field can be is left out.
fn fields(data: &[u8]) -> Vec<Field> {
    let lines = data.split(|byte| *byte == b'\n').take(64);
    let fields = lines.map(|line| match line.strip_prefix(b"!") {
        Some(value) => (CONNECTION, value.to_vec()),
        None => (KEEP_ALIVE, line.to_vec()),
    });
    fields
        .filter(|(_, value)| HeaderValue::from_bytes(value).is_ok())
        .collect()
}

fn response(fields: &[Field]) -> Response<()> {
    let mut response = Response::new(());
    for (name, value) in fields {
        let value = HeaderValue::from_bytes(value).expect("looked at before");
        response.headers_mut().append(name, value);
    }
    response
}

fuzz_target!(|data: &[u8]| {
    let mut fields = fields(data);
    let whole = read_hint(&response(&fields), MARGIN);

    // Without the margin it may be idle for so much longer, and nothing else changes.
    let bare = read_hint(&response(&fields), Duration::ZERO);
    assert_eq!(whole.uses, bare.uses);
    assert_eq!(whole.is_last, bare.is_last);
    assert_eq!(
        whole.idle,
        bare.idle.map(|idle| idle.saturating_sub(MARGIN))
    );

    // What stands in one field may stand in several, in any order: a part that cannot be read says nothing about the others.
    let parts = fields.iter().flat_map(|(name, value)| {
        value
            .split(|byte| *byte == b',')
            .map(|part| (name.clone(), part.to_vec()))
    });
    let mut parts: Vec<_> = parts.take(1024).collect();
    let all = parts.len() < 1024;
    parts.reverse();
    assert!(!all || whole == read_hint(&response(&parts), MARGIN));

    // One more word only ever tightens.
    fields.push((KEEP_ALIVE, b"timeout=3, max=2".to_vec()));
    fields.push((CONNECTION, b"close".to_vec()));
    let more = read_hint(&response(&fields), MARGIN);
    assert_eq!(more.uses, Some(whole.uses.unwrap_or(u64::MAX).min(2)));
    let two = Duration::from_secs(2);
    assert_eq!(more.idle, Some(whole.idle.unwrap_or(two).min(two)));
    assert!(more.is_last);
});
