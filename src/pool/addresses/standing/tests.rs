use super::*;
use crate::agent::Spread;

const SECOND: Duration = Duration::from_secs(1);

fn address(last: u8) -> SocketAddr {
    ([192, 0, 2, last], 80).into()
}

/// Ten addresses, and what becomes of the first.
fn ten() -> Known {
    let mut known = Known::new();
    let found = (1..=10).map(address).collect();
    known.order(Spread::InTurn, found, Instant::now());
    known
}

fn fail(known: &mut Known, last: u8, ejection: &Ejection, now: Instant) -> Option<Change> {
    known.failed(address(last), 100 + u64::from(last), ejection, now)
}

#[test]
fn an_address_is_ejected_for_longer_each_time_and_readmitted_by_one_connection() {
    let mut known = ten();
    let ejection = Ejection::new().consecutive(2);
    let mut now = Instant::now();
    assert_eq!(fail(&mut known, 1, &ejection, now), None);
    let mut change = fail(&mut known, 1, &ejection, now);
    for times in 1..=12 {
        let Some(Change::Ejected {
            time,
            times: counted,
            ..
        }) = change
        else {
            panic!("it is ejected");
        };
        let longest = (30 * SECOND * times).min(300 * SECOND);
        assert_eq!(counted, times);
        assert!(time >= longest / 2 && time <= longest, "{time:?}");
        // Nothing that began before says anything.
        let before = (101, 100);
        assert_eq!(fail(&mut known, 1, &ejection, now), None);
        assert_eq!(known.succeeded(address(1), before.0, &ejection, now), None);
        assert_eq!(known.opened(address(1), before.1, now), Admission::Once);
        known.closed(address(1), before.1, now);
        assert!(!known.claims_trial(now));
        now += time;
        assert!(known.claims_trial(now) && !known.claims_trial(now), "one");
        let found: Vec<_> = (1..=10).map(address).collect();
        let order = known.order(Spread::InTurn, found.clone(), now);
        assert_eq!(order.first(), Some(address(1)));
        assert!(known.begins_trial(address(1)));
        let next = known.order(Spread::InTurn, found, now);
        assert_ne!(next.first(), Some(address(1)));
        assert_eq!(known.opened(address(1), 7, now), Admission::Trial);
        known.ends_trial(address(1));
        assert_eq!(known.opened(address(1), 8, now), Admission::Once);
        assert!(known.is_on_trial(address(1), 7) && !known.is_on_trial(address(1), 8));
        assert!(!known.claims_trial(now + 100 * SECOND), "it is tried");
        if times < 12 {
            change = known.failed(address(1), 7, &ejection, now);
        }
        known.closed(address(1), 8, now);
    }
    let change = known.succeeded(address(1), 7, &ejection, now);
    assert_eq!(change, Some(Change::Readmitted));
    assert_eq!(known.opened(address(1), 9, now), Admission::Any);
    // The number of ejections starts over after a while.
    for (served, times) in [(299, 13), (0, 1)] {
        now += served * SECOND;
        if served == 0 {
            known.addresses.get_mut(&address(1)).unwrap().out = None;
            now += 300 * SECOND;
        }
        fail(&mut known, 1, &ejection, now);
        let change = fail(&mut known, 1, &ejection, now);
        assert!(
            matches!(change, Some(Change::Ejected { times: it, .. }) if it == times),
            "{change:?}"
        );
    }
}

#[test]
fn a_trial_that_ends_without_a_result_is_followed_by_another() {
    let mut known = ten();
    let ejection = Ejection::new().consecutive(1);
    let mut now = Instant::now();
    let Some(Change::Ejected { time, .. }) = fail(&mut known, 1, &ejection, now) else {
        panic!("it is ejected");
    };
    now += time;
    assert!(known.claims_trial(now) && known.begins_trial(address(1)));
    known.ends_trial(address(1));
    assert!(known.claims_trial(now), "the connect was given up");
    assert!(known.begins_trial(address(1)));
    assert_eq!(known.opened(address(1), 7, now), Admission::Trial);
    known.closed(address(1), 7, now);
    assert!(!known.claims_trial(now), "not at once");
    assert!(known.claims_trial(now + TRIAL_PAUSE));
}

#[test]
fn a_trial_has_its_result_also_after_its_connection_is_gone() {
    for succeeds in [true, false] {
        let mut known = ten();
        let ejection = Ejection::new().consecutive(1);
        let mut now = Instant::now();
        let Some(Change::Ejected { time, .. }) = fail(&mut known, 1, &ejection, now) else {
            panic!("it is ejected");
        };
        now += time;
        assert!(known.claims_trial(now) && known.begins_trial(address(1)));
        assert_eq!(known.opened(address(1), 7, now), Admission::Trial);
        known.closed(address(1), 7, now);
        let change = match succeeds {
            true => known.succeeded(address(1), 7, &ejection, now),
            false => known.failed(address(1), 7, &ejection, now),
        };
        match change {
            Some(Change::Readmitted) => assert!(succeeds),
            Some(Change::Ejected { times, .. }) => assert!(!succeeds && times == 2),
            None => panic!("it has a result"),
        }
    }
}

#[test]
fn no_more_than_half_of_the_addresses_are_ejected() {
    let ejection = Ejection::new().consecutive(1);
    let now = Instant::now();
    for (count, most) in [(1, 0), (2, 1), (3, 1), (10, 5)] {
        let mut known = Known::new();
        known.order(Spread::InTurn, (1..=count).map(address).collect(), now);
        let ejected = (1..=count).filter(|&it| fail(&mut known, it, &ejection, now).is_some());
        assert_eq!(ejected.count(), most, "of {count}");
        assert_eq!(known.left_out(now).count(), most);
    }
}

#[test]
fn failed_connects_count_as_failures_beside_their_own_pauses() {
    let mut known = ten();
    let ejection = Ejection::new().consecutive(3);
    let mut now = Instant::now();
    for failure in 1..=3 {
        let change = known.connect_failed(address(1), now, Some(&ejection), now);
        assert_eq!(change.is_some(), failure == 3, "{change:?}");
        now += LONGEST_PAUSE;
    }
    let (_, ejected) = known.left_out(now).next().expect("it is left out");
    let reason = EjectionReason::Consecutive { failures: 3 };
    assert_eq!(ejected.reason, LeftOutReason::Ejected(reason));
}

#[test]
fn where_the_name_has_fewer_addresses_half_of_them_stay() {
    let mut known = ten();
    let ejection = Ejection::new().consecutive(1);
    let now = Instant::now();
    for last in 1..=4 {
        fail(&mut known, last, &ejection, now);
    }
    let found: Vec<_> = [1, 2, 3, 4].map(address).to_vec();
    let order = known.order(Spread::InTurn, found, now);
    assert_eq!(order.readmitted.len(), 2);
    assert_eq!(known.left_out(now).count(), 2);
    let still: Vec<_> = known.left_out(now).map(|(address, _)| address).collect();
    let resolved = known.resolved(&still, 2, false, now);
    assert_eq!(resolved.readmitted.len(), 1);
    assert_eq!(known.left_out(now).count(), 1);
    assert!(known.is_any_ejected());
    for address in order.readmitted.iter().chain(&resolved.readmitted) {
        assert!(
            known
                .addresses
                .get(address)
                .is_none_or(|it| it.readmitted == Some(now))
        );
    }
}

#[test]
fn an_ejected_address_that_the_name_lacks_is_not_tried_and_stays_ejected_for_its_time() {
    let mut known = ten();
    let ejection = Ejection::new().consecutive(1);
    let now = Instant::now();
    let Some(Change::Ejected { time, .. }) = fail(&mut known, 1, &ejection, now) else {
        panic!("it is ejected");
    };
    let others: Vec<_> = (2..=10).map(address).collect();
    known.order(Spread::InTurn, others.clone(), now);
    assert!(!known.is_any_ejected());
    assert_eq!(known.left_out(now).count(), 0);
    assert!(!known.claims_trial(now + time));
    // A server may leave out some addresses at a time.
    let order = known.order(Spread::InTurn, (1..=10).map(address).collect(), now);
    assert_eq!(order.left_out, [address(1)]);
    assert!(known.is_any_ejected() && known.claims_trial(now + time));
    known.order(Spread::InTurn, others, now + time);
    assert_eq!(known.left_out(now).count(), 0);
    assert_eq!(known.addresses.len(), 9);
}
