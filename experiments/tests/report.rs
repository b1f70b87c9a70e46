//! `report` on sweeps whose numbers are written here: what it says of them, and what it says of bad input.
#![allow(clippy::format_push_string, reason = "tables of a few lines, written as they read")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A folder with sweeps, and where their report goes.
struct Bench(TempDir);

/// `(cell, phase, seed, values of the axes, held-out loss)`; a loss of `NaN` is a run that diverged, an empty one a run that failed.
type Row<'a> = (&'a str, &'a str, u64, &'a str, &'a str);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a sweep of `train-llm` with `seeds` 0, 1 and 2.
    fn sweep(&self, name: &str, axes: &str, rows: &[Row<'_>]) {
        let folder = self.path(&format!("sweeps/{name}"));
        fs::create_dir_all(&folder).unwrap();
        let sweep = format!(
            "[sweep]\nname = \"{name}\"\ntask = \"train-llm\"\nseeds = [0, 1, 2]\n\n[base]\n"
        );
        fs::write(folder.join("sweep.toml"), sweep).unwrap();
        let mut csv = format!(
            "sweep,run,task,cell,phase,seed,{axes},status,steps,eval_loss,best_eval_loss,bits_per_byte,params,message\n"
        );
        for (cell, phase, seed, values, loss) in rows {
            let run = format!("{cell}_{}_seed={seed}", values.replace(',', "_"));
            let end = match *loss {
                "NaN" => "diverged,7,,,,100,step 7: loss <NaN> & \"gone\"".replace('"', "'"),
                "" => "failed,7,,,,100,no space left".to_owned(),
                loss => format!("completed,40,{loss},{loss},,100,"),
            };
            csv += &format!("{name},{run},train-llm,{cell},{phase},{seed},{values},{end}\n");
        }
        fs::write(folder.join("results.csv"), csv).unwrap();
    }

    /// Three seeds of each cell in the final phase: cell, values of the axes, losses.
    fn three_seeds(&self, name: &str, axes: &str, cells: &[(&str, &str, [&str; 3])]) {
        let rows: Vec<Row<'_>> = cells
            .iter()
            .flat_map(|(cell, values, losses)| {
                (0..3).zip(losses).map(|(seed, loss)| (*cell, "final", seed, *values, *loss))
            })
            .collect();
        self.sweep(name, axes, &rows);
    }

    fn run(&self, more: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_report"))
            .args(["--out", "out"])
            .args(more)
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }

    /// Makes the report on all sweeps and returns its Markdown and its HTML.
    fn report(&self) -> (String, String) {
        let mut folders: Vec<String> = fs::read_dir(self.path("sweeps"))
            .unwrap()
            .map(|entry| format!("sweeps/{}", entry.unwrap().file_name().to_str().unwrap()))
            .collect();
        folders.sort();
        let folders: Vec<&str> = folders.iter().map(String::as_str).collect();
        let run = self.run(&folders);
        assert!(run.status.success(), "{}", error(&run));
        let read = |name: &str| fs::read_to_string(self.path("out").join(name)).unwrap();
        (read("report.md"), read("report.html"))
    }
}

fn error(run: &Output) -> String {
    String::from_utf8_lossy(&run.stderr).into_owned()
}

/// The lines of a Markdown section, from its heading to the next one as high.
fn section<'a>(markdown: &'a str, heading: &str) -> &'a str {
    let start = markdown.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let rest = &markdown[start + 1..];
    let marks = heading.split(' ').next().unwrap();
    rest[1..].find(&format!("\n{marks} ")).map_or(rest, |end| &rest[..=end])
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

const DECAY: &[(&str, &str, [&str; 3])] = &[
    ("wd=1e-2", "1e-2", ["3.2", "3.31", "3.39"]),
    ("wd=1e-3", "1e-3", ["3.0", "3.1", "3.2"]),
    ("wd=1e-4", "1e-4", ["2.8", "2.92", "2.99"]),
    ("wd=1e-5", "1e-5", ["3.05", "3.08", "3.2"]),
];

/// The numbers are those of `numpy` and `scipy.stats.ttest_rel`, Holm's correction by hand.
#[test]
fn each_contrast_is_judged_by_its_pairs() {
    let bench = Bench::new();
    bench.three_seeds("decay", "optimizer.weight_decay", DECAY);
    let (markdown, html) = bench.report();
    let table = section(&markdown, "## Table 6");
    has(
        table,
        &[
            "| λ 1e-3 | 2.875 | 3.100 ± 0.058 | 3 |",
            "| λ 1e-4 | 2.998 | 2.903 ± 0.055 | 3 |",
            "| λ 1e-3 − λ 1e-2 | **holds** | −0.2000 ± 0.0058 | −0.2115 to −0.1885 | 3 | 0.002 | 2.875 − 3.007 |",
            "| λ 1e-3 − λ 1e-4 | **contradicts** | +0.1967 ± 0.0088 | +0.1790 to +0.2143 | 3 | 0.004 |",
            "| λ 1e-3 − λ 1e-5 | **inconclusive** | −0.010 ± 0.021 | −0.052 to +0.032 | 3 | 0.678 |",
            "**mixed** in held-out loss: 1 of 3 contrasts hold, 1 contradict.",
        ],
    );
    has(
        &html,
        &["<td><span class=\"verdict contradicts\">contradicts</span></td>", "3.100 ± 0.058"],
    );
    has(
        section(&markdown, "## What came of it"),
        &["[Table 6](#table-6), LLM | **mixed** | decay, "],
    );
    let figure = "figures/table-6-llm-decay-final-cells.svg";
    has(table, &[figure]);
    assert!(bench.path("out").join(figure).is_file());
}

#[test]
fn divergence_missing_seeds_and_ties_are_shown_as_what_they_are() {
    let bench = Bench::new();
    bench.three_seeds(
        "epsilon",
        "optimizer.eps,optimizer.eps2",
        &[
            ("adaptive", ",", ["2.0", "2.1", "2.2"]), // the paper's constants
            ("fixed-8", "1e-8,off", ["2.1", "2.21", "2.3"]),
            ("fixed-12", "1e-12,off", ["2.1", "2.2", "NaN"]),
            ("fixed-20", "1e-20,off", ["1.9", "", ""]),
            ("fixed-30", "1e-30,off", ["NaN", "NaN", "NaN"]),
        ],
    );
    bench.three_seeds(
        "epsilon2",
        "optimizer.eps2",
        &[
            ("eps2=1e-2", "1e-2", ["2.0", "2.1", "2.2"]),
            ("eps2=1e-8", "1e-8", ["3.0", "3.11", "3.2"]),
        ],
    );
    let (markdown, html) = bench.report();
    has(
        section(&markdown, "## Table 3"),
        &[
            "| ε 1e-12 | 2.42 | 2.150 ± 0.050 | 2 of 3, 1 NaN |",
            "| ε 1e-20 | NaN | 1.900 | 1 of 3, 2 missing |",
            "| ε 1e-30 | NaN | NaN | 0 of 3, 3 NaN |",
            "| adaptive − ε 1e-12 | **holds** | −0.100 ± 0.000 | −0.100 to −0.100 | 2, second NaN ×1 |",
            "| adaptive − ε 1e-20 | **inconclusive** | +0.100 | – | 1 | – | 2.39 − NaN |",
            "| adaptive − ε 1e-30 | **holds** | – | – | 0, second NaN ×3 | – |",
            "Not run: ε 1e-15. ",
            "**holds** in held-out loss: 3 of 5 contrasts hold, 1 not run.",
        ],
    );
    has(
        section(&markdown, "## Table 4"),
        &["| ε₂ 1e-2 − ε₂ 1e-8 | **no claim** |", "0 of 4 contrasts hold, 4 not run"],
    );
    let sources = section(&markdown, "## Where the numbers are from");
    has(
        sources,
        &["diverged | 7 | step 7: loss &lt;NaN&gt; &amp; 'gone' |", "failed | 7 | no space left"],
    );
    has(&html, &["step 7: loss &lt;NaN&gt; &amp; 'gone'"]);
}

#[test]
fn one_seed_is_inconclusive_and_unpaired_seeds_are_said_to_be() {
    let bench = Bench::new();
    let compare = |name: &str, rows: &[Row<'_>]| bench.sweep(name, "optimizer.algorithm", rows);
    compare(
        "one",
        &[("new", "final", 0, "fadafactor", "2.0"), ("old", "final", 0, "adafactor", "3.0")],
    );
    compare(
        "other-seeds",
        &[
            ("new", "final", 0, "fadafactor", "2.0"),
            ("new", "final", 1, "fadafactor", "2.1"),
            ("old", "final", 2, "adafactor", "3.0"),
            ("old", "final", 3, "adafactor", "3.1"),
        ],
    );
    let (markdown, _) = bench.report();
    has(
        section(&markdown, "## Figure 1a"),
        &[
            "| FAdafactor − Adafactor | **inconclusive** | −1.000 | – | 1 | – | first is lower |",
            "not paired: no seed in common",
            "| FAdafactor − Adafactor | **holds** | −1.000 ± 0.071 |",
        ],
    );
}

/// The phases of a sweep with a search: at one rate for all, and at the best of each.
#[test]
fn a_search_is_shown_and_its_two_answers_are() {
    let bench = Bench::new();
    let mut rows = Vec::new();
    for (cell, rho, losses, best) in [
        ("rho=0.4", "0.4", ["3.5", "3.0", "3.2"], "3e-3"),
        ("rho=0.5", "0.5", ["3.1", "3.3", "NaN"], "1e-3"),
    ] {
        for (rate, loss) in ["1e-3", "3e-3", "1e-2"].into_iter().zip(losses) {
            rows.push((cell, "search", 0, format!("{rho},{rate}"), loss));
        }
        for seed in 0..2 {
            rows.push((
                cell,
                "fixed",
                seed,
                format!("{rho},1e-3"),
                if rho == "0.4" { "3.5" } else { "3.1" },
            ));
            rows.push((
                cell,
                "final",
                seed,
                format!("{rho},{best}"),
                if rho == "0.4" { "3.0" } else { "3.1" },
            ));
        }
    }
    let rows: Vec<Row<'_>> = rows
        .iter()
        .map(|(cell, phase, seed, values, loss)| (*cell, *phase, *seed, values.as_str(), *loss))
        .collect();
    bench.sweep("rho", "optimizer.rho,optimizer.lr", &rows);
    let (markdown, _) = bench.report();
    let table = section(&markdown, "## Table 2");
    has(
        table,
        &[
            "#### rho, at one learning rate, 1e-3",
            "| ρ 0.5 − ρ 0.4 | **holds** | −0.400 ± 0.000 |",
            "#### rho, each cell at the learning rate that its search found best",
            "| ρ 0.4 | 3.9 | 3.000 ± 0.000 | 2 of 3, 1 missing | 3e-3 |",
            "| ρ 0.5 − ρ 0.4 | **contradicts** | +0.100 ± 0.000 |",
        ],
    );
    has(
        section(&markdown, "## Where the numbers are from"),
        &[
            "| cell | 1e-3 | 3e-3 | 1e-2 |",
            "| rho=0.5 | 3.100 | 3.300 | NaN |",
            "may lie beyond, for rho=0.5.",
            "figures/rho-search.svg",
            "cargo run --release --bin ablate-rho -- --config sweeps/rho/sweep.toml --out runs/rho",
        ],
    );
}

#[test]
fn a_sweep_about_one_question_is_no_part_of_an_answer_to_another() {
    let bench = Bench::new();
    // All of Table 4, and with the fixed ε two of the six cells of Table 3.
    let losses = ["3.0", "3.1", "3.2"];
    let mut cells: Vec<(&str, String)> = ["1e-1", "0.01", "1e-3", "1e-4", "1e-6", "1e-8", "off"]
        .map(|eps2| (eps2, format!("1e-8,{eps2}")))
        .to_vec();
    let report = |cells: &[(&str, String)]| {
        let cells: Vec<(&str, &str, [&str; 3])> =
            cells.iter().map(|(name, values)| (*name, values.as_str(), losses)).collect();
        bench.three_seeds("eps2", "optimizer.eps,optimizer.eps2", &cells);
        bench.report().0
    };
    let markdown = report(&cells);
    has(section(&markdown, "## Table 4"), &["#### eps2, "]);
    assert!(section(&markdown, "## Table 3").contains("**not run yet**"));
    // Without all of Table 4 it may be about either.
    cells.remove(0);
    let markdown = report(&cells);
    has(section(&markdown, "## Table 4"), &["#### eps2, "]);
    has(section(&markdown, "## Table 3"), &["#### eps2, ", "4 not run"]);
}

#[test]
fn other_sweeps_and_single_runs_have_a_place_too() {
    let bench = Bench::new();
    bench.three_seeds(
        "parts",
        "optimizer.parts",
        &[("all & <some>", "all", ["2.0", "2.1", "2.2"]), ("none", "none", ["2.1", "2.2", "2.3"])],
    );
    let run = bench.path("sweeps/alone");
    fs::create_dir_all(&run).unwrap();
    fs::write(run.join("config.toml"), "[optimizer]\nlr = 1e-3\n").unwrap();
    let summary = r#"{"experiment":"train-llm","optimizer":"fadam","seed":4,"steps":9,"outcome":"completed","eval_loss":2.5,
        "bits_per_byte":1.5,"best_eval_loss":2.5,"commit":"c0ffee","device":"cpu","threads":2}"#;
    fs::write(run.join("summary.json"), summary).unwrap();
    let line = "{\"step\":9,\"split\":\"eval\",\"loss\":2.5,\"bits_per_byte\":1.5}\n";
    fs::write(run.join("metrics.jsonl"), line).unwrap();
    let (markdown, html) = bench.report();
    let sources = section(&markdown, "## Where the numbers are from");
    has(
        sources,
        &[
            "It answers none of the paper's questions",
            "| none | – | 3 | 2.200 ± 0.058 | +0.100 ± 0.000 |",
            "| fadam | 0.001 | 1 | 2.500 | 1.500 |",
            "| commit | c0ffee |",
            "| machine | cpu, 2 threads |",
        ],
    );
    assert!(section(&markdown, "## Table 2").contains("**not run yet**"));
    has(&html, &["all &amp; &lt;some&gt;"]);
}

#[test]
fn bad_input_is_named_and_nothing_is_written() {
    let bench = Bench::new();
    bench.three_seeds("decay", "optimizer.weight_decay", DECAY);
    let file = |name: &str| bench.path("sweeps/decay").join(name);
    let (csv, toml) = (
        fs::read_to_string(file("results.csv")).unwrap(),
        fs::read_to_string(file("sweep.toml")).unwrap(),
    );
    let refused = |name: &str, text: &str, expected: &str| {
        fs::write(file(name), text).unwrap();
        let run = bench.run(&["sweeps/decay"]);
        assert_eq!(run.status.code(), Some(2), "{}", error(&run));
        assert!(error(&run).contains(expected), "{} has no {expected}", error(&run));
        assert_eq!(error(&run).lines().count(), 1, "{}", error(&run));
        assert!(!bench.path("out").exists(), "something was written");
        fs::write(file("results.csv"), &csv).unwrap();
        fs::write(file("sweep.toml"), &toml).unwrap();
    };
    refused(
        "results.csv",
        &csv.replacen("3.31", "3.3x", 1),
        "sweeps/decay/results.csv:3: column eval_loss: \"3.3x\" is not a number",
    );
    refused(
        "results.csv",
        &csv.replacen(",100,", ",", 1),
        "sweeps/decay/results.csv:2: has 13 columns where the first line has 14",
    );
    refused("results.csv", "", "sweeps/decay/results.csv:1: there is no column \"run\"");
    refused("sweep.toml", "[sweep]\nname = \"x\n", "sweeps/decay/sweep.toml:2: ");
    refused(
        "sweep.toml",
        "[sweep]\nname = \"x\"\n",
        "sweeps/decay/sweep.toml: [sweep] has no `seeds`",
    );
    fs::write(file("curves.csv"), "run,step,eval_loss\na,b,1\n").unwrap();
    refused("sweep.toml", &toml, "curves.csv: line 2: column step: \"b\" is not a number");
    let run = bench.run(&["nowhere"]);
    assert_eq!(run.status.code(), Some(2));
    assert!(error(&run).contains("nowhere: is neither the folder of a sweep"), "{}", error(&run));
}

/// What `--extract` keeps is enough for the same figures, and `--check` sees when numbers and pages part.
#[test]
fn a_committed_report_can_be_made_again_without_its_runs() {
    let bench = Bench::new();
    bench.three_seeds("decay", "optimizer.weight_decay", DECAY);
    for (cell, value, losses) in DECAY {
        for (seed, loss) in losses.iter().enumerate() {
            let run = bench.path("sweeps/decay/runs").join(format!("{cell}_{value}_seed={seed}"));
            fs::create_dir_all(&run).unwrap();
            let line = |step: u32, loss: &str| {
                format!("{{\"step\":{step},\"split\":\"eval\",\"loss\":{loss}}}\n")
            };
            let metrics: String = [(0, "7.1234567"), (20, "4.5"), (40, loss)]
                .map(|(step, loss)| line(step, loss))
                .concat();
            fs::write(run.join("metrics.jsonl"), metrics).unwrap();
            fs::write(
                run.join("summary.json"),
                "{\"commit\":\"c0ffee\",\"device\":\"cpu\",\"threads\":1}",
            )
            .unwrap();
        }
    }
    let (markdown, _) = bench.report();
    let figure = "figures/table-6-llm-decay-final-curves.svg";
    has(&markdown, &[figure, "| commit | c0ffee |", "| machine | cpu, 1 thread |"]);
    let drawn = fs::read(bench.path("out").join(figure)).unwrap();

    let run = bench.run(&["--extract", "docs", "sweeps/decay"]);
    assert!(run.status.success(), "{}", error(&run));
    assert!(String::from_utf8_lossy(&run.stdout).contains("12 of 12 runs with a curve"));
    fs::remove_dir_all(bench.path("sweeps")).unwrap();
    fs::remove_dir_all(bench.path("out")).unwrap();
    let docs = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_report"));
        command.args(["--out", "docs"]).args(more).current_dir(bench.0.path()).output().unwrap()
    };
    assert!(docs(&[]).status.success(), "the folders in --out are the default");
    assert_eq!(fs::read(bench.path("docs").join(figure)).unwrap(), drawn);
    assert!(docs(&["--check"]).status.success());

    let results = bench.path("docs/decay/results.csv");
    let edited = fs::read_to_string(&results).unwrap().replacen("3.31", "3.32", 2);
    fs::write(&results, edited).unwrap();
    let stale = docs(&["--check"]);
    assert_eq!(stale.status.code(), Some(1));
    has(
        &error(&stale),
        &["docs is not the report that its results give", "report.md: differs from line"],
    );
    assert!(docs(&[]).status.success() && docs(&["--check"]).status.success());
    fs::write(bench.path("docs/figures/old.svg"), "").unwrap();
    has(&error(&docs(&["--check"])), &["figures/old.svg: is not of this report"]);
    assert!(docs(&[]).status.success() && !bench.path("docs/figures/old.svg").exists());
}

/// Elements are closed in their order, ids are unique, links lead somewhere, and nothing is fetched.
#[test]
fn the_page_is_well_formed_and_needs_nothing_else() {
    let bench = Bench::new();
    bench.three_seeds("decay", "optimizer.weight_decay", DECAY);
    bench.three_seeds("parts", "optimizer.parts", &[("a < b", "all", ["2.0", "", "NaN"])]);
    let (_, html) = bench.report();
    let mut open: Vec<&str> = Vec::new();
    for tag in html.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("a tag that ends");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}>");
        } else if !tag.ends_with('/') && !matches!(name, "!DOCTYPE" | "meta") {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    let ids: Vec<&str> =
        html.split(" id=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    for (k, id) in ids.iter().enumerate() {
        assert!(!ids[..k].contains(id), "{id} twice");
    }
    for target in html.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        let id =
            target.strip_prefix('#').unwrap_or_else(|| panic!("{target} leads out of the page"));
        assert!(ids.contains(&id), "{target}");
    }
    for outside in ["<script", "src=", "@import", "url("] {
        assert!(!html.contains(outside), "{outside}");
    }
    has(
        &html,
        &[
            "<html lang=\"en\">",
            "name=\"viewport\"",
            "prefers-color-scheme: dark",
            "<th scope=\"row\">",
        ],
    );
}

/// `docs/results` is what its results give: `FADAM_UPDATE_DOCS=1` makes it again.
#[test]
fn the_committed_report_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(env!("CARGO_BIN_EXE_report"));
    if std::env::var_os("FADAM_UPDATE_DOCS").is_none() {
        command.arg("--check");
    }
    let run = command.current_dir(root).output().unwrap();
    assert!(run.status.success(), "{}; run with FADAM_UPDATE_DOCS=1", error(&run));
}
