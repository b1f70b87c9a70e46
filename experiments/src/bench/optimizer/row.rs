//! One result, as a line of a table and as JSON.

use serde::Serialize;

/// What was measured of one case.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// `optimizer`
    pub(crate) bench: &'static str,
    pub(crate) name: &'static str,
    /// Of parameters and gradients.
    pub(crate) dtype: &'static str,
    /// How m and f are kept.
    pub(crate) state: &'static str,
    pub(crate) rho: Option<f64>,
    pub(crate) params: usize,
    pub(crate) device: String,
    pub(crate) threads: usize,
    /// `release`, or `dev`, whose times say nothing.
    pub(crate) profile: &'static str,
    /// Timed steps.
    pub(crate) steps: usize,
    pub(crate) median_ms: f64,
    pub(crate) p10_ms: f64,
    pub(crate) p90_ms: f64,
    /// The bytes that a step must at least read and write, by the median step; see the module.
    pub(crate) gb_per_s: Option<f64>,
    /// A copy of a large buffer on the same threads, measured just before, reads and writes counted.
    pub(crate) copy_gb_per_s: f64,
    pub(crate) state_bytes_per_param: f64,
}

impl Row {
    /// The column heads of [`table_line`](Self::table_line).
    pub(crate) fn table_head() -> String {
        format!(
            "{:<12}  {:<5}  {:<5}  {:>4}  {:>9}  {:>9}  {:>9}  {:>7}  {:>7}  {:>13}",
            "optimizer",
            "dtype",
            "state",
            "rho",
            "median ms",
            "p10 ms",
            "p90 ms",
            "GB/s",
            "copy",
            "state B/param"
        )
    }

    /// For people.
    pub(crate) fn table_line(&self) -> String {
        let or_dash = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.1}"));
        format!(
            "{:<12}  {:<5}  {:<5}  {:>4}  {:>9.3}  {:>9.3}  {:>9.3}  {:>7}  {:>7.1}  {:>13.3}",
            self.name,
            self.dtype,
            self.state,
            or_dash(self.rho),
            self.median_ms,
            self.p10_ms,
            self.p90_ms,
            or_dash(self.gb_per_s),
            self.copy_gb_per_s,
            self.state_bytes_per_param
        )
    }
}
