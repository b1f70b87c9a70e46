//! The four algorithms as plain loops over f64, straight from the paper and without a line of
//! fadam-core: what a step is checked against before it is timed. AdamW is Algorithm 3 without clipping.

use fadam_core::{AdafactorConfig, AdamConfig, AnyConfig, FAdafactorConfig, FAdamConfig};

/// The state of one tensor.
pub(crate) struct Plain {
    config: AnyConfig,
    dims: Vec<usize>,
    t: i32,
    m: Vec<f64>,
    /// f, or the row sums R and then the column sums C of each matrix.
    f: Vec<f64>,
}

impl Plain {
    pub(crate) fn new(config: AnyConfig, dims: &[usize]) -> Self {
        let mut plain = Self {
            config,
            dims: dims.to_vec(),
            t: 0,
            m: vec![0.0; dims.iter().product()],
            f: Vec::new(),
        };
        let f0 = f64::from(matches!(plain.config, AnyConfig::FAdam(_) | AnyConfig::FAdafactor(_)));
        let zeros = vec![0.0; plain.m.len()];
        plain.f = plain.sums(&zeros).iter().map(|_| f0).collect();
        plain
    }

    /// One step from θ with the gradient g: θ after it.
    pub(crate) fn step(&mut self, theta: &[f64], g: &[f64]) -> Vec<f64> {
        self.t += 1;
        match self.config.clone() {
            AnyConfig::FAdam(FAdamConfig {
                lr,
                beta1,
                beta2,
                eps,
                eps2,
                clip,
                weight_decay,
                rho,
            })
            | AnyConfig::FAdafactor(FAdafactorConfig {
                lr,
                beta1,
                beta2,
                eps,
                eps2,
                clip,
                weight_decay,
                rho,
            }) => {
                let f = self.moment(self.debiased(beta2), 0.0, g);
                let eps_hat = eps2.map_or(eps, |eps2| eps.min(eps2 * rms(g)));
                let divide = |x: &[f64]| {
                    let pairs = x.iter().zip(&f);
                    let each = pairs.map(|(x, f)| x / (f.powf(rho) + eps_hat.powf(2.0 * rho)));
                    clipped(each.collect(), clip)
                };
                let decay = divide(theta);
                self.momentum(beta1, &divide(g));
                zip3(theta, &self.m, &decay, |theta, m, w| theta - lr * (m + weight_decay * w))
            }
            AnyConfig::Adam(adam) => self.adam(&adam, theta, g),
            AnyConfig::Adafactor(adafactor) => self.adafactor(&adafactor, theta, g),
            AnyConfig::Parts(_) => unreachable!("a case is one of the four algorithms"),
        }
    }

    fn adam(&mut self, c: &AdamConfig, theta: &[f64], g: &[f64]) -> Vec<f64> {
        let f = self.moment(c.beta2, 0.0, g);
        self.momentum(c.beta1, g);
        let correction = |beta: f64| 1.0 - beta.powi(self.t);
        let (c1, c2) = (correction(c.beta1), correction(c.beta2));
        let pairs = self.m.iter().zip(&f);
        let bar = pairs.map(|(m, f)| m / c1 / ((f / c2).sqrt() + c.eps));
        let bar = clipped(bar.collect(), c.clip);
        zip3(theta, &bar, theta, |theta, bar, w| theta - c.lr * (bar + c.weight_decay * w))
    }

    fn adafactor(&mut self, c: &AdafactorConfig, theta: &[f64], g: &[f64]) -> Vec<f64> {
        let f = self.moment(self.debiased(c.beta2), c.eps, g);
        let bar = g.iter().zip(&f).map(|(g, f)| g / f.sqrt()).collect();
        let bar: Vec<f64> = clipped(bar, c.clip).iter().map(|x| c.lr * x).collect();
        self.momentum(c.beta1, &bar);
        let lambda = c.weight_decay * if c.weight_decay_times_lr { c.lr } else { 1.0 };
        zip3(theta, &self.m, theta, |theta, m, w| theta - (m + lambda * w))
    }

    /// β̂2 = β2 (1 − β2^(t−1)) / (1 − β2^t)
    fn debiased(&self, beta2: f64) -> f64 {
        beta2 * (1.0 - beta2.powi(self.t - 1)) / (1.0 - beta2.powi(self.t))
    }

    /// m = β m + (1 − β) x
    fn momentum(&mut self, beta: f64, x: &[f64]) {
        for (m, x) in self.m.iter_mut().zip(x) {
            *m = beta * *m + (1.0 - beta) * x;
        }
    }

    /// Moves f, or R and C, towards g² + ε by 1 − β; returns f for every element.
    fn moment(&mut self, beta: f64, eps: f64, g: &[f64]) -> Vec<f64> {
        let squares: Vec<f64> = g.iter().map(|g| g * g + eps).collect();
        let new = self.sums(&squares);
        for (f, new) in self.f.iter_mut().zip(new) {
            *f = beta * *f + (1.0 - beta) * new;
        }
        let Some((rows, columns)) = self.matrix() else {
            return self.f.clone();
        };
        let mut full = Vec::with_capacity(g.len());
        for sums in self.f.chunks(rows + columns) {
            let (r, c) = sums.split_at(rows);
            let total: f64 = r.iter().sum();
            full.extend(r.iter().flat_map(|r| c.iter().map(move |c| r * c / total)));
        }
        full
    }

    /// `x` itself, or the row sums and then the column sums of each matrix in it.
    fn sums(&self, x: &[f64]) -> Vec<f64> {
        let Some((rows, columns)) = self.matrix() else {
            return x.to_vec();
        };
        let mut sums = Vec::new();
        for matrix in x.chunks(rows * columns) {
            sums.extend(matrix.chunks(columns).map(|row| row.iter().sum::<f64>()));
            sums.extend((0..columns).map(|j| matrix.iter().skip(j).step_by(columns).sum::<f64>()));
        }
        sums
    }

    /// Rows and columns, if f is factored.
    fn matrix(&self) -> Option<(usize, usize)> {
        match (&self.config, self.dims.as_slice()) {
            (AnyConfig::FAdafactor(_) | AnyConfig::Adafactor(_), [.., rows, columns]) => {
                Some((*rows, *columns))
            }
            _ => None,
        }
    }
}

fn rms(x: &[f64]) -> f64 {
    (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt()
}

/// x / max(1, RMS(x)/c)
fn clipped(mut x: Vec<f64>, clip: Option<f64>) -> Vec<f64> {
    let factor = clip.map_or(1.0, |c| (rms(&x) / c).max(1.0));
    for x in &mut x {
        *x /= factor;
    }
    x
}

fn zip3(a: &[f64], b: &[f64], c: &[f64], each: impl Fn(f64, f64, f64) -> f64) -> Vec<f64> {
    let pairs = a.iter().zip(b).zip(c);
    pairs.map(|((a, b), c)| each(*a, *b, *c)).collect()
}
