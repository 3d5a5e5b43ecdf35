//! The public API is what `docs/public-api.txt` says, so that no change of it goes unseen.
//!
//! `UPDATE=1 cargo test -p tower-keep-alive-integrations --test public_api` writes the file.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const LIST: &str = "docs/public-api.txt";

/// The format that `public-api` 0.52 reads.
const FORMAT: u32 = 57;

/// What rustdoc is called as. Its output as data is not stable yet, so a stable one has to be told that this is meant; a change
/// of the format shows in `public-api`, which reads one format only.
const RUSTDOC: &str = "#!/bin/sh
RUSTC_BOOTSTRAP=1 exec rustdoc \"$@\" -Z unstable-options --output-format json
";

#[test]
fn a_change_of_the_public_api_is_in_the_list() {
    let json = document();
    let format = fs::read_to_string(&json).expect("rustdoc has written it");
    let expected = format!("\"format_version\":{FORMAT}");
    if !format.contains(&expected) {
        println!("skipped: this rustdoc writes another format than {expected}");
        return;
    }
    let api = public_api::Builder::from_rustdoc_json(json)
        .sorted(true)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .expect("it can be read");
    let mut now = String::new();
    for item in api.items() {
        now += &format!("{item}\n");
    }
    assert!(now.contains("pub struct tower_keep_alive::KeepAliveLayer"));
    let list = root().join(LIST);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(list, now).expect("it can be written");
        return;
    }
    let before = fs::read_to_string(list).expect("it is there");
    let changes = changes(&before, &now);
    assert!(
        changes.is_empty(),
        "the public API is another one than {LIST} says; if that is meant, UPDATE=1 writes it\n{}",
        changes.join("\n")
    );
}

/// The whole crate as rustdoc's data.
fn document() -> std::path::PathBuf {
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let rustdoc = temporary.join("rustdoc-json");
    fs::write(&rustdoc, RUSTDOC).expect("it can be written");
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&rustdoc, executable).expect("it is ours");
    // What the other steps have built is there: only the crate itself is documented.
    let target = temporary.parent().expect("a folder of the target");
    let documented = Command::new(env!("CARGO"))
        .args(["doc", "--quiet", "--lib", "--no-deps", "--all-features"])
        .args(["--package", "tower-keep-alive", "--target-dir"])
        .arg(target)
        .env("RUSTDOC", &rustdoc)
        .current_dir(root())
        .output()
        .expect("cargo is there");
    let said = String::from_utf8_lossy(&documented.stderr);
    assert!(documented.status.success(), "{said}");
    target.join("doc/tower_keep_alive.json")
}

/// `-` what is gone, `+` what has come.
fn changes(before: &str, now: &str) -> Vec<String> {
    let gone = before
        .lines()
        .filter(|line| !now.lines().any(|it| it == *line));
    let come = now
        .lines()
        .filter(|line| !before.lines().any(|it| it == *line));
    let gone = gone.map(|line| format!("- {line}"));
    gone.chain(come.map(|line| format!("+ {line}"))).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the repository")
}
