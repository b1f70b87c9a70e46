//! A task small enough to check to the last bit: linear regression on generated data.
#![allow(dead_code, reason = "each test binary uses its part of this module")]
#![allow(unreachable_pub, reason = "a module of test binaries, which export nothing")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::NamedVars;
use fadam_train::config::{Experiment, FieldError, KeyDoc, Override, RunConfig};
use fadam_train::{
    Evaluation, Interrupt, Objective, Outcome, Picture, RunFolder, RunOptions, Task, Trainer,
};
use serde_json::{Value, json};

const FEATURES: usize = 3;

/// The beginning of a PNG file of 3 by 2 pixels.
pub const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x03\0\0\0\x02";

#[derive(Debug, Default, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nothing {}

pub struct Toy;

impl Experiment for Toy {
    const NAME: &'static str = "train-toy";
    type Model = Nothing;
    type Data = Nothing;
    const KEYS: &'static [KeyDoc] = &[];

    fn check(_: &RunConfig<Self>) -> Result<(), FieldError> {
        Ok(())
    }
}

/// Ways for the task to go wrong.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Leaves the bias out of the graph.
    pub cut_bias: bool,
    /// Makes the loss of this batch NaN.
    pub nan_at: Option<u64>,
    /// Makes the loss of every batch from this one on NaN.
    pub nan_from: Option<u64>,
    /// Makes the loss NaN once a weight is beyond this, as too high a learning rate does.
    pub nan_beyond: Option<f32>,
    /// Makes the loss of this batch a thousand times as large.
    pub spike_at: Option<u64>,
    /// Presses Ctrl-C while this batch is drawn.
    pub interrupt_at: Option<(u64, Interrupt)>,
    /// Fails to read this batch.
    pub unreadable_at: Option<u64>,
    /// Moves a weight by its last bit after this step.
    pub drift_at: Option<u64>,
    /// The number of features; another one is another model.
    pub features: Option<usize>,
    /// Adds half the sum of the parameters' squares as an auxiliary loss of this weight.
    pub auxiliary: Option<f64>,
}

pub struct Regression {
    vars: NamedVars,
    /// The running mean of the losses: a buffer, changed by training and not by gradients.
    running: Var,
    rng: SplitMix,
    drawn: u64,
    batch: usize,
    faults: Faults,
}

impl Regression {
    pub fn new(config: &RunConfig<Toy>, faults: Faults) -> Self {
        let mut rng = SplitMix(config.train().seed);
        let features = faults.features.unwrap_or(FEATURES);
        let mut vars = NamedVars::new();
        vars.insert("weight", Var::from_tensor(&rng.tensor(&[features, 1])).unwrap()).unwrap();
        vars.insert("bias", Var::from_tensor(&rng.tensor(&[1])).unwrap()).unwrap();
        let running = Var::zeros((), DType::F32, &Device::Cpu).unwrap();
        Self { vars, running, rng, drawn: 0, batch: config.train().batch, faults }
    }

    fn predict(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let y = x.matmul(self.vars.get("weight").unwrap())?;
        if self.faults.cut_bias {
            y.broadcast_add(&self.vars.get("bias").unwrap().detach())
        } else {
            y.broadcast_add(self.vars.get("bias").unwrap())
        }
    }
}

impl Task for Regression {
    type Batch = (Tensor, Tensor);

    fn vars(&self) -> &NamedVars {
        &self.vars
    }

    fn buffers(&self) -> NamedVars {
        [("running".to_owned(), self.running.clone())].into_iter().collect()
    }

    fn unit(&self) -> &'static str {
        "rows"
    }

    fn next_batch(&mut self) -> anyhow::Result<Self::Batch> {
        self.drawn += 1;
        if let Some((at, interrupt)) = &self.faults.interrupt_at
            && *at == self.drawn
        {
            interrupt.request();
        }
        anyhow::ensure!(self.faults.unreadable_at != Some(self.drawn), "a batch cannot be read");
        let features = self.faults.features.unwrap_or(FEATURES);
        let x = self.rng.tensor(&[self.batch, features]);
        let mut y = (x.sum_keepdim(1)? * 2.0)?;
        let Faults { nan_at, nan_from, spike_at, .. } = self.faults;
        if nan_at == Some(self.drawn) || nan_from.is_some_and(|from| self.drawn >= from) {
            y = (y * f64::NAN)?;
        }
        if spike_at == Some(self.drawn) {
            y = (y + 1e3)?;
        }
        Ok((x, y))
    }

    fn units(&self, batch: &Self::Batch) -> u64 {
        batch.0.dims()[0] as u64
    }

    fn loss(&mut self, (x, y): &Self::Batch) -> anyhow::Result<Objective> {
        let mut loss = (self.predict(x)? - y)?.sqr()?.mean_all()?;
        let largest = self.vars.get("weight").unwrap().abs()?.max_all()?.to_scalar::<f32>()?;
        if self.faults.nan_beyond.is_some_and(|bound| largest > bound) {
            loss = (loss * f64::NAN)?;
        }
        let running = ((self.running.as_detached_tensor() * 0.9)? + (loss.detach() * 0.1)?)?;
        self.running.set(&running)?;
        let Some(weight) = self.faults.auxiliary else { return Ok(loss.into()) };
        let mut squares = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        for (_, var) in self.vars.iter() {
            squares = (squares + (var.sqr()?.sum_all()? * 0.5)?)?;
        }
        Ok(Objective { loss, auxiliary: Some((squares, weight)) })
    }

    fn buffer_decay(&self) -> f64 {
        0.9
    }

    fn after_step(&mut self, step: u64) -> anyhow::Result<()> {
        if self.faults.drift_at == Some(step) {
            let bias = self.vars.get("bias").unwrap();
            let [number] = bias.to_vec1::<f32>()?[..] else { anyhow::bail!("one bias") };
            bias.set(&Tensor::new(&[f32::from_bits(number.to_bits() ^ 1)], &Device::Cpu)?)?;
        }
        Ok(())
    }

    fn evaluate(&mut self, step: u64) -> anyhow::Result<Evaluation> {
        let x = SplitMix(99).tensor(&[32, self.vars.get("weight").unwrap().dims()[0]]);
        let y = (x.sum_keepdim(1)? * 2.0)?;
        let loss = (self.predict(&x)? - y)?.sqr()?.mean_all()?.to_scalar::<f32>()?;
        let evaluation = Evaluation::new(loss.into()).metric("half_loss", f64::from(loss) / 2.0);
        let look = Picture::new("look", PNG.to_vec())?;
        Ok(evaluation.sample(format!("sample of step {step}")).picture(look))
    }

    fn cursor(&self) -> Value {
        json!({ "drawn": self.drawn, "rng": self.rng.0.to_string() })
    }

    fn restore(&mut self, cursor: &Value) -> anyhow::Result<()> {
        self.drawn = cursor["drawn"].as_u64().ok_or_else(|| anyhow::anyhow!("no drawn"))?;
        self.rng.0 = cursor["rng"].as_str().unwrap_or_default().parse()?;
        Ok(())
    }

    fn summary_extras(&self) -> Vec<(String, Value)> {
        vec![("features".to_owned(), FEATURES.into())]
    }
}

/// A small generator: Steele et al.'s `SplitMix64`.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform on [-1, 1).
    fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let n = shape.iter().product();
        let values: Vec<f32> =
            (0..n).map(|_| (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }
}

/// 40 steps of FAdafactor with a schedule; intervals that do not divide each other.
pub const CONFIG: &str = "
[optimizer]
algorithm = 'fadafactor'
lr = 0.05
[schedule]
kind = 'cosine'
warmup = 5
[train]
steps = 40
batch = 8
log_every = 7
eval_every = 10
[checkpoint]
every = 15
keep = 2
";

pub fn config(overrides: &[&str]) -> RunConfig<Toy> {
    let overrides: Vec<Override> = overrides.iter().map(|o| Override::parse(o).unwrap()).collect();
    RunConfig::from_toml("toy.toml", CONFIG).unwrap().with(&overrides).unwrap()
}

/// Starts a run in `out`, or resumes the one there.
pub fn train(out: &Path, resume: bool, stop_at: Option<u64>) -> anyhow::Result<Outcome> {
    train_with(&config(&[]), out, resume, stop_at, Faults::default())
}

pub fn train_with(
    config: &RunConfig<Toy>,
    out: &Path,
    resume: bool,
    stop_at: Option<u64>,
    faults: Faults,
) -> anyhow::Result<Outcome> {
    let folder = if resume { RunFolder::to_resume(out)? } else { RunFolder::new_run(out)? };
    let interrupt = match &faults.interrupt_at {
        Some((_, interrupt)) => interrupt.clone(),
        None => Interrupt::new(),
    };
    let options = RunOptions { stop_at, quiet: true, interrupt, ..RunOptions::new(folder) };
    let task = Regression::new(config, faults);
    Trainer::new(task, config, options.commit(Some("abc123")))?.run()
}

pub fn checkpoint(out: &Path, step: u64) -> PathBuf {
    out.join(format!("checkpoints/step-{step:08}"))
}

/// Names, shapes and bytes of a safetensors file. (Its metadata is in no fixed order.)
pub fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let entry = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        (name, (view.shape().to_vec(), view.data().to_vec()))
    };
    file.tensors().into_iter().map(entry).collect()
}

/// Writes `SHA256SUMS` of a checkpoint anew, after a test has changed a file on purpose.
pub fn sum_again(checkpoint: &Path) {
    let files = ["model.safetensors", "optimizer.safetensors", "state.json"];
    let sums = std::process::Command::new("sha256sum")
        .args(files)
        .current_dir(checkpoint)
        .output()
        .unwrap();
    assert!(sums.status.success());
    std::fs::write(checkpoint.join("SHA256SUMS"), sums.stdout).unwrap();
}

/// The names in the folder of checkpoints, sorted.
pub fn checkpoints(out: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(out.join("checkpoints")).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Whether a field of metrics.jsonl is of a clock, or of the system's memory.
fn is_measured(key: &str) -> bool {
    key.ends_with("_per_s") || key == "phase_s" || key == "peak_rss_mb"
}

/// The lines of metrics.jsonl without what was measured.
pub fn metrics(out: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().retain(|key, _| !is_measured(key));
        line
    };
    text.lines().map(line).collect()
}

pub fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Weights, optimizer state, cursor, counters and metrics of two runs are the same to the last bit.
pub fn assert_same_run(a: &Path, b: &Path, step: u64) {
    let (one, two) = (checkpoint(a, step), checkpoint(b, step));
    for file in ["model.safetensors", "optimizer.safetensors"] {
        assert_eq!(tensors(&one.join(file)), tensors(&two.join(file)), "{file}");
    }
    let state = |folder: &Path| {
        let mut state = json_file(&folder.join("state.json"));
        state.as_object_mut().unwrap().retain(|key, _| !key.ends_with("_secs"));
        state
    };
    assert_eq!(state(&one), state(&two));
    assert_eq!(metrics(a), metrics(b));
}

/// Every file below a folder with its bytes: to show that nothing was touched.
pub fn snapshot(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(snapshot(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            files.insert(path, bytes);
        }
    }
    files
}
