//! A whole program around the engine: exit codes, Ctrl-C. The test starts itself as that program.
#![cfg(unix)]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Faults, Regression, Toy, config};
use fadam_train::{CommonArgs, Interrupt, RunFolder, RunOptions, Trainer, run_main};

const OUT: &str = "TRAIN_TOY_OUT";

/// The program: trains for a very long time into the folder that `TRAIN_TOY_OUT` names.
#[test]
#[ignore = "started by the other tests of this file, as a process of its own"]
fn program() {
    let code = run_main(|| {
        let out = std::env::var(OUT)?;
        let folder = RunFolder::new_run(out)?;
        let interrupt = Interrupt::on_signals()?;
        let config = config(&["train.steps=1000000000", "train.eval_every=1000000"]);
        let task = Regression::new(&config, Faults::default());
        let options = RunOptions { interrupt, ..RunOptions::new(folder) };
        Trainer::new(task, &config, options)?.run()
    });
    let number = (0..=255).find(|n| std::process::ExitCode::from(*n) == code);
    std::process::exit(number.map_or(-1, i32::from));
}

fn start(out: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "program", "--nocapture"])
        .env(OUT, out)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn ctrl_c_leaves_a_checkpoint_says_how_to_resume_and_exits_with_130() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut child = start(&out);
    // Its output is read all the time, so that the pipe does not fill.
    let drain = std::thread::spawn({
        let stdout = child.stdout.take().unwrap();
        move || std::io::read_to_string(stdout).unwrap()
    });
    let deadline = Instant::now() + Duration::from_secs(90);
    let has_checkpoint = || fadam_train::checkpoint::latest(&out.join("checkpoints"));
    while has_checkpoint().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let ended = child.wait_with_output().unwrap();
    let printed = drain.join().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", String::from_utf8_lossy(&ended.stderr));
    let hint = format!("continue with: train-toy --out {} --resume", out.display());
    assert!(printed.contains(&hint), "{printed}");

    let summary = common::json_file(&out.join("summary.json"));
    let step = summary["steps"].as_u64().unwrap();
    assert!(common::checkpoint(&out, step).is_dir());
    assert!(RunFolder::to_resume(&out).is_ok());
}

#[test]
fn bad_input_is_one_paragraph_on_stderr_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let ended = start(&file.join("run")).wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(2));
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("error: run folder "), "{stderr}");
}

#[test]
fn the_default_run_folder_is_named_after_experiment_and_config() {
    #[derive(clap::Parser)]
    struct Args {
        #[command(flatten)]
        common: CommonArgs,
    }
    let args: Args = clap::Parser::parse_from(["x", "--config", "a/tiny.toml"]);
    let name = <Toy as fadam_train::config::Experiment>::NAME;
    assert_eq!(args.common.out_dir(name), Path::new("runs/train-toy-tiny"));
}
