//! What the optimizer's last step did: the Fisher information and clipping.
//!
//! ```text
//! {"step":100,"split":"optimizer","tensors":[{"name":"blocks.0.q","rms_g":…,"eps_hat":…,"rms_natural":…,"rms_decay":…,"clipped":true,
//!  "fim":[min,p05,median,p95,max]},…]}
//! ```
//!
//! at each evaluation, but that before the first step. The numbers are those of [`fadam_core::StepReport`]: RMS(ḡ) of the natural gradient before
//! it is clipped, and quantiles of f over each tensor.

use std::collections::BTreeMap;

use candle_core::DType;
use fadam_core::{AnyOptimizer, StepReport, TensorReport};
use serde_json::{Value as Json, json};

use crate::tensorboard::{LogHistogram, Value, scalar};

/// The last step in numbers, with histograms if they are wanted.
#[derive(Debug)]
pub(crate) struct Diagnostics {
    report: StepReport,
    /// log₁₀ f by kind of parameter.
    fim: BTreeMap<String, LogHistogram>,
}

impl Diagnostics {
    /// Of the last step; `None` before the first one. Every f is looked at: seconds, for a model of 10⁹ parameters.
    pub(crate) fn of(optimizer: &AnyOptimizer, histograms: bool) -> anyhow::Result<Option<Self>> {
        let report = optimizer.report()?;
        let mut fim: BTreeMap<String, LogHistogram> = BTreeMap::new();
        for tensor in report.tensors.iter().filter(|_| histograms) {
            let f = optimizer.fim(&tensor.name)?.flatten_all()?;
            let histogram = fim.entry(kind(&tensor.name)).or_default();
            match f.dtype() {
                DType::F64 => histogram.add(f.to_vec1::<f64>()?),
                _ => histogram
                    .add(f.to_dtype(DType::F32)?.to_vec1::<f32>()?.into_iter().map(f64::from)),
            }
        }
        Ok((!report.tensors.is_empty()).then_some(Self { report, fim }))
    }

    /// Fields of a line in `metrics.jsonl`.
    pub(crate) fn fields(&self) -> Vec<(String, Json)> {
        let tensor = |TensorReport { name, measures, clipped, fim, .. }: &TensorReport| {
            json!({
                "name": name,
                "rms_g": measures.rms_g,
                "eps_hat": measures.eps_hat,
                "rms_natural": measures.rms_natural,
                "rms_decay": measures.rms_decay,
                "clipped": clipped,
                "fim": [fim.min, fim.p05, fim.median, fim.p95, fim.max],
            })
        };
        let tensors: Json = self.report.tensors.iter().map(tensor).collect();
        vec![("tensors".to_owned(), tensors)]
    }

    /// What TensorBoard shows.
    pub(crate) fn values(&self) -> Vec<Value> {
        let mut values = Vec::new();
        for (kind, f) in &self.fim {
            values.extend(f.value(format!("fim/log10_f/{kind}")));
            values.extend(f.mean().map(|mean| scalar(format!("fim/log10_f_mean/{kind}"), mean)));
        }
        let zeros: u64 = self.fim.values().map(LogHistogram::zeros).sum();
        let all = zeros + self.fim.values().map(LogHistogram::count).sum::<u64>();
        values.push(scalar("fim/zeros", zeros as f64 / all.max(1) as f64));
        let mut natural = LogHistogram::default();
        natural.add(self.report.tensors.iter().map(|tensor| tensor.measures.rms_natural));
        values.extend(natural.value("clip/log10_rms_natural".to_owned()));
        values
    }
}

/// The name of a parameter without numbers: `blocks.*.attn.q` of `blocks.3.attn.q`.
fn kind(name: &str) -> String {
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let parts = name.split('.').map(|part| if is_number(part) { "*" } else { part });
    parts.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::kind;

    #[test]
    fn numbers_between_dots_do_not_make_a_kind() {
        assert_eq!(kind("blocks.12.attn.q"), "blocks.*.attn.q");
        assert_eq!(kind("encoder.0.ffn1.up"), "encoder.*.ffn1.up");
        assert_eq!(kind("embedding"), "embedding");
    }
}
