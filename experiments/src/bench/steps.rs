//! What is said of timed training steps, whatever is trained.

use anyhow::Context;
use fadam_train::DeviceChoice;
use serde::Serialize;

use super::console::PROFILE;
use super::memory::peak_rss_mb;
use super::times::Times;

/// Times of training steps, and on what they were taken.
#[derive(Debug, Serialize)]
pub(crate) struct Timed {
    params: usize,
    device: String,
    threads: usize,
    profile: &'static str,
    steps: usize,
    pub(crate) median_ms: f64,
    p10_ms: f64,
    p90_ms: f64,
    /// Peak resident memory of the process; where the system tells it.
    peak_rss_mb: Option<u64>,
}

impl Timed {
    /// Of steps that took so many milliseconds each.
    pub(crate) fn new(params: usize, device: DeviceChoice, ms: Vec<f64>) -> anyhow::Result<Self> {
        let steps = ms.len();
        let times = Times::new(ms).context("no step was timed")?;
        Ok(Self {
            params,
            device: device.to_string(),
            threads: candle_core::utils::get_num_threads(),
            profile: PROFILE,
            steps,
            median_ms: times.median(),
            p10_ms: times.quantile(0.1),
            p90_ms: times.quantile(0.9),
            peak_rss_mb: peak_rss_mb(),
        })
    }

    /// How many of something a second, if a step has `each`.
    pub(crate) fn per_second(&self, each: f64) -> f64 {
        each / self.median_ms * 1e3
    }

    /// A line for people; `rate` says how much is trained on in a second.
    pub(crate) fn line(&self, rate: &str) -> String {
        let Self { params, threads, device, median_ms, p10_ms, p90_ms, .. } = self;
        let params = *params as f64 / 1e6;
        let peak = self.peak_rss_mb.map_or(String::new(), |mb| format!(", peak {mb} MB"));
        format!(
            "{params:.2} M parameters, {threads} threads on {device}: {median_ms:.1} ms a step ({p10_ms:.1} to \
             {p90_ms:.1}), {rate}{peak}"
        )
    }
}
