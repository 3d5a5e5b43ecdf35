//! Keys from URIs: what makes two requests share connections depends on nothing but the scheme, the host and the port,
//! and is found again by borrowed parts.
#![no_main]

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use http::Uri;
use libfuzzer_sys::fuzz_target;
use tower_keep_alive::{Key, connect::Destination, custom::{KeyRef, Target}};

fn hash(key: KeyRef<'_>) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(key)
}

fn uri(text: &[u8]) -> Option<Uri> {
    Uri::try_from(text).ok()
}

fn same(a: &Uri, b: &Uri) -> bool {
    let same = Key::from(a.key()) == b.key();
    assert_eq!(same, Key::from(b.key()) == a.key());
    assert_eq!(same, Key::from(a.key()) == Key::from(b.key()));
    if same {
        assert_eq!(hash(a.key()), hash(b.key()), "equal, and not found");
    }
    same
}

fuzz_target!(|data: &[u8]| {
    // Two of them, a line each.
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let Some(first) = lines.next().and_then(uri) else {
        return;
    };
    let key = Key::from(first.key());
    assert!(same(&first, &first));
    assert_eq!(key.host(), key.host().to_ascii_lowercase());
    assert_eq!(key.scheme(), key.scheme().to_ascii_lowercase());
    let _ = format!("{key} {key:?}");

    // A key's own parts lead to it, and so does the destination of a request.
    let parts = KeyRef::new(key.scheme(), key.host(), Some(key.port()));
    assert!(key == parts && hash(parts) == hash(first.key()));
    if let Ok(destination) = Destination::try_from(first.clone()) {
        assert!(
            key == destination.key(),
            "{key} is not {:?}",
            destination.key()
        );
        assert_eq!(hash(destination.key()), hash(first.key()));
        assert!(same(&first, &Uri::from(destination)));
    }

    if let (Some(scheme), Some(authority)) = (first.scheme_str(), first.authority()) {
        let authority = authority.as_str();
        // Neither who asks, nor for what, nor in which letters.
        let bare = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        for other in [
            format!("{scheme}://{bare}"),
            format!("{scheme}://{bare}/another?path"),
            format!("{scheme}://me@{bare}/"),
            format!(
                "{}://{}/",
                scheme.to_ascii_uppercase(),
                bare.to_ascii_uppercase()
            ),
        ] {
            if let Ok(other) = Uri::try_from(other.as_str()) {
                assert!(same(&first, &other), "{first} and {other}");
            }
        }
        // Another host is another key.
        if let Ok(other) = Uri::try_from(format!("{scheme}://x{bare}/")) {
            assert!(
                other.host() == first.host() || !same(&first, &other),
                "{first} and {other}"
            );
        }
    }

    // Two keys are the same if their parts are.
    if let Some(second) = lines.next().and_then(uri) {
        let other = Key::from(second.key());
        let equal = key.scheme() == other.scheme()
            && key.host() == other.host()
            && key.port() == other.port();
        assert_eq!(same(&first, &second), equal, "{first} and {second}");
    }
});
