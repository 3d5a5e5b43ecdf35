//! Random schedules, compared with a model that keeps its own counts: whatever callers, connections and agents do, and
//! in whatever order, the limits hold, no caller is forgotten or overtaken, nothing is used that may not be, and
//! nothing is left over.
//!
//! A schedule that fails is shrunk and printed step by step, and its seed is kept in `proptest-regressions/`, to be
//! tried first from then on. `PROPTEST_CASES` sets the number of schedules.

mod actors;
mod making;
mod names;
mod oracle;
mod steps;
mod world;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use proptest::test_runner::{Config, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use actors::FAILED;
use steps::{Script, Step};
use world::World;

/// Enough for 100,000 steps and a tenth more, with 175 steps on average.
const SCHEDULES: u32 = 630;
const STEPS: std::ops::RangeInclusive<usize> = 100..=250;

static DONE: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// A pool whose connections several uses may share, or may not.
struct PoolTest<const S: bool>;

impl<const S: bool> StateMachineTest for PoolTest<S> {
    type SystemUnderTest = World<S>;
    type Reference = Script<S>;

    fn init_test(script: &Script<S>) -> World<S> {
        World::new(&script.setup)
    }

    fn apply(mut world: World<S>, _: &Script<S>, step: Step) -> World<S> {
        world.step(step);
        DONE[usize::from(S)].fetch_add(1, SeqCst);
        world.lines.retain(|line| line.alive.load(SeqCst));
        world
    }

    fn check_invariants(world: &World<S>, _: &Script<S>) {
        world.limits_hold();
    }

    fn teardown(world: World<S>, _: Script<S>) {
        world.end();
    }
}

#[test]
fn whatever_happens_limits_hold_and_nobody_is_forgotten() {
    whatever_happens::<false>();
}

#[test]
fn the_same_where_several_uses_share_a_connection() {
    whatever_happens::<true>();
}

fn whatever_happens<const S: bool>() {
    let asked_for = std::env::var("PROPTEST_CASES").ok();
    let schedules = match &asked_for {
        Some(count) => count.parse().expect("a number"),
        None => SCHEDULES,
    };
    let config = Config {
        cases: schedules,
        source_file: Some(file!()),
        // Steps that shrinking may try.
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let run = |(script, steps, seen)| {
        PoolTest::<S>::test_sequential(config.clone(), script, steps, seen);
        Ok(())
    };
    let tried = TestRunner::new(config.clone()).run(&Script::<S>::sequential_strategy(STEPS), run);
    if let Err(failure) = tried {
        let told = FAILED.lock().unwrap();
        panic!("{failure}\n\nWhat happened:\n  {told}");
    }
    let done = DONE[usize::from(S)].load(SeqCst);
    println!("trust model: {done} steps in {schedules} schedules, shared: {S}");
    assert!(asked_for.is_some() || done >= 100_000);
}
