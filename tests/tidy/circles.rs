//! No files of different folders of `src/` import each other, be it by way of others.
//!
//! The floors forbid imports that go up; on the ground floor folders may name their neighbours, and this keeps them in order.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, sources};
use crate::{is_word, word};

/// Files of one folder may: a type and the parts that it is written in, or a guard and what it returns to when it is dropped.
#[test]
fn no_folders_import_each_other() {
    let files = sources();
    let found: Vec<_> = circles(&files)
        .into_iter()
        .filter(|circle| {
            let folder = |file: &String| file.split('/').next().map(str::to_owned);
            circle.iter().any(|file| folder(file) != folder(&circle[0]))
        })
        .map(|circle| format!("these import each other:\n{}", within(&circle, &files)))
        .collect();
    assert!(
        found.is_empty(),
        "\n{}\nmove what both need into a file of its own\n",
        found.join("\n")
    );
}

#[test]
fn a_circle_is_found_and_a_line_is_none() {
    let of = |files: &[(&str, &str)]| {
        let new = |&(path, text): &(&str, &str)| Source::new(path, text);
        circles(&files.iter().map(new).collect::<Vec<_>>())
    };
    let both = [
        (
            "a/mod.rs",
            "mod b;\nmod c;\npub use b::{B, Other as It};\npub use c::C;",
        ),
        ("a/b.rs", "use crate::a::C;"),
        ("a/c.rs", "fn f(_: crate::a::It) {}"),
    ];
    assert_eq!(of(&both), [["a/b.rs", "a/c.rs"]]);
    let by_module = [
        ("a.rs", "use std::fmt;\nuse crate::{fmt, b::{self, c::D}};"),
        ("b/mod.rs", "mod c;"),
        ("b/c.rs", "use super::super::a;"),
    ];
    assert_eq!(of(&by_module), [["a.rs", "b/c.rs"]]);
    let line = [
        ("a/mod.rs", "mod b;\npub use b::B;\npub struct A;"),
        (
            "a/b.rs",
            "use crate::c::C;\n#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}\n",
        ),
        ("c.rs", "// crate::a::B\npub struct C;"),
    ];
    assert_eq!(of(&line), [[""; 0]; 0]);
}

/// The groups of files each of which imports, by way of others, all of its group.
fn circles(files: &[Source]) -> Vec<Vec<String>> {
    let house = House::of(files);
    let arrows: BTreeMap<_, _> = files
        .iter()
        .map(|file| (file.path.as_str(), house.imports(file)))
        .collect();
    let reached: BTreeMap<_, _> = arrows
        .keys()
        .map(|&from| (from, everything_from(from, &arrows)))
        .collect();
    let mut found = BTreeSet::new();
    for (&file, there) in &reached {
        let back = there
            .iter()
            .filter(|&it| reached[it.as_str()].contains(file));
        let circle: Vec<_> = back.cloned().collect();
        if circle.len() > 1 {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

/// The imports between these files, a line each.
fn within(circle: &[String], files: &[Source]) -> String {
    let house = House::of(files);
    let mut lines = Vec::new();
    for file in files.iter().filter(|file| circle.contains(&file.path)) {
        for import in house.imports(file) {
            if circle.contains(&import) {
                lines.push(format!("  {} imports {import}", file.path));
            }
        }
    }
    lines.join("\n")
}

fn everything_from(from: &str, arrows: &BTreeMap<&str, BTreeSet<String>>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![from];
    while let Some(file) = open.pop() {
        for next in &arrows[file] {
            if found.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    found
}

/// Where each name comes from.
struct House {
    /// The file of each module.
    modules: BTreeMap<String, String>,
    /// What a module passes on: its name there, and where it has it from.
    passed_on: BTreeMap<(String, String), String>,
}

impl House {
    fn of(files: &[Source]) -> Self {
        let modules: BTreeMap<_, _> = files
            .iter()
            .map(|file| (module_of(&file.path), file.path.clone()))
            .collect();
        let mut house = Self {
            modules,
            passed_on: BTreeMap::new(),
        };
        for file in files {
            let here = module_of(&file.path);
            for (is_passed_on, path, name) in house.uses(file) {
                if is_passed_on {
                    house.passed_on.insert((here.clone(), name), path);
                }
            }
        }
        house
    }

    /// The files that this one takes something from.
    fn imports(&self, file: &Source) -> BTreeSet<String> {
        let used = self.uses(file).into_iter();
        let taken = used.filter(|(is_passed_on, ..)| !is_passed_on);
        let paths = taken.map(|(_, path, _)| path);
        let found = paths
            .chain(named(file))
            .filter_map(|path| self.file_of(&path));
        found.filter(|it| *it != file.path).collect()
    }

    /// Each `use` of a file, in full: whether it is passed on, its path, and its name here.
    fn uses(&self, file: &Source) -> Vec<(bool, String, String)> {
        let here = module_of(&file.path);
        let mut found = Vec::new();
        for (_, statement) in file.statements() {
            let Some(at) = statement.rfind("use ") else {
                continue;
            };
            let (before, tree) = (&statement[..at], &statement[at + "use ".len()..]);
            if before.ends_with(is_word) {
                continue;
            }
            let is_passed_on =
                before.trim_end().ends_with("pub") || before.trim_end().ends_with(')');
            for (path, name) in leaves("", tree.trim().trim_end_matches(';')) {
                if let Some(path) = self.in_full(&here, &path) {
                    found.push((is_passed_on, path, name));
                }
            }
        }
        found
    }

    /// From the root of the crate; nothing where it leads out of the crate.
    fn in_full(&self, here: &str, path: &str) -> Option<String> {
        if let Some(rest) = path.strip_prefix("crate::") {
            return Some(rest.to_owned());
        }
        let (first, rest) = path.split_once("::").unwrap_or((path, ""));
        match first {
            "self" => Some(format!("{here}::{rest}")),
            "super" => {
                let above = here.rsplit_once("::").map_or("", |(above, _)| above);
                match rest.starts_with("super") {
                    true => self.in_full(above, rest),
                    false => Some(
                        format!("{above}::{rest}")
                            .trim_start_matches(':')
                            .to_owned(),
                    ),
                }
            }
            _ => {
                let child = format!("{here}::{path}");
                let is_child = self.modules.contains_key(&format!("{here}::{first}"));
                is_child.then_some(child)
            }
        }
    }

    /// The file that defines what this path leads to.
    fn file_of(&self, path: &str) -> Option<String> {
        let mut module = path;
        let mut name = "";
        loop {
            if let Some(file) = self.modules.get(module) {
                let further = self.passed_on.get(&(module.to_owned(), word(name)));
                return match further {
                    Some(path) => self.file_of(path),
                    None => Some(file.clone()),
                };
            }
            let (above, last) = module.rsplit_once("::")?;
            (module, name) = (above, last);
        }
    }
}

/// `a/b.rs` and `a/b/mod.rs` → `a::b`
fn module_of(path: &str) -> String {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.replace('/', "::")
}

/// What is named by its whole path, without `use`.
fn named(file: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (_, line) in file.code() {
        for (at, start) in line.match_indices("crate::") {
            let rest = &line[at + start.len()..];
            let is_path = |letter: char| is_word(letter) || letter == ':';
            let path: String = rest.chars().take_while(|&it| is_path(it)).collect();
            if !line[..at].ends_with(is_word) && !path.is_empty() {
                found.push(path.trim_end_matches(':').to_owned());
            }
        }
    }
    found
}

/// `a::{b, c::D as E}` → (`a::b`, `b`), (`a::c::D`, `E`)
fn leaves(before: &str, tree: &str) -> Vec<(String, String)> {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
        let path = format!("{before}{}", path.trim());
        let path = path.strip_suffix("::self").unwrap_or(&path).to_owned();
        let last = path.rsplit("::").next().unwrap_or_default();
        let name = if alias.is_empty() { last } else { alias.trim() };
        return vec![(path.clone(), name.to_owned())];
    };
    let before = format!("{before}{}", tree[..open].trim());
    let rest = &tree[open + 1..];
    // The last brace is this group's: one that was opened within is closed within.
    let closed = rest.rfind('}').map_or(rest, |at| &rest[..at]);
    let mut found = Vec::new();
    let (mut depth, mut begin) = (0, 0);
    for (at, letter) in closed.char_indices().chain([(closed.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !closed[begin..at].trim().is_empty() {
                    found.extend(leaves(&before, &closed[begin..at]));
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
    found
}
