//! Keeps what does things out of what decides: a test that reads the sources.

use std::path::{Path, PathBuf};

/// What has no place in the engine, nor in what the kernel's program is built from.
const FORBIDDEN: [&str; 12] = [
    "aya",
    "libc",
    "rustix",
    "socket2",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::time",
    "tokio",
    "tracing",
];

/// The one exception: these shapes are map values, said behind a feature that the kernel's side does not have.
const ALLOWED: [&str; 11] = [
    "#[cfg(feature = \"aya\")]",
    "unsafe impl aya::Pod for Cell {}",
    "unsafe impl aya::Pod for CellKey {}",
    "unsafe impl aya::Pod for HeldConnection {}",
    "unsafe impl aya::Pod for Indirection {}",
    "unsafe impl aya::Pod for Offsets {}",
    "unsafe impl aya::Pod for QueueCell {}",
    "unsafe impl aya::Pod for Ends {}",
    "unsafe impl aya::Pod for Shown {}",
    "unsafe impl aya::Pod for SlotCounters {}",
    "unsafe impl aya::Pod for Table {}",
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The words of a line of code, with `::` within them; nothing of a comment.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split("//").next().unwrap_or_default();
    code.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').map(|word| word.trim_matches(':'))
}

fn offence(line: &str) -> Option<&'static str> {
    if ALLOWED.contains(&line.trim()) {
        return None;
    }
    let names = |word: &str, name: &str| {
        word == name || word.strip_prefix(name).is_some_and(|rest| rest.starts_with("::"))
    };
    FORBIDDEN.into_iter().find(|name| {
        // `use std::{fs, time::Instant};` names them one by one.
        let inner = name.strip_prefix("std::").filter(|_| line.contains("std::{"));
        words(line).any(|word| names(word, name) || inner.is_some_and(|inner| names(word, inner)))
    })
}

#[test]
fn the_engine_and_what_the_program_shares_do_nothing_but_decide() {
    let server = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    sources(&server.join("src/engine"), &mut found);
    sources(&server.join("../server-common/src"), &mut found);
    assert!(found.len() > 15, "the sources are elsewhere: {found:?}");
    let mut offences = Vec::new();
    for path in found.iter().filter(|path| !path.ends_with("purity.rs")) {
        for (line, number) in std::fs::read_to_string(path).unwrap().lines().zip(1..) {
            if let Some(name) = offence(line) {
                offences.push(format!("{}:{number}: {name}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

#[test]
fn an_offence_is_seen_in_every_spelling() {
    for line in [
        "use std::time::Instant;",
        "use std::{collections::BTreeMap, time::Instant};",
        "let now = std::time::Instant::now();",
        "    tracing::info!(\"x\");",
        "unsafe impl aya::Pod for Layout {}",
        "use tokio as t;",
    ] {
        assert!(offence(line).is_some(), "{line}");
    }
    for line in
        ["// tokio is not for here", "let layaya = 1;", "use super::time;", "#[cfg(feature = \"aya\")]"]
    {
        assert_eq!(offence(line), None, "{line}");
    }
}
