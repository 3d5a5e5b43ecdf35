//! Which addresses are left out for a while: after a failed connect, or ejected because what they answer fails.

use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::{Ejection, EjectionReason, EventKind, LeftOut, LeftOutReason};
use crate::pool::addresses::known::{Address, Known};
use crate::pool::addresses::tally::Successes;

/// How long an address is skipped after its first failed connect; twice as long after each further one.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A connection with so many requests was of use, however soon it ends: some servers limit its requests.
const MANY: u64 = 100;

/// After a trial without a result, the next one begins so much later at the earliest.
const TRIAL_PAUSE: Duration = Duration::from_secs(1);

/// The address is left out for now: after a failed connect it gets no new connections, and if it is ejected no requests either.
pub(super) struct Out {
    since: Instant,
    pub(super) until: Instant,
    pub(super) trial: Trial,
    reason: LeftOutReason,
}

/// Who tries again an address that is left out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trial {
    Nobody,
    /// A connect under way.
    Connect,
    /// This connection, whose exchange decides.
    Connection(u64),
    /// Nobody any more; but this connection did, and its exchange may still have a result: the caller reads the end of a body
    /// after its connection is gone.
    Gone(u64),
}

impl Out {
    pub(super) fn is_ejected(&self) -> bool {
        self.ejection().is_some()
    }

    /// Why it is ejected, if it is.
    fn ejection(&self) -> Option<EjectionReason> {
        match self.reason {
            LeftOutReason::Ejected(reason) => Some(reason),
            LeftOutReason::Connect => None,
        }
    }

    /// Whether nobody is trying it.
    pub(super) fn is_untried(&self) -> bool {
        matches!(self.trial, Trial::Nobody | Trial::Gone(_))
    }

    /// Whether the exchange of this connection decides.
    fn is_decided_by(&self, connection: u64) -> bool {
        matches!(self.trial, Trial::Connection(it) | Trial::Gone(it) if it == connection)
    }
}

/// What has become of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pool) enum Change {
    Ejected {
        time: Duration,
        times: u32,
        reason: EjectionReason,
    },
    Readmitted,
}

impl Change {
    pub(in crate::pool) fn event(self, address: SocketAddr) -> EventKind {
        match self {
            Self::Ejected {
                time,
                times,
                reason,
            } => EventKind::AddressEjected {
                address,
                time,
                times,
                reason,
            },
            Self::Readmitted => EventKind::AddressReadmitted { address },
        }
    }
}

impl Address {
    pub(super) fn is_out(&self, now: Instant) -> bool {
        self.out.as_ref().is_some_and(|out| now < out.until)
    }

    /// Whether the failure of a connect that began then is nothing new: of those that began before the address was left out, or
    /// since, only the one that tries it again has new information.
    fn is_known_to_fail(&self, begun: Instant, now: Instant) -> bool {
        let out = self.out.as_ref();
        out.is_some_and(|out| now < out.until || begun < out.since)
    }

    fn readmit(&mut self, now: Instant) {
        self.out = None;
        self.tally.start_over();
        self.readmitted = Some(now);
    }
}

/// What a new connection may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pool) enum Admission {
    Any,
    /// One request at a time, until one has a result: the address is ejected, and this tries it again.
    Trial,
    /// The request that it was made for: the address was ejected meanwhile.
    Once,
}

impl Known {
    /// This connection to it was made.
    pub(super) fn opened(
        &mut self,
        address: SocketAddr,
        connection: u64,
        now: Instant,
    ) -> Admission {
        let known = self.addresses.entry(address).or_default();
        known.open += 1;
        let Some(out) = known.out.as_mut().filter(|out| out.is_ejected()) else {
            return Admission::Any;
        };
        let is_trial = match out.trial {
            Trial::Nobody | Trial::Gone(_) => out.until <= now,
            Trial::Connect => true,
            Trial::Connection(_) => false,
        };
        if !is_trial {
            return Admission::Once;
        }
        out.trial = Trial::Connection(connection);
        self.schedule_trials();
        Admission::Trial
    }

    /// A connection to it is gone. Returns whether it took further requests until now.
    pub(super) fn closed(&mut self, address: SocketAddr, connection: u64, now: Instant) -> bool {
        let Some(known) = self.addresses.get_mut(&address) else {
            return false;
        };
        known.open -= 1;
        let draining = known.draining.len();
        known.draining.retain(|it| *it != connection);
        let has_served = known.draining.len() == draining;
        if let Some(out) = &mut known.out
            && out.trial == Trial::Connection(connection)
        {
            // Without a result yet: otherwise it was readmitted, or ejected again.
            out.trial = Trial::Gone(connection);
            let later = now.checked_add(TRIAL_PAUSE);
            out.until = later.map_or(out.until, |later| out.until.max(later));
            self.schedule_trials();
        }
        has_served
    }

    /// A connection to it took requests for so long, and had so many. After one that its server ended at once, the next one that
    /// is to spread the load has to wait, as after a failed connect: where a server accepts connections and closes them, no
    /// connect fails. One that a limit of ours ended at once says nothing.
    pub(super) fn has_lived(
        &mut self,
        address: SocketAddr,
        lived: Duration,
        requests: u64,
        by_server: bool,
        now: Instant,
    ) {
        let Some(known) = self.addresses.get_mut(&address) else {
            return;
        };
        let is_short = lived < FIRST_PAUSE && requests < MANY;
        known.spread_pause = match (is_short, by_server) {
            (true, true) => (known.spread_pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE),
            (true, false) => return,
            (false, _) => Duration::ZERO,
        };
        known.spread_from = now.checked_add(known.spread_pause);
    }

    /// Whether it was left out, and nobody else is trying it again.
    pub(super) fn begins_trial(&mut self, address: SocketAddr) -> bool {
        let known = self.addresses.get_mut(&address);
        let out = known.and_then(|it| it.out.as_mut());
        let Some(out) = out.filter(|out| out.is_untried()) else {
            return false;
        };
        out.trial = Trial::Connect;
        self.schedule_trials();
        true
    }

    /// The connect that tried it is over. If it has made a connection, that one goes on.
    pub(super) fn ends_trial(&mut self, address: SocketAddr) {
        let known = self.addresses.get_mut(&address);
        let out = known.and_then(|it| it.out.as_mut());
        if let Some(out) = out.filter(|out| out.trial == Trial::Connect) {
            out.trial = Trial::Nobody;
            self.schedule_trials();
        }
    }

    /// Whether this connection is the one that tries an ejected address again.
    pub(super) fn is_on_trial(&self, address: SocketAddr, connection: u64) -> bool {
        let known = self.addresses.get(&address);
        let out = known.and_then(|it| it.out.as_ref());
        out.is_some_and(|out| out.is_ejected() && out.trial == Trial::Connection(connection))
    }

    /// Whether a caller is to make a connection now, so that an ejected address is tried again. True for one caller.
    pub(super) fn claims_trial(&mut self, now: Instant) -> bool {
        let is_due = self.next_trial.is_some_and(|at| at <= now);
        if is_due {
            // Its connect sets the time anew once it has chosen the address.
            self.next_trial = now.checked_add(TRIAL_PAUSE);
        }
        is_due
    }

    /// What is known of the ejection of addresses that the name has: only these are tried again.
    fn ejected(&self) -> impl Iterator<Item = &Out> {
        let listed = self.addresses.values().filter(|it| it.is_listed);
        let out = listed.filter_map(|it| it.out.as_ref());
        out.filter(|out| out.is_ejected())
    }

    fn schedule_trials(&mut self) {
        let waiting = self.ejected().filter(|out| out.is_untried());
        self.next_trial = waiting.map(|out| out.until).min();
    }

    pub(super) fn is_ejected(&self, address: SocketAddr) -> bool {
        let known = self.addresses.get(&address);
        let out = known.and_then(|it| it.out.as_ref());
        out.is_some_and(Out::is_ejected)
    }

    pub(super) fn is_any_ejected(&self) -> bool {
        self.ejected().next().is_some()
    }

    /// The addresses of the name that are left out, and why.
    pub(super) fn left_out(&self, now: Instant) -> impl Iterator<Item = (SocketAddr, LeftOut)> {
        let listed = self.addresses.iter().filter(|(_, it)| it.is_listed);
        listed.filter_map(move |(address, known)| {
            let out = known.out.as_ref()?;
            let times = match out.is_ejected() {
                true => known.ejections,
                false => known.failures,
            };
            let remaining = out.until.saturating_duration_since(now);
            let reason = out.reason;
            Some((
                *address,
                LeftOut {
                    remaining,
                    times,
                    reason,
                },
            ))
        })
    }

    /// A connect to it has succeeded.
    pub(super) fn connect_succeeded(&mut self, address: SocketAddr) {
        if let Some(known) = self.addresses.get_mut(&address) {
            known.failures = 0;
            known.out.take_if(|out| !out.is_ejected());
        }
    }

    /// A connect to it has failed.
    pub(super) fn connect_failed(
        &mut self,
        address: SocketAddr,
        begun: Instant,
        ejection: Option<&Ejection>,
        now: Instant,
    ) -> Option<Change> {
        let known = self.addresses.entry(address).or_default();
        if known.is_known_to_fail(begun, now) {
            return None;
        }
        let change = self.connect_unanswered(address, begun, ejection, now);
        change.or_else(|| self.connect_counts(address, begun, ejection, now))
    }

    /// A failed connect counts for the ejection of the address. Of those that are under way at a time, one counts: what a burst
    /// of callers meets at once is no failure in a row.
    pub(super) fn connect_counts(
        &mut self,
        address: SocketAddr,
        begun: Instant,
        ejection: Option<&Ejection>,
        now: Instant,
    ) -> Option<Change> {
        let ejection = ejection?;
        let known = self.addresses.get_mut(&address)?;
        let is_counted = known.connect_counted.is_some_and(|at| begun < at);
        if is_counted || known.out.as_ref().is_some_and(Out::is_ejected) {
            return None;
        }
        known.connect_counted = Some(now);
        let reason = known.tally.fails(ejection)?;
        self.eject(address, reason, ejection, now)
    }

    /// A connect to it was given up after a while, or has failed. If it is ejected, and this has tried it again, it is ejected
    /// again.
    pub(super) fn connect_unanswered(
        &mut self,
        address: SocketAddr,
        begun: Instant,
        ejection: Option<&Ejection>,
        now: Instant,
    ) -> Option<Change> {
        let known = self.addresses.entry(address).or_default();
        if known.is_known_to_fail(begun, now) {
            return None;
        }
        let reason = known.out.as_ref().and_then(Out::ejection);
        if let (Some(ejection), Some(reason)) = (ejection, reason) {
            return self.eject(address, reason, ejection, now);
        }
        let longest = FIRST_PAUSE.saturating_mul(1 << known.failures.min(16));
        known.failures = known.failures.saturating_add(1);
        self.leave_out(
            address,
            longest.min(LONGEST_PAUSE),
            LeftOutReason::Connect,
            now,
        );
        None
    }

    /// Where the successes of an address are noted, if they are nothing but successes.
    pub(super) fn successes(&self, address: SocketAddr) -> Option<Arc<Successes>> {
        Some(self.addresses.get(&address)?.tally.successes().clone())
    }

    /// An exchange on this connection to it has succeeded.
    pub(super) fn succeeded(
        &mut self,
        address: SocketAddr,
        connection: u64,
        ejection: &Ejection,
        now: Instant,
    ) -> Option<Change> {
        let known = self.addresses.get_mut(&address)?;
        let Some(out) = known.out.as_ref().filter(|out| out.is_ejected()) else {
            known.tally.successes().add(ejection);
            return None;
        };
        if !out.is_decided_by(connection) {
            // It began before the address was ejected.
            return None;
        }
        Some(self.readmit(address, now))
    }

    fn readmit(&mut self, address: SocketAddr, now: Instant) -> Change {
        if let Some(known) = self.addresses.get_mut(&address) {
            known.readmit(now);
        }
        self.schedule_trials();
        Change::Readmitted
    }

    /// The name may have other addresses than before: no more than half of them stay ejected, those that were to be tried last.
    /// Returns the others.
    pub(super) fn readmit_beyond_half(&mut self, now: Instant) -> Vec<SocketAddr> {
        let listed = self.addresses.values().filter(|it| it.is_listed).count();
        let ejected = self.addresses.iter_mut().filter_map(|(address, known)| {
            let out = known.out.as_ref().filter(|out| out.is_ejected())?;
            known
                .is_listed
                .then_some((out.until, out.is_untried(), *address))
        });
        let mut ejected: Vec<_> = ejected.collect();
        let beyond = ejected.len().saturating_sub(listed / 2);
        ejected.sort_unstable_by_key(|(until, _, address)| (*until, *address));
        let first = ejected.into_iter().take(beyond);
        // A connection that tries an address again goes on until it has a result.
        let untried = first.filter(|(_, is_untried, _)| *is_untried);
        let readmitted: Vec<_> = untried.map(|(_, _, address)| address).collect();
        for address in &readmitted {
            if let Some(known) = self.addresses.get_mut(address) {
                known.readmit(now);
            }
        }
        self.schedule_trials();
        readmitted
    }

    /// An exchange on this connection to it has failed.
    pub(super) fn failed(
        &mut self,
        address: SocketAddr,
        connection: u64,
        ejection: &Ejection,
        now: Instant,
    ) -> Option<Change> {
        let known = self.addresses.get_mut(&address)?;
        if let Some((out, reason)) = known.out.as_ref().and_then(|it| Some((it, it.ejection()?))) {
            let is_trial = out.is_decided_by(connection);
            return match is_trial {
                true => self.eject(address, reason, ejection, now),
                false => None,
            };
        }
        let reason = known.tally.fails(ejection)?;
        self.eject(address, reason, ejection, now)
    }

    /// Ejects the address, or ejects it again, unless too many are ejected.
    fn eject(
        &mut self,
        address: SocketAddr,
        reason: EjectionReason,
        ejection: &Ejection,
        now: Instant,
    ) -> Option<Change> {
        let is_ejected = |it: &Address| it.out.as_ref().is_some_and(Out::is_ejected);
        let listed = self.addresses.values().filter(|it| it.is_listed).count();
        let others = self.addresses.iter().filter(|(it, _)| **it != address);
        let ejected = others.filter(|(_, it)| it.is_listed && is_ejected(it));
        let is_beyond_half = (ejected.count() + 1) * 2 > listed;
        let known = self.addresses.get_mut(&address)?;
        if is_beyond_half {
            return is_ejected(known).then(|| self.readmit(address, now));
        }
        let served = known.readmitted.map(|at| now.saturating_duration_since(at));
        if !is_ejected(known) && served.is_some_and(|served| served >= ejection.max_time) {
            known.ejections = 0;
        }
        known.ejections = known.ejections.saturating_add(1);
        known.tally.start_over();
        let times = known.ejections;
        let longest = ejection.time(times);
        let time = self.leave_out(address, longest, LeftOutReason::Ejected(reason), now);
        self.schedule_trials();
        Some(Change::Ejected {
            time,
            times,
            reason,
        })
    }

    /// Leaves the address out, for half of `longest` and a random part of the other half. Returns for how long.
    fn leave_out(
        &mut self,
        address: SocketAddr,
        longest: Duration,
        reason: LeftOutReason,
        now: Instant,
    ) -> Duration {
        let seed = (address, longest, self.given);
        let part = self.addresses.hasher().hash_one(seed) as u32;
        let time = longest / 2 + (longest / 2).mul_f64(f64::from(part) / f64::from(u32::MAX));
        let known = self.addresses.entry(address).or_default();
        known.out = now.checked_add(time).map(|until| Out {
            since: now,
            until,
            trial: Trial::Nobody,
            reason,
        });
        time
    }
}

#[cfg(test)]
mod tests;
