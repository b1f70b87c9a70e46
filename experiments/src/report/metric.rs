//! What is measured: a column of `results.csv`, its name for a reader, its unit and which way is better.

/// A column of an evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// In `results.csv`, `curves.csv` and `metrics.jsonl`.
    pub column: String,
    /// For a reader.
    pub label: String,
    /// Empty if it has none.
    pub unit: &'static str,
    /// What a value is multiplied by to be shown in that unit.
    pub factor: f64,
    /// Whether less is better.
    pub lower_is_better: bool,
    /// Decimals that a value is shown with. One in the last of them is the smallest difference of interest.
    pub decimals: usize,
}

impl Metric {
    /// The metric in a column of a task's evaluations.
    ///
    /// ```
    /// use experiments::report::metric::Metric;
    /// let wer = Metric::of("wer", "train-asr");
    /// assert_eq!(wer.title(), "word error rate (%)");
    /// assert!(wer.lower_is_better && !Metric::of("psnr", "train-vqvae").lower_is_better);
    /// ```
    pub fn of(column: &str, task: &str) -> Self {
        let (label, unit, factor, lower_is_better, decimals) = match column {
            "eval_loss" | "best_eval_loss" => ("held-out loss", loss_unit(task), 1.0, true, 3),
            "bits_per_byte" => ("held-out loss", "bits a byte", 1.0, true, 3),
            "wer" => ("word error rate", "%", 100.0, true, 2),
            "cer" => ("character error rate", "%", 100.0, true, 2),
            "train_wer" => ("word error rate on training clips", "%", 100.0, true, 2),
            "train_cer" => ("character error rate on training clips", "%", 100.0, true, 2),
            "fid" => ("FID", "", 1.0, true, 2),
            // Of another network than Inception, so never "FID".
            "frechet_efficientnet_lite0" => {
                ("Fréchet distance, EfficientNet-Lite0", "", 1.0, true, 2)
            }
            "kid" => ("KID", "", 1.0, true, 5),
            "kid_efficientnet_lite0" => ("KID, EfficientNet-Lite0", "", 1.0, true, 5),
            "psnr" => ("PSNR", "dB", 1.0, false, 2),
            "likeliest_psnr" => ("PSNR of the likeliest values", "dB", 1.0, false, 2),
            "ssim" => ("SSIM", "", 1.0, false, 4),
            "code_usage" => ("codes in use", "%", 100.0, false, 1),
            "code_perplexity" => ("perplexity of the codes", "", 1.0, false, 1),
            other => (other, "", 1.0, true, 3),
        };
        let (column, label) = (column.to_owned(), label.to_owned());
        Self { column, label, unit, factor, lower_is_better, decimals }
    }

    /// The label with its unit, for an axis or a column's head.
    pub fn title(&self) -> String {
        match self.unit {
            "" => self.label.clone(),
            unit => format!("{} ({unit})", self.label),
        }
    }

    /// A value in the metric's unit.
    pub fn show(&self, value: f64) -> String {
        number(value * self.factor, self.decimals)
    }

    /// A standard error in the metric's unit, to two figures.
    pub fn show_error(&self, error: f64) -> String {
        number(error * self.factor, self.decimals_for(error))
    }

    /// A difference in the metric's unit, with its sign, to two figures of `error` (its standard error; of itself where there is none).
    pub fn show_signed(&self, difference: f64, error: Option<f64>) -> String {
        let decimals = self.decimals_for(error.filter(|error| *error > 0.0).unwrap_or(difference));
        let text = number(difference * self.factor, decimals);
        let is_zero = !text.contains(|c: char| matches!(c, '1'..='9'));
        if difference > 0.0 && !is_zero { format!("+{text}") } else { text }
    }

    /// The smallest difference that is of interest, in the column's unit: one in the last decimal that is shown.
    ///
    /// ```
    /// use experiments::report::metric::Metric;
    /// assert_eq!(Metric::of("eval_loss", "train-llm").least_difference(), 0.001);
    /// assert_eq!(Metric::of("wer", "train-asr").least_difference(), 0.0001, "0.01 %");
    /// ```
    pub fn least_difference(&self) -> f64 {
        1.0 / (10_f64.powf(self.decimals as f64) * self.factor)
    }

    /// Decimals that show two figures of a value: those of the metric or up to four more; what needs more than that is zero.
    pub fn decimals_for(&self, value: f64) -> usize {
        // 2 of 0.25, 4 of 0.0025, infinitely many of 0.
        let of_value = 1.0 - (value * self.factor).abs().log10().floor();
        let (least, most) = (self.decimals, self.decimals + 4);
        if (least as f64..=most as f64).contains(&of_value) { of_value as usize } else { least }
    }
}

/// What a loss counts in.
fn loss_unit(task: &str) -> &'static str {
    match task {
        "train-llm" => "nats a token",
        "train-asr" => "nats a label",
        "train-vqvae" => "as trained",
        _ => "",
    }
}

/// A number with a typographic minus sign, and without one if it is shown as zero.
///
/// ```
/// use experiments::report::metric::number;
/// assert_eq!(number(-0.25, 2), "\u{2212}0.25");
/// assert_eq!(number(-0.0001, 2), "0.00");
/// assert_eq!(number(f64::NAN, 2), "NaN");
/// ```
pub fn number(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(digits) if digits.contains(|c: char| c != '0' && c != '.') => {
            format!("\u{2212}{digits}")
        }
        Some(digits) => digits.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_shown_to_two_figures_of_their_error() {
        let loss = Metric::of("eval_loss", "train-llm");
        assert_eq!(loss.show_signed(-0.049_5, Some(0.010_7)), "\u{2212}0.050");
        assert_eq!(loss.show_error(0.010_7), "0.011");
        assert_eq!(loss.show_signed(0.000_413, Some(0.000_02)), "+0.000413");
        assert_eq!(loss.show_error(0.000_02), "0.000020");
        assert_eq!(loss.show_signed(0.000_012_3, None), "+0.000012");
        assert_eq!(loss.show_signed(0.000_012_3, Some(0.0)), "+0.000012");
        assert_eq!(loss.show_signed(0.0, Some(0.0)), "0.000");
        assert_eq!(loss.show_signed(1e-12, Some(1e-12)), "0.000", "rounding");
        let wer = Metric::of("wer", "train-asr");
        assert_eq!(wer.show_signed(0.012_345, Some(0.03)), "+1.23", "per cent");
        assert_eq!(wer.show_error(0.000_012), "0.0012");
    }
}
