//! Where the agent meets what it does not depend on: the tests and the code of the guides that need reqwest and
//! tower-http, the example for Prometheus, and the test that opens the live page in a browser. A package of its own, so
//! that the crate's tests and examples compile none of them.

#[cfg(doctest)]
#[doc = include_str!("../../docs/from-reqwest.md")]
struct FromReqwest;

#[cfg(doctest)]
#[doc = include_str!("../../docs/common-tasks.md")]
struct CommonTasks;
