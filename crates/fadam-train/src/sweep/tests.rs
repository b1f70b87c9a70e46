//! What a sweep file says, what is made of it, and what is refused.

use serde::{Deserialize, Serialize};

use super::plan::{Phase, Records};
use super::record::{Record, Status};
use super::*;
use crate::config::{FieldError, KeyDoc};

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Model {
    width: usize,
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Data {
    speeds: Vec<f64>,
}

struct Toy;

impl Experiment for Toy {
    const NAME: &'static str = "train-toy";
    type Model = Model;
    type Data = Data;
    const KEYS: &'static [KeyDoc] = &[];

    fn check(_: &RunConfig<Self>) -> Result<(), FieldError> {
        Ok(())
    }
}

fn task() -> SweepTask {
    SweepTask::of::<Toy>(|_, _| unreachable!("no test here trains"))
}

const HEAD: &str = "[sweep]\nname = \"toy\"\ntask = \"train-toy\"\nseeds = [3, 1]\n";

fn plan(rest: &str) -> Plan {
    let plan = Plan::new(Spec::parse("toy.toml", &format!("{HEAD}{rest}"), None).unwrap());
    plan.check(&task()).unwrap();
    plan
}

/// The message for a file that is refused, by itself or by a run's configuration.
fn refusal(text: &str) -> String {
    let refused =
        Spec::parse("toy.toml", text, None).and_then(|spec| Plan::new(spec).check(&task()));
    refused.expect_err(text).to_string()
}

fn names(plan: &Plan, records: &Records) -> Vec<String> {
    plan.rows(records).iter().map(|row| format!("{} {}", row.phase.name(), row.run)).collect()
}

fn record(loss: f64) -> Record {
    Record {
        status: Status::Completed,
        steps: Some(9),
        eval_loss: Some(loss),
        best_eval_loss: Some(loss),
        metrics: vec![("wer".into(), Some(0.5))],
        message: String::new(),
        ..Record::failed(String::new())
    }
}

#[test]
fn a_grid_is_every_value_with_every_other_and_every_seed() {
    let plan = plan(
        "[axes]\noptimizer.rho = [0.5, 1.0]\n\"optimizer.eps\" = [1e-8, 1e-30]\n\
         [[cells]]\nname = \"A\"\n[[cells]]\nname = \"B\"\nmodel = { width = 2 }\n",
    );
    let cells: Vec<&str> = plan.cells.iter().map(|cell| cell.name.as_str()).collect();
    assert_eq!(
        cells,
        [
            "A_rho=0.5_eps=1e-8",
            "A_rho=0.5_eps=1e-30",
            "A_rho=1.0_eps=1e-8",
            "A_rho=1.0_eps=1e-30",
            "B_rho=0.5_eps=1e-8",
            "B_rho=0.5_eps=1e-30",
            "B_rho=1.0_eps=1e-8",
            "B_rho=1.0_eps=1e-30",
        ]
    );
    let rows = plan.rows(&Records::new());
    assert_eq!(rows.len(), 16);
    assert_eq!((rows[0].seed, rows[1].seed), (3, 1), "seeds in the order of the file");
    assert!(rows.iter().all(|row| row.phase == Phase::Final));
    let config: RunConfig<Toy> =
        RunConfig::from_toml("x", &plan.config(&task(), &rows[15]).unwrap()).unwrap();
    assert_eq!((config.model().width, config.train().seed), (2, 1));
    let optimizer = serde_json::to_value(config.optimizer()).unwrap();
    assert_eq!((&optimizer["rho"], &optimizer["eps"]), (&1.0.into(), &1e-30.into()));
    let shown = plan.varied(&rows[15]);
    let shown: Vec<&str> = shown.iter().map(|value| value.as_deref().unwrap_or("-")).collect();
    assert_eq!(plan.spec.varied(), ["model.width", "optimizer.rho", "optimizer.eps"]);
    assert_eq!(shown, ["2", "1.0", "1e-30"], "as they are written");
    assert_eq!(plan.varied(&rows[0])[0], None);
}

#[test]
fn a_search_takes_the_first_seed_and_its_best_value_all_seeds() {
    let plan = plan(
        "[axes]\noptimizer.rho = [0.4, 0.5]\n[search]\noptimizer.lr = [1e-3, 1e-2, 1e-1]\nfixed = 1e-2\n",
    );
    let mut records = Records::new();
    let open = names(&plan, &records);
    assert_eq!(
        open[..5],
        [
            "search rho=0.4_lr=1e-3_seed=3",
            "search rho=0.4_lr=1e-2_seed=3",
            "search rho=0.4_lr=1e-1_seed=3",
            "fixed rho=0.4_lr=1e-2_seed=3",
            "fixed rho=0.4_lr=1e-2_seed=1",
        ]
    );
    assert_eq!(open.len(), 10, "{open:?}");
    assert_eq!(plan.count(&records), 2 * 5, "three, one more seed at the fixed, one at the best");

    for (lr, loss) in [("1e-3", 2.0), ("1e-2", 1.5)] {
        records.insert(format!("rho=0.4_lr={lr}_seed=3"), record(loss));
    }
    assert_eq!(plan.best(0, &records), None, "one value has not been tried");
    let diverged = Record { status: Status::Diverged, eval_loss: None, ..record(0.0) };
    records.insert("rho=0.4_lr=1e-1_seed=3".into(), diverged.clone());
    assert_eq!(plan.best(0, &records), Some(1));
    assert!(!plan.is_at_edge(1) && plan.is_at_edge(0) && plan.is_at_edge(2));
    let with_best = names(&plan, &records);
    assert_eq!(with_best[5..7], ["final rho=0.4_lr=1e-2_seed=3", "final rho=0.4_lr=1e-2_seed=1"]);
    assert_eq!(plan.count(&records), 4 + 5, "the best is the fixed one, and shares its runs");

    for lr in ["1e-3", "1e-2", "1e-1"] {
        records.insert(format!("rho=0.5_lr={lr}_seed=3"), diverged.clone());
    }
    assert_eq!(plan.best(1, &records), Some(0), "where all diverged the first stands for them");
    records.insert("rho=0.4_lr=1e-3_seed=3".into(), record(1.5));
    assert_eq!(plan.best(0, &records), Some(0), "of equals the earlier");
}

#[test]
fn the_table_has_a_row_a_question_whatever_ended_first() {
    let plan = plan("[axes]\noptimizer.rho = [0.4, 0.5]\n[search]\noptimizer.lr = [1e-3, 1e-2]\n");
    let mut records = Records::new();
    for (run, loss) in [("0.5_lr=1e-2", 1.0), ("0.5_lr=1e-3", 2.0), ("0.4_lr=1e-3", 3.0)] {
        records.insert(format!("rho={run}_seed=3"), record(loss));
    }
    records.insert(
        "rho=0.5_lr=1e-2_seed=1".into(),
        Record {
            status: Status::Diverged,
            eval_loss: None,
            metrics: Vec::new(),
            message: "the gradient of \"a, b\" is not finite".into(),
            ..record(1.25)
        },
    );
    let text = String::from_utf8(super::table::results(&plan, &records).unwrap()).unwrap();
    assert_eq!(
        text,
        "sweep,run,task,cell,phase,seed,optimizer.rho,optimizer.lr,status,steps,eval_loss,best_eval_loss,wer,params,message\n\
         toy,rho=0.4_lr=1e-3_seed=3,train-toy,rho=0.4,search,3,0.4,1e-3,completed,9,3,3,0.5,,\n\
         toy,rho=0.5_lr=1e-3_seed=3,train-toy,rho=0.5,search,3,0.5,1e-3,completed,9,2,2,0.5,,\n\
         toy,rho=0.5_lr=1e-2_seed=3,train-toy,rho=0.5,search,3,0.5,1e-2,completed,9,1,1,0.5,,\n\
         toy,rho=0.5_lr=1e-2_seed=3,train-toy,rho=0.5,final,3,0.5,1e-2,completed,9,1,1,0.5,,\n\
         toy,rho=0.5_lr=1e-2_seed=1,train-toy,rho=0.5,final,1,0.5,1e-2,diverged,9,,1.25,,,\"the gradient of \"\"a, b\"\" is not finite\"\n"
    );
    let shown = super::answers::table(&plan, &records);
    assert!(shown.contains("NaN  1 diverged"), "{shown}");
    assert!(shown.contains("1e-2 *"), "the best is the last that was searched: {shown}");
    assert!(super::curve::draw(&plan, &records).unwrap().is_none(), "no cell has a mean");
    records.insert("rho=0.5_lr=1e-2_seed=1".into(), record(1.5));
    let svg = super::curve::draw(&plan, &records).unwrap().unwrap();
    for text in ["<svg", "optimizer.rho", "held-out loss (nats)", "at the best optimizer.lr"] {
        assert!(svg.contains(text), "{text}");
    }
}

#[test]
fn a_sweep_in_one_file_is_the_same_sweep() {
    let first = plan(
        "jobs = 2\n[base]\ndata = { speeds = [0.9, 1.0] } # a comment\n\
         [base.optimizer]\nalgorithm = \"adam\"\neps = 1e-30 # another\n\
         [[base.optimizer.groups]]\nmatch = \"*.bias\"\nfrozen = true\n\
         [axes]\noptimizer.clip = [\"off\", 1.0]\n[search]\noptimizer.lr = [1e-3, 1e-2]\nfixed = 1e-2\n\
         [[cells]]\nname = \"a\"\nmodel.width = 3\n",
    );
    let text = first.spec.to_toml();
    let again = Plan::new(Spec::parse("sweep.toml", &text, None).unwrap());
    assert_eq!(again.spec.to_toml(), text);
    let (rows, records) = (first.rows(&Records::new()), Records::new());
    assert_eq!(rows, again.rows(&records));
    for row in rows {
        let (a, b) = (first.config(&task(), &row).unwrap(), again.config(&task(), &row).unwrap());
        assert_eq!(a, b);
        assert!(a.contains("frozen = true") && a.contains("[0.9, 1.0]"), "{a}");
    }
    assert!(text.contains("1e-30"), "{text}");
}

#[test]
fn a_base_file_is_what_base_overrides() {
    let folder = tempfile::tempdir().unwrap();
    let base = "[train]\nsteps = 5\nbatch = 7\n[optimizer]\nlr = 1e-4\n";
    std::fs::write(folder.path().join("base.toml"), base).unwrap();
    let text = format!("{HEAD}config = \"base.toml\"\n[base]\ntrain.batch = 9\n");
    let plan = Plan::new(Spec::parse("toy.toml", &text, Some(folder.path())).unwrap());
    let config = plan.config(&task(), &plan.rows(&Records::new())[0]).unwrap();
    let config: RunConfig<Toy> = RunConfig::from_toml("x", &config).unwrap();
    assert_eq!((config.train().steps, config.train().batch, config.train().seed), (5, 9, 3));

    std::fs::write(folder.path().join("base.toml"), "[train]\nsteps = 5\nbatch = 0\n").unwrap();
    let text = text.replace("train.batch = 9", "train.log_every = 1");
    let plan = Plan::new(Spec::parse("toy.toml", &text, Some(folder.path())).unwrap());
    let message = plan.check(&task()).unwrap_err().to_string();
    assert!(message.contains("base.toml:3") && message.contains("train.batch"), "{message}");
}

#[test]
fn what_cannot_be_is_refused_with_its_line() {
    let refused = |rest: &str, expected: &[&str]| {
        let message = refusal(&format!("{HEAD}{rest}"));
        for part in expected {
            assert!(message.contains(part), "{rest:?}: {part:?} is not in: {message}");
        }
    };
    refused("[axis]\n", &["toy.toml:5", "axis", "axes"]);
    refused("seed = 3\n", &["toy.toml:5", "seed", "seeds"]);
    refused("[base]\nx = 1 2\n", &["toy.toml:6"]);
    refused("jobs = 0\n", &["toy.toml:5", "jobs = 0"]);
    refused("config = \"absent.toml\"\n", &["absent.toml", "cannot be read"]);
    refused("[base]\noptimizer.roh = 1\n", &["toy.toml:6", "roh", "cell base"]);
    refused("[base]\ntrain.seed = 1\n", &["toy.toml:6", "train.seed", "sweep.seeds"]);
    refused("[axes]\ntrain.seed = [1]\n", &["toy.toml:6", "sweep.seeds"]);
    refused("[axes]\noptimizer.rho = 0.5\n", &["toy.toml:6", "list"]);
    refused("[axes]\noptimizer.rho = []\n", &["toy.toml:6", "list"]);
    refused("[axes]\noptimizer.rho = [0.5, 0.50]\n", &["toy.toml:6", "0.50 twice"]);
    refused(
        "[axes]\noptimizer.rho = [0.5, 0.0]\n",
        &["toy.toml:6", "cell rho=0.0", "optimizer.rho"],
    );
    refused("[axes]\noptimizer.rho = [0.5, \"x\"]\n", &["toy.toml:6", "cell rho=x"]);
    refused("[axes]\nmodel.width = [1]\n\"model.width\" = [2]\n", &["toy.toml:7", "twice"]);
    refused(
        "[axes]\nmodel.width = [1]\n[[cells]]\nname=\"a\"\nmodel.width = 2\n",
        &["toy.toml:6", "elsewhere"],
    );
    refused(
        "[search]\nmodel.width = [1]\n[axes]\nmodel.width = [1, 2]\n",
        &["model.width", "elsewhere"],
    );
    refused("[search]\nmodel.width = [1]\noptimizer.lr = [1e-3]\n", &["[search]", "one key"]);
    refused(
        "[search]\noptimizer.lr = [1e-3, -1.0]\n",
        &["toy.toml:6", "optimizer.lr", "cell base"],
    );
    refused(
        "[search]\noptimizer.lr = [1e-3]\nfixed = -2.0\n",
        &["toy.toml:7", "optimizer.lr = -2.0"],
    );
    refused("[[cells]]\nmodel.width = 1\n", &["toy.toml:6", "no name"]);
    refused("[[cells]]\nname = \"a b\"\n", &["toy.toml:6", "letters"]);
    refused("[[cells]]\nname = \"../a\"\n", &["toy.toml:6", "letters"]);
    refused("[[cells]]\nname = \"a\"\n[[cells]]\nname = \"a\"\n", &["toy.toml:8", "two cells"]);
    refused("[[cells]]\nname = \"a\"\n[[cells]]\nname = \"b\"\n", &["a and b", "same run"]);
    refused("[cells]\nname = \"a\"\n", &["toy.toml", "cells"]);
    refused(
        "[[cells]]\nname = \"a\"\noptimizer.algorithm = \"adam\"\noptimizer.rho = 0.5\n",
        &["toy.toml:8", "cell a", "optimizer.rho", "adam"],
    );
    let without = |line: &str| refusal(&HEAD.replace(line, ""));
    assert!(without("name = \"toy\"\n").contains("no name"));
    assert!(without("task = \"train-toy\"\n").contains("no task"));
    assert!(without("seeds = [3, 1]\n").contains("no seeds"));
    for seeds in ["[]", "[1, 1]", "[-1]", "[1.5]", "3"] {
        let message = refusal(&HEAD.replace("[3, 1]", seeds));
        assert!(message.starts_with("toy.toml:4: seeds"), "{message}");
    }
}
