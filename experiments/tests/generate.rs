//! The `generate` binary from outside: the text it makes, how it prints it, and every kind of bad input.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use candle_core::Device;
use candle_transformers::generation::LogitsProcessor;
use common::{Bench, snapshot, string};
use experiments::llm::LanguageModel;
use fadam_models::llm::generate;
use fadam_train::SavedRun;

const LAST: &str = "run/checkpoints/step-00000040";

/// A run in `run`, exported to `f32` and `bf16`.
fn trained() -> Bench {
    let bench = Bench::new();
    bench.train(&["--out", "run", "--quiet"]);
    for dtype in ["f32", "bf16"] {
        let export = bench.run(&["--export", dtype, "--out", "run", "--dtype", dtype]);
        assert!(export.status.success(), "{}", string(&export.stderr));
    }
    bench
}

/// The text after `we the people`, with more arguments; nothing on standard error.
fn text(bench: &Bench, args: &[&str]) -> String {
    let ended = bench.generate(&[&["--prompt", "we the people", "--tokens", "24"], args].concat());
    assert!(ended.status.success(), "{args:?}: {}", string(&ended.stderr));
    assert_eq!(string(&ended.stderr), "", "{args:?}");
    String::from_utf8(ended.stdout).unwrap()
}

#[test]
fn the_same_model_gives_the_same_text_wherever_it_lies() {
    let bench = trained();
    let before = snapshot(&bench.path("run"));
    let of_run = text(&bench, &["--run", "run"]);
    assert_eq!(text(&bench, &["--checkpoint", LAST]), of_run);
    assert_eq!(text(&bench, &["--run", "run", "--checkpoint", LAST]), of_run);
    assert_eq!(text(&bench, &["--model", "f32"]), of_run);
    assert!(snapshot(&bench.path("run")) == before, "the run was touched");
    let half = bench.generate(&["--model", "bf16", "--prompt", "we"]);
    assert!(half.status.success(), "{}", string(&half.stderr));
    assert_eq!(string(&half.stderr), "note: 7 tensors converted from bf16\n");

    assert_eq!(text(&bench, &["--run", "run", "--seed", "0"]), of_run);
    assert_ne!(text(&bench, &["--run", "run", "--seed", "1"]), of_run);
}

#[test]
fn what_is_streamed_is_what_the_model_gives_at_once() {
    let bench = trained();
    let run = SavedRun::open(bench.path("run"), None).unwrap();
    let LanguageModel { model, tokenizer, .. } = LanguageModel::of_run(&run, &Device::Cpu).unwrap();
    let prompt = tokenizer.encode("we the people").unwrap();
    for (seed, temperature, top_p) in [(0, 0.0, 1.0), (3, 1.0, 1.0), (4, 0.7, 0.5)] {
        let mut sampler = LogitsProcessor::new(seed, Some(temperature), Some(top_p));
        let new = generate(&model, &prompt, 24, tokenizer.eos_id(), &mut sampler).unwrap();
        let whole = tokenizer.decode(&new).unwrap() + "\n";
        let [seed, t, p] = [seed.to_string(), temperature.to_string(), top_p.to_string()];
        let args = ["--run", "run", "--seed", &seed, "--temperature", &t, "--top-p", &p];
        assert_eq!(text(&bench, &args), whole, "{args:?}");
    }
    let greedy = ["--run", "run", "--temperature", "0"];
    let long = text(&bench, &greedy);
    let short =
        bench.generate(&[&greedy[..], &["--prompt", "we the people", "--tokens", "5"]].concat());
    let short = string(&short.stdout);
    assert!(short.len() < long.len() && long.starts_with(short.trim_end()), "{short:?} {long:?}");
}

#[test]
fn a_prompt_longer_than_the_context_is_said() {
    let bench = trained();
    let prompt = |words: usize| "peace ".repeat(words);
    let said = |words: usize| {
        let ended = bench.generate(&["--run", "run", "--tokens", "4", "--prompt", &prompt(words)]);
        assert!(ended.status.success());
        string(&ended.stderr)
    };
    assert_eq!(said(1), "");
    assert!(said(40).contains("tokens long; the model sees the last 16"), "{}", said(40));
}

#[test]
fn a_prompt_comes_from_standard_input() {
    let bench = trained();
    let piped = |prompt: &[u8]| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_generate"))
            .current_dir(bench.0.path())
            .args(["--run", "run", "--tokens", "24", "--prompt", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(prompt).unwrap();
        child.wait_with_output().unwrap()
    };
    let given = text(&bench, &["--run", "run"]);
    for prompt in ["we the people", "we the people\n", "we the people\r\n"] {
        assert_eq!(string(&piped(prompt.as_bytes()).stdout), given, "{prompt:?}");
    }
    let refused = piped(b"na\xefve");
    assert_eq!(refused.status.code(), Some(2));
    let said = string(&refused.stderr);
    assert!(
        said.contains("--prompt -") && said.contains("UTF-8") && said.contains("offset 2"),
        "{said}"
    );
    assert_eq!(piped(b"\n").status.code(), Some(2));
}

#[test]
fn text_comes_as_it_is_made_and_a_reader_may_leave() {
    let bench = trained();
    let mut child = Command::new(env!("CARGO_BIN_EXE_generate"))
        .current_dir(bench.0.path())
        // The likeliest token is never the end of the text here (it is a byte within a character, which
        // is no text by itself): this would go on for hours.
        .args(["--run", "run", "--prompt", "we", "--temperature", "0", "--tokens", "100000000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 40];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", string(&ended.stderr));
    assert_eq!(string(&ended.stderr), "");
}

#[test]
fn characters_of_several_bytes_come_whole() {
    let bench = Bench::new();
    for (file, words) in [("00", "αβγ δεζ ηθι "), ("01", "κλμ 🎉🎊 νξο "), ("02", "πρσ τυφ χψω ")]
    {
        fs::write(bench.path(&format!("text/{file}.txt")), words.repeat(80)).unwrap();
    }
    let vocabulary = "data.vocab_size=257"; // each token is a byte
    bench.train(&["--out", "run", "--quiet", "--set", vocabulary, "--steps", "30"]);
    let mut cut = 0;
    for seed in 0..6 {
        let seed = seed.to_string();
        let args = ["--run", "run", "--prompt", "αβγ", "--seed", &seed, "--temperature", "1"];
        let ended = bench.generate(&args);
        assert!(ended.status.success(), "{}", string(&ended.stderr));
        let text = String::from_utf8(ended.stdout).unwrap();
        cut += text.matches('\u{FFFD}').count();
        assert!(text.chars().any(|c| !c.is_ascii() && c != '\u{FFFD}'), "{text}");
    }
    assert!(cut > 0, "the model never broke a character: this shows nothing");
}

#[test]
fn bad_input() {
    let bench = trained();
    let refuses = |args: &[&str], expected: &[&str]| {
        bench.generate_refuses(&[&["--prompt", "we"], args].concat(), expected);
    };
    refuses(&[], &["--run", "--model", "must name a model"]);
    refuses(&["--run", "run", "--model", "f32"], &["--model"]);
    refuses(&["--checkpoint", LAST, "--model", "f32"], &["--model"]);
    refuses(&["--run", "absent"], &["run folder absent", "does not exist"]);
    refuses(&["--run", "text"], &["text", "no config.toml"]);
    refuses(&["--run", "run", "--checkpoint", "text"], &["checkpoint text", "no state.json"]);
    refuses(&["--checkpoint", "text"], &["checkpoint text", "no state.json"]);
    refuses(&["--model", "absent"], &["absent/config.json", "cannot be read"]);
    refuses(&["--run", "run", "--tokens", "0"], &["--tokens 0", "at least 1"]);
    refuses(&["--run", "run", "--temperature", "-0.5"], &["--temperature -0.5", "0 or more"]);
    refuses(&["--run", "run", "--temperature", "nan"], &["--temperature NaN"]);
    refuses(&["--run", "run", "--temperature", "inf"], &["--temperature inf"]);
    refuses(&["--run", "run", "--top-p", "0"], &["--top-p 0", "above 0"]);
    refuses(&["--run", "run", "--top-p", "1.5"], &["--top-p 1.5", "at most 1"]);
    refuses(&["--run", "run", "--top-p", "nan"], &["--top-p NaN"]);
    refuses(&["--run", "run", "--device", "cuda:99"], &["--device cuda:99"]);
    bench.generate_refuses(&["--run", "run", "--prompt", ""], &["--prompt", "no token"]);
    for args in [&["--run", "run"][..], &["--prompt", "we", "--run", "run", "--seed", "x"]] {
        assert_eq!(bench.generate(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_damaged_export_is_named() {
    let bench = trained();
    let refuses = |expected: &[&str]| {
        bench.generate_refuses(&["--model", "f32", "--prompt", "we"], expected);
    };
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        let path = bench.path("f32").join(file);
        let whole = fs::read(&path).unwrap();
        for cut in [0, whole.len() / 2] {
            fs::write(&path, &whole[..cut]).unwrap();
            refuses(&[&format!("f32/{file}")]);
        }
        fs::remove_file(&path).unwrap();
        refuses(&[&format!("f32/{file}")]);
        fs::write(&path, whole).unwrap();
    }
    let config = bench.path("f32/config.json");
    let whole = fs::read_to_string(&config).unwrap();
    for (from, to, expected) in [
        ("\"format\": 1", "\"format\": 2", "format 2"),
        ("palm-decoder", "bert", "architecture \"bert\""),
        ("\"heads\": 2", "\"heads\": 3", "model.heads"),
        ("\"heads\": 2", "\"hats\": 2", "hats"),
        ("\"layers\": 1", "\"layers\": 1000000", "more than"),
        ("\"d_ff\": 32", "\"d_ff\": 1048577", "model.d_ff"),
        ("\"seq_len\": 16", "\"seq_len\": 1048577", "model.seq_len"),
        ("\"vocab_size\": 280,\n  \"eos\"", "\"vocab_size\": 281,\n  \"eos\"", "281"),
        ("\"d_ff\": 32", "\"d_ff\": 64", "blocks.0.down.weight"),
        ("\"eos\": \"<|endoftext|>\"", "\"eos\": \"<|end|>\"", "<|end|>"),
    ] {
        assert!(whole.contains(from), "{from} is not in {whole}");
        fs::write(&config, whole.replace(from, to)).unwrap();
        refuses(&["f32/", expected]);
    }
    fs::write(&config, &whole).unwrap();
    // Same sizes, other model: run and export of one name do not mix either.
    fs::remove_file(bench.path(LAST).join("model.safetensors")).unwrap();
    bench.generate_refuses(&["--run", "run", "--prompt", "we"], &[LAST, "model.safetensors"]);
}
