//! Lists the embedded sound files with their bytes, as an expression that `src/speech/embedded.rs`
//! includes.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

const MANIFEST: &str = "assets/speech/clips.tsv";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={MANIFEST}");
    let manifest = fs::read_to_string(MANIFEST).expect(MANIFEST);
    let mut lines = manifest.lines();
    assert_eq!(lines.next(), Some("path\ttext\tspeaker"), "{MANIFEST}:1");
    let mut list = String::from("&[\n");
    for line in lines {
        let fields: Vec<_> = line.split('\t').collect();
        let &[name, text, speaker] = fields.as_slice() else { panic!("{MANIFEST}: {line:?}") };
        let file = format!("concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/assets/speech/\", {name:?})");
        let fields = format!("name: {name:?}, text: {text:?}, speaker: {speaker:?}");
        writeln!(list, "    EmbeddedClip {{ {fields}, bytes: include_bytes!({file}) }},")
            .expect("a string takes any text");
    }
    list.push_str("]\n");
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&out).join("clips.rs"), list).expect("OUT_DIR can be written to");
}
