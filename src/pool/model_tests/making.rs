//! The steps that make connections.

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};

use http::Uri;

use super::actors::{Caller, Conn, Driver, Facts, Line, LineLimits, Wire, line, nth};
use super::names::address;
use super::steps::{HOSTS, Made, Who, millis};
use super::world::{Background, World};
use crate::connection::close_reason::CloseReason;
use crate::connection::lifespan::Lifespan;
use crate::connection::poolable::Poolable;
use crate::connection::shared::TransportInfo;
use crate::pool::{ConnPermit, PooledConn, WaiterId};
use crate::target::{Reuse, Target};

impl<const S: bool> World<S> {
    pub(super) fn begin(&mut self, who: Who) {
        if let Some(index) = self.nth_caller(who, |it| it.permit.is_some() && !it.begun) {
            let caller = &mut self.callers[index];
            caller.begun = true;
            caller.permit.as_mut().unwrap().begin();
            let number = caller.number;
            self.note(|| format!("caller {number} begins to connect"));
        }
    }

    pub(super) fn connect(&mut self, who: Who, made: &Made) {
        let can = |it: &Caller<S>| it.permit.is_some() && it.begun && it.rejected.is_none();
        let Some(index) = self.nth_caller(who, can) else {
            return;
        };
        let mut caller = self.callers.remove(index);
        let permit = caller.permit.take().unwrap();
        let waiter_id = caller.waiter.as_ref().map(|it| it.waiter_id());
        let one_shot = caller.reuse == Reuse::Never;
        let Some(mut pooled) = self.connected(caller.host, one_shot, permit, made, waiter_id)
        else {
            return self.note(|| format!("caller {} fails to connect", caller.number));
        };
        let line = line(&pooled).clone();
        self.note(|| format!("caller {} makes #{}", caller.number, line.shared.id()));
        drop(caller.waiter);
        line.facts.lock().unwrap().uses += 1;
        Poolable::lifespan_mut(pooled.connection()).check_out(None);
        self.used.push(pooled);
    }

    /// A connect ends in its task, and its caller has to collect the connection.
    pub(super) fn deliver(&mut self, who: Who, made: &Made) {
        let can = |it: &Caller<S>| it.permit.is_some() && it.begun;
        let Some(index) = self.nth_caller(who, can) else {
            return;
        };
        let mut caller = self.callers.remove(index);
        let permit = caller.permit.take().unwrap();
        let waiter_id = caller.waiter.as_ref().map(|it| it.waiter_id());
        let key_pool = permit.key_pool().clone();
        let one_shot = caller.reuse == Reuse::Never;
        let Some(pooled) = self.connected(caller.host, one_shot, permit, made, waiter_id) else {
            return self.note(|| format!("caller {} fails to connect", caller.number));
        };
        let id = line(&pooled).shared.id();
        self.note(|| format!("#{id} is left for caller {}", caller.number));
        caller.made = true;
        key_pool.deliver(caller.waiter.as_ref().unwrap().waiter_id(), pooled);
        self.callers.insert(index, caller);
    }

    pub(super) fn connected(
        &mut self,
        host: usize,
        one_shot: bool,
        permit: ConnPermit<Conn<S>>,
        made: &Made,
        waiter_id: Option<WaiterId>,
    ) -> Option<Box<PooledConn<Conn<S>>>> {
        let Made::Connection {
            driver,
            max_idle,
            max_age,
            max_uses,
            shared,
            leads_to,
        } = *made
        else {
            if let Some(choice) = permit.key_pool().choice() {
                self.all_fail(host, &choice);
            }
            permit.fail(CloseReason::Connect);
            return None;
        };
        let shared = shared.filter(|_| S && !one_shot && self.limits.keep_alive);
        // The model does not decide how long a shared connection is idle.
        let max_idle = max_idle.filter(|_| shared.is_none());
        let mut lifespan = Lifespan::new();
        if let Some(max) = max_idle {
            lifespan.limit_idle(millis(max));
        }
        if let Some(max) = max_age {
            lifespan.limit_age(millis(max));
        }
        if let Some(max) = max_uses {
            lifespan.limit_uses(max);
        }
        // Dropped when the connection counts instead.
        let choice = permit.key_pool().choice();
        let address = match &choice {
            Some(choice) => self.choose(host, choice, leads_to),
            None => address(leads_to),
        };
        lifespan.shared().set_transport(TransportInfo::to(address));
        let now = self.now();
        let line = Arc::new(Line {
            host,
            one_shot,
            open: AtomicBool::new(true),
            alive: AtomicBool::new(true),
            detached: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            uploading: AtomicBool::new(false),
            is_split: shared.is_some(),
            capacity: AtomicUsize::new(shared.unwrap_or(1)),
            changed: Mutex::default(),
            found_dead: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            address,
            lacking: AtomicUsize::new(0),
            left: AtomicBool::new(false),
            uses_before: AtomicUsize::new(1),
            shared: lifespan.shared().clone(),
            limits: LineLimits {
                max_idle: max_idle.unwrap_or(u64::MAX),
                max_age: max_age.unwrap_or(u64::MAX),
                max_uses: max_uses.unwrap_or(u64::MAX),
            },
            facts: Mutex::new(Facts {
                born: now,
                uses: 0,
                free_since: now,
                idle_from_step: None,
            }),
        });
        self.lines.push(line.clone());
        let mut wire = Some(Wire(line.clone()));
        if driver {
            self.drivers.push(Driver {
                _wire: wire.take().unwrap(),
                _guard: lifespan.take_transport_guard().unwrap(),
            });
        }
        let mut rest = None;
        if shared.is_some()
            && let Some(wire) = wire.take()
        {
            rest = Some(Arc::new(Driver {
                _wire: wire,
                _guard: lifespan.take_transport_guard().unwrap(),
            }));
        }
        let conn = Conn {
            line,
            _wire: wire,
            lifespan,
            rest,
            is_use: false,
        };
        // Nobody reads how long it took.
        Some(permit.fill_for(waiter_id, conn, self.limits.clock.now().mono))
    }

    pub(super) fn finish_in_background(&mut self, who: Who, made: &Made) {
        let Some(index) = nth(who, self.background.len()) else {
            return;
        };
        let Background { host, permit, .. } = self.background.remove(index);
        if let Some(pooled) = self.connected(host, false, permit, made, None) {
            self.note(|| format!("#{} is made in the background", line(&pooled).shared.id()));
            self.give_back(pooled, PooledConn::give_back);
        }
    }

    pub(super) fn prewarm(&mut self, host: usize, count: usize) {
        let Some(pool) = &self.pool else { return };
        let key = Uri::from_static(HOSTS[host]);
        let lacking = count
            .min(self.limits.max_idle_per_host)
            .saturating_sub(self.idle(host).len());
        match pool.prewarm(&key.key(), count) {
            Ok(permits) => {
                assert!(permits.len() <= lacking, "more than was asked for");
                self.note(|| format!("{} are made to warm {}", permits.len(), HOSTS[host]));
                for mut permit in permits {
                    permit.begin();
                    self.background.push(Background {
                        host,
                        permit,
                        stopped: None,
                    });
                }
            }
            Err(_) => assert!(self.closed),
        }
    }
}
