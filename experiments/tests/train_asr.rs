//! The `train-asr` and `transcribe` binaries from outside: a run and what it leaves, resuming bit for bit, weights that come and
//! go, labels of its own making, and every kind of bad input.
#![allow(
    clippy::format_push_string,
    clippy::format_collect,
    reason = "tables of a few lines, written as they read"
)]

mod common;

use std::fs;

use common::{Bench, SMALL_SPEECH, assert_same_run, json, metrics, refused, string, tones, wav};

const LAST: &str = "checkpoints/step-00000020";

#[test]
fn a_run_and_what_it_leaves() {
    let bench = Bench::speech();
    let text = bench.train(&["--out", "run", "--set", "train.steps=60"]);
    assert!(text.contains("16 of 16 utterances"), "{text}");
    assert!(text.contains("held-out clips") && text.contains("heard"), "{text}");
    let run = bench.path("run");
    let summary = json(&run.join("summary.json"));
    for key in ["eval_loss", "wer", "cer", "labels_per_s", "audio_secs", "units", "padding_share"] {
        assert!(!summary[key].is_null(), "summary.json has no {key}: {summary}");
    }
    assert_eq!(summary["experiment"], "train-asr");
    assert_eq!(summary["units"], 6); // the blank, a space, a, b, c, d
    let losses: Vec<f64> = metrics(&run)
        .iter()
        .filter(|line| line["split"] == "eval")
        .map(|line| line["loss"].as_f64().unwrap())
        .collect();
    assert_eq!(losses.len(), 7);
    assert!(losses[6] < 0.7 * losses[0], "it learned nothing: {losses:?}");
    let table = fs::read_to_string(run.join("transcripts.tsv")).unwrap();
    assert_eq!(table.lines().count(), 5, "{table}");
    assert!(run.join("units.json").exists() && run.join("loss.svg").exists());
    assert!(bench.path("cache/speech/speech-checks.jsonl").exists());
}

#[test]
fn without_held_out_clips_it_says_so() {
    let bench = Bench::speech();
    let text = bench.train(&["--out", "run", "--set", "data.eval_paths=[]"]);
    assert!(text.contains("clips that were trained on"), "{text}");
    let summary = json(&bench.path("run/summary.json"));
    assert!(!summary["train_wer"].is_null() && summary["wer"].is_null(), "{summary}");
}

#[test]
fn twenty_steps_are_ten_and_ten() {
    for more in [
        &["--set", "optimizer.algorithm=adam", "--set", "model.conv_norm=batch"][..],
        &["--set", "optimizer.algorithm=fadam", "--set", "model.conv_norm=group"],
        &[
            "--set",
            "optimizer.algorithm=fadafactor",
            "--set",
            "data.units=pieces",
            "--set",
            "data.vocab_size=12",
        ],
        &["--set", "train.accumulate=2", "--set", "data.keep_mb=0"],
    ] {
        let bench = Bench::speech();
        bench.train(&[&["--out", "whole", "--quiet"], more].concat());
        bench.train(&[&["--out", "halves", "--quiet", "--steps", "10"], more].concat());
        let resumed = bench.run(&["--out", "halves", "--resume", "--quiet"]);
        assert!(resumed.status.success(), "{}", string(&resumed.stderr));
        assert_same_run(&bench.path("whole"), &bench.path("halves"), "step-00000020");
    }
}

#[test]
fn evaluated_exported_transcribed_and_trained_on() {
    let bench = Bench::speech();
    let plain = [
        "train.steps=500",
        "model.dropout=0",
        "data.speeds=[1.0]",
        "data.time_masks=0",
        "data.frequency_masks=0",
    ];
    let plain = plain.iter().flat_map(|set| ["--set", set]);
    bench.train(&["--out", "run", "--quiet"].into_iter().chain(plain).collect::<Vec<_>>());
    let evaluated = bench.run(&["--eval-only", "--json", "--out", "run"]);
    assert!(evaluated.status.success(), "{}", string(&evaluated.stderr));
    let line: serde_json::Value = serde_json::from_slice(&evaluated.stdout).unwrap();
    let summary = json(&bench.path("run/summary.json"));
    assert_eq!(line["loss"], summary["eval_loss"]);
    assert_eq!(line["wer"], summary["wer"]);

    // Another search over other clips is another evaluation, and no other run.
    fs::write(bench.path("clips/other.tsv"), "path\ttext\n17.wav\tdda\n18.wav\tabc\n").unwrap();
    let other = ["--set", "data.search=beam", "--set", "data.eval_paths=[\"clips/other.tsv\"]"];
    let evaluated = bench.run(&[&["--eval-only", "--json", "--out", "run"], &other[..]].concat());
    assert!(evaluated.status.success(), "{}", string(&evaluated.stderr));
    bench.refuses(&[&["--out", "run", "--resume"], &other[..]].concat(), &["data.search"]);

    let exported = bench.run(&["--export", "model", "--out", "run"]);
    assert!(exported.status.success(), "{}", string(&exported.stderr));
    let heard = |args: &[&str]| {
        let run = bench.transcribe(args);
        assert!(run.status.success(), "{args:?}: {}", string(&run.stderr));
        string(&run.stdout)
    };
    let of_run = heard(&["--run", "run", "clips/00.wav", "clips/17.wav"]);
    assert_eq!(of_run, heard(&["--model", "model", "clips/00.wav", "clips/17.wav"]));
    assert_eq!(of_run.lines().count(), 2);
    let alone = heard(&["--run", "run", "clips/17.wav"]);
    assert!(of_run.ends_with(&format!("\t{alone}")), "{of_run} {alone}");
    heard(&["--run", "run", "--beam", "4", "clips/17.wav"]);

    // Labels of its own making, of clips that nobody transcribed and one that is broken.
    fs::write(bench.path("clips/broken.wav"), b"RIFF").unwrap();
    let unlabelled: String = (0..8).map(|i| format!("{i:02}.wav\t\n")).collect();
    let unlabelled = format!("path\ttext\nbroken.wav\t\n{unlabelled}");
    fs::write(bench.path("clips/unlabelled.tsv"), unlabelled).unwrap();
    let said = heard(&["--run", "run", "--manifest", "clips/unlabelled.tsv", "--out", "own.tsv"]);
    assert!(said.contains("1 that could not be read"), "{said}");
    let own = fs::read_to_string(bench.path("own.tsv")).unwrap();
    assert!(
        own.starts_with("path\ttext\tspeaker\tconfidence\n") && own.lines().count() > 4,
        "{own}"
    );
    let both = "data.paths=[\"clips/train.tsv\", \"own.tsv\"]";
    bench.refuses(&["--config", "small.toml", "--set", both, "--out", "both"], &["00.wav"]);
    let both = "data.paths=[\"own.tsv\"]";
    let init = ["--init", "model/model.safetensors", "--set", "data.units_file=run/units.json"];
    bench.train(&[&["--out", "both", "--steps", "2", "--set", both], &init[..]].concat());
    assert!(!bench.path("none.tsv").exists());
    let args = ["--run", "run", "--manifest", "clips/unlabelled.tsv", "--out", "none.tsv"];
    let sure = [&args[..], &["--min-confidence", "1"]].concat();
    refused(&bench.transcribe(&sure), &sure, &["nothing to write"]);
    assert!(!bench.path("none.tsv").exists());

    // Weights of other units.
    fs::write(bench.path("other.tsv"), "path\ttext\nclips/00.wav\txyz z\n").unwrap();
    let other = ["--config", "small.toml", "--set", "data.paths=[\"other.tsv\"]", "--out", "new"];
    let other = [&other[..], &["--init", "model/model.safetensors"]].concat();
    bench.refuses(&other, &["model/model.safetensors", "other units", "units_file"]);
    assert!(!bench.path("new").exists());
}

/// The list of what real corpora hold: each is left out and counted by name, or read as it should be.
#[test]
fn bad_clips_are_counted() {
    let bench = Bench::speech();
    let put = |name: &str, bytes: &[u8]| fs::write(bench.path("clips").join(name), bytes).unwrap();
    put("cut.flac", &b"fLaC\0\0\0\x22"[..]);
    put("silence.wav", &wav(std::iter::repeat_n(0, 16_000), 16_000, 1));
    put("nothing.wav", &wav(std::iter::empty(), 16_000, 1));
    put("short.wav", &wav(std::iter::repeat_n(500, 1000), 16_000, 1));
    put("long.wav", &tones(&"ab".repeat(80), 16_000));
    put("low.wav", &tones("abc", 8_000));
    let stereo = tones("abc", 16_000)[44..]
        .chunks(2)
        .flat_map(|pair| {
            let sample = i16::from_le_bytes([pair[0], pair[1]]);
            [sample, sample]
        })
        .collect::<Vec<i16>>();
    put("stereo.wav", &wav(stereo.into_iter(), 16_000, 2));
    let mut table = "path\ttext\n".to_owned();
    for name in [
        "cut.flac",
        "silence.wav",
        "nothing.wav",
        "short.wav",
        "long.wav",
        "low.wav",
        "stereo.wav",
        "absent.wav",
    ] {
        table += &format!("{name}\tabc\n");
    }
    table += "00.wav\t!?…\n01.wav\tabc\n";
    fs::write(bench.path("clips/mixed.tsv"), &table).unwrap();
    let text =
        bench.train(&["--out", "run", "--steps", "2", "--set", "data.paths=[\"clips/mixed.tsv\"]"]);
    assert!(text.contains("3 of 10 utterances"), "{text}");
    for part in [
        "1 missing",
        "absent.wav",
        "cut.flac",
        "1 silent",
        "too short",
        "1 too long",
        "long.wav",
        "no usable symbol",
        "1 resampled",
        "1 mixed down",
        "nothing.wav",
    ] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn bad_input() {
    let bench = Bench::speech();
    let refuses = |set: &str, expected: &[&str]| {
        bench.refuses(&["--config", "small.toml", "--set", set, "--out", "run"], expected);
        assert!(!bench.path("run").exists(), "{set} left a run folder");
    };
    refuses("data.paths=[\"absent.tsv\"]", &["absent.tsv"]);
    refuses("data.paths=[\"small.toml\"]", &["small.toml"]);
    fs::write(bench.path("gone.tsv"), "path\ttext\nx.wav\ta\ny.wav\tb\n").unwrap();
    refuses("data.paths=[\"gone.tsv\"]", &["2 missing", "x.wav"]);
    fs::write(bench.path("columns.tsv"), "path\tsentence\nx.wav\ta\n").unwrap();
    refuses("data.paths=[\"columns.tsv\"]", &["columns.tsv:1", "sentence"]);
    refuses("data.eval_paths=[\"clips/train.tsv\"]", &["00.wav"]);
    refuses("data.units_file=small.toml", &["small.toml"]);
    refuses("data.batch_secs=0.1", &["data.batch_secs"]);
    for (set, key) in [
        ("data.speeds=[]", "data.speeds"),
        ("data.speeds=[3.0]", "data.speeds"),
        ("data.max_secs=0.1", "data.max_secs"),
        ("data.time_share=2.0", "data.time_share"),
        ("data.frequency_width=81", "data.frequency_width"),
        ("data.beam=0", "data.beam"),
        ("model.kernel=4", "model.kernel"),
        ("model.dropout=1.0", "model.dropout"),
    ] {
        refuses(set, &[key]);
    }
    let key = SMALL_SPEECH.replace("kernel = 5", "kernal = 5");
    fs::write(bench.path("key.toml"), key).unwrap();
    bench.refuses(&["--config", "key.toml"], &["key.toml:7", "kernal", "expected"]);

    bench.train(&["--out", "run", "--steps", "2", "--quiet"]);
    for (args, expected) in [
        (&["clips/00.wav"][..], "--run, --checkpoint, --model"),
        (&["--run", "absent", "clips/00.wav"], "absent"),
        (&["--run", "run", "absent.wav"], "absent.wav"),
        (&["--run", "run", "small.toml"], "small.toml"),
        (&["--run", "run", "--manifest", "absent.tsv", "--out", "o.tsv"], "absent.tsv"),
    ] {
        refused(&bench.transcribe(args), args, &[expected]);
    }
    fs::remove_file(bench.path("run/units.json")).unwrap();
    let args = ["--run", "run", "clips/00.wav"];
    refused(&bench.transcribe(&args), &args, &["units.json"]);
    assert!(!bench.path("run").join(LAST).exists());
}
