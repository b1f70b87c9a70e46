//! Random hyper-parameters, shapes, dtypes and kinds of step, against the plain step.

use fadam_core::{AdafactorConfig, AdamConfig, AnyConfig, FAdafactorConfig, FAdamConfig};
use proptest::prelude::*;

use super::{Given, Host, Param, state_dtype, stored};
use crate::entry::{Dtype, Numbers, Squared};
use crate::golden::{max_abs, max_difference};
use crate::session::{OnBad, Session};
use crate::{fresh, noise, numbers};

/// What a drawn case is made of.
#[derive(Debug, Clone)]
struct Draw {
    config: AnyConfig,
    dims: Vec<usize>,
    dtype: Dtype,
    squares: Squared,
    /// Weight of the auxiliary gradient; 0: there is none.
    aux: f64,
    gamma: f64,
    scale: f64,
    seed: usize,
}

fn configs() -> impl Strategy<Value = AnyConfig> {
    let rho = prop_oneof![Just(0.5), Just(1.0), 0.3f64..1.2];
    let eps = prop_oneof![Just(1e-8), Just(1e-15), Just(1e-30), Just(0.0)];
    let eps2 = prop_oneof![Just(Some(0.01)), Just(None), Just(Some(0.5))];
    let clip = prop_oneof![Just(Some(1.0)), Just(Some(0.3)), Just(None)];
    let decay = prop_oneof![Just(0.0), Just(0.001), Just(0.3)];
    (rho, eps, eps2, clip, decay, 0usize..4).prop_map(
        |(rho, eps, eps2, clip, weight_decay, which)| match AnyConfig::named(
            AnyConfig::NAMES[which],
        ) {
            Some(AnyConfig::FAdam(c)) => {
                AnyConfig::FAdam(FAdamConfig { rho, eps, eps2, clip, weight_decay, ..c })
            }
            Some(AnyConfig::FAdafactor(c)) => {
                AnyConfig::FAdafactor(FAdafactorConfig { rho, eps, eps2, clip, weight_decay, ..c })
            }
            Some(AnyConfig::Adam(c)) => {
                let eps = eps.max(1e-30);
                AnyConfig::Adam(AdamConfig { eps, clip, weight_decay, ..c })
            }
            Some(AnyConfig::Adafactor(c)) => {
                AnyConfig::Adafactor(AdafactorConfig { clip, weight_decay, ..c })
            }
            _ => unreachable!("all four are named"),
        },
    )
}

/// Of every kind of partition: whole small matrices, tiles with and without a rest, few and many rows.
fn shapes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![]),
        Just(vec![20_000]),
        proptest::collection::vec(1usize..24, 1..=4),
        proptest::collection::vec(1usize..24, 1..=4),
        Just(vec![131, 70]),
        Just(vec![2, 40, 270]),
        Just(vec![1, 5000]),
        Just(vec![5000, 1]),
        Just(vec![300, 40]),
        Just(vec![1200, 3, 3]),
        Just(vec![3, 600, 8]),
    ]
}

fn draws() -> impl Strategy<Value = Draw> {
    let squares = prop_oneof![
        Just(Squared::OfGradient),
        Just(Squared::Given(0.8)),
        Just(Squared::Sampled(5.0))
    ];
    let dtype =
        prop_oneof![Just(Dtype::F64), Just(Dtype::F32), Just(Dtype::BF16), Just(Dtype::F16)];
    let gamma = prop_oneof![Just(1.0), Just(-1.0), Just(0.37)];
    // Also where f32 holds no squares.
    let power = prop_oneof![8 => -12i32..4, 1 => -30i32..-20, 1 => 18i32..28];
    let scale = power.prop_map(|power| 10f64.powi(power));
    (configs(), shapes(), dtype, squares, 0..2u8, gamma, scale, 0usize..1000).prop_map(
        |(config, dims, dtype, squares, aux, gamma, scale, seed)| Draw {
            config,
            dims,
            dtype,
            squares,
            aux: f64::from(aux) * 1e-3,
            gamma,
            scale,
            seed,
        },
    )
}

impl Draw {
    /// Some steps of a parameter on the host program and in plain f64, compared after each.
    fn run(&self) {
        let Some(host) = Host::start() else { return };
        let count = self.dims.iter().product();
        let mut plain = fresh(&self.config, &self.dims, &noise(count, self.seed, 1.0), self.dtype);
        let theta0 = plain.theta.clone();
        let param = Param::new(&host, "w", &plain, self.squares, self.aux != 0.0);
        let mut session = Session::new(host, OnBad::Skip).unwrap();
        let half = matches!(self.dtype, Dtype::BF16 | Dtype::F16);
        let mut largest = [0.0; 2];
        for t in 0..if half { 1 } else { 3 } {
            let drawn = |seed: usize, scale| {
                stored(&noise(count, self.seed + 17 * t + seed, scale), self.dtype)
            };
            let mut g = drawn(3, self.scale);
            if self.seed.is_multiple_of(3) && t == 0 {
                g.fill(0.0); // nothing at first
            }
            // Beyond 1e18, a/d or s² can be no f32, which the size of g does not say.
            let [a, s] = [4, 5].map(|seed| drawn(seed, self.scale.min(1e15)));
            let given =
                stored(&s.iter().map(|s| s * s).collect::<Vec<_>>(), state_dtype(self.dtype));
            let (squares, q): (_, Vec<f64>) = match self.squares {
                Squared::OfGradient => (None, g.iter().map(|g| (self.gamma * g).powi(2)).collect()),
                Squared::Given(scale) => {
                    (Some(&given[..]), given.iter().map(|q| scale * q).collect())
                }
                Squared::Sampled(batch) => {
                    (Some(&s[..]), s.iter().map(|s| batch * s * s).collect())
                }
            };
            let auxiliary = (self.aux != 0.0).then_some(&a[..]);
            let by =
                Numbers { aux: self.aux, gamma: self.gamma, ..numbers(&self.config, t as u64 + 1) };
            session.step(&[param.entry(by, &Given { g: &g, squares, auxiliary })]).unwrap();
            let done = plain.step(&by, &g, &q, auxiliary);
            let checked = session.check().unwrap();
            let refused = checked.cancelled > 0;
            // Without clipping θ can grow until w is no f32, or w² no f64.
            let beyond = plain.values().iter().any(|x| max_abs(x) > 1e30);
            assert!(refused != done || beyond, "{self:?} step {t}: {checked:?}, plain: {done}");
            if !done || refused {
                return;
            }
            self.compare(&param.values(), &plain.values(), &theta0, &mut largest, t);
            let measured = session.measures().unwrap()[0];
            let [g, x, w, u] = measured.rms;
            for (ours, theirs) in [measured.eps_hat, g, x, w, u].iter().zip(plain.measured) {
                let close = (ours - theirs).abs() <= 2e-5 * theirs;
                assert!(close, "{self:?} step {t}: {measured:?}, plain: {:?}", plain.measured);
            }
        }
    }

    /// θ and m agree within a share of the largest movement of θ and of the largest m so far, f, R and C in each
    /// element.
    fn compare(
        &self,
        ours: &[Vec<f64>],
        plain: &[Vec<f64>],
        theta0: &[f64],
        largest: &mut [f64; 2],
        t: usize,
    ) {
        let (share, unit) = match self.dtype {
            Dtype::F64 => (1e-9, 4e-16),
            Dtype::F32 => (2e-5, 4e-7),
            Dtype::BF16 => (2e-5, 2f64.powi(-7)),
            Dtype::F16 => (2e-5, 2f64.powi(-10)),
        };
        largest[0] = largest[0].max(max_difference(&plain[0], theta0));
        largest[1] = largest[1].max(max_abs(&plain[1]));
        // An f16 is at best a multiple of 2^-24.
        let bounds =
            [share * largest[0] + unit * max_abs(&plain[0]) + 6e-8 * unit, share * largest[1]];
        for (k, bound) in bounds.into_iter().enumerate() {
            let off = max_difference(&ours[k], &plain[k]);
            assert!(
                off <= bound,
                "{self:?} step {t}: {} is off by {off:e} > {bound:e}",
                ["theta", "m"][k]
            );
        }
        for (ours, plain) in ours[2..].iter().flatten().zip(plain[2..].iter().flatten()) {
            // Some roundings of a subnormal f32 besides.
            let bound = share * plain + 2e-44;
            assert!(
                (ours - plain).abs() <= bound,
                "{self:?} step {t}: f, R or C {ours:e}, not {plain:e}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(400), ..Default::default() })]

    #[test]
    fn is_the_plain_step(draw in draws()) {
        draw.run();
    }
}
