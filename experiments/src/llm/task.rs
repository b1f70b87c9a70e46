//! Model, data, loss and evaluation of `train-llm`.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use candle_transformers::generation::LogitsProcessor;
use fadam_core::NamedVars;
use fadam_data::text::{EvalWindows, TokenBatch, Tokenizer};
use fadam_models::init::SeededVars;
use fadam_models::llm::{Palm, PalmConfig, Tokens, generate};
use fadam_train::config::RunConfig;
use fadam_train::{Evaluation, Objective, Task, bad_input};
use serde_json::Value;

use super::config::{LlmData, TrainLlm};
use super::text::{Batches, Text};

/// Next-token prediction by a PaLM decoder.
#[derive(Debug)]
pub struct LlmTask {
    model: Palm,
    vars: NamedVars,
    batches: Batches,
    eval: EvalWindows,
    eval_unigram_nats: f64,
    tokenizer: Tokenizer,
    prompt: Vec<u32>,
    data: LlmData,
    seed: u64,
    batch: usize,
    device: Device,
}

impl LlmTask {
    /// The task that `config` describes, on this text, with initial weights from `train.seed`.
    ///
    /// # Errors
    /// Bad input: a text shorter than one sequence, a prompt without a token. Otherwise only if the
    /// device has no memory for the model.
    pub fn new(config: &RunConfig<TrainLlm>, text: &Text, device: &Device) -> anyhow::Result<Self> {
        let (data, train) = (config.data(), config.train());
        let PalmConfig { seq_len, .. } = *config.model();
        let batches = Batches::new(config, text).map_err(bad_input)?;
        let mut eval = text.corpus.eval_windows(seq_len).map_err(bad_input)?;
        if data.eval_windows > 0 {
            eval = eval.first(data.eval_windows);
        }
        let vars = SeededVars::new(train.seed);
        let vb = vars.builder(DType::F32, device);
        let model = Palm::new(config.model(), text.tokenizer.vocab_size(), &vb)?;
        Ok(Self {
            model,
            vars: NamedVars::from_iter(vars.into_named()),
            batches,
            eval,
            eval_unigram_nats: text.corpus.eval_unigram_nats(),
            tokenizer: text.tokenizer.clone(),
            prompt: prompt(data, text)?,
            data: data.clone(),
            seed: train.seed,
            batch: train.batch,
            device: device.clone(),
        })
    }

    fn tokens(&self, batch: &TokenBatch) -> candle_core::Result<Tokens> {
        let (inputs, targets) = batch.tensors(&self.device)?;
        Ok(Tokens { inputs, targets })
    }

    /// Mean cross-entropy over the held-out windows, nats a token.
    fn eval_loss(&self) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for batch in self.eval.batches(self.batch).map_err(bad_input)? {
            let mean: f32 = self.model.cross_entropy(&self.tokens(&batch)?)?.to_scalar()?;
            sum += f64::from(mean) * batch.batch() as f64;
        }
        Ok(sum / self.eval.count() as f64)
    }

    /// Prompt and continuation, from a generator seeded by run and step.
    fn sample(&self, step: u64) -> anyhow::Result<Option<String>> {
        let LlmData { sample_tokens, sample_temperature, sample_top_p, .. } = self.data;
        if sample_tokens == 0 {
            return Ok(None);
        }
        let seed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(step);
        let mut sampler = LogitsProcessor::new(seed, Some(sample_temperature), Some(sample_top_p));
        let eos = self.tokenizer.eos_id();
        let new = generate(&self.model, &self.prompt, sample_tokens, eos, &mut sampler)?;
        let decode = |tokens: &[u32]| self.tokenizer.decode(tokens).map_err(bad_input);
        Ok(Some(format!("{} ▸{}", decode(&self.prompt)?, decode(&new)?)))
    }
}

/// The tokens that a sample continues.
fn prompt(data: &LlmData, text: &Text) -> anyhow::Result<Vec<u32>> {
    const FROM_HELD_OUT: usize = 12;
    let tokens = if data.sample_prompt.is_empty() {
        text.corpus.eval().iter().copied().take(FROM_HELD_OUT).collect()
    } else {
        text.tokenizer.encode(&data.sample_prompt).map_err(bad_input)?
    };
    if tokens.is_empty() {
        let message = anyhow::anyhow!("data.sample_prompt holds no token of this tokenizer");
        return Err(bad_input(message));
    }
    Ok(tokens)
}

impl Task for LlmTask {
    type Batch = TokenBatch;

    fn vars(&self) -> &NamedVars {
        &self.vars
    }

    fn unit(&self) -> &'static str {
        "tokens"
    }

    fn next_batch(&mut self) -> anyhow::Result<TokenBatch> {
        self.batches.next_batch().map_err(bad_input)
    }

    fn skip_batch(&mut self) -> anyhow::Result<()> {
        self.batches.skip_batch().map_err(bad_input)
    }

    fn units(&self, batch: &TokenBatch) -> u64 {
        (batch.batch() * batch.seq_len()) as u64
    }

    fn loss(&mut self, batch: &TokenBatch) -> anyhow::Result<Objective> {
        Ok(self.model.losses(&self.tokens(batch)?)?.objective.into())
    }

    fn backward(&self, loss: &Tensor) -> candle_core::Result<GradStore> {
        fadam_ops::backward(loss)
    }

    fn evaluate(&mut self, step: u64) -> anyhow::Result<Evaluation> {
        self.batches.start();
        let loss = self.eval_loss()?;
        let evaluation = Evaluation::new(loss)
            .metric("bits_per_byte", self.eval.bits_per_byte(loss))
            .metric("unigram_nats", self.eval_unigram_nats);
        Ok(match self.sample(step)? {
            Some(sample) => evaluation.sample(sample),
            None => evaluation,
        })
    }

    fn cursor(&self) -> Value {
        self.batches.cursor()
    }

    fn restore(&mut self, cursor: &Value) -> anyhow::Result<()> {
        self.batches.restore(cursor)
    }

    fn take_notes(&mut self) -> Vec<String> {
        self.batches.take_notes()
    }

    fn summary_extras(&self) -> Vec<(String, Value)> {
        let mut extras = vec![
            ("vocab_size".to_owned(), self.tokenizer.vocab_size().into()),
            ("eval_tokens".to_owned(), self.eval.target_tokens().into()),
            ("eval_bytes".to_owned(), self.eval.target_bytes().into()),
        ];
        extras.extend(self.batches.summary_extras());
        extras
    }
}
