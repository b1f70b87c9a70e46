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
            "fadam bf16 f32 0.5",
            "fadam f64 f64 0.5",
            "fadafactor f32 f32 0.5",
            "fadafactor bf16 f32 0.5",
            "fadafactor f64 f64 0.5",
            "adam f32 f32 null",
            "adam bf16 f32 null",
            "adam f64 f64 null",
            "adafactor f32 f32 null",
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

/// A momentum, and a full or a factored FIM, of 4 bytes a number (8 for f64 parameters), and a step count
/// of 8 bytes for each of the 13 tensors.
#[test]
fn the_state_is_as_large_as_the_algorithms_say() {
    // Row and column sums: of the embedding, and in two blocks of four matrices and two vectors, whose
    // FIM is never factored.
    let sums = (256 + 64) + 2 * ((64 + 192) + (64 + 64) + (64 + 256) + (256 + 64) + 64 + 64);
    let params = 114_944.0;
    for row in rows(&[]) {
        let numbers = match row["name"].as_str().unwrap() {
            "fadam" | "adam" | "candle-adamw" => 2.0 * params,
            _ => params + f64::from(sums),
        };
        let width = if row["state"] == "f64" { 8.0 } else { 4.0 };
        let bytes = number(&row, "state_bytes_per_param") * params - width * numbers;
        assert!((-0.5..13.5 * 8.0).contains(&bytes), "{bytes} too many in {row}");
    }
}

/// GB/s is accesses × bytes / time: fadam's ten of f32 are 40 bytes a parameter.
#[test]
fn gb_per_s_is_the_least_traffic_by_the_median() {
    for row in rows(&["--only", "fadam"]) {
        let bytes = match row["dtype"].as_str().unwrap() {
            "bf16" => 5.0 * 2.0 + 5.0 * 4.0,
            "f32" => 40.0,
            _ => 80.0,
        };
        let expected = bytes * 114_944.0 / (number(&row, "median_ms") * 1e6);
        assert!((number(&row, "gb_per_s") / expected - 1.0).abs() < 1e-9, "{row}");
    }
}

#[test]
fn only_the_optimizers_asked_for_are_timed() {
    let rows = rows(&["--only", "candle-adamw", "--only", "adam", "--warmup", "0"]);
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["adam", "adam", "adam", "candle-adamw"]);
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
    assert_eq!(lines.len(), 6, "{table}");
    assert!(lines[1].starts_with("optimizer ") && lines[5].starts_with("candle-adamw "));
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
