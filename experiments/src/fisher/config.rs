//! The keys of `--config`, with their defaults.

use std::path::Path;

use fadam_train::bad_input;
use fadam_train::config::FieldError;
use serde::{Deserialize, Serialize};

use super::problem::Problem;

/// What is measured. The defaults are `configs/fisher/digits.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The losses that are measured.
    pub problems: Vec<Problem>,
    /// σ of the Gaussian that an L2 loss stands for: in units of the full range of a pixel, or `fitted`, the one that the
    /// residuals have when it is measured.
    pub sigmas: Vec<Sigma>,
    /// Repetitions, each with initial weights, training and batches of its own; standard errors are over them.
    pub seeds: u64,
    /// Batches of each size, in each repetition.
    pub draws: usize,
    /// B.
    pub batches: Vec<usize>,
    /// Examples of a micro-batch.
    pub micro: usize,
    /// Units of the hidden layer; 0: none, which makes the model linear.
    pub hidden: usize,
    /// Steps of training after which it is measured.
    pub points: Vec<u64>,
    /// Examples of a training step.
    pub train_batch: usize,
    /// Learning rate of the training, by FAdam with the paper's constants.
    pub lr: f64,
}

/// σ as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "toml::Value", into = "toml::Value")]
pub enum Sigma {
    /// That of the residuals, the maximum of the likelihood.
    Fitted,
    /// Given.
    Given(f64),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            problems: Problem::ALL.to_vec(),
            sigmas: vec![Sigma::Fitted, Sigma::Given(1.0)],
            seeds: 8,
            draws: 16,
            batches: vec![1, 4, 16, 64, 256, 1024],
            micro: 4,
            hidden: 32,
            points: vec![0, 100, 2000],
            train_batch: 64,
            lr: 3e-3,
        }
    }
}

impl Config {
    /// The configuration in a file, or the defaults.
    ///
    /// # Errors
    /// Bad input that names file, line and key.
    pub fn load(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let place = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|err| bad_input(anyhow::anyhow!("{place}: cannot be read: {err}")))?;
        Self::parse(&place.to_string(), &text)
    }

    /// The configuration in a text that messages call `place`.
    ///
    /// # Errors
    /// As of [`load`](Self::load).
    pub fn parse(place: &str, text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text).map_err(|err| {
            let line = err.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            bad_input(anyhow::anyhow!("{place}:{line}: {}", err.message()))
        })?;
        config.check().map_err(|err| anyhow::Error::new(err).context(place.to_owned()))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), FieldError> {
        let require = FieldError::require;
        let (micro, rises) = (self.micro, |x: &[u64]| x.windows(2).all(|two| two[0] < two[1]));
        require("problems", !self.problems.is_empty(), "must name one at least")?;
        let needs_sigma = self.problems.contains(&Problem::PixelsL2);
        require("sigmas", !(needs_sigma && self.sigmas.is_empty()), "must have one at least")?;
        require("seeds", self.seeds >= 2, "must be 2 at least, to have standard errors")?;
        require("draws", self.draws >= 1, "must be 1 at least")?;
        require("micro", micro >= 2, "must be 2 at least: of 1 it is the estimator of Eq. 57")?;
        let sizes: Vec<u64> = self.batches.iter().map(|b| *b as u64).collect();
        require(
            "batches",
            !sizes.is_empty() && sizes[0] >= 1 && rises(&sizes),
            "must be sizes of 1 at least that rise",
        )?;
        let odd = self.batches.iter().find(|b| **b > micro && *b % micro != 0);
        let which = odd.copied().unwrap_or_default();
        let reason = format!("has {which}, which is no multiple of micro = {micro}");
        require("batches", odd.is_none(), &reason)?;
        require(
            "points",
            !self.points.is_empty() && rises(&self.points),
            "must be steps that rise",
        )?;
        require("train_batch", self.train_batch >= 1, "must be 1 at least")?;
        require("lr", self.lr > 0.0 && self.lr.is_finite(), "must be a finite number above 0")
    }
}

impl TryFrom<toml::Value> for Sigma {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        let number = match &value {
            toml::Value::String(word) if word == "fitted" => return Ok(Self::Fitted),
            toml::Value::Float(number) => Some(*number),
            toml::Value::Integer(number) => Some(*number as f64),
            _ => None,
        };
        let number = number.filter(|sigma| *sigma > 0.0 && sigma.is_finite());
        number
            .map(Self::Given)
            .ok_or_else(|| format!("expected a number above 0 or \"fitted\", found {value}"))
    }
}

impl From<Sigma> for toml::Value {
    fn from(sigma: Sigma) -> Self {
        match sigma {
            Sigma::Fitted => Self::String("fitted".to_owned()),
            Sigma::Given(number) => Self::Float(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        let error = Config::parse("f.toml", text).unwrap_err();
        assert_eq!(fadam_train::exit_code(&error), 2);
        fadam_train::describe(&error)
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        assert!(message("seeds = 4\nbatch = [1]\n").starts_with("f.toml:2: unknown field `batch`"));
        assert!(
            message("\n\nsigmas = [\"fit\"]\n").contains("expected a number above 0 or \"fitted\"")
        );
        assert!(message("sigmas = [0.0]\n").starts_with("f.toml:1: "));
        assert!(message("problems = [\"pixels\"]\n").contains("unknown variant `pixels`"));
        for (text, key) in [
            ("seeds = 1", "seeds"),
            ("draws = 0", "draws"),
            ("batches = [4, 2]", "batches"),
            ("batches = [0]", "batches"),
            ("micro = 8", "batches"),
            ("micro = 1", "micro"),
            ("points = []", "points"),
            ("train_batch = 0", "train_batch"),
            ("lr = nan", "lr"),
            ("problems = []", "problems"),
            ("sigmas = []", "sigmas"),
        ] {
            // Of `micro = 8`, 4 is below and 1024 a multiple; 12 would not be.
            let text = text.replace("micro = 8", "micro = 8\nbatches = [12]");
            let message = message(&text);
            assert!(message.starts_with(&format!("f.toml: {key} ")), "{message}");
        }
    }

    #[test]
    fn the_config_in_the_tree_is_the_default_and_is_written_as_it_is_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/fisher/digits.toml");
        assert_eq!(Config::load(Some(&path)).unwrap(), Config::default());
        let text = toml::to_string(&Config::default()).unwrap();
        assert_eq!(Config::parse("again", &text).unwrap(), Config::default());
    }
}
