//! The compiler says what `docs/when-a-stack-does-not-compile.md` says that it says.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

const PAGE: &str = include_str!("../../docs/when-a-stack-does-not-compile.md");

/// What the mistakes need beside the crate, in the versions of the workspace.
const MANIFEST: &str = r#"
[package]
name = "mistakes"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
axum = { version = "0.8", default-features = false, features = ["http1", "tokio"] }
bytes = "1"
futures-util = { version = "0.3", default-features = false }
http = "1"
http-body = "1"
http-body-util = "0.1"
hyper-util = { version = "0.1", features = ["client-legacy", "tokio"] }
tokio = { version = "1", features = ["rt"] }
tower = { version = "0.5", features = ["balance", "buffer", "retry", "util"] }
"#;

#[test]
fn messages_are_real() {
    let mistakes = mistakes();
    assert!(mistakes.len() >= 10, "{} were found", mistakes.len());
    let said = compile(&mistakes);
    let mut faults = Vec::new();
    for (number, (code, lines)) in mistakes.iter().enumerate() {
        let said = &said[&number];
        let bare = without_paths(said);
        for line in lines
            .iter()
            .filter(|line| !bare.contains(&without_paths(line)))
        {
            faults.push(format!("not said: {line}\nof:\n{code}\nbut:\n{said}"));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n\n"));
}

/// Each block that does not compile, and the lines of the block of text after it.
fn mistakes() -> Vec<(String, Vec<String>)> {
    let mut blocks = PAGE.split("```compile_fail\n");
    blocks.next();
    blocks
        .map(|rest| {
            let (code, rest) = rest.split_once("```\n").expect("the code ends");
            let (_, text) = rest.split_once("```text\n").expect("a message follows");
            let (text, _) = text.split_once("```").expect("the message ends");
            let code = code
                .lines()
                .map(|line| line.strip_prefix("# ").unwrap_or(line));
            let mut code: String = code.flat_map(|line| [line, "\n"]).collect();
            code.push_str("\nfn main() {}\n");
            (code, text.lines().map(str::to_owned).collect())
        })
        .collect()
}

/// `a::b::C` as `C`: how much of a path rustc shows depends on what else it has to say.
fn without_paths(text: &str) -> String {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let pieces = text.split_inclusive("::").map(|piece| {
        let path = piece.strip_suffix("::");
        path.map_or(piece, |path| path.trim_end_matches(is_word))
    });
    pieces.collect()
}

/// What rustc says about each.
fn compile(mistakes: &[(String, Vec<String>)]) -> BTreeMap<usize, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mistakes");
    let bins = package.join("src/bin");
    fs::remove_dir_all(&bins).ok();
    fs::create_dir_all(&bins).unwrap();
    let crate_path = root.canonicalize().unwrap();
    let manifest = format!(
        "{MANIFEST}tower-keep-alive = {{ path = {crate_path:?}, default-features = false }}\n"
    );
    fs::write(package.join("Cargo.toml"), manifest).unwrap();
    fs::copy(root.join("Cargo.lock"), package.join("Cargo.lock")).unwrap();
    for (number, (code, _)) in mistakes.iter().enumerate() {
        fs::write(bins.join(format!("m{number}.rs")), code).unwrap();
    }
    let output = Command::new(env!("CARGO"))
        .args([
            "check",
            "--offline",
            "--keep-going",
            "--message-format=json",
        ])
        .arg("--target-dir")
        .arg(package.join("target"))
        .current_dir(&package)
        .output()
        .unwrap();
    let mut said = BTreeMap::<usize, String>::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let report: serde_json::Value = serde_json::from_str(line).unwrap();
        let name = report["target"]["name"].as_str().unwrap_or_default();
        let number = name
            .strip_prefix('m')
            .and_then(|number| number.parse().ok());
        let rendered = report["message"]["rendered"].as_str();
        if let (Some(number), Some(rendered)) = (number, rendered) {
            said.entry(number).or_default().push_str(rendered);
        }
    }
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.len(), mistakes.len(), "each is an error:\n{log}");
    said
}
