//! A step is checked before it is timed: a wrong one may well be fast.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor, Var};
use fadam_core::{AnyConfig, Gradients, NamedVars};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, Uniform};

use super::case::{Case, Constants, StateKind};
use super::plain::Plain;
use super::subject::build;
use super::tensors::Tensors;

/// The size of the gradients of each step that is compared. The second step is the first that depends on a
/// stored state, and the third on one that was itself made from one.
const GRADIENT_SCALES: [f64; 3] = [0.01, 0.03, 0.09];

/// So large an η that a step is large beside what a bf16 parameter resolves, so large a λ that the weight
/// decay is seen beside the step, and a c that every algorithm clips at.
const CHECKED: Constants = Constants { lr: 0.1, weight_decay: 0.1, clip: 0.5 };

/// What a step may be away from the plain one, as a share of the tensor's largest θ. f32 sums and powers
/// are good to some 1e-6 of a step, and a step is about as large as θ here; leaving out or changing
/// anything in the equations moves θ by 1e-3 of it and more.
fn tolerance(dtype: DType) -> f64 {
    if dtype == DType::F64 { 1e-10 } else { 2e-5 }
}

/// Half a unit in the last place of a number in [1, 2): what rounding a new θ to its dtype may move it.
fn rounding(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON / 2.0,
        DType::F32 => f64::from(f32::EPSILON) / 2.0,
        DType::F16 => 2f64.powi(-11),
        _ => 2f64.powi(-8),
    }
}

/// Steps the row's optimizer and plain f64 loops side by side, on tensors that are ragged, scalar and
/// of more dimensions than two, with gradients that grow.
///
/// # Errors
///
/// The first parameter that is not where the plain loops put it.
pub(crate) fn check_step(case: &Case, device: &Device) -> anyhow::Result<()> {
    let config = case.config(&CHECKED);
    compare(case, config.clone(), &config, device)
        .with_context(|| format!("{} is not timed, because it steps wrong", case.describe()))
}

/// Compares steps with `config` to plain ones with `expected`; but for tests they are the same.
fn compare(
    case: &Case,
    config: AnyConfig,
    expected: &AnyConfig,
    device: &Device,
) -> anyhow::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut vars = NamedVars::new();
    let mut plain = Vec::new();
    for dims in [&[][..], &[37], &[301, 259], &[2, 3, 11]] {
        let theta = draw(&mut rng, 0.02, dims)?.to_dtype(case.dtype)?.to_device(device)?;
        vars.insert(format!("{dims:?}"), Var::from_tensor(&theta)?)?;
        plain.push((format!("{dims:?}"), Plain::new(expected.clone(), dims)));
    }
    let mut subject = build(case, config, &vars)?;
    for (step, scale) in (1..).zip(GRADIENT_SCALES) {
        let gradients = vars
            .iter()
            .map(|(name, var)| {
                let g = draw(&mut rng, scale, var.dims())?;
                let g = g.to_dtype(case.dtype)?.to_device(device)?;
                Ok((name.to_owned(), g))
            })
            .collect::<candle_core::Result<Gradients>>()?;
        let before = Snapshot::take(&vars)?;
        subject.set_gradients(&gradients)?;
        subject.step().with_context(|| format!("step {step}"))?;
        let after = Snapshot::take(&vars)?;
        for (name, plain) in &mut plain {
            let (before, after) = (before.get(name)?, after.get(name)?);
            let wanted = plain.step(before, &values(&gradients[name.as_str()])?);
            close(case, before, &wanted, after)
                .with_context(|| format!("step {step}, a tensor of shape {name}"))?;
        }
    }
    Ok(())
}

/// Every θ is where it should be, to rounding; that of m and f included.
fn close(case: &Case, before: &[f64], wanted: &[f64], got: &[f64]) -> anyhow::Result<()> {
    let dtype = case.dtype;
    let noise = match case.state {
        // 8 bits of mantissa, the last of them by chance, in m and in f.
        StateKind::Bf16 => 0.03,
        // 4 bits; small tensors are kept in full.
        StateKind::Blocks8 if before.len() >= LARGE => 0.3,
        _ => 0.0,
    };
    if noise > 0.0 && before.len() >= LARGE {
        straight(before, wanted, got)?;
    }
    // Not the largest movement, which is 0 where momentum and weight decay happen to cancel.
    let largest = before.iter().chain(wanted).fold(0.0, |most: f64, x| most.max(x.abs()));
    let allowed = tolerance(dtype).max(noise) * largest;
    for (i, (wanted, got)) in wanted.iter().zip(got).enumerate() {
        // Not `>`: a NaN must fail.
        let is_close = (wanted - got).abs() <= allowed + rounding(dtype) * wanted.abs();
        ensure!(
            is_close,
            "element {i} moved from {:e} to {got:e} instead of {wanted:e}",
            before[i]
        );
    }
    Ok(())
}

/// Elements from which on a mean says more than a single one.
const LARGE: usize = 4096;

/// Stochastic rounding is right on average: the movement is as long as it should be in its direction, and what is
/// off has no part of θ (a weight decay that is not there). The bounds are some ten times what is left of the noise
/// of so many elements.
fn straight(before: &[f64], wanted: &[f64], got: &[f64]) -> anyhow::Result<()> {
    let dot = |a: &dyn Fn(usize) -> f64, b: &dyn Fn(usize) -> f64| {
        (0..before.len()).map(|i| a(i) * b(i)).sum::<f64>()
    };
    let should = |i: usize| wanted[i] - before[i];
    let share = dot(&|i| got[i] - before[i], &should) / dot(&should, &should);
    ensure!((share - 1.0).abs() <= 0.005, "it moved by {share} of what it should have");
    let theta = |i: usize| before[i];
    let decay = dot(&|i| got[i] - wanted[i], &theta) / dot(&theta, &theta);
    ensure!(decay.abs() <= 0.002, "it moved by {decay} of theta besides");
    Ok(())
}

/// After the timing: every tensor has moved from where it was drawn, and is finite.
///
/// # Errors
///
/// The first tensor for which that does not hold.
pub(crate) fn check_moved(tensors: &Tensors, vars: &NamedVars) -> anyhow::Result<()> {
    for (name, var) in vars.iter() {
        let start = tensors.theta.get(name).context("a parameter of no name")?;
        let start = start.to_dtype(var.dtype())?.to_device(var.device())?;
        let moved = (var.as_tensor() - start)?.to_dtype(DType::F64)?;
        let moved = moved.sqr()?.sum_all()?.to_scalar::<f64>()?;
        ensure!(
            moved.is_finite() && moved > 0.0,
            "{name:?} has moved by a distance of {} while it was timed",
            moved.sqrt()
        );
    }
    Ok(())
}

/// The values of all variables at one time.
struct Snapshot(BTreeMap<String, Vec<f64>>);

impl Snapshot {
    fn take(vars: &NamedVars) -> candle_core::Result<Self> {
        let each = |(name, var): (&str, &Var)| Ok((name.to_owned(), values(var.as_tensor())?));
        Ok(Self(vars.iter().map(each).collect::<candle_core::Result<_>>()?))
    }

    fn get(&self, name: &str) -> anyhow::Result<&[f64]> {
        let values = self.0.get(name).context("a parameter of no name")?;
        Ok(values)
    }
}

fn values(tensor: &Tensor) -> candle_core::Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// Values of either sign, between half and one and a half times `scale` in size: none so near zero that
/// its θ/f^ρ would outweigh all others and hide them from a comparison with the largest.
fn draw(rng: &mut ChaCha8Rng, scale: f64, dims: &[usize]) -> candle_core::Result<Tensor> {
    let signed = Uniform::new(-1.0, 1.0).map_err(candle_core::Error::wrap)?;
    let values: Vec<f64> = (0..dims.iter().product())
        .map(|_| {
            let u: f64 = signed.sample(rng);
            scale * (u + 0.5f64.copysign(u))
        })
        .collect();
    Tensor::from_vec(values, dims, &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::optimizer::case::Name;

    #[test]
    fn every_row_steps_right() {
        for case in Case::all() {
            check_step(&case, &Device::Cpu).unwrap();
        }
    }

    /// A step that leaves a term out, or has a constant wrong, is refused in every dtype.
    #[test]
    fn a_wrong_step_is_found() {
        type Damage = fn(&mut serde_json::Value);
        let damages: &[Damage] = &[
            |c| c["weight_decay"] = 0.0.into(),
            |c| c["clip"] = "off".into(),
            |c| c["beta1"] = 0.8.into(),
            |c| c["beta2"] = 0.5.into(),
            |c| c["lr"] = 0.102.into(),
        ];
        for case in Case::all() {
            let right = case.config(&CHECKED);
            for damage in damages {
                let mut wrong = serde_json::to_value(&right).unwrap();
                damage(&mut wrong);
                let wrong: AnyConfig = serde_json::from_value(wrong).unwrap();
                if wrong == right {
                    assert_eq!(case.name, Name::CandleAdamw, "{wrong:?}"); // never clips
                    continue;
                }
                // Of gradients without structure, a factored f is much the same for any β2 but for a factor, which
                // clipping takes away: what is left is less than the noise of bf16 and 8 bits.
                let factored = matches!(case.name, Name::Fadafactor | Name::Adafactor);
                let noisy = matches!(case.state, StateKind::Bf16 | StateKind::Blocks8);
                if factored && noisy && wrong_beta2(&wrong, &right) {
                    continue;
                }
                let refused = compare(&case, wrong.clone(), &right, &Device::Cpu);
                assert!(refused.is_err(), "{} as {wrong:?}", case.describe());
            }
        }
    }

    fn wrong_beta2(wrong: &AnyConfig, right: &AnyConfig) -> bool {
        let [a, b] = [wrong, right].map(|config| serde_json::to_value(config).unwrap());
        a["beta2"] != b["beta2"]
    }

    #[test]
    fn what_stands_still_or_is_not_finite_is_found() {
        let tensors = Tensors::draw(super::super::tensors::ParamSet::Small).unwrap();
        let vars = tensors.vars(DType::F32, &Device::Cpu).unwrap();
        let refused = check_moved(&tensors, &vars).unwrap_err().to_string();
        assert!(refused.contains("a distance of 0"), "{refused}");
        for (_, var) in vars.iter() {
            var.set(&(var.as_tensor() + 1.0).unwrap()).unwrap();
        }
        check_moved(&tensors, &vars).unwrap();
        let var = vars.get("block0.norm1").unwrap();
        var.set(&(var.as_tensor() * f64::NAN).unwrap()).unwrap();
        let refused = check_moved(&tensors, &vars).unwrap_err().to_string();
        assert!(refused.contains("block0.norm1"), "{refused}");
    }
}
