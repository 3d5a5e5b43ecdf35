//! The source that is looked at.

use std::fs;
use std::path::Path;

/// One file of `src/`.
pub(super) struct Source {
    /// Below `src/`, with `/` between.
    pub(super) path: String,
    pub(super) text: String,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    /// The top-level module that it is part of; none for lib.rs.
    pub(super) fn module(&self) -> Option<String> {
        let first = self.path.split('/').next()?;
        let module = first.strip_suffix(".rs").unwrap_or(first);
        (module != "lib").then(|| module.to_owned())
    }

    pub(super) fn at(&self, number: usize) -> String {
        format!("src/{}:{number}", self.path)
    }

    /// The numbered lines, without comments and without what is compiled for tests alone.
    pub(super) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut test_until: Option<String> = None;
        self.text.lines().enumerate().filter_map(move |(at, line)| {
            if let Some(end) = &test_until {
                // rustfmt puts the end of an item where the item began.
                let is_over = line.starts_with(&format!("{end}}}"))
                    || line
                        .strip_prefix(end.as_str())
                        .is_some_and(|rest| !rest.starts_with(' ') && rest.ends_with(';'));
                if is_over {
                    test_until = None;
                }
                return None;
            }
            let text = line.trim_start();
            if text == "#[cfg(test)]" {
                test_until = Some(line[..line.len() - text.len()].to_owned());
                return None;
            }
            let text = if text.starts_with("//") { "" } else { line };
            let text = text.split_once(" // ").map_or(text, |(code, _)| code);
            Some((at + 1, text))
        })
    }

    /// The code up to each semicolon, numbered by its first line.
    pub(super) fn statements(&self) -> impl Iterator<Item = (usize, String)> {
        let mut statements = Vec::new();
        let mut open: Option<(usize, String)> = None;
        for (number, line) in self.code() {
            let mut rest = line;
            while !rest.trim().is_empty() {
                let (head, tail) = rest.split_at(rest.find(';').map_or(rest.len(), |at| at + 1));
                let (_, statement) = open.get_or_insert_with(|| (number, String::new()));
                statement.push_str(head);
                statement.push('\n');
                if head.ends_with(';') {
                    statements.extend(open.take());
                }
                rest = tail;
            }
        }
        statements.extend(open);
        statements.into_iter()
    }
}

/// Every file of `src/`.
pub(super) fn sources() -> Vec<Source> {
    sources_in("src")
}

/// Every file of this folder of the repository.
pub(super) fn sources_in(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder can be listed") {
            let path = entry.expect("the folder can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(&root).expect("found below it");
                let names: Vec<_> = below.iter().map(|name| name.to_string_lossy()).collect();
                let text = fs::read_to_string(&path).expect("source is text");
                found.push(Source::new(&names.join("/"), &text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder}/ was not found");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}
