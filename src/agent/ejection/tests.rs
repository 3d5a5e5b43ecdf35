use tokio::time::Instant;

use super::*;
use crate::connection::info::ConnectionInfo;
use crate::connection::lifespan::Lifespan;
use crate::error::request_body::BodyFault;
#[cfg(feature = "http2")]
use crate::error::{Http2End, Http2Fault};
use crate::error::{Kind, TimeoutKind};
use crate::target::invalid::TargetError;

fn judged(ejection: &Ejection, status: u16) -> Verdict {
    let status = StatusCode::from_u16(status).expect("a status");
    let headers = &HeaderMap::new();
    ejection.judge(&Outcome::Response { status, headers }, false)
}

#[test]
fn a_response_is_a_success_unless_its_status_was_said_to_be_a_failure() {
    use Verdict::{Failure, Ignore, Success};
    let default = Ejection::new();
    let errors = Ejection::new().server_errors(true);
    let not_503 = |outcome: &Outcome<'_>, by_default| match outcome {
        Outcome::Response { status, .. } if *status == 503 => Success,
        Outcome::Response { status, .. } if *status == 429 => Ignore,
        _ => by_default,
    };
    let own = Ejection::new().server_errors(true).classify(not_503);
    for (status, expected) in [
        (200, [Success, Success, Success]),
        (429, [Success, Success, Ignore]),
        (500, [Success, Failure, Failure]),
        (503, [Success, Failure, Success]),
    ] {
        let judged = [&default, &errors, &own].map(|it| judged(it, status));
        assert_eq!(judged, expected, "{status}");
    }
}

#[test]
fn what_is_given_up_says_nothing_unless_the_classifier_says_so() {
    let late = Outcome::Abandoned {
        after: Duration::from_secs(9),
    };
    assert_eq!(Ejection::new().judge(&late, false), Verdict::Ignore);
    let own = Ejection::new().classify(|outcome, by_default| match outcome {
        Outcome::Abandoned { after } if *after > Duration::from_secs(5) => Verdict::Failure,
        _ => by_default,
    });
    assert_eq!(own.judge(&late, false), Verdict::Failure);
}

#[test]
fn a_limit_of_the_caller_says_nothing() {
    let timeout = Kind::Timeout(TimeoutKind::Request, Duration::from_secs(1));
    let error = &Error::new(timeout);
    for (is_limit_of_caller, verdict) in [(false, Verdict::Failure), (true, Verdict::Ignore)] {
        let outcome = Outcome::Error { error };
        assert_eq!(Ejection::new().judge(&outcome, is_limit_of_caller), verdict);
    }
}

#[test]
fn an_error_of_the_callers_side_says_nothing() {
    for (kind, verdict) in [
        (Kind::RequestBody(BodyFault::Failed), Verdict::Ignore),
        (Kind::Target(TargetError::NoHost), Verdict::Ignore),
        (Kind::ShutDown, Verdict::Ignore),
        (Kind::Exchange, Verdict::Failure),
    ] {
        let error = &Error::new(kind);
        let judged = Ejection::new().judge(&Outcome::Error { error }, false);
        assert_eq!(judged, verdict, "{error}");
    }
}

#[test]
fn a_connection_that_the_server_was_just_closing_says_nothing() {
    for (is_unsent, is_reused, verdict) in [
        (true, true, Verdict::Ignore),
        (true, false, Verdict::Failure),
        (false, true, Verdict::Failure),
    ] {
        let mut lifespan = Lifespan::new();
        let now = Instant::now();
        lifespan.check_out(is_reused.then_some((now, now)));
        let error = Error::from_send("broken pipe".into(), is_unsent);
        let error = &error.on(ConnectionInfo::of(&lifespan));
        let judged = Ejection::new().judge(&Outcome::Error { error }, false);
        assert_eq!(judged, verdict, "unsent {is_unsent}, reused {is_reused}");
    }
}

#[cfg(feature = "http2")]
#[test]
fn a_server_that_wants_http_1_1_has_answered() {
    for (code, verdict) in [(13, Verdict::Ignore), (2, Verdict::Failure)] {
        let fault = Http2Fault {
            end: Http2End::Reset,
            code,
            debug_data: Vec::new(),
            source: None,
        };
        let error = &Error::from_send(fault.into(), false);
        let judged = Ejection::new().judge(&Outcome::Error { error }, false);
        assert_eq!(judged, verdict, "{error}");
    }
}

#[test]
fn ejections_with_any_different_setting_are_different() {
    let one = Ejection::new();
    assert_eq!(one, Ejection::new());
    for other in [
        one.clone().consecutive(7),
        one.clone().failure_share(0.25, 50),
        one.clone().server_errors(true),
        one.clone().base_time(Duration::from_secs(1)),
        one.clone().max_time(Duration::from_secs(1000)),
        one.clone().classify(|_, by_default| by_default),
    ] {
        assert_ne!(one, other);
        assert_eq!(other, other.clone());
    }
}

#[test]
fn an_ejection_prints_in_words() {
    let ejection = Ejection::new().server_errors(true).failure_share(0.25, 50);
    assert_eq!(
        ejection.to_string(),
        "after 5 failures in a row or 13 of 50, 5xx included, for 30 s to 300 s"
    );
    assert_eq!(ejection.time(2), Duration::from_secs(60));
    assert_eq!(ejection.time(u32::MAX), Duration::from_secs(300));
}

#[cfg(feature = "serde")]
#[test]
fn an_ejection_in_json_has_its_settings_as_fields() {
    let ejection = Ejection::new().failure_share(0.25, 50).classify(|_, it| it);
    let json = serde_json::to_value(&ejection).unwrap();
    let expected = serde_json::json!({
        "consecutive": 5,
        "failureShare": { "failures": 13, "of": 50 },
        "serverErrors": false,
        "hasClassifier": true,
        "baseTime": 30_000,
        "maxTime": 300_000,
    });
    assert_eq!(json, expected);
}

#[test]
fn a_share_is_not_more_than_it_says() {
    let pairs = [
        (0.07, 100, 7),
        (0.14, 50, 7),
        (0.28, 100, 28),
        (0.55, 100, 55),
    ];
    let more = [
        (0.5, 100, 50),
        (0.25, 50, 13),
        (1e-9, 10, 1),
        (1.0, u32::MAX, u32::MAX),
    ];
    for (part, of, failures) in pairs.into_iter().chain(more) {
        let share = Ejection::new().failure_share(part, of).share;
        assert_eq!(share, Some(FailureShare { failures, of }), "{part} of {of}");
    }
}

#[test]
fn an_ejection_for_ever_ends_within_what_a_clock_can_represent() {
    let for_ever = Ejection::new()
        .base_time(Duration::MAX)
        .max_time(Duration::MAX);
    let now = crate::clock::Moment::now();
    for times in [1, 2, u32::MAX] {
        assert!(now.checked_add(for_ever.time(times)).is_some());
    }
}
