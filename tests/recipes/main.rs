//! The recipes of `docs/recipes.md`, held to what they promise.

#[path = "../support/mod.rs"]
mod support;

mod many;
mod overload;
mod retries;
