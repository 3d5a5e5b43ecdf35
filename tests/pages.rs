//! The guides in `docs/` are written for rustdoc, which hides some lines of their code and links to items. `docs/pages/` has
//! the same guides as plain Markdown, for whoever reads them in the repository.
//!
//! `UPDATE=1 cargo test --test pages` writes the pages.

use std::fs;
use std::path::{Path, PathBuf};

/// Each guide, and its title. rustdoc takes the title from the module.
const GUIDES: [(&str, &str); 7] = [
    ("common-tasks", "Common tasks"),
    (
        "from-agentkeepalive",
        "From Node's http.Agent and agentkeepalive",
    ),
    ("from-hyper-util", "From hyper-util's Client"),
    ("from-reqwest", "From reqwest's Client"),
    ("many-addresses", "Many addresses behind one name"),
    ("recipes", "Recipes"),
    (
        "when-a-stack-does-not-compile",
        "When a stack does not compile",
    ),
];

#[test]
fn the_pages_are_up_to_date() {
    for (name, title) in GUIDES {
        let guide = fs::read_to_string(root().join(format!("docs/{name}.md"))).unwrap();
        let page = page(&guide, title);
        let path = root().join(format!("docs/pages/{name}.md"));
        if std::env::var_os("UPDATE").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, page).unwrap();
            continue;
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == page,
            "{} is behind its guide: UPDATE=1 cargo test --test pages",
            path.display()
        );
    }
}

#[test]
fn what_is_read_in_the_repository_hides_no_lines_and_has_links_that_lead_somewhere() {
    let pages = GUIDES.map(|(name, _)| format!("docs/pages/{name}.md"));
    for path in pages.iter().map(String::as_str).chain(["README.md"]) {
        let text = fs::read_to_string(root().join(path)).unwrap();
        let folder = root().join(path).parent().unwrap().to_owned();
        for (number, line) in text.lines().enumerate() {
            let place = format!("{path}:{}: {line}", number + 1);
            assert!(
                !is_fence(line) || line.trim() != "```" || is_end(&text, number),
                "a block of code names its language: {place}"
            );
            for target in targets(line) {
                assert!(!target.contains("::"), "an item is no page: {place}");
                check_target(&folder, path, target, &place);
            }
        }
        assert!(!code(&text).any(is_hidden), "{path} hides lines");
    }
}

#[test]
fn a_page_is_its_guide_in_plain_markdown() {
    let guide = "About [`Pool`](crate::Pool), see [there](crate::guides::recipes#a-b).\n\n\
        # First\n\n```no_run\n# hidden\nlet shown = 1;\n#[derive(Debug)]\n#\n## kept\n```\n\n\
        ```js\n# not ours\n```\nand [docs](https://docs.rs/x)\n";
    let expected = "# Title\n\nAbout `Pool`, see [there](recipes.md#a-b).\n\n\
        ## First\n\n```rust\nlet shown = 1;\n#[derive(Debug)]\n# kept\n```\n\n\
        ```js\n# not ours\n```\nand [docs](https://docs.rs/x)\n";
    assert_eq!(page(guide, "Title"), expected);
}

fn page(guide: &str, title: &str) -> String {
    let mut page = format!("# {title}\n\n");
    // The language of the block that a line is in.
    let mut block: Option<String> = None;
    for line in guide.lines() {
        match &block {
            Some(language) => {
                if is_fence(line) {
                    block = None;
                    page.push_str(line);
                } else if language == "rust" && is_hidden(line) {
                    continue;
                } else if language == "rust" && line.starts_with("##") {
                    page.push_str(&line[1..]);
                } else {
                    page.push_str(line);
                }
            }
            None if is_fence(line) => {
                let info = line.trim_start_matches('`');
                let is_rust = matches!(
                    info.split(',').next(),
                    Some("" | "no_run" | "rust" | "compile_fail")
                );
                let language = if is_rust { "rust" } else { info };
                page.push_str("```");
                page.push_str(language);
                block = Some(language.to_owned());
            }
            None if line.starts_with('#') => {
                page.push('#');
                page.push_str(line);
            }
            None => page.push_str(&without_items(line)),
        }
        page.push('\n');
    }
    page
}

/// Links to guides lead to their pages; of links to other items only the text is left.
fn without_items(line: &str) -> String {
    let mut said = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("](") {
        let end = rest[at..].find(')').map_or(rest.len(), |it| at + it);
        let target = &rest[at + 2..end];
        let open = rest[..at].rfind('[');
        match (open, target.strip_prefix("crate::guides::")) {
            (Some(_), Some(guide)) => {
                let (module, anchor) = guide.split_once('#').unwrap_or((guide, ""));
                said.push_str(&rest[..at + 2]);
                said.push_str(&module.replace('_', "-"));
                said.push_str(".md");
                if !anchor.is_empty() {
                    said.push('#');
                    said.push_str(anchor);
                }
                said.push(')');
            }
            (Some(open), None) if target.contains("::") => {
                said.push_str(&rest[..open]);
                said.push_str(&rest[open + 1..at]);
            }
            _ => said.push_str(&rest[..(end + 1).min(rest.len())]),
        }
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    said + rest
}

fn is_fence(line: &str) -> bool {
    line.trim_start().starts_with("```")
}

/// Whether the fence of this number ends a block.
fn is_end(text: &str, number: usize) -> bool {
    text.lines().take(number).filter(|it| is_fence(it)).count() % 2 == 1
}

fn is_hidden(line: &str) -> bool {
    let line = line.trim_start();
    line == "#" || line.starts_with("# ")
}

/// The lines of its Rust code.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let mut is_rust = false;
    text.lines().filter(move |line| {
        if is_fence(line) {
            is_rust = !is_rust && line.starts_with("```rust");
            return false;
        }
        is_rust
    })
}

/// Where the links of a line lead.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|it| it.split(')').next())
}

fn check_target(folder: &Path, page: &str, target: &str, place: &str) {
    if target.starts_with("https://") {
        return;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = match file {
        "" => root().join(page),
        _ => folder.join(file),
    };
    assert!(file.is_file(), "there is no such file: {place}");
    if !anchor.is_empty() {
        let text = fs::read_to_string(&file).unwrap();
        let found = text
            .lines()
            .filter(|it| it.starts_with('#'))
            .any(|it| anchor_of(it) == anchor);
        assert!(found, "there is no such heading: {place}");
    }
}

/// As a heading's anchor is made where Markdown is shown.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter_map(|it| match it {
            ' ' => Some('-'),
            it if it.is_alphanumeric() || it == '-' || it == '_' => Some(it),
            _ => None,
        })
        .collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
