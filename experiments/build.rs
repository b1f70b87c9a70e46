//! Tells the programs which commit they were built from.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // HEAD names a branch or a commit; its log changes with every commit on whatever branch.
    for file in ["../.git/HEAD", "../.git/logs/HEAD"] {
        if Path::new(file).exists() {
            println!("cargo::rerun-if-changed={file}");
        }
    }
    let commit = Command::new("git").args(["rev-parse", "HEAD"]).output();
    if let Some(commit) = commit.ok().filter(|git| git.status.success()) {
        println!(
            "cargo::rustc-env=FADAM_COMMIT={}",
            String::from_utf8_lossy(&commit.stdout).trim()
        );
    }
}
