//! No setting is forgotten.

use std::time::Duration;

use hyper::client::conn::http1::Builder;

use crate::agent::{FollowDns, Spread};
use crate::clock::Clock;
#[cfg(feature = "http2")]
use crate::http2::Http2;
use crate::keep_alive::KeepAliveLayer;
use crate::pool::Scheduling;
use crate::target::protocol::Protocol;
use crate::target::route::Route;

type Plain = KeepAliveLayer<()>;

/// Every setting, by its name, with another value than the default.
fn settings() -> Vec<(&'static str, Plain)> {
    const SECOND: Duration = Duration::from_secs(1);
    let mut http1 = Builder::new();
    http1.title_case_headers(true);
    let new = Plain::new;
    let later = || Clock::new(crate::clock::Moment::now);
    vec![
        ("keep_alive", new().keep_alive(false)),
        ("idle_timeout", new().idle_timeout(SECOND)),
        ("active_timeout", new().active_timeout(SECOND)),
        ("connect_timeout", new().connect_timeout(SECOND)),
        ("ttl", new().ttl(SECOND)),
        ("ttl_jitter", new().ttl_jitter(0.5)),
        ("max_uses", new().max_uses(7)),
        (
            "max_connections_per_host",
            new().max_connections_per_host(7),
        ),
        ("max_connections", new().max_connections(7)),
        ("max_idle_per_host", new().max_idle_per_host(7)),
        ("max_idle", new().max_idle(7)),
        ("max_pending_per_host", new().max_pending_per_host(7)),
        ("checkout_timeout", new().checkout_timeout(SECOND)),
        ("hand_over_timeout", new().hand_over_timeout(SECOND)),
        ("scheduling", new().scheduling(Scheduling::Fifo)),
        ("learn_idle_limit", new().learn_idle_limit(false)),
        ("min_idle_per_host", new().min_idle_per_host(7)),
        ("follow_dns", new().follow_dns(FollowDns::default())),
        ("spread", new().spread(Spread::InTurn)),
        ("eject", new().eject(crate::agent::Ejection::new())),
        ("server_hint_margin", new().server_hint_margin(SECOND * 7)),
        ("info_in_extensions", new().info_in_extensions(false)),
        (
            "fresh_for_non_idempotent",
            new().fresh_for_non_idempotent(true),
        ),
        ("drain_unread", new().drain_unread(7, SECOND)),
        (
            "expect_continue_timeout",
            new().expect_continue_timeout(7 * SECOND),
        ),
        ("request_timeout", new().request_timeout(SECOND)),
        ("response_timeout", new().response_timeout(SECOND)),
        ("timings", new().timings(true)),
        ("http1", new().http1(http1)),
        ("protocol", new().protocol(Protocol::Http1)),
        #[cfg(feature = "http2")]
        (
            "http2",
            new().http2(Http2::new().max_streams_per_connection(7)),
        ),
        #[cfg(feature = "http2")]
        ("race_connects", new().race_connects(true)),
        ("max_interim_responses", new().max_interim_responses(7)),
        ("max_response_fields", new().max_response_fields(7)),
        ("name", new().name("seven")),
        ("for_host", new().for_host("h", |host| host.max_idle(7))),
        ("for_key", new().for_key(|_| true, |host| host.max_idle(7))),
        ("clock", new().clock(later())),
        ("route", new().route(Route::new().with_unix_path("/s"))),
    ]
}

fn print<B>(layer: &KeepAliveLayer<B>) -> String {
    format!("{layer:?}")
}

/// That nothing is missing here: each setting is one of these methods.
#[test]
fn every_setting_is_in_the_list() {
    let source = [
        include_str!("limits.rs"),
        include_str!("expiry.rs"),
        include_str!("hosts.rs"),
        include_str!("exchanges.rs"),
        include_str!("protocols.rs"),
        include_str!("servers.rs"),
    ]
    .concat();
    let methods = source.split("pub fn ").skip(1).filter_map(|method| {
        let name = method.split(['(', '<']).next()?;
        let sets = method.contains("(mut self") || method.contains("mut self,");
        let ends = method.find('{')?;
        (sets && method[..ends].contains("-> Self")).then_some(name)
    });
    let listed: Vec<_> = settings().into_iter().map(|(name, _)| name).collect();
    // Functions that examine a transport cannot be printed: tests/layers/clones.rs and
    // tests/protocol/negotiated.rs use them.
    // Settings of a feature are listed only with that feature.
    let elsewhere = |name: &str| match name {
        "probe_with" | "negotiated_with" => true,
        "http2" | "race_connects" => cfg!(not(feature = "http2")),
        _ => false,
    };
    let missing: Vec<_> = methods
        .filter(|name| !listed.contains(name) && !elsewhere(name))
        .collect();
    assert!(missing.is_empty(), "add to `settings`: {missing:?}");
}

#[test]
fn a_clone_keeps_each_setting() {
    let default = print(&Plain::new());
    for (name, layer) in settings() {
        let set = print(&layer);
        assert_ne!(set, default, "{name} shows");
        assert_eq!(print(&layer.clone()), set, "{name} is kept by a clone");
    }
}
