//! What the documents name is there: every public name in `docs/API.md`, every question to an error in the tables of errors, every
//! test in `SECURITY.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_public_name_is_accounted_for() {
    let public = public_names();
    assert!(public.contains("KeepAliveLayer") && public.contains("layers::CheckoutLayer"));
    let document = read("docs/API.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows
        .filter_map(|row| row.split_once("` | "))
        .filter(|(_, why)| why.len() > 4);
    // Names of whole crates, in small letters: they have rows of their own, those that are re-exported too.
    let is_item = |name: &String| name.contains("::") || name.starts_with(char::is_uppercase);
    let named: BTreeSet<_> = names
        .map(|(name, _)| name.to_owned())
        .filter(is_item)
        .collect();
    let public: BTreeSet<_> = public.into_iter().filter(is_item).collect();
    let missing: Vec<_> = public.difference(&named).collect();
    let too_many: Vec<_> = named.difference(&public).collect();
    assert!(missing.is_empty(), "not in docs/API.md: {missing:?}");
    assert!(
        too_many.is_empty(),
        "in docs/API.md, and not public: {too_many:?}"
    );
}

#[test]
fn every_setting_is_in_the_readme() {
    let rows = read("README.md");
    let rows: String = rows
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let mut settings = 0;
    for file in [
        "layer",
        "layer/limits",
        "layer/expiry",
        "layer/hosts",
        "layer/exchanges",
        "layer/protocols",
        "layer/servers",
    ] {
        let source = read(&format!("src/keep_alive/{file}.rs"));
        for method in source.split("\n    pub fn ").skip(1) {
            let (head, _) = method.split_once('{').unwrap();
            let (name, arguments) = head.split_once('(').unwrap();
            let name = name.split('<').next().unwrap();
            let arguments = arguments.trim_start();
            if arguments.starts_with("mut self") || arguments.starts_with("self") {
                assert!(rows.contains(&format!("`{name}`")), "README.md: {name}");
                settings += 1;
            }
        }
    }
    assert!(settings > 30, "{settings}");
}

/// The table of the type's own documentation, and that of the recipes, which says what to do.
#[test]
fn every_question_to_an_error_is_in_both_tables_of_errors() {
    let list = read("docs/public-api.txt");
    let named = list
        .lines()
        .filter_map(|line| line.strip_prefix("pub fn tower_keep_alive::Error::is_"))
        .filter_map(|rest| rest.split_once('('))
        .map(|(name, _)| format!("is_{name}"));
    let named: Vec<_> = named.collect();
    assert!(named.len() > 15, "{named:?}");
    let recipes = read("docs/recipes.md");
    let (_, recipe) = recipes.split_once("# When a request fails").unwrap();
    let (recipe, _) = recipe.split_once("\n# ").unwrap();
    let source = read("src/error/mod.rs");
    for (table, start, text) in [
        ("docs/recipes.md", "| ", recipe),
        ("src/error/mod.rs", "/// | ", source.as_str()),
    ] {
        let rows: String = text.lines().filter(|it| it.starts_with(start)).collect();
        let missing: Vec<_> = named
            .iter()
            .filter(|name| !rows.contains(&format!("`{name}`")))
            .collect();
        assert!(
            missing.is_empty(),
            "not in the table of {table}: {missing:?}"
        );
    }
}

#[test]
fn every_test_that_is_promised_is_there() {
    let mut sources = String::new();
    for folder in ["src", "tests"] {
        gather(&root().join(folder), &mut sources);
    }
    let document = read("SECURITY.md");
    let quoted = document.split('`').skip(1).step_by(2);
    let tests: Vec<_> = quoted
        .filter(|name| name.matches('_').count() > 2)
        .collect();
    assert!(tests.len() > 20);
    for test in tests {
        assert!(
            sources.contains(&format!("fn {test}(")),
            "SECURITY.md: {test}"
        );
    }
}

/// The types, traits and aliases of `docs/public-api.txt`, each with its module.
fn public_names() -> BTreeSet<String> {
    let list = read("docs/public-api.txt");
    let name = |line: &str| {
        let line = line.strip_prefix("#[non_exhaustive] ").unwrap_or(line);
        let (kind, rest) = line.strip_prefix("pub ")?.split_once(' ')?;
        let path = rest.strip_prefix("tower_keep_alive::")?;
        let path = path.split(['<', '(', ' ']).next()?.trim_end_matches(':');
        let is_item = ["struct", "enum", "trait", "type", "use"].contains(&kind);
        // Neither variants nor associated types: these have the name of their type before their own.
        let of_modules = path.rsplit_once("::").is_none_or(|(module, _)| {
            module
                .chars()
                .all(|it| it.is_lowercase() || it == '_' || it == ':')
        });
        (is_item && of_modules).then(|| path.to_owned())
    };
    list.lines().filter_map(name).collect()
}

fn gather(folder: &Path, sources: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            gather(&path, sources);
        } else if path.extension().is_some_and(|it| it == "rs") {
            *sources += &fs::read_to_string(path).unwrap();
        }
    }
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
