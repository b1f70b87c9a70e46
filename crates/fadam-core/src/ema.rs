//! An exponential moving average of the parameters, to evaluate with.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Tensor, Var};

use crate::inplace::Op;
use crate::tensor_file::{Parsed, TensorFile, same, wrong_file};
use crate::{Error, NamedVars, Result};

const FORMAT: &str = "fadam-ema";
const VERSION: &str = "1";

/// An exponential moving average of parameters, which mostly does better in evaluation than the parameters
/// themselves. (Polyak and Juditsky 1992, with the weights of an EMA.)
///
/// ```text
/// e_0 = θ_0        e_t = d e_{t−1} + (1 − d) θ_t
/// ```
///
/// With [`warm_up`](Self::warm_up) d is `min(d, (1 + t)/(10 + t))`, so that an average over a short run is not
/// mostly that of its start. The average is shaped as the parameter, in f64 for f64 and in f32 for f32, bf16
/// and f16: near d = 1 the steps of an average are too small for a bf16. On the CPU it is updated in place and on
/// all threads, with the same bits whatever their number.
///
/// To evaluate: [`swap`](Self::swap), evaluate, `swap`. Nothing swaps back by itself.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use fadam_core::{NamedVars, WeightEma};
///
/// let w = Var::new(&[0f32, 4.0], &Device::Cpu)?;
/// let mut ema = WeightEma::new(&NamedVars::from_iter([("w".to_owned(), w.clone())]), 0.75)?;
/// w.set(&Tensor::new(&[8f32, 0.0], &Device::Cpu)?)?; // a training step
/// ema.update()?;
/// assert_eq!(ema.average("w")?.to_vec1::<f32>()?, [2.0, 3.0]);
///
/// ema.swap()?;
/// assert_eq!(w.to_vec1::<f32>()?, [2.0, 3.0]);
/// ema.swap()?;
/// assert_eq!(w.to_vec1::<f32>()?, [8.0, 0.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct WeightEma {
    decay: f64,
    warm_up: bool,
    steps: u64,
    averages: BTreeMap<String, Average>,
    /// The parameters in the order of `averages`, while these stand in their place.
    kept: Option<Vec<Tensor>>,
}

#[derive(Debug)]
struct Average {
    theta: Var,
    e: Var,
}

impl WeightEma {
    /// An average that starts at the parameters as they are. It holds on to the variables.
    ///
    /// # Errors
    /// [`Error::Config`] unless `0 ≤ decay < 1`, [`Error::UnsupportedDType`] for a parameter that is not
    /// floating point, [`Error::SharedStorage`] for one under two names.
    pub fn new(params: &NamedVars, decay: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&decay) {
            let expected = "in [0, 1)";
            return Err(Error::Config { field: "decay", value: decay, expected });
        }
        params.check()?;
        let mut averages = BTreeMap::new();
        for (name, theta) in params.iter() {
            let dtype = if theta.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
            let e = Var::zeros(theta.shape(), dtype, theta.device())?;
            Op::Store.apply(&e, theta)?;
            averages.insert(name.to_owned(), Average { theta: theta.clone(), e });
        }
        Ok(Self { decay, warm_up: false, steps: 0, averages, kept: None })
    }

    /// Whether update t, which counts from 1, uses `min(d, (1 + t)/(10 + t))` in the place of d. Off by
    /// default. (The `num_updates` of TensorFlow's `ExponentialMovingAverage`.)
    #[must_use]
    pub fn warm_up(mut self, warm_up: bool) -> Self {
        self.warm_up = warm_up;
        self
    }

    /// Takes the parameters as they are now into the average: to be called after each step. A NaN in them would
    /// stay in the average; the optimizers of this crate never write one.
    ///
    /// # Errors
    /// candle's, if the averages are [swapped](Self::swap) in: they would be averaged with themselves.
    pub fn update(&mut self) -> Result<()> {
        self.refuse_swapped("update")?;
        let t = self.steps + 1;
        let warm = (1.0 + t as f64) / (10.0 + t as f64);
        let decay = if self.warm_up { self.decay.min(warm) } else { self.decay };
        for Average { theta, e } in self.averages.values() {
            // d e + (1 − d) θ = e + (1 − d)(θ − e), which does not move an average that has arrived.
            Op::Approach { share: 1.0 - decay }.apply(e, theta)?;
        }
        self.steps = t;
        Ok(())
    }

    /// The number of updates.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The average of one parameter, swapped in or not: a copy, shaped as the parameter, in f64 for an f64
    /// parameter and else f32.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`].
    pub fn average(&self, name: &str) -> Result<Tensor> {
        let Some(Average { e, .. }) = self.averages.get(name) else {
            return Err(Error::UnknownParameter { name: name.into() });
        };
        Ok(e.as_detached_tensor().copy()?)
    }

    /// Puts the averages into the parameters, in place; called again, the parameters back as they were, bit for
    /// bit. What was done to them in between is lost. Meanwhile a copy of the parameters is kept: an average in
    /// f32 would not survive a place in a bf16 parameter.
    ///
    /// # Errors
    /// candle's, if there is no memory for the copy; nothing is changed then.
    pub fn swap(&mut self) -> Result<()> {
        if let Some(kept) = &self.kept {
            for (Average { theta, .. }, kept) in self.averages.values().zip(kept) {
                Op::Store.apply(theta, kept)?;
            }
            self.kept = None;
            return Ok(());
        }
        let copy = |Average { theta, .. }: &Average| theta.as_detached_tensor().copy();
        self.kept = Some(self.averages.values().map(copy).collect::<candle_core::Result<_>>()?);
        for Average { theta, e } in self.averages.values() {
            Op::Store.apply(theta, e)?;
        }
        Ok(())
    }

    /// Whether the averages stand in the place of the parameters.
    pub fn is_swapped(&self) -> bool {
        self.kept.is_some()
    }

    fn refuse_swapped(&self, what: &str) -> Result<()> {
        if !self.is_swapped() {
            return Ok(());
        }
        let text =
            format!("{what} while the averages are swapped in: swap the parameters back first");
        Err(Error::Candle(candle_core::Error::msg(text)))
    }

    /// Writes averages and step count to a safetensors file, aside first and then renamed, so that an older
    /// file at `path` is replaced by a whole one or not at all. The tensors are called as the parameters, so
    /// the file also loads as weights; `format`, `version`, `step`, `decay` and `warm_up` are its metadata.
    ///
    /// # Errors
    /// [`Error::StateFile`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let tensor =
            |(name, average): (&String, &Average)| (name.clone(), average.e.as_detached_tensor());
        let tensors = self.averages.iter().map(tensor).collect();
        let metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("version".to_owned(), VERSION.to_owned()),
            ("step".to_owned(), self.steps.to_string()),
            ("decay".to_owned(), self.decay.to_string()),
            ("warm_up".to_owned(), self.warm_up.to_string()),
        ]);
        TensorFile { tensors, metadata }.write(path)
    }

    /// Reads averages and step count from a file written by [`save`](Self::save); updates then go on bit for bit.
    /// Decay and warm-up stay those of this average, so that a run may go on with others, and so do the
    /// parameters.
    ///
    /// # Errors
    /// [`Error::StateFile`] if the file is no such file, or its names, shapes or dtypes are not those of this
    /// average; candle's, if the averages are [swapped](Self::swap) in. Nothing is changed then.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.refuse_swapped("load")?;
        let path = path.as_ref();
        let loaded = TensorFile::read(path).and_then(|file| self.parse(file));
        let (steps, loaded) = loaded.map_err(|reason| wrong_file(path, reason))?;
        for (Average { e, .. }, loaded) in self.averages.values_mut().zip(loaded) {
            *e = loaded;
        }
        self.steps = steps;
        Ok(())
    }

    fn parse(&self, mut file: TensorFile) -> Parsed<(u64, Vec<Var>)> {
        file.check(FORMAT, VERSION, "not an average of weights")?;
        let steps = file.step()?;
        let mut loaded = Vec::with_capacity(self.averages.len());
        for (name, Average { e, .. }) in &self.averages {
            let tensor = file.take(name, e.device())?;
            same(name, &tensor, e, "this average's")?;
            loaded.push(Var::from_tensor(&tensor).map_err(|e| format!("{name:?}: {e}"))?);
        }
        file.check_empty("this average does not have")?;
        Ok((steps, loaded))
    }
}
