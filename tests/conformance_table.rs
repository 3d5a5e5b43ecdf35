//! `docs/CONFORMANCE.md` says which test shows which behaviour, and is never behind the tests.
//!
//! `UPDATE=1 cargo test --test conformance_table` writes it. A test belongs to the row that its name begins with
//! (`node_25_…`, `ak_03_…`); the rows, and why some have none, stand in `tests/conformance/rows.tsv`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const TABLE: &str = "docs/CONFORMANCE.md";
const ROWS: &str = "tests/conformance/rows.tsv";

struct Row {
    id: String,
    subject: String,
    /// Why no test can show it here.
    reason: Option<String>,
}

/// Names of tests by the number of their row, each with its file.
type Tests = BTreeMap<String, Vec<(String, String)>>;

#[test]
fn every_row_has_a_test_or_a_reason() {
    let (rows, tests) = (rows(), tests());
    for row in &rows {
        match (tests.contains_key(&row.id), &row.reason) {
            (false, None) => panic!("{}: neither a test nor a reason in {ROWS}", row.id),
            (true, Some(_)) => panic!("{}: a test, and a reason for none in {ROWS}", row.id),
            _ => {}
        }
    }
    for (id, named) in &tests {
        let known = rows.iter().any(|row| row.id == *id);
        assert!(known, "{id}: not in {ROWS}, and a test: {named:?}");
    }
}

#[test]
fn the_table_is_up_to_date() {
    let table = table(&rows(), &tests());
    let path = root().join(TABLE);
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, table).unwrap();
        return;
    }
    let kept = fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == table,
        "{TABLE} is behind the tests: UPDATE=1 cargo test --test conformance_table"
    );
}

#[test]
fn names_are_read_as_they_are_meant() {
    assert_eq!(row_of("node_25_max_sockets"), Some("NODE-25".into()));
    assert_eq!(row_of("ak_03_the_timeout"), Some("AK-03".into()));
    assert_eq!(row_of("node_100_tls"), Some("NODE-100".into()));
    assert_eq!(row_of("node_is_there"), None);
    assert_eq!(row_of("trust_07_in_every_order"), None);
    assert_eq!(name_of("    async fn node_25_it() {"), Some("node_25_it"));
    assert_eq!(name_of("// fn node_25_it()"), None);
}

fn table(rows: &[Row], tests: &Tests) -> String {
    let shown = rows
        .iter()
        .filter(|row| tests.contains_key(&row.id))
        .count();
    let count: usize = tests.values().map(Vec::len).sum();
    let mut table = format!(
        "# Conformance\n\n\
         What Node's `http.Agent` (NODE) and agentkeepalive (AK) do, and the tests that show what this crate does in the\n\
         same place: {shown} of {} behaviours, by {count} tests; for each of the others, why there is none. Where the\n\
         crate does it otherwise on purpose, its test says so.\n\n\
         Made from the names of the tests by `UPDATE=1 cargo test --test conformance_table`.\n\n\
         | behaviour | | tests |\n|---|---|---|\n",
        rows.len()
    );
    for Row {
        id,
        subject,
        reason,
    } in rows
    {
        let shown = match tests.get(id) {
            Some(tests) => tests
                .iter()
                .map(|(name, file)| format!("[`{name}`](../{file})"))
                .collect::<Vec<_>>()
                .join("<br>"),
            None => format!("*none: {}*", reason.as_deref().unwrap_or("not yet")),
        };
        writeln!(table, "| {id} | {subject} | {shown} |").unwrap();
    }
    table
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(root().join(ROWS)).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let row = |line: &str| {
        let mut fields = line.split('\t').map(str::to_owned);
        let mut next = || fields.next();
        Row {
            id: next().unwrap(),
            subject: next().unwrap_or_else(|| panic!("{ROWS}: {line}")),
            reason: next(),
        }
    };
    lines.map(row).collect()
}

fn tests() -> Tests {
    let mut files = Vec::new();
    for folder in ["src", "tests"] {
        find(&root().join(folder), &mut files);
    }
    let mut tests = Tests::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let file = path.strip_prefix(root()).unwrap();
        let file = file.to_str().unwrap().replace('\\', "/");
        for name in text.lines().filter_map(name_of) {
            if let Some(row) = row_of(name) {
                let named = tests.entry(row).or_default();
                named.push((name.to_owned(), file.clone()));
            }
        }
    }
    tests.values_mut().for_each(|named| named.sort());
    tests
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
}

/// Of a function that begins on this line.
fn name_of(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = line.strip_prefix("async ").unwrap_or(line);
    let name = line.strip_prefix("fn ")?;
    name.split(['(', '<']).next()
}

fn row_of(test: &str) -> Option<String> {
    let mut parts = test.splitn(3, '_');
    let kind = parts.next().filter(|kind| ["node", "ak"].contains(kind))?;
    let number = parts.next()?;
    let number: u32 = number.parse().ok()?;
    parts.next()?;
    Some(format!("{}-{number:02}", kind.to_ascii_uppercase()))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
