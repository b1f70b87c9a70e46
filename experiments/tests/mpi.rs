//! `train-llm` as several processes of MPI on one machine: `scripts/check-mpi.sh` has what this needs.
#![cfg(unix)]

mod common;

#[cfg(not(feature = "mpi"))]
#[test]
fn without_the_feature_several_processes_are_refused_with_a_hint() {
    let bench = common::Bench::new();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_train-llm"))
        .current_dir(bench.path(""))
        .args(["--config", "small.toml", "--out", "run"])
        .envs([("PMI_SIZE", "4"), ("PMI_RANK", "0")])
        .output()
        .unwrap();
    let message = common::string(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    let start = "error: PMI_SIZE=4: 4 processes were started together (this is number 0), but this program was built without MPI";
    assert!(message.starts_with(start) && message.contains("--features mpi"), "{message}");
    assert!(!bench.path("run").exists());
}

#[cfg(feature = "mpi")]
mod with_mpi {
    use std::fs;
    use std::path::Path;
    use std::process::{Child, Command, Output, Stdio};
    use std::time::Duration;

    use fadam_train::checkpoint::last_whole;

    use crate::common::{Bench, assert_same_run, json, metrics, string};

    /// Four batches a step, which one, two and four ranks share.
    const RUN: [&str; 13] = [
        "--config",
        "small.toml",
        "--set",
        "train.batch=2",
        "--set",
        "train.accumulate=4",
        "--set",
        "train.log_every=1",
        "--set",
        "checkpoint.every=5",
        "--set",
        "parallel.check_every=5",
        "--set",
    ];
    const STEPS: u64 = 20;

    /// Steps that no test waits for.
    const ENDLESS: u64 = 1_000_000;

    fn mpiexec(bench: &Bench, ranks: usize, steps: u64, args: &[&str]) -> Command {
        let mut command =
            Command::new(std::env::var_os("FADAM_MPIEXEC").unwrap_or("mpiexec".into()));
        command.current_dir(bench.path("")).arg("-n").arg(ranks.to_string());
        command.arg(env!("CARGO_BIN_EXE_train-llm")).args(RUN).arg(format!("train.steps={steps}"));
        command.args(args).env("RAYON_NUM_THREADS", "1");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(bench: &Bench, ranks: usize, args: &[&str]) -> Output {
        mpiexec(bench, ranks, STEPS, args).output().unwrap()
    }

    fn completes(bench: &Bench, ranks: usize, args: &[&str]) {
        let output = run(bench, ranks, args);
        assert!(output.status.success(), "{}{}", string(&output.stdout), string(&output.stderr));
    }

    fn losses(run: &Path) -> Vec<f64> {
        metrics(run).iter().filter_map(|line| line["loss"].as_f64()).collect()
    }

    /// 2⁻²⁰, relative: some units in the last place of an f32, of which 20 steps make one here. The first step's loss is the same to the
    /// last bit; from then on gradients differ in their last bits (2⁻²⁴ of the batches' gradients), and a step is about g/√f, of
    /// size 1, whose sign is rounding's where batches cancel.
    const BOUND: f64 = 1.0 / 1_048_576.0;

    #[test]
    fn two_and_four_ranks_have_the_losses_of_one() {
        let bench = Bench::new();
        completes(&bench, 1, &["--out", "1"]);
        let one = losses(&bench.path("1"));
        for ranks in [2, 4] {
            let out = ranks.to_string();
            completes(&bench, ranks, &["--out", &out]);
            let many = losses(&bench.path(&out));
            assert_eq!((one.len(), &one[..2]), (many.len(), &many[..2]));
            let off = one.iter().zip(&many).fold(0f64, |most, (a, b)| most.max((a - b).abs() / a));
            println!(
                "{ranks} ranks: losses of {STEPS} steps differ by at most {off:.1e} of themselves"
            );
            assert!(off <= BOUND, "{off:e}");
            assert_eq!(json(&bench.path(&out).join("summary.json"))["processes"], ranks);
        }
        // Not by chance: with another seed they are far apart.
        completes(&bench, 2, &["--out", "other", "--seed", "1"]);
        let other = losses(&bench.path("other"));
        let apart = one.iter().zip(&other).fold(0f64, |most, (a, b)| most.max((a - b).abs() / a));
        assert!(apart > 100.0 * BOUND, "{apart:e}");
    }

    #[test]
    fn sharded_state_and_a_resume_by_other_ranks_are_the_same_run() {
        let bench = Bench::new();
        completes(&bench, 2, &["--out", "whole"]);
        completes(&bench, 2, &["--out", "zero", "--set", "parallel.zero=true"]);
        let end = |run: &str, file: &str| {
            fs::read(bench.path(run).join("checkpoints/step-00000020").join(file)).unwrap()
        };
        assert_eq!(end("whole", "model.safetensors"), end("zero", "model.safetensors"));
        assert_eq!(losses(&bench.path("whole")), losses(&bench.path("zero")));
        completes(&bench, 4, &["--out", "parts", "--steps", "5", "--set", "parallel.zero=true"]);
        completes(&bench, 2, &["--out", "parts", "--resume"]);
        let cursor = |run: &str| {
            let state = json(&bench.path(run).join("checkpoints/step-00000020/state.json"));
            (state["cursor"].clone(), state["units"].clone())
        };
        assert_eq!(cursor("whole"), cursor("parts"));
        let (whole, parts) = (losses(&bench.path("whole")), losses(&bench.path("parts")));
        let (whole, parts) = (whole.last().unwrap(), parts.last().unwrap());
        assert!((whole - parts).abs() <= BOUND * whole, "{whole} {parts}");
    }

    /// The process of a rank of a job in this folder.
    fn process_of(bench: &Bench, rank: usize) -> Option<String> {
        let folder = bench.path("").canonicalize().unwrap();
        let variable = [format!("PMI_RANK={rank}"), format!("OMPI_COMM_WORLD_RANK={rank}")];
        let is_it = |process: &Path| {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            let environment = string(&environment);
            let here = fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder);
            here && environment.split('\0').any(|set| variable.iter().any(|v| v == set))
        };
        let mut processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let found = processes.find(|path| is_it(path))?;
        Some(found.file_name()?.to_str()?.to_owned())
    }

    /// Starts a job that does not end by itself, and waits for its first checkpoint.
    fn endless(bench: &Bench, out: &str) -> Child {
        let mut job = mpiexec(bench, 2, ENDLESS, &["--out", out]).spawn().unwrap();
        let mut waits = 0..3000;
        while last_whole(&bench.path(out).join("checkpoints")).unwrap().is_none() {
            if waits.next().is_none() {
                job.kill().unwrap();
                job.wait().unwrap();
                panic!("no checkpoint after a minute");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        job
    }

    #[test]
    fn a_killed_rank_ends_the_job_and_the_run_goes_on_from_its_checkpoint() {
        let bench = Bench::new();
        for victim in [1, 0] {
            let out = format!("killed-{victim}");
            let job = endless(&bench, &out);
            let process = process_of(&bench, victim).expect("a process of that rank");
            assert!(Command::new("kill").args(["-9", &process]).status().unwrap().success());
            let end = job.wait_with_output().unwrap();
            let message = string(&end.stdout) + &string(&end.stderr);
            let lines: Vec<&str> = message.lines().collect();
            let last_words = lines[lines.len().saturating_sub(12)..].join("\n");
            println!("rank {victim} killed: exit code {:?}\n{last_words}", end.status.code());
            assert!(!end.status.success());
            // The launcher says who died of what, the run what to do then.
            let way_on = format!(
                "2 processes (MPI) with 2 of 4 batches a step each; should one die, all end: continue with: \
                 mpiexec -n 2 train-llm --out {out} --resume"
            );
            assert!(message.contains(&way_on), "{message}");
            assert!(last_words.contains("signal 9"), "{last_words}");
            assert!(process_of(&bench, 1 - victim).is_none(), "the other one is left");

            let last = last_whole(&bench.path(&out).join("checkpoints")).unwrap().unwrap();
            assert!(last.damaged.is_empty());
            let step = json(&last.path.join("state.json"))["step"].as_u64().unwrap() + 3;
            let stop = step.to_string();
            let whole = format!("whole-{victim}");
            for (run, more) in [(&out, &["--resume"][..]), (&whole, &[][..])] {
                let args = [&["--out", run, "--steps", &stop], more].concat();
                let output = mpiexec(&bench, 2, ENDLESS, &args).output().unwrap();
                assert!(output.status.success(), "{}", string(&output.stderr));
            }
            assert_same_run(&bench.path(&whole), &bench.path(&out), &format!("step-{step:08}"));
        }
    }

    #[test]
    fn errors_are_told_once_and_end_all_ranks() {
        let bench = Bench::new();
        for (args, text) in [
            (
                &["--out", "a", "--set", "train.accumulate=3"][..],
                "train.accumulate must be a multiple of the 2 processes",
            ),
            (&["--out", "b", "--resume"][..], "run folder b: does not exist"),
            (&["--out", "c", "--set", "train.rate=3"][..], "unknown field `rate`"),
        ] {
            let output = run(&bench, 2, args);
            let message = string(&output.stderr);
            println!("{:?} {message}", output.status.code());
            assert_eq!(output.status.code(), Some(2), "{message}");
            assert_eq!(message.matches("error: ").count(), 1, "{message}");
            assert!(message.contains(text), "{message}");
        }
    }
}
