//! Random schedules against a model that counts for itself: whatever callers, connections and agents do in whatever
//! order, limits hold, nobody is forgotten or overtaken, nothing is used that may not be, and nothing is left behind.
//!
//! A schedule that fails is cut down, told step by step, and its seed kept in `proptest-regressions/`, to be tried
//! first from then on. `PROPTEST_CASES` says how many schedules, where it is to be other than usual.

mod actors;
mod oracle;
mod steps;
mod world;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use proptest::test_runner::{Config, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use actors::FAILED;
use steps::{Script, Step};
use world::World;

/// As many as it takes for 100,000 steps and a tenth more, of 175 on average.
const SCHEDULES: u32 = 630;
const STEPS: std::ops::RangeInclusive<usize> = 100..=250;

static DONE: AtomicUsize = AtomicUsize::new(0);

struct PoolTest;

impl StateMachineTest for PoolTest {
    type SystemUnderTest = World;
    type Reference = Script;

    fn init_test(script: &Script) -> World {
        World::new(&script.setup)
    }

    fn apply(mut world: World, _: &Script, step: Step) -> World {
        world.step(step);
        DONE.fetch_add(1, SeqCst);
        world.lines.retain(|line| line.alive.load(SeqCst));
        world
    }

    fn check_invariants(world: &World, _: &Script) {
        world.limits_hold();
    }

    fn teardown(world: World, _: Script) {
        world.end();
    }
}

#[test]
fn whatever_happens_limits_hold_and_nobody_is_forgotten() {
    let asked_for = std::env::var("PROPTEST_CASES").ok();
    let schedules = match &asked_for {
        Some(count) => count.parse().expect("a number"),
        None => SCHEDULES,
    };
    let config = Config {
        cases: schedules,
        source_file: Some(file!()),
        // Of the steps that a schedule is cut down by.
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let run = |(script, steps, seen)| {
        PoolTest::test_sequential(config.clone(), script, steps, seen);
        Ok(())
    };
    let tried = TestRunner::new(config.clone()).run(&Script::sequential_strategy(STEPS), run);
    if let Err(failure) = tried {
        let told = FAILED.lock().unwrap();
        panic!("{failure}\n\nWhat happened:\n  {told}");
    }
    let done = DONE.load(SeqCst);
    println!("trust model: {done} steps in {schedules} schedules");
    assert!(asked_for.is_some() || done >= 100_000);
}
