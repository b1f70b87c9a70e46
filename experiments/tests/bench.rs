//! The `bench` binary: what its rows hold, and how it ends. Not how fast anything is.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bench")).args(args).output().unwrap()
}

/// The rows of a run on the small tensors.
fn rows(more: &[&str]) -> Vec<Value> {
    let small = ["optimizer", "--params", "small", "--steps", "2", "--json"];
    let run = bench(&[&small[..], more].concat());
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{errors}");
    let rows = String::from_utf8(run.stdout).unwrap();
    rows.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|err| panic!("{line}: {err}")))
        .collect()
}

fn number(row: &Value, key: &str) -> f64 {
    let value = &row[key];
    value.as_f64().unwrap_or_else(|| panic!("{key} is {value} in {row}"))
}

#[test]
fn every_row_is_there_with_every_field() {
    let rows = rows(&[]);
    let cases: Vec<String> = rows
        .iter()
        .map(|row| {
            let text = |key: &str| row[key].as_str().unwrap().to_owned();
            let (name, dtype, state) = (text("name"), text("dtype"), text("state"));
            format!("{name} {dtype} {state} {}", row["rho"])
        })
        .collect();
    assert_eq!(
        cases,
        [
            "fadam f32 f32 0.5",
            "fadam f32 f32 0.7",
            "fadam f32 f32 1.0",
            "fadam f32 bf16 0.5",
            "fadam f32 8bit 0.5",
            "fadam bf16 f32 0.5",
            "fadam f64 f64 0.5",
            "fadafactor f32 f32 0.5",
            "fadafactor f32 bf16 0.5",
            "fadafactor f32 8bit 0.5",
            "fadafactor bf16 f32 0.5",
            "fadafactor f64 f64 0.5",
            "adam f32 f32 null",
            "adam f32 bf16 null",
            "adam f32 8bit null",
            "adam bf16 f32 null",
            "adam f64 f64 null",
            "adafactor f32 f32 null",
            "adafactor f32 bf16 null",
            "adafactor f32 8bit null",
            "adafactor bf16 f32 null",
            "adafactor f64 f64 null",
            "candle-adamw f32 f32 null",
        ]
    );
    for row in &rows {
        assert_eq!(row["bench"], "optimizer");
        assert_eq!(row["params"], 114_944);
        assert_eq!(row["steps"], 2);
        assert!(row["threads"].as_u64().unwrap() >= 1);
        let [p10, median, p90] = ["p10_ms", "median_ms", "p90_ms"].map(|key| number(row, key));
        assert!(0.0 < p10 && p10 <= median && median <= p90, "{row}");
        assert!(number(row, "copy_gb_per_s") > 0.0);
        if row["name"] == "candle-adamw" {
            assert!(row["gb_per_s"].is_null());
        } else {
            assert!(number(row, "gb_per_s") > 0.0);
        }
    }
}

/// A momentum, and a full or a factored FIM, and a step count of 8 bytes for each of the 13 tensors.
#[test]
fn the_state_is_as_large_as_the_algorithms_say() {
    // The embedding, and in two blocks four matrices and two vectors, whose FIM is never factored.
    let sums = (256.0 + 64.0) + 2.0 * (256.0 + 128.0 + 320.0 + 320.0);
    let vectors = 4.0 * 64.0;
    let params = 114_944.0;
    for row in rows(&[]) {
        // Bytes of a number in a matrix, of one in a vector, and of a row or column sum.
        let (matrix, vector, sum) = match row["state"].as_str().unwrap() {
            "f64" => (8.0, 8.0, 8.0),
            "f32" => (4.0, 4.0, 4.0),
            "bf16" => (2.0, 2.0, 4.0),
            // A scale of 4 bytes for 256 codes; vectors are too small for blocks.
            "8bit" => (1.0 + 4.0 / 256.0, 4.0, 4.0),
            other => panic!("{other}"),
        };
        let shaped_as_theta = (params - vectors) * matrix + vectors * vector;
        let expected = match row["name"].as_str().unwrap() {
            "fadam" | "adam" | "candle-adamw" => 2.0 * shaped_as_theta,
            _ => shaped_as_theta + sums * sum + vectors * vector,
        };
        let bytes = number(&row, "state_bytes_per_param") * params - expected;
        assert!((-0.5..13.5 * 8.0).contains(&bytes), "{bytes} too many in {row}");
    }
}

/// GB/s is accesses × bytes / time: fadam's are five to g and θ and five to m and f.
#[test]
fn gb_per_s_is_the_least_traffic_by_the_median() {
    for row in rows(&["--only", "fadam"]) {
        let width = |key: &str| match row[key].as_str().unwrap() {
            "8bit" => 1.0,
            "bf16" => 2.0,
            "f32" => 4.0,
            _ => 8.0,
        };
        let bytes = 5.0 * width("dtype") + 5.0 * width("state");
        let expected = bytes * 114_944.0 / (number(&row, "median_ms") * 1e6);
        assert!((number(&row, "gb_per_s") / expected - 1.0).abs() < 1e-9, "{row}");
    }
}

#[test]
fn only_the_optimizers_asked_for_are_timed() {
    let rows = rows(&["--only", "candle-adamw", "--only", "adam", "--warmup", "0"]);
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["adam", "adam", "adam", "adam", "adam", "candle-adamw"]);
}

#[test]
fn people_get_an_aligned_table_and_a_warning_about_this_build() {
    let run = bench(&[
        "optimizer",
        "--params",
        "small",
        "--steps",
        "1",
        "--only",
        "adafactor",
        "--only",
        "candle-adamw",
    ]);
    assert!(run.status.success());
    let (table, errors) =
        (String::from_utf8(run.stdout).unwrap(), String::from_utf8(run.stderr).unwrap());
    for said in ["cpu", "threads", "114944 parameters", "1 steps after 3"] {
        assert!(table.contains(said), "{said:?} is not in {table}");
    }
    let lines: Vec<&str> = table.lines().skip_while(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 8, "{table}");
    assert!(lines[1].starts_with("optimizer ") && lines[7].starts_with("candle-adamw "));
    assert!(lines[1..].iter().all(|line| line.len() == lines[1].len()), "{table}");
    // The tests are built as the program is.
    assert_eq!(errors.contains("WARNING"), cfg!(debug_assertions), "{errors}");
    assert!(!errors.contains('\r'), "progress, but no terminal: {errors}");
}

#[test]
fn bad_arguments_exit_with_2() {
    for (args, said) in [
        (&[][..], "optimizer"),
        (&["rnnt2"], "rnnt2"),
        (&["optimizer", "--only", "sgd"], "candle-adamw"),
        (&["optimizer", "--steps", "0"], "--steps"),
        (&["optimizer", "--params", "tiny"], "small"),
        (&["optimizer", "--jsonl"], "--json"),
    ] {
        let run = bench(args);
        let errors = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(2), "{args:?}: {errors}");
        assert!(errors.contains(said), "{args:?}: {errors}");
        assert!(run.stdout.is_empty());
    }
}

/// `bench optimizer --json | head -1`
#[test]
fn a_reader_that_leaves_is_no_failure() {
    let mut run = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["optimizer", "--params", "small", "--steps", "1", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(run.stdout.take());
    let ended = run.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{errors}");
    assert!(!errors.contains("error"), "{errors}");
}

#[test]
fn a_decoder_is_timed() {
    let small = "llm --d-model 32 --layers 1 --heads 2 --d-ff 48 --vocab 300 --seq-len 16 --batch 2 --steps 3 --json";
    for (more, ops) in [("", "fused"), (" --composed", "composed"), (" --optimizer none", "fused")]
    {
        let args = format!("{small}{more}");
        let run = bench(&args.split(' ').collect::<Vec<_>>());
        let errors = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{args}: {errors}");
        let row: Value = serde_json::from_slice(&run.stdout).unwrap();
        assert_eq!((&row["bench"], &row["ops"]), (&"llm".into(), &ops.into()));
        // vocab · d + d + (qkv + out + up + down + norm)
        let params = 300 * 32 + 32 + (64 * 32 + 32 * 32 + 96 * 32 + 32 * 48 + 32);
        assert_eq!(row["params"], params);
        let (ms, tokens_per_s) = (number(&row, "median_ms"), number(&row, "tokens_per_s"));
        assert!(ms > 0.0 && (tokens_per_s - 32e3 / ms).abs() < 1e-6 * tokens_per_s, "{row}");
        if cfg!(target_os = "linux") {
            assert!(number(&row, "peak_rss_mb") > 1.0);
        }
    }
    let refused = bench(&["llm", "--steps", "2"]);
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn a_transducer_loss_is_timed() {
    let small = ["rnnt", "--batch", "2", "--frames", "6", "--labels", "3", "--vocab", "8"];
    let run = bench(&[&small[..], &["--runs", "3", "--json"]].concat());
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{errors}");
    let row: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(row["bench"], "rnnt");
    assert_eq!(row["logits"], serde_json::json!([2, 6, 4, 8]));
    assert_eq!(number(&row, "runs"), 3.0);
    assert!((number(&row, "logits_mb") - 1536.0 / f64::from(1 << 20)).abs() < 1e-12);
    let [p10, median, p90] = ["p10_ms", "median_ms", "p90_ms"].map(|key| number(&row, key));
    assert!(0.0 < p10 && p10 <= median && median <= p90, "{row}");
    if cfg!(target_os = "linux") {
        assert!(number(&row, "peak_rss_mb") > 1.0 && number(&row, "beyond_logits") >= 0.0);
    }
    assert_eq!(row["op"], "rnnt_loss");
    let joint = bench(&[&small[..], &["--joint", "5", "--json"]].concat());
    let joint: Value = serde_json::from_slice(&joint.stdout).unwrap();
    assert_eq!((&joint["op"], &joint["logits"]), (&"joint_rnnt_loss".into(), &row["logits"]));
    assert!(number(&joint, "median_ms") > 0.0);
    let line = bench(&[&small[..], &["--runs", "1"]].concat());
    let line = String::from_utf8(line.stdout).unwrap();
    assert!(line.contains("[2, 6, 4, 8]") && line.contains("forward and backward"), "{line}");
    // No labels, and one frame.
    let run = bench(&["rnnt", "--batch", "1", "--frames", "1", "--labels", "0", "--vocab", "2"]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    for (flag, value) in
        [("--vocab", "1"), ("--frames", "0"), ("--batch", "0"), ("--runs", "0"), ("--joint", "0")]
    {
        let refused = bench(&["rnnt", flag, value]);
        let errors = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{errors}");
        assert!(errors.contains(flag) && errors.contains("less than"), "{errors}");
    }
}

/// The backward pass has one gradient and no other copy of the logits: at most 1.2 times their memory beyond them. Behind a joint
/// network there are no logits, and what is there at once is a small part of them.
#[test]
fn a_transducer_loss_takes_little_memory() {
    if !cfg!(target_os = "linux") {
        eprintln!("SKIPPED: this system does not tell the memory of a process");
        return;
    }
    let run = bench(&["rnnt", "--runs", "1", "--json"]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let row: Value = serde_json::from_slice(&run.stdout).unwrap();
    let beyond = number(&row, "beyond_logits");
    assert!((0.9..1.2).contains(&beyond), "{row}");
    let joint = "rnnt --joint 16 --vocab 1024 --batch 4 --frames 200 --runs 1 --json";
    let run = bench(&joint.split(' ').collect::<Vec<_>>());
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let row: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert!(number(&row, "logits_mb") > 100.0 && number(&row, "beyond_logits") < 0.5, "{row}");
}

/// One row a loss, with the fields that are compared with the PyTorch program's.
#[test]
fn an_autoencoder_is_timed() {
    let small = "vqvae --image 12 --patch 4 --d-model 16 --layers 1 --heads 2 --codes 20 --batch 3 --steps 2";
    let small: Vec<&str> = small.split(' ').collect();
    let run = bench(&[&small[..], &["--json"]].concat());
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{errors}");
    let rows = String::from_utf8(run.stdout).unwrap();
    let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert_eq!(rows.len(), 2);
    for (row, (loss, outputs)) in rows.iter().zip([("ce", 256), ("l2", 1)]) {
        assert_eq!((&row["bench"], &row["loss"]), (&"vqvae".into(), &loss.into()));
        let (d, pixels) = (16, 48);
        let block = 4 * d + 4 * d * d + d + 2 * 4 * d * d + 5 * d;
        let quantizer = 20 * 32 + 32 * d + 32 + 32 * d + d;
        let params = pixels * d + d + 2 * block + quantizer + pixels * outputs * (d + 1);
        assert_eq!(row["params"], params);
        let (ms, images_per_s) = (number(row, "median_ms"), number(row, "images_per_s"));
        assert!(ms > 0.0 && (images_per_s - 3e3 / ms).abs() < 1e-6 * images_per_s, "{row}");
        if cfg!(target_os = "linux") {
            assert!(number(row, "peak_rss_mb") > 1.0);
        }
    }
    let line = bench(&[&small[..], &["--loss", "l2"]].concat());
    let line = String::from_utf8(line.stdout).unwrap();
    assert!(line.starts_with("squared error") && line.contains("images a second"), "{line}");
    assert_eq!(line.lines().count(), 1);
    for (args, said) in [
        (&["--steps", "1"][..], "--steps"),
        (&["--batch", "0"], "--batch"),
        (&["--loss", "l1"], "l2"),
        (&["--patch", "7"], "--patch: must divide image = 64"),
        (&["--loss", "l2", "--heads", "3"], "--heads: must divide d_model = 256"),
        (&["--d-model", "0"], "--d-model: must be at least 1"),
    ] {
        let refused = bench(&[&["vqvae"], args].concat());
        let errors = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{args:?}: {errors}");
        assert!(errors.contains(said) && refused.stdout.is_empty(), "{args:?}: {errors}");
    }
}

/// The networks run with any weights, here with none.
#[test]
fn features_are_timed() {
    let small = "fid --network efficientnet-lite0 --image 8 --images 2 --runs 1";
    let small: Vec<&str> = small.split(' ').collect();
    let run = bench(&[&small[..], &["--json"]].concat());
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let row: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!((&row["bench"], &row["network"]), (&"fid".into(), &"efficientnet-lite0".into()));
    let (ms, images_per_s) = (number(&row, "median_ms"), number(&row, "images_per_s"));
    assert!(ms > 0.0 && (images_per_s - 2e3 / ms).abs() < 1e-6 * images_per_s, "{row}");
    assert!(number(&row, "distance_ms") > 0.0);
    let line = bench(&small);
    let line = String::from_utf8(line.stdout).unwrap();
    assert!(line.starts_with("Fréchet distance, EfficientNet-Lite0: "), "{line}");
    for (args, said) in
        [(&["--images", "1"][..], "--images"), (&["--weights", "absent.pth"], "absent.pth")]
    {
        let refused = bench(&[&small[..1], args].concat());
        let errors = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{args:?}: {errors}");
        assert!(errors.contains(said) && refused.stdout.is_empty(), "{args:?}: {errors}");
    }
}
