//! The `train-vqvae` and `reconstruct` binaries from outside: a run and what it leaves, resuming bit for bit, weights that come and
//! go, and every kind of bad input.

mod common;

use std::fs;
use std::path::Path;

use common::{
    Bench, SMALL_PICTURES, assert_same_run, json, metrics, refused, snapshot, string, stripes,
};

/// Width, height and pixels of an RGB PNG.
fn picture(file: &Path) -> (usize, usize, Vec<u8>) {
    let bytes = fs::read(file).unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!(info.color_type, png::ColorType::Rgb);
    (info.width as usize, info.height as usize, pixels)
}

#[test]
fn a_run_and_what_it_leaves() {
    let bench = Bench::pictures();
    let text = bench.train(&["--out", "run", "--set", "train.steps=300"]);
    assert!(text.contains("24 pictures") && text.contains("6 pictures"), "{text}");
    let run = bench.path("run");
    let summary = json(&run.join("summary.json"));
    let keys = ["eval_loss", "psnr", "likeliest_psnr", "ssim", "quantisation", "code_usage"];
    for key in keys.into_iter().chain(["code_perplexity", "images_per_s", "eval_images", "epoch"]) {
        assert!(!summary[key].is_null(), "summary.json has no {key}: {summary}");
    }
    assert_eq!(summary["experiment"], "train-vqvae");
    let evaluations: Vec<_> =
        metrics(&run).into_iter().filter(|line| line["split"] == "eval").collect();
    assert_eq!(evaluations.len(), 31);
    let [first, last] = [&evaluations[0], &evaluations[30]]
        .map(|line| ["loss", "psnr"].map(|key| line[key].as_f64().unwrap()));
    assert!(
        (first[0] - 256f64.ln()).abs() < 0.6,
        "{first:?}: uniform at the beginning, or nearly so"
    );
    assert!(last[0] < 0.9 * first[0] && last[1] > first[1] + 1.0, "{first:?} {last:?}");
    for step in [0, 10, 300] {
        let (width, height, pixels) =
            picture(&run.join(format!("reconstructions/step-{step:08}.png")));
        // Four cells of three pictures of 96 pixels, one above the other: nearly a square.
        assert_eq!((width, height), (3 * 98 - 2 + 20, 4 * 106 + 10), "step {step}");
        let white = pixels.chunks(3).filter(|pixel| *pixel == [255; 3]).count();
        assert!(white < width * height / 3, "step {step}: {white} white pixels");
    }
    assert!(run.join("loss.svg").exists());
    let none = bench.train(&["--out", "none", "--steps", "1", "--set", "data.show=0"]);
    assert!(!bench.path("none/reconstructions").exists(), "{none}");
}

#[test]
fn each_loss_learns_and_a_share_is_held_out() {
    for loss in ["l2", "l2+logit-laplace"] {
        let bench = Bench::pictures();
        let loss = format!("model.loss={loss}");
        bench.train(&[
            "--out",
            "run",
            "--set",
            &loss,
            "--set",
            "train.steps=60",
            "--set",
            "data.eval_paths=[]",
            "--set",
            "data.eval_fraction=0.3",
        ]);
        let summary = json(&bench.path("run/summary.json"));
        let count = summary["eval_images"].as_u64().unwrap();
        assert!((2..16).contains(&count) && summary["likeliest_psnr"].is_null(), "{summary}");
        let psnr: Vec<f64> =
            metrics(&bench.path("run")).iter().filter_map(|line| line["psnr"].as_f64()).collect();
        assert!(psnr[psnr.len() - 1] > psnr[0] + 1.0, "{loss}: {psnr:?}");
    }
}

#[test]
fn twenty_steps_are_ten_and_ten() {
    for more in [
        &["optimizer.algorithm=adam", "model.loss=l2", "optimizer.clip=off"][..],
        &["model.loss=l2+logit-laplace", "model.bypass_fim=true", "train.accumulate=2"],
        &["model.restart=3", "data.keep_mb=0"],
        &["optimizer.algorithm=fadafactor", "model.checkpoint=true", "data.random_crop=false"],
    ] {
        let bench = Bench::pictures();
        let more: Vec<&str> = more.iter().flat_map(|set| ["--set", set]).collect();
        bench.train(&[&["--out", "whole", "--quiet"], &more[..]].concat());
        bench.train(&[&["--out", "halves", "--quiet", "--steps", "7"], &more[..]].concat());
        let resumed = bench.run(&["--out", "halves", "--resume", "--quiet"]);
        assert!(resumed.status.success(), "{}", string(&resumed.stderr));
        let [whole, halves] = ["whole", "halves"].map(|run| bench.path(run));
        assert_same_run(&whole, &halves, "step-00000020");
        let grid = Path::new("reconstructions/step-00000020.png");
        assert_eq!(fs::read(whole.join(grid)).unwrap(), fs::read(halves.join(grid)).unwrap());
        let restarted = ["whole", "halves"]
            .map(|run| json(&bench.path(run).join("summary.json"))["restarted_codes"].clone());
        assert_eq!(restarted[0], restarted[1]);
        assert_eq!(
            restarted[0].as_u64().is_some_and(|codes| codes > 0),
            more.contains(&"model.restart=3")
        );
    }
}

/// Past the Fisher information the commitment loss makes another step, and with no weight it makes none.
#[test]
fn the_commitment_loss_goes_past_the_fisher_information() {
    let bench = Bench::pictures();
    let train = |name: &str, sets: &[&str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        bench.train(&[&["--out", name, "--quiet"], &sets[..]].concat());
        json(&bench.path(name).join("summary.json"))["eval_loss"].as_f64().unwrap()
    };
    let (within, past) = (train("within", &[]), train("past", &["model.bypass_fim=true"]));
    assert!(within != past, "{within} {past}");
    let within = train("without", &["model.beta=0"]);
    let past = train("past-without", &["model.bypass_fim=true", "model.beta=0"]);
    assert!((within - past).abs() < 1e-6 * within, "{within} {past}");
}

#[test]
fn evaluated_exported_reconstructed_and_started_from() {
    let bench = Bench::pictures();
    bench.train(&["--out", "run", "--quiet", "--set", "train.steps=60"]);
    let before = snapshot(&bench.path("run"));
    let evaluated = bench.run(&["--eval-only", "--json", "--out", "run"]);
    assert!(evaluated.status.success(), "{}", string(&evaluated.stderr));
    let line: serde_json::Value = serde_json::from_slice(&evaluated.stdout).unwrap();
    let summary = json(&bench.path("run/summary.json"));
    for key in ["psnr", "likeliest_psnr", "code_perplexity"] {
        assert_eq!(line[key], summary[key], "{key}");
    }
    assert_eq!(line["loss"], summary["eval_loss"]);
    assert_eq!(before, snapshot(&bench.path("run")));

    let exported = bench.run(&["--export", "model", "--out", "run"]);
    assert!(exported.status.success(), "{}", string(&exported.stderr));
    let made = |args: &[&str]| {
        let run = bench.reconstruct(args);
        assert!(run.status.success(), "{args:?}: {}", string(&run.stderr));
        string(&run.stdout)
    };
    let of_run = made(&["--run", "run", "pictures/held-out", "--out", "a", "--grid", "grid.png"]);
    assert_eq!(of_run, made(&["--model", "model", "pictures/held-out", "--out", "b"]));
    assert_eq!(of_run.lines().count(), 7);
    assert!(of_run.contains("24.png\t") && of_run.contains(" of 20 codes used"), "{of_run}");
    assert_eq!(snapshot(&bench.path("a")).len(), 6);
    let (width, height, pixels) = picture(&bench.path("a/29.png"));
    assert_eq!((width, height, pixels.len()), (12, 12, 12 * 12 * 3));
    assert_eq!(
        fs::read(bench.path("a/29.png")).unwrap(),
        fs::read(bench.path("b/29.png")).unwrap()
    );
    assert!(bench.path("grid.png").exists());
    // What it says of a picture is what the files differ by.
    let said = of_run.lines().find(|line| line.starts_with("29.png")).unwrap();
    let decibels: f64 = said.split(['\t', ' ']).nth(1).unwrap().parse().unwrap();
    let (_, _, original) = picture(&bench.path("pictures/held-out/29.png"));
    let middle = original.chunks(16 * 3).flat_map(|row| &row[2 * 3..14 * 3]);
    let squares: f64 = middle.zip(&pixels).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    let wanted = 10.0 * (255.0 * 255.0 * pixels.len() as f64 / squares).log10();
    assert!((decibels - wanted).abs() < 0.006, "{said}, from the files {wanted}");
    let likeliest = made(&["--run", "run", "--likeliest", "pictures/held-out/29.png"]);
    assert_ne!(likeliest.lines().next(), Some(said));

    for (args, expected) in [
        (&["--run", "run", "pictures/held-out", "--out", "a"][..], "is there already"),
        (&["--run", "run", "pictures/held-out", "--grid", "grid.png"], "is there already"),
        (&["--run", "run", "small.toml"], "small.toml"),
        (&["--run", "absent", "pictures"], "absent"),
        (&["pictures"], "--run, --checkpoint, --model"),
    ] {
        refused(&bench.reconstruct(args), args, &[expected]);
    }

    // Fine-tuning, and a head that does not fit.
    let init = ["--init", "model/model.safetensors"];
    let text = bench.train(&[&["--out", "more", "--steps", "1"], &init[..]].concat());
    assert!(text.contains("model/model.safetensors"), "{text}");
    let first = metrics(&bench.path("more"))[0]["loss"].clone();
    assert_eq!(first, line["loss"], "it begins where the other ended");
    let other = ["--config", "small.toml", "--set", "model.loss=l2", "--out", "new"];
    bench.refuses(
        &[&other[..], &init].concat(),
        &["decoder.head.weight", "model/model.safetensors"],
    );
    assert!(!bench.path("new").exists());
    bench.train(&["--out", "l2", "--steps", "1", "--quiet", "--set", "model.loss=l2"]);
    let args = ["--run", "l2", "--likeliest", "pictures/held-out"];
    refused(&bench.reconstruct(&args), &args, &["--likeliest", "cross-entropy"]);
}

/// What folders of real pictures hold: each is left out and counted by name, or read as it should be.
#[test]
fn bad_pictures_are_counted() {
    let bench = Bench::pictures();
    let folder = bench.path("mixed");
    fs::create_dir(&folder).unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).unwrap();
    for n in 0..6 {
        put(&format!("good-{n}.png"), &stripes(n, 13 + n, 20));
    }
    let whole = stripes(1, 40, 40);
    put("cut.png", &whole[..whole.len() - 30]);
    put("zero.jpg", b"");
    put("dot.png", &stripes(1, 1, 1));
    put("text.jpg", b"not a picture");
    put("readme.txt", b"no picture either");
    let mut bomb = whole[..33].to_vec(); // signature and header
    bomb[16..24].copy_from_slice(&[0, 0, 0xf0, 0, 0, 0, 0xf0, 0]);
    let crc = {
        let mut crc = flate2::Crc::new();
        crc.update(&bomb[12..29]);
        crc.sum()
    };
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    put("bomb.png", &bomb);
    let mut deep = Vec::new();
    let mut encoder = png::Encoder::new(&mut deep, 16, 16);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Sixteen);
    let numbers: Vec<u8> = (0..16 * 16 * 6).map(|i| (i * 7 % 251) as u8).collect();
    encoder.write_header().unwrap().write_image_data(&numbers).unwrap();
    put("deep.png", &deep);
    let text = bench.train(&["--out", "run", "--steps", "2", "--set", "data.paths=[\"mixed\"]"]);
    for part in [
        "7 of 12",
        "cut.png",
        "zero.jpg",
        "dot.png",
        "text.jpg",
        "bomb.png",
        "16 bits",
        "readme.txt",
    ] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn bad_input() {
    let bench = Bench::pictures();
    let refuses = |set: &str, expected: &[&str]| {
        bench.refuses(&["--config", "small.toml", "--set", set, "--out", "run"], expected);
        assert!(!bench.path("run").exists(), "{set} left a run folder");
    };
    refuses("data.paths=[\"absent\"]", &["absent"]);
    refuses("data.paths=[\"small.toml\"]", &["small.toml"]);
    fs::create_dir(bench.path("empty")).unwrap();
    refuses("data.paths=[\"empty\"]", &["empty"]);
    fs::create_dir(bench.path("broken")).unwrap();
    fs::write(bench.path("broken/a.png"), b"").unwrap();
    refuses("data.paths=[\"broken\"]", &["broken/a.png"]);
    fs::write(bench.path("table.parquet"), b"PAR1 and no more").unwrap();
    refuses("data.paths=[\"table.parquet\"]", &["table.parquet"]);
    refuses("data.eval_paths=[\"pictures/train\"]", &["00.png"]);
    for (set, key) in [
        ("data.eval_fraction=0", "data.eval_fraction"),
        ("data.min_side=0", "data.min_side"),
        ("data.features=inception", "data.features_file"),
        ("model.patch=5", "model.patch"),
        ("model.encoder.heads=3", "model.encoder.heads"),
        ("model.codes=1", "model.codes"),
        ("model.loss=l1", "l2+logit-laplace"),
        ("model.beta=-1", "model.beta"),
        ("train.batch=0", "train.batch"),
    ] {
        refuses(set, &[key]);
    }
    let more = ["--set", "model.restart=5", "--set", "train.accumulate=2"];
    bench.refuses(&[&["--config", "small.toml"], &more[..]].concat(), &["model.restart"]);
    let more =
        ["--set", "data.features=efficientnet-lite0", "--set", "data.features_file=gone.pth"];
    bench.refuses(&[&["--config", "small.toml"], &more[..]].concat(), &["gone.pth"]);
    fs::write(bench.path("key.toml"), SMALL_PICTURES.replacen("heads = 2", "head = 2", 1)).unwrap();
    bench.refuses(&["--config", "key.toml"], &["key.toml:5", "head"]);
}
