//! The RNN-T loss and its gradient by plain loops, to hold the op against.

use candle_core::Tensor;

/// The recursions of one utterance in f64, cell by cell.
pub(super) struct Plain {
    /// log p of the blank and of the next label, `[T][U + 1]`.
    log_p: Vec<Vec<[f64; 2]>>,
    alpha: Vec<Vec<f64>>,
    /// With the end of the paths as a further frame.
    beta: Vec<Vec<f64>>,
}

impl Plain {
    /// Of logits `[T, U + 1, V]`, one frame of which is read at a time.
    pub(super) fn new(logits: &Tensor, frames: usize, labels: &[u32]) -> anyhow::Result<Self> {
        let (n, none) = (labels.len() + 1, f64::NEG_INFINITY);
        let mut log_p = Vec::new();
        for t in 0..frames {
            let frame = logits.get(t)?.to_vec2::<f32>()?;
            let cell = |u: usize| {
                let p = log_softmax(&frame[u]);
                [p[0], labels.get(u).map_or(none, |y| p[*y as usize])]
            };
            log_p.push((0..n).map(cell).collect::<Vec<_>>());
        }
        let mut alpha = vec![vec![none; n]; frames];
        let mut beta = vec![vec![none; n + 1]; frames + 1];
        for t in 0..frames {
            for u in 0..n {
                let by_blank = if t > 0 { alpha[t - 1][u] + log_p[t - 1][u][0] } else { none };
                let by_label = if u > 0 { alpha[t][u - 1] + log_p[t][u - 1][1] } else { none };
                let start = if t + u == 0 { 0.0 } else { none };
                alpha[t][u] = log_add(start, log_add(by_blank, by_label));
            }
        }
        beta[frames][n - 1] = 0.0;
        for t in (0..frames).rev() {
            for u in (0..n).rev() {
                let [blank, label] = log_p[t][u];
                beta[t][u] = log_add(blank + beta[t + 1][u], label + beta[t][u + 1]);
            }
        }
        Ok(Self { log_p, alpha, beta })
    }

    pub(super) fn loss(&self) -> f64 {
        -self.beta[0][0]
    }

    /// How far a gradient `[T, U + 1, V]` is from `p (b + l) − [blank] b − [label] l`, and from 0 in the padding.
    pub(super) fn compare(
        &self,
        logits: &Tensor,
        gradient: &Tensor,
        labels: &[u32],
    ) -> anyhow::Result<f64> {
        let mut most = 0f64;
        for t in 0..logits.dim(0)? {
            let (z, dz) = (logits.get(t)?.to_vec2::<f32>()?, gradient.get(t)?.to_vec2::<f32>()?);
            for (u, (z, dz)) in z.iter().zip(dz).enumerate() {
                let mut wanted = vec![0.0; z.len()];
                if t < self.alpha.len() && u <= labels.len() {
                    let [blank, label] = self.log_p[t][u];
                    let before = self.alpha[t][u] + self.loss();
                    let b = (before + blank + self.beta[t + 1][u]).exp();
                    let l = (before + label + self.beta[t][u + 1]).exp();
                    wanted = log_softmax(z).iter().map(|log_p| log_p.exp() * (b + l)).collect();
                    wanted[0] -= b;
                    if let Some(y) = labels.get(u) {
                        wanted[*y as usize] -= l;
                    }
                }
                for (ours, wanted) in dz.iter().zip(wanted) {
                    let off = (f64::from(*ours) - wanted).abs();
                    most = most.max(if off.is_nan() { f64::INFINITY } else { off });
                }
            }
        }
        Ok(most)
    }
}

fn log_softmax(z: &[f32]) -> Vec<f64> {
    let most = f64::from(z.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let log_z = most + z.iter().map(|z| (f64::from(*z) - most).exp()).sum::<f64>().ln();
    z.iter().map(|z| f64::from(*z) - log_z).collect()
}

/// `log(exp a + exp b)`
fn log_add(a: f64, b: f64) -> f64 {
    let most = a.max(b);
    if most == f64::NEG_INFINITY { most } else { most + (-(a - b).abs()).exp().ln_1p() }
}
