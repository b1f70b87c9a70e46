//! Every golden case at every step, on its own and with all others in one launch.

use std::collections::HashMap;

use fadam_core::AnyConfig;

use super::{Fim, Given, Host, Param, Plain};
use crate::entry::{Dtype, Entry, Squared};
use crate::golden::{Golden, goldens, max_abs, max_difference, values};
use crate::session::{Checked, OnBad, Session};
use crate::{bits, fresh, numbers};

struct Case {
    name: String,
    config: AnyConfig,
    dims: Vec<usize>,
    tensors: HashMap<String, Vec<f64>>,
}

fn cases() -> Vec<Case> {
    let case = |Golden { name, config, tensors }| {
        let dims = tensors["theta0"].dims().to_vec();
        let tensors = tensors.into_iter().map(|(name, x)| (name, values(&x))).collect();
        Case { name, config, dims, tensors }
    };
    goldens().into_iter().map(case).collect()
}

const STEPS: usize = 12;

impl Case {
    /// A tensor's values after step k + 1 (of `grads`: at it).
    fn at(&self, tensor: &str, k: usize) -> &[f64] {
        let all = &self.tensors[tensor];
        &all[k * all.len() / STEPS..][..all.len() / STEPS]
    }

    fn plain(&self, dtype: Dtype) -> Plain {
        fresh(&self.config, &self.dims, &self.tensors["theta0"], dtype)
    }

    fn entry<'a>(&self, param: &'a Param, k: usize) -> Entry<'a> {
        let given = Given { g: self.at("grads", k), squares: None, auxiliary: None };
        param.entry(numbers(&self.config, k as u64 + 1), &given)
    }

    fn check(&self, ours: &[Vec<f64>], k: usize, dtype: Dtype) {
        let (share, unit) = Golden::tolerance(dtype == Dtype::F64);
        let at = format!("{}, {dtype:?}, step {}", self.name, k + 1);
        let theta0 = &self.tensors["theta0"];
        let travelled = max_difference(self.at("theta", STEPS - 1), theta0);
        let largest = max_abs(&self.tensors["theta"]).max(max_abs(theta0));
        let bound = share * travelled + STEPS as f64 * unit * largest;
        let off = max_difference(&ours[0], self.at("theta", k));
        assert!(off <= bound, "{at}: theta is off by {off:e} > {bound:e}");

        let (off, bound) =
            (max_difference(&ours[1], self.at("m", k)), share * max_abs(self.at("m", k)));
        assert!(off <= bound, "{at}: m is off by {off:e} > {bound:e}");

        let fim = self.fim(&ours[2..], k);
        for (i, (fim, theirs)) in fim.iter().zip(self.at("fim", k)).enumerate() {
            let off = (fim - theirs).abs();
            assert!(off <= share * theirs.abs(), "{at}: fim[{i}] = {fim:e}, not {theirs:e}");
        }
    }

    /// The FIM as the optimizer gives it, from f, or from R and C.
    fn fim(&self, f: &[Vec<f64>], k: usize) -> Vec<f64> {
        let mut plain = self.plain(Dtype::F64);
        match &mut plain.f {
            Fim::Full(own) => own.clone_from(&f[0]),
            Fim::Factored { r, c, .. } => {
                r.clone_from(&f[0]);
                c.clone_from(&f[1]);
            }
        }
        let correction = match &self.config {
            AnyConfig::Adam(c) => 1.0 - c.beta2.powf((k + 1) as f64),
            _ => 1.0,
        };
        plain.diagonal().iter().map(|f| f / correction).collect()
    }
}

/// All steps of a case on its own; what it comes to.
fn alone(host: &Host, case: &Case, dtype: Dtype) -> Vec<Vec<f64>> {
    let param = Param::new(host, "w", &case.plain(dtype), Squared::OfGradient, false);
    let mut session = Session::new(host.clone(), OnBad::Halt).unwrap();
    for k in 0..STEPS {
        session.step(&[case.entry(&param, k)]).unwrap();
        if matches!(dtype, Dtype::F32 | Dtype::F64) {
            case.check(&param.values(), k, dtype);
        }
    }
    // Gradients of some cases are beyond f16.
    if dtype != Dtype::F16 {
        assert_eq!(session.check().unwrap(), Checked::default(), "{} {dtype:?}", case.name);
    }
    param.values()
}

#[test]
fn goldens_alone_and_all_in_one_launch() {
    let Some(host) = Host::start() else { return };
    let cases = cases();
    let dtypes = [Dtype::F64, Dtype::F32, Dtype::BF16, Dtype::F16];
    let all: Vec<(&Case, Dtype)> = dtypes
        .iter()
        .flat_map(|dtype| cases.iter().map(move |case| (case, *dtype)))
        // A step that is refused stops all of a batch.
        .filter(|(case, dtype)| *dtype != Dtype::F16 || case.name != "fadam-huge")
        .collect();
    let expected: Vec<_> = all.iter().map(|(case, dtype)| alone(&host, case, *dtype)).collect();
    for backwards in [false, true] {
        host.backwards(backwards);
        let mut session = Session::new(host.clone(), OnBad::Halt).unwrap();
        let params: Vec<_> = all
            .iter()
            .enumerate()
            .map(|(i, (case, dtype))| {
                Param::new(&host, &format!("w{i}"), &case.plain(*dtype), Squared::OfGradient, false)
            })
            .collect();
        for k in 0..STEPS {
            let entries: Vec<_> =
                all.iter().zip(&params).map(|((case, _), param)| case.entry(param, k)).collect();
            session.step(&entries).unwrap();
        }
        assert_eq!(session.check().unwrap(), Checked::default());
        for (((case, dtype), param), expected) in all.iter().zip(&params).zip(&expected) {
            let same = bits(&param.values()) == bits(expected);
            assert!(same, "{} {dtype:?} differs in a batch, backwards: {backwards}", case.name);
        }
    }
}
