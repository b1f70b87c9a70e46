//! Every key of the common sections, documented in one place. Tests compare the list with what the
//! structs accept and with their defaults, so that a table made from it cannot go stale.

use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};

use super::Experiment;

/// What a configuration key means: a row of the table in `docs/config.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyDoc {
    /// The key with its section: `train.batch`.
    pub key: &'static str,
    /// `integer`, `number`, `string`, `boolean`, ….
    pub kind: &'static str,
    /// The default, as TOML would write it, or a remark such as "the algorithm's".
    pub default: &'static str,
    /// One sentence, with the unit.
    pub meaning: &'static str,
    /// The values that are accepted.
    pub range: &'static str,
}

impl KeyDoc {
    /// A row: key, type, default, range and meaning.
    pub const fn new(
        key: &'static str,
        kind: &'static str,
        default: &'static str,
        range: &'static str,
        meaning: &'static str,
    ) -> Self {
        Self { key, kind, default, meaning, range }
    }
}

/// The keys of `[optimizer]`, `[schedule]`, `[train]`, `[checkpoint]` and `[parallel]`.
#[rustfmt::skip]
pub const COMMON_KEYS: &[KeyDoc] = &[
    KeyDoc::new("optimizer.algorithm", "string", "\"fadafactor\"", "fadam, fadafactor, adam, adafactor, fadam-parts", "Algorithm 1, 2, 3 or 4 of the paper, or FAdam with a switch for each of its parts."),
    KeyDoc::new("optimizer.lr", "number", "the algorithm's", "≥ 0", "Learning rate η, before the schedule's factor."),
    KeyDoc::new("optimizer.beta1", "number", "the algorithm's", "0 ≤ β1 < 1", "Decay of the momentum m."),
    KeyDoc::new("optimizer.beta2", "number", "the algorithm's", "0 ≤ β2 < 1", "Decay of the Fisher information f."),
    KeyDoc::new("optimizer.eps", "number", "the algorithm's", "≥ 0", "ε, added to the denominator (to g² in Adafactor)."),
    KeyDoc::new("optimizer.eps2", "number or \"off\"", "the algorithm's", "> 0", "ε2 of the adaptive ε̂ = min(ε, ε2·RMS g); fadam, fadafactor, fadam-parts."),
    KeyDoc::new("optimizer.clip", "number or \"off\"", "the algorithm's", "> 0", "c: no update has an RMS above it."),
    KeyDoc::new("optimizer.weight_decay", "number", "the algorithm's", "≥ 0", "λ."),
    KeyDoc::new("optimizer.rho", "number", "the algorithm's", "> 0", "ρ, the power of f in the denominator; fadam, fadafactor, fadam-parts."),
    KeyDoc::new("optimizer.weight_decay_times_lr", "boolean", "the algorithm's", "true, false", "Whether λ is multiplied by the learning rate; adafactor."),
    KeyDoc::new("optimizer.natural_momentum", "boolean", "the algorithm's", "true, false", "The momentum is of the natural gradient (Algorithm 1, line 11), or of the gradient and divided when it is used (Algorithm 3); fadam-parts."),
    KeyDoc::new("optimizer.no_bias_correction", "boolean", "the algorithm's", "true, false", "The momentum m is used as it is, or m/(1 − β1^t); fadam-parts."),
    KeyDoc::new("optimizer.adaptive_epsilon", "boolean", "the algorithm's", "true, false", "ε̂ = min(ε, ε2·RMS g) (Algorithm 1, line 8), or ε; fadam-parts."),
    KeyDoc::new("optimizer.clip_natural_gradient", "boolean", "the algorithm's", "true, false", "c clips what enters the momentum (Algorithm 1, line 10), or the step that leaves it (Algorithm 3, line 9); fadam-parts."),
    KeyDoc::new("optimizer.fisher_weight_decay", "boolean", "the algorithm's", "true, false", "The weight decay is of clip(θ/d) (Algorithm 1, lines 12 and 13), or of θ (Algorithm 3); fadam-parts."),
    KeyDoc::new("optimizer.state", "string", "\"full\"", "full, bf16, 8bit", "How m and f are kept: in f32, or in less with stochastic rounding."),
    KeyDoc::new("optimizer.max_grad_norm", "number or \"off\"", "\"off\"", "> 0", "Norm that the gradients of all parameters together are clipped to; for baselines."),
    KeyDoc::new("optimizer.groups", "array of tables", "[]", "", "Parameter groups: `match` (a pattern of names, `*` and `?`), `min_rank`, `lr_scale`, `frozen`, `state`, `algorithm` and its hyper-parameters; the first that matches counts, what is absent is as in `[optimizer]`."),
    KeyDoc::new("schedule.kind", "string", "\"constant\"", "constant, linear, cosine, inverse-sqrt, exponential, noam", "How the learning rate changes after the warm-up."),
    KeyDoc::new("schedule.warmup", "integer", "0", "≥ 0", "Steps over which the learning rate rises linearly to optimizer.lr."),
    KeyDoc::new("schedule.end", "number", "0.1", "0 to 1; exponential: > 0", "Factor on the learning rate at the last step; linear, cosine, exponential."),
    KeyDoc::new("schedule.d_model", "integer", "none", "≥ 1", "Width of the model in the formula; noam, which needs it."),
    KeyDoc::new("train.steps", "integer", "1000", "≥ 1", "Optimizer steps of the whole run; fixes the schedule."),
    KeyDoc::new("train.batch", "integer", "16", "≥ 1", "Sequences, utterances or images that are computed at a time."),
    KeyDoc::new("train.accumulate", "integer", "1", "≥ 1", "Batches whose mean gradient makes one step: large steps in the memory of small ones."),
    KeyDoc::new("train.fisher", "string", "\"minibatch\"", "minibatch, microbatch", "What f averages: the square of a step's mean gradient (Eq. 21, the paper's algorithms), or the mean of the squared gradients of its train.accumulate batches (Eqs. 20, 57)."),
    KeyDoc::new("train.seed", "integer", "0", "≥ 0", "Seed of everything random: initial weights, batches, dropout, samples."),
    KeyDoc::new("train.init", "string", "\"\"", "a safetensors file", "Weights to start from, by the names and shapes of the model (bf16 and f16 are converted); empty: drawn from train.seed."),
    KeyDoc::new("train.eval_every", "integer", "100", "≥ 1", "Steps between evaluations; there is also one before the first step and one after the last."),
    KeyDoc::new("train.log_every", "integer", "10", "≥ 1", "Steps between training lines in metrics.jsonl, each the mean loss since the line before."),
    KeyDoc::new("train.tensorboard", "boolean", "true", "true, false", "Whether the run folder gets event files for TensorBoard: the numbers of metrics.jsonl, histograms of the Fisher information, samples and pictures."),
    KeyDoc::new("train.on_divergence", "string", "\"stop\"", "stop, skip, back", "What follows a loss, gradient or update that is not finite; the step changes nothing. stop: a checkpoint of the state before it, and an error that names step, gradients and batch; skip: the next batch; back: to the last checkpoint before that state, with a lower learning rate."),
    KeyDoc::new("train.divergence_limit", "integer", "10", "≥ 1", "Steps skipped in a row, or times gone back, after which a run stops all the same."),
    KeyDoc::new("train.divergence_lr_factor", "number", "0.5", "above 0, at most 1", "What the learning rate is multiplied by each time a run goes back."),
    KeyDoc::new("checkpoint.every", "integer", "500", "≥ 1", "Steps between checkpoints; there is also one whenever the run ends or is interrupted."),
    KeyDoc::new("checkpoint.keep", "integer", "2", "≥ 1", "How many of the latest checkpoints are kept."),
    KeyDoc::new("checkpoint.keep_best", "boolean", "true", "true, false", "Whether the one with the lowest evaluation loss is kept too, of those that were evaluated at their own step (where train.eval_every and checkpoint.every meet)."),
    KeyDoc::new("parallel.bucket_mb", "integer", "25", "1 to 1000", "With several processes: MB of gradients that are summed at a time."),
    KeyDoc::new("parallel.zero", "boolean", "false", "true, false", "With several processes: whether each keeps the optimizer's state of its share of the parameters only (ZeRO, stage 1)."),
    KeyDoc::new("parallel.check_every", "integer", "100", "≥ 1", "With several processes: steps between two comparisons of their models, to the last bit; each checkpoint makes one too."),
];

/// `keys` as a Markdown table, a row a key.
pub fn markdown_table<'a>(keys: impl IntoIterator<Item = &'a KeyDoc>) -> String {
    let row = |doc: &KeyDoc| {
        let KeyDoc { key, kind, default, meaning, range } = doc;
        format!("| `{key}` | {kind} | {default} | {range} | {meaning} |\n")
    };
    let head = "| key | type | default | range | meaning |\n|---|---|---|---|---|\n";
    std::iter::once(head.to_owned()).chain(keys.into_iter().map(row)).collect()
}

/// Compares an experiment's key list with the fields that its `[model]` and `[data]` accept, and
/// makes sure that unknown keys are refused there: for a test in each experiment.
///
/// # Errors
///
/// A sentence naming the keys that are documented but not accepted, or accepted but not documented.
pub fn check_keys<E: Experiment>() -> Result<(), String> {
    let mut accepted = fields_of::<E::Model>("model");
    accepted.extend(fields_of::<E::Data>("data"));
    compare(E::KEYS, &accepted)?;
    for (section, refused) in
        [("model", refuses_unknown::<E::Model>()), ("data", refuses_unknown::<E::Data>())]
    {
        if !refused {
            return Err(format!(
                "[{section}] accepts unknown keys: deny_unknown_fields is missing"
            ));
        }
    }
    Ok(())
}

/// As [`check_keys`], for the sections of this crate.
#[cfg(test)]
pub(super) fn check_common_keys() -> Result<(), String> {
    use super::{CheckpointConfig, ParallelConfig, RawOptimizer, RawSchedule, TrainConfig};
    let mut accepted = fields_of::<RawOptimizer>("optimizer");
    accepted.extend(fields_of::<RawSchedule>("schedule"));
    accepted.extend(fields_of::<TrainConfig>("train"));
    accepted.extend(fields_of::<CheckpointConfig>("checkpoint"));
    accepted.extend(fields_of::<ParallelConfig>("parallel"));
    compare(COMMON_KEYS, &accepted)
}

fn compare(documented: &[KeyDoc], accepted: &[String]) -> Result<(), String> {
    let documented: Vec<&str> = documented.iter().map(|doc| doc.key).collect();
    let stale: Vec<_> = documented.iter().filter(|k| !accepted.iter().any(|a| a == *k)).collect();
    let missing: Vec<_> = accepted.iter().filter(|k| !documented.contains(&k.as_str())).collect();
    if stale.is_empty() && missing.is_empty() && documented.len() == accepted.len() {
        return Ok(());
    }
    Err(format!("documented but not accepted: {stale:?}; accepted but not documented: {missing:?}"))
}

fn refuses_unknown<T: DeserializeOwned>() -> bool {
    toml::from_str::<T>("no-such-key = 0").is_err()
}

/// The fields that `T` asks serde for, each with its section before it.
fn fields_of<T: DeserializeOwned>(section: &str) -> Vec<String> {
    let mut fields = Vec::new();
    // The error is how FieldNames ends the deserialization once it has seen the names.
    let _ended = T::deserialize(FieldNames(&mut fields));
    fields.into_iter().map(|field| format!("{section}.{field}")).collect()
}

/// A deserializer that only listens to which fields a struct has.
struct FieldNames<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.extend(fields);
        Err(Self::Error::custom("names recorded"))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(Self::Error::custom("not a struct"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
