//! The house stays tidy: imports go down the floors of the design, and what `src/` must not have it has not.

mod circles;
mod source;

use source::{Source, sources, sources_in};

/// From high to low. A module may name those of the floors below its own.
const FLOORS: &[&[&str]] = &[
    // Faces for the types of others.
    &["reqwest"],
    &["keep_alive", "fuzzing"],
    // The layers. Never one by another.
    &[
        "checkout", "checkin", "expiry", "exchange", "retry", "forward", "discover",
    ],
    &["handshake"],
    &["http1", "http2"],
    &["connect"],
    &["pool"],
    &["agent"],
    &["connection", "target", "error", "clock", "sync"],
];

/// From here down a module may also name its neighbours.
const SIDEWAYS_FROM: usize = FLOORS.len() - 2;

const MAX_LINES: usize = 700;

#[test]
fn imports_go_down_the_floors() {
    let files = sources();
    for floor_module in files.iter().filter_map(Source::module) {
        assert!(
            floor(&floor_module).is_some(),
            "src/{floor_module}: this module stands on no floor; give it one in FLOORS, and say in ARCHITECTURE.md what it is",
        );
    }
    tidy(&files, upward_imports);
}

#[test]
fn no_file_is_too_long() {
    for folder in [
        "src",
        "tests",
        "examples",
        "benches",
        "soak",
        "integrations",
    ] {
        tidy(&sources_in(folder), too_long);
    }
}

#[test]
fn no_unsafe() {
    tidy(&sources(), unsafe_code);
}

#[test]
fn no_unwrap_outside_of_tests() {
    tidy(&sources(), unwraps);
}

#[test]
fn time_is_tokios() {
    tidy(&sources(), std_instants);
}

/// A rule that finds nothing anywhere would go unnoticed.
#[test]
fn every_rule_finds_its_breach() {
    let find = |path: &str, text: &str, rule: Rule| rule(&Source::new(path, text));
    let import = |path, text| find(path, text, upward_imports);

    let up = import(
        "pool/mod.rs",
        "use std::fmt;\nuse crate::checkout::Checkout;\n",
    );
    assert_eq!(up.len(), 1);
    assert!(
        up[0].starts_with("src/pool/mod.rs:2: `pool` names `checkout`"),
        "{}",
        up[0]
    );
    let sideways = import(
        "checkin/lease.rs",
        "use crate::{pool::Pool, exchange::Body};",
    );
    assert_eq!(sideways.len(), 1, "{sideways:?}");
    assert_eq!(
        import("connect/mod.rs", "fn f() -> crate::http1::X {}").len(),
        1
    );
    assert_eq!(import("error/mod.rs", "use crate::pool::Pool;").len(), 1);
    assert_eq!(
        import("error/mod.rs", "use crate::Poolable;").len(),
        1,
        "a re-export of lib.rs"
    );
    assert_eq!(import("error/mod.rs", "use super::pool::Pool;").len(), 1);
    assert_eq!(
        import("http1/mod.rs", "use super::exchange::Body;").len(),
        1
    );
    assert_eq!(
        import("http1/driver.rs", "use super::super::exchange::Body;").len(),
        1
    );
    for (path, fine) in [
        (
            "checkin/lease.rs",
            "use crate::checkin::Checkin;\nuse crate::pool::PooledConn;",
        ),
        ("pool/mod.rs", "use crate::agent::AgentState;"),
        (
            "error/mod.rs",
            "use crate::connection::info::ConnectionInfo;",
        ),
        (
            "pool/permit.rs",
            "/// [`Checkout`](crate::Checkout)\n// crate::checkout\nuse super::key_state::KeyState;",
        ),
        ("http1/mod.rs", "mod tests {\n    use super::*;\n}"),
    ] {
        assert!(
            import(path, fine).is_empty(),
            "{path}: {:?}",
            import(path, fine)
        );
    }

    assert_eq!(find("a.rs", &"\n".repeat(MAX_LINES + 1), too_long).len(), 1);
    assert_eq!(find("a.rs", &"\n".repeat(MAX_LINES), too_long).len(), 0);
    assert_eq!(find("a.rs", "let a = unsafe { b };", unsafe_code).len(), 1);
    assert_eq!(
        find("a.rs", "// unsafe\nlet not_unsafe = 1;", unsafe_code).len(),
        0
    );

    assert_eq!(find("a.rs", "let a = b\n    .unwrap();", unwraps).len(), 1);
    let in_a_test = "/// a.unwrap()\nfn f() {}\n#[cfg(test)]\nmod tests {\n    a.unwrap();\n}\n";
    assert_eq!(find("a.rs", in_a_test, unwraps).len(), 0);
    assert_eq!(find("a/tests.rs", "a.unwrap();", unwraps).len(), 0);
    assert_eq!(find("a/model_tests/b.rs", "a.unwrap();", unwraps).len(), 0);
    let after = "#[cfg(test)]\nfn f() {\n    a.unwrap();\n}\n\nfn g() {\n    a.unwrap();\n}\n";
    let found = find("a.rs", after, unwraps);
    assert_eq!(found.len(), 1, "only of what is compiled for tests alone");
    assert!(found[0].starts_with("src/a.rs:7: "), "{}", found[0]);

    for breach in [
        "use std::time::Instant;",
        "use std::time::{\n    Duration, Instant,\n};",
        "use std::{fmt, time::{Duration, Instant}};",
        "fn f() {}\n\nuse std::time::{Duration, Instant};",
        "let now = std::time::Instant::now();",
    ] {
        assert_eq!(find("a.rs", breach, std_instants).len(), 1, "{breach}");
    }
    for fine in [
        "use std::time::Duration;\n\nuse tokio::time::Instant;",
        "use std::time::{Duration, SystemTime};\nfn f(at: Instant) {}",
    ] {
        assert_eq!(find("a.rs", fine, std_instants).len(), 0, "{fine}");
    }
}

/// What a file does wrong, a line each: where, what, and what to do.
type Rule = fn(&Source) -> Vec<String>;

fn tidy(files: &[Source], rule: Rule) {
    let faults: Vec<_> = files.iter().flat_map(rule).collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

fn upward_imports(file: &Source) -> Vec<String> {
    let Some(module) = file.module() else {
        // lib.rs names them all.
        return Vec::new();
    };
    let mut faults = Vec::new();
    for (number, path) in file.statements().flat_map(|(number, statement)| {
        let paths: Vec<_> = crate_paths(&statement);
        paths.into_iter().map(move |path| (number, path))
    }) {
        if let Some(why) = forbids(&module, &path) {
            faults.push(format!(
                "{}: `{module}` names `{path}`: {why}",
                file.at(number)
            ));
        }
    }
    for (number, line) in file.code() {
        // From the root of a module, `super` is the crate; two of them are from anywhere below.
        let is_root = !file.path.contains('/') || file.path.ends_with("/mod.rs");
        let out = line.contains("super::super") || is_root && line.starts_with("use super::");
        if out {
            faults.push(format!(
                "{}: leaves `{module}` by `super`: say `crate::`, so that its floor can be seen",
                file.at(number)
            ));
        }
    }
    faults
}

/// Why `module` may not name `other`, if it may not.
fn forbids(module: &str, other: &str) -> Option<&'static str> {
    if module == other {
        return None;
    }
    let Some(there) = floor(other) else {
        return Some("import from the module that has it, not from lib.rs");
    };
    let here = floor(module)?;
    if there < here {
        Some("that is a floor above it, and imports go down only")
    } else if there == here && here < SIDEWAYS_FROM {
        Some("that is its neighbour, and no layer knows another: move what both need down")
    } else {
        None
    }
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// The first segments behind each `crate::`.
fn crate_paths(statement: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, start) in statement.match_indices("crate::") {
        if statement[..at].ends_with(is_word) {
            continue;
        }
        let rest = statement[at + start.len()..].trim_start();
        match rest.strip_prefix('{') {
            None => found.push(word(rest)),
            Some(group) => found.extend(first_level(group)),
        }
    }
    found
}

/// `a::{b, c}, d}` → `a`, `d`
fn first_level(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut begins = true;
    let mut found = Vec::new();
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if begins && !letter.is_whitespace() => {
                begins = false;
                found.push(word(&group[at..]));
            }
            _ => {}
        }
    }
    found
}

fn too_long(file: &Source) -> Vec<String> {
    let lines = file.text.lines().count();
    let fault = || {
        format!(
            "{}: {lines} lines, more than {MAX_LINES}: it is about two things",
            file.path
        )
    };
    (lines > MAX_LINES).then(fault).into_iter().collect()
}

fn unsafe_code(file: &Source) -> Vec<String> {
    file.code()
        .filter(|(_, line)| has_word(line, "unsafe"))
        .map(|(number, _)| {
            format!(
                "{}: unsafe code: there is none in this crate",
                file.at(number)
            )
        })
        .collect()
}

fn unwraps(file: &Source) -> Vec<String> {
    // A module of tests, compiled for them alone.
    if file.path.ends_with("tests.rs") || file.path.contains("tests/") {
        return Vec::new();
    }
    file.code()
        .filter(|(_, line)| line.contains(".unwrap()"))
        .map(|(number, _)| {
            format!(
                "{}: unwrap: use `expect` and say why it holds, or make it an error",
                file.at(number)
            )
        })
        .collect()
}

fn std_instants(file: &Source) -> Vec<String> {
    file.statements()
        .filter(|(_, statement)| {
            // The end of an item before it belongs to no `use`.
            let import = statement.rfind("use std::").map(|at| &statement[at..]);
            statement.contains("std::time::Instant")
                || import.is_some_and(|it| it.contains("time::") && has_word(it, "Instant"))
        })
        .map(|(number, _)| {
            let at = file.at(number);
            format!("{at}: std's Instant cannot be paused: use tokio::time::Instant")
        })
        .collect()
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn word(text: &str) -> String {
    text.chars().take_while(|&letter| is_word(letter)).collect()
}

fn has_word(text: &str, wanted: &str) -> bool {
    text.split(|letter| !is_word(letter)).any(|it| it == wanted)
}
