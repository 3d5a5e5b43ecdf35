//! The addresses of the hosts' names: which there are, which fail, and what answers of DNS change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use http::Uri;

use super::actors::{Conn, Line};
use super::steps::{ANSWERS, HOSTS};
use super::world::World;
use crate::agent::Spread;
use crate::connection::close_reason::CloseReason;
use crate::pool::{Choice, KeyPool};
use crate::target::Target;

/// What the model knows about one name.
pub(super) struct Name {
    /// In the order of the resolver.
    has: Vec<SocketAddr>,
    /// Those whose last connect failed.
    failed: BTreeSet<SocketAddr>,
}

impl Default for Name {
    fn default() -> Self {
        Self {
            has: (1..=3).map(address).collect(),
            failed: BTreeSet::new(),
        }
    }
}

pub(super) fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 80))
}

impl<const S: bool> World<S> {
    pub(super) fn change_dns(&mut self, host: usize, has: u8) {
        let is_set = |last: &u8| has >> (last - 1) & 1 == 1;
        self.names[host].has = (1..=3).filter(is_set).map(address).collect();
        self.note(|| format!("{} has the addresses {has:03b}", HOSTS[host]));
    }

    /// A connect, whose last attempt of so many succeeds: where it leads.
    pub(super) fn choose(&mut self, host: usize, choice: &Arc<Choice>, attempts: u8) -> SocketAddr {
        let order = self.order(host, choice);
        let attempts = usize::from(attempts).min(order.len());
        let (last, failing) = order[..attempts].split_last().expect("one address");
        self.fail(host, choice, failing);
        choice.attempt(*last).ends(true);
        self.names[host].failed.remove(last);
        *last
    }

    pub(super) fn all_fail(&mut self, host: usize, choice: &Arc<Choice>) {
        let order = self.order(host, choice);
        self.fail(host, choice, &order);
    }

    fn fail(&mut self, host: usize, choice: &Arc<Choice>, addresses: &[SocketAddr]) {
        for address in addresses {
            choice.attempt(*address).ends(false);
            if self.limits.spread != Spread::AsResolved {
                self.names[host].failed.insert(*address);
            }
        }
    }

    /// The order in which the addresses of the name are tried. A name without an answer has the first.
    fn order(&self, host: usize, choice: &Choice) -> Vec<SocketAddr> {
        let Name { has, failed } = &self.names[host];
        let found = match has.is_empty() {
            true => vec![address(1)],
            false => has.clone(),
        };
        let key_pool = self.shared.table.find(&Uri::from_static(HOSTS[host]).key());
        let book = key_pool.and_then(|it| it.address_book());
        let open = book.map(|it| it.open_now()).unwrap_or_default();
        let open = |address: &SocketAddr| {
            let (open, draining) = open.get(address).copied().unwrap_or_default();
            open - draining
        };
        let fewest = found.iter().filter(|it| !failed.contains(*it));
        let fewest = fewest.map(open).min();
        let order = choice.order(found.clone());
        let all: Vec<_> = order.good.iter().chain(&order.left_out).copied().collect();
        let as_set = |list: &[SocketAddr]| list.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(as_set(&all), as_set(&found), "each address is tried");
        assert_eq!(all.len(), found.len(), "each is tried once");
        let is_out = |address: &SocketAddr| failed.contains(address);
        assert!(order.left_out.iter().all(is_out), "one that serves is out");
        // The first may be a trial of one whose time is over.
        let trials = usize::from(order.good.first().is_some_and(is_out));
        let good = &order.good[trials..];
        assert!(!good.iter().any(is_out), "one that failed is not out");
        match self.limits.spread {
            Spread::AsResolved => assert_eq!(all, found),
            Spread::FewestOpenFirst => assert_eq!(good.first().map(open), fewest),
            Spread::InTurn => {}
        }
        all
    }

    /// Connections take no further requests if answers lack their address, or to make room for an address that is new.
    pub(super) fn answer(&mut self, host: usize) {
        let found = self.names[host].has.clone();
        let key_pool = self.shared.table.find(&Uri::from_static(HOSTS[host]).key());
        let book = key_pool.as_ref().and_then(|it| it.address_book());
        let Some(book) = book.filter(|it| it.follows() && !found.is_empty()) else {
            return;
        };
        self.note(|| format!("{} is looked up", HOSTS[host]));
        let lines = self
            .lines
            .iter()
            .filter(|it| it.host == host && it.counts());
        let lines: Vec<_> = lines.cloned().collect();
        let was_left: Vec<_> = lines.iter().map(|it| self.is_left(it)).collect();
        book.update(&found);
        for (line, was_left) in lines.into_iter().zip(was_left) {
            let is_there = found.contains(&line.address);
            let lacking = match is_there {
                true => 0,
                false => line.lacking.load(SeqCst) + 1,
            };
            line.lacking.store(lacking, SeqCst);
            let (id, is_left) = (line.shared.id(), self.is_left(&line));
            if is_left && !was_left {
                let shares = self.limits.spread != Spread::AsResolved;
                assert!(!is_there || shares, "#{id} is left, and its address is not");
                line.left.store(true, SeqCst);
            }
            assert!(
                is_left || lacking < ANSWERS as usize,
                "#{id} leads to an address that is gone"
            );
        }
    }

    /// Whether it takes no further requests. After `destroy` that is so of each, and nothing more is done to it.
    fn is_left(&self, line: &Line) -> bool {
        let key_pool = self
            .shared
            .table
            .find(&Uri::from_static(HOSTS[line.host]).key());
        let shared = key_pool
            .map(|it| it.lock().shared_now())
            .unwrap_or_default();
        let drains = shared.get(&line.shared.id()).is_some_and(|it| it.1);
        let is_ending = line.shared.is_ending() || line.closing.load(SeqCst);
        line.shared.excluded().is_some() || is_ending || drains
    }

    /// The pool counts as many connections to each address as there are, and those of them that take no further requests. Of one
    /// that closes, the last uses may have ended in the step in which it began to drain.
    pub(super) fn accounts_hold(&self, host: usize, key_pool: &KeyPool<Conn<S>>) {
        let Some(book) = key_pool.address_book() else {
            return;
        };
        let mut expected = BTreeMap::<_, (usize, usize, usize)>::new();
        let lines = self.lines.iter();
        for line in lines.filter(|it| it.host == host && it.counts()) {
            let excluded = line.shared.excluded();
            let drains = line.drained.load(SeqCst) || excluded == Some(CloseReason::Moved);
            let may_drain = drains || excluded.is_some() || line.closing.load(SeqCst);
            let (open, least, most) = expected.entry(line.address).or_default();
            *open += 1;
            *least += usize::from(drains);
            *most += usize::from(may_drain);
        }
        let counted = book.open_now();
        let holds = expected.iter().all(|(address, &(open, least, most))| {
            let counted = counted.get(address);
            counted.is_some_and(|it| it.0 == open && least <= it.1 && it.1 <= most)
        });
        assert!(
            holds && counted.len() == expected.len(),
            "{}: {counted:?}, not {expected:?}",
            HOSTS[host]
        );
    }
}
