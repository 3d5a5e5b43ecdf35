//! What can happen to a pool, as data: drawn at random, and shrunk to the steps that make a check fail.
//!
//! A step names its actor as "the n-th of those that can do this", and does nothing if there is none. So any part of a
//! sequence is a valid sequence.

use std::time::Duration;

use proptest::option;
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

use crate::agent::{FollowDns, Spread};
use crate::pool::{PoolConfig, Scheduling};
use crate::target::Reuse;

/// The capacity of a connection that has not reported it.
pub(super) const UNHEARD: usize = usize::MAX;

/// Hosts that callers request repeatedly.
pub(super) const HOSTS: [&str; 3] = ["http://a/", "http://b/", "http://c/"];

/// So many answers in a row lack an address that is left.
pub(super) const ANSWERS: u32 = 2;

/// The limits of one run.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) hosts: usize,
    per_host: Option<usize>,
    total: Option<usize>,
    idle_per_host: Option<usize>,
    idle: Option<usize>,
    pending: Option<usize>,
    keep_alive: bool,
    fifo: bool,
    spread: Spread,
    /// Answers of DNS are followed.
    follows: bool,
}

impl Setup {
    pub(super) fn config(&self) -> PoolConfig {
        // Deliveries are taken back by a step.
        let mut limits = PoolConfig::new()
            .keep_alive(self.keep_alive)
            .spread(self.spread)
            .hand_over_timeout(Duration::MAX);
        if let Some(max) = self.per_host {
            limits = limits.max_connections_per_host(max);
        }
        if let Some(max) = self.total {
            limits = limits.max_connections(max);
        }
        if let Some(max) = self.idle_per_host {
            limits = limits.max_idle_per_host(max);
        }
        if let Some(max) = self.idle {
            limits = limits.max_idle(max);
        }
        if let Some(max) = self.pending {
            limits = limits.max_pending_per_host(max);
        }
        if self.follows {
            limits = limits.follow_dns(FollowDns::default().answers(ANSWERS));
        }
        if self.fifo {
            limits = limits.scheduling(Scheduling::Fifo);
        }
        limits
    }
}

/// An actor, counted modulo those that can act.
pub(super) type Who = u8;

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A caller requests a connection. `finds_stale`: the probe of the connection that it is given reports it as dead.
    CheckoutRequest {
        host: usize,
        reuse: Reuse,
        is_retry: bool,
        finds_stale: bool,
    },
    /// A caller with a permit begins its connect.
    Begin(Who),
    Connect(Who, Made),
    /// A connect ends in its task, and its connection is left for its caller.
    Deliver(Who, Made),
    /// Deliveries that callers have not collected are taken back.
    TakeBack,
    /// A waiting caller collects its delivery, if it has one.
    Collect {
        who: Who,
        finds_stale: bool,
    },
    /// All of them do, until no caller has a delivery.
    CollectAll,
    /// A caller asks again, because it could not use what it was given.
    ComeBack(Who),
    /// A caller leaves, in whatever state it is.
    Leave(Who),
    EndUse(Who, End),
    /// The transport of a connection is dropped, by the driver that owns it.
    LoseTransport(Who),
    /// The server closes, and only the connection itself has noticed.
    ServerCloses(Who),
    /// A connect that nobody waits for ends.
    InBackground(Who, Made),
    Prewarm {
        host: usize,
        count: usize,
    },
    /// A caller poisons a connection.
    Poison(Who),
    /// The capacity of a shared connection changes.
    Capacity(Who, usize),
    /// The server of a shared connection accepts no further uses.
    GoAway(Who),
    /// The name of a host has the addresses whose bits are set from now on: one of 1 to 3, or none, which is no answer.
    Dns {
        host: usize,
        has: u8,
    },
    /// The name of a host was looked up again, so many times with nothing in between.
    Answer {
        host: usize,
        times: usize,
    },
    /// A host is requested for the first and last time.
    Visit,
    Advance(u64),
    Sweep,
    CloseIdle,
    Drain,
    Destroy,
    /// The last owner is dropped.
    DropPool,
}

/// The result of a connect. Times are in milliseconds.
#[derive(Clone, Debug)]
pub(super) enum Made {
    Failure,
    Connection {
        /// Its transport is in a task of its own, and ends later than the connection.
        driver: bool,
        max_idle: Option<u64>,
        max_age: Option<u64>,
        max_uses: Option<u64>,
        /// If connections can be shared: its capacity, or that it has not reported one.
        shared: Option<usize>,
        /// The address of its host that it leads to, or where the pool chooses among the addresses, how many attempts that
        /// includes.
        leads_to: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Good,
    /// The response is over and the upload is not: the connection cannot be used again.
    Early,
    Bad,
    /// Dropped in the middle.
    Dropped,
    /// The transport leaves the pool, and the use goes on.
    Detached,
}

/// What later steps depend on: an agent is shut down only once.
#[derive(Clone, Debug)]
pub(super) struct Script<const S: bool> {
    pub(super) setup: Setup,
    shut: bool,
    destroyed: bool,
    orphaned: bool,
}

impl<const S: bool> ReferenceStateMachine for Script<S> {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        (
            1..=HOSTS.len(),
            option::of(1..4_usize),
            option::of(1..5_usize),
            option::weighted(0.3, 0..2_usize),
            option::weighted(0.3, 0..3_usize),
            option::weighted(0.25, 0..3_usize),
            prop::bool::weighted(0.95),
            any::<bool>(),
            prop_oneof![
                2 => Just(Spread::AsResolved),
                1 => Just(Spread::InTurn),
                1 => Just(Spread::FewestOpenFirst),
            ],
            any::<bool>(),
        )
            .prop_map(
                |(
                    hosts,
                    per_host,
                    total,
                    idle_per_host,
                    idle,
                    pending,
                    keep_alive,
                    fifo,
                    spread,
                    follows,
                )| Self {
                    setup: Setup {
                        hosts,
                        per_host,
                        total,
                        idle_per_host,
                        idle,
                        pending,
                        keep_alive,
                        fifo,
                        spread,
                        follows,
                    },
                    shut: false,
                    destroyed: false,
                    orphaned: false,
                },
            )
            .boxed()
    }

    fn transitions(script: &Self) -> BoxedStrategy<Step> {
        let host = 0..script.setup.hosts;
        let who = || any::<Who>();
        let stale = || prop::bool::weighted(0.1);
        let reuse = prop_oneof![
            8 => Just(Reuse::Any),
            1 => Just(Reuse::Fresh),
            1 => Just(Reuse::Never),
        ];
        let request = (host.clone(), reuse, prop::bool::weighted(0.1), stale()).prop_map(
            |(host, reuse, is_retry, finds_stale)| Step::CheckoutRequest {
                host,
                reuse,
                is_retry,
                finds_stale,
            },
        );
        let end = prop_oneof![
            12 => Just(End::Good),
            1 => Just(End::Early),
            1 => Just(End::Bad),
            1 => Just(End::Dropped),
            1 => Just(End::Detached),
        ];
        prop_oneof![
            // Shrinking ends with these, because a sequence that begins with them is easy to read.
            220 => request,
            90 => who().prop_map(Step::Begin),
            110 => (who(), made()).prop_map(|(who, made)| Step::Connect(who, made)),
            60 => (who(), made()).prop_map(|(who, made)| Step::Deliver(who, made)),
            40 => Just(Step::TakeBack),
            180 => (who(), end).prop_map(|(who, end)| Step::EndUse(who, end)),
            80 => (who(), stale()).prop_map(|(who, finds_stale)| Step::Collect { who, finds_stale }),
            70 => Just(Step::CollectAll),
            40 => who().prop_map(Step::ComeBack),
            60 => who().prop_map(Step::Leave),
            60 => who().prop_map(Step::LoseTransport),
            25 => who().prop_map(Step::ServerCloses),
            25 => (who(), made()).prop_map(|(who, made)| Step::InBackground(who, made)),
            15 => (host.clone(), 0..4_usize).prop_map(|(host, count)| Step::Prewarm { host, count }),
            12 => who().prop_map(Step::Poison),
            40 => (who(), 0..5_usize).prop_map(|(who, to)| Step::Capacity(who, to)),
            10 => who().prop_map(Step::GoAway),
            30 => (host.clone(), 0..8_u8).prop_map(|(host, has)| Step::Dns { host, has }),
            80 => (host.clone(), 1..4_usize).prop_map(|(host, times)| Step::Answer { host, times }),
            10 => Just(Step::Visit),
            30 => (1..15_u64).prop_map(Step::Advance),
            12 => Just(Step::Sweep),
            8 => Just(Step::CloseIdle),
            1 => Just(Step::Drain),
            1 => Just(Step::Destroy),
            1 => Just(Step::DropPool),
        ]
        .boxed()
    }

    fn preconditions(script: &Self, step: &Step) -> bool {
        match step {
            Step::Drain => !script.shut,
            Step::Destroy => !script.destroyed,
            Step::DropPool => !script.orphaned,
            _ => true,
        }
    }

    fn apply(mut script: Self, step: &Step) -> Self {
        script.shut |= matches!(step, Step::Drain | Step::Destroy);
        script.destroyed |= matches!(step, Step::Destroy);
        script.orphaned |= matches!(step, Step::DropPool);
        script
    }
}

fn made() -> impl Strategy<Value = Made> {
    prop_oneof![
        4 => (
            any::<bool>(),
            option::of(Just(20)),
            option::weighted(0.3, 5..40_u64),
            option::weighted(0.25, 1..4_u64),
            option::weighted(0.8, prop_oneof![1 => Just(UNHEARD), 2 => 0..5_usize]),
            1..4_u8,
        )
            .prop_map(|(driver, max_idle, max_age, max_uses, shared, leads_to)| Made::Connection {
                driver,
                max_idle,
                max_age,
                max_uses,
                shared,
                leads_to,
            }),
        1 => Just(Made::Failure),
    ]
}

pub(super) fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}
