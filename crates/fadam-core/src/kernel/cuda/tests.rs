//! [`DeviceStep`] on a device, with candle's tensors. Skipped, and says so, where there is no device.

use candle_core::{CudaDevice, DType, Device, Tensor, Var};

use super::{Checked, DeviceStep, Job, Kind, Numbers, OnBad};
use crate::algorithm::Fim;
use crate::terms::Estimate;
use crate::{AnyOptimizer, Error, FAdafactorConfig, Gradients, NamedVars};

fn device() -> Option<CudaDevice> {
    match Device::new_cuda(0) {
        Ok(device) => Some(device.as_cuda_device().unwrap().clone()),
        Err(err) => {
            eprintln!("SKIPPED: no CUDA device, so the step is not tested on one: {err}");
            None
        }
    }
}

fn noise(shape: &[usize], seed: usize, scale: f64, dtype: DType) -> Tensor {
    let n: usize = shape.iter().product();
    let value = |i: usize| ((i * 7919 + seed * 104_729) as f64 * 0.618_033_988).fract() - 0.5;
    let values = (0..n).map(|i| scale * value(i)).collect();
    let values = Tensor::from_vec::<_, f64>(values, shape, &Device::Cpu).unwrap();
    values.to_dtype(dtype).unwrap()
}

fn values(x: &Tensor) -> Vec<f64> {
    let x = x.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn numbers(config: &FAdafactorConfig, t: u64) -> Numbers {
    Numbers {
        kind: Kind::Preconditioned,
        beta2: config.beta2,
        t,
        offset: 0.0,
        eps: config.eps,
        eps2: config.eps2,
        rho: config.rho,
        clip: config.clip,
        beta1: config.beta1,
        share: 1.0 - config.beta1,
        step: config.lr,
        decay: config.lr * config.weight_decay,
        aux: 0.0,
        gamma: 1.0,
        on_manifold: true,
    }
}

/// A parameter of `FAdafactor` before its first step.
struct Param {
    name: &'static str,
    theta: Var,
    m: Tensor,
    /// f, or R and C.
    f: Vec<Tensor>,
}

impl Param {
    fn new(name: &'static str, theta: &Tensor, device: &Device) -> Self {
        let state = if theta.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let filled = |value: f64, shape: &[usize]| {
            let filled = Tensor::full(value, shape, &Device::Cpu).unwrap().contiguous().unwrap();
            filled.to_dtype(state).unwrap().to_device(device).unwrap()
        };
        let f = match theta.dims() {
            [leading @ .., n, width] => {
                let shape = |last: &usize| [leading, &[*last]].concat();
                vec![filled(1.0, &shape(n)), filled(1.0, &shape(width))]
            }
            dims => vec![filled(1.0, dims)],
        };
        let m = filled(0.0, theta.dims());
        let theta = Var::from_tensor(&theta.to_device(device).unwrap()).unwrap();
        Self { name, theta, m, f }
    }

    fn job<'a>(&'a self, g: &'a Tensor, numbers: Numbers) -> Job<'a> {
        let f = match &self.f[..] {
            [r, c] => Fim::Factored { r, c },
            f => Fim::Full(&f[0]),
        };
        let Self { name, theta, m, .. } = self;
        Job { name, theta, m, f, g, estimate: Estimate::OfGradient, auxiliary: None, numbers }
    }

    fn bits(&self) -> Vec<u64> {
        let all = [self.theta.as_tensor(), &self.m].into_iter().chain(&self.f);
        all.flat_map(values).map(f64::to_bits).collect()
    }
}

/// θ of a vector and of a matrix.
fn thetas(dtype: DType) -> [(&'static str, Tensor); 2] {
    [("a", noise(&[9000], 1, 1.0, dtype)), ("b", noise(&[40, 300], 2, 1.0, dtype))]
}

#[test]
fn a_step_is_that_of_the_cpu() {
    let Some(cuda) = device() else { return };
    let device = Device::Cuda(cuda.clone());
    let config = FAdafactorConfig::default();
    for (dtype, share) in [(DType::F64, 1e-9), (DType::F32, 2e-5), (DType::BF16, 2e-2)] {
        let params = thetas(dtype).map(|(name, theta)| Param::new(name, &theta, &device));
        let on_cpu = thetas(dtype);
        let vars: NamedVars = on_cpu
            .iter()
            .map(|(name, theta)| ((*name).to_owned(), Var::from_tensor(theta).unwrap()))
            .collect();
        let mut cpu = AnyOptimizer::from_named(vars.clone(), config.clone().into()).unwrap();
        let mut step = DeviceStep::new(&cuda, OnBad::Halt).unwrap();
        for t in 1..=3 {
            let gradients: Vec<Tensor> = on_cpu
                .iter()
                .map(|(_, theta)| noise(theta.dims(), 10 + t as usize, 0.01, dtype))
                .collect();
            // The second of two on the device: a tensor that does not begin where its storage does.
            let on_device: Vec<Tensor> = gradients
                .iter()
                .map(|g| {
                    let two = Tensor::stack(&[&g.zeros_like().unwrap(), g], 0).unwrap();
                    two.to_device(&device).unwrap().get(1).unwrap()
                })
                .collect();
            let jobs: Vec<Job> = params
                .iter()
                .zip(&on_device)
                .map(|(param, g)| param.job(g, numbers(&config, t)))
                .collect();
            step.step(&jobs).unwrap();
            let names = on_cpu.iter().map(|(name, _)| (*name).to_owned());
            cpu.step_named(&names.zip(gradients).collect::<Gradients>()).unwrap();
        }
        assert_eq!(step.check().unwrap(), Checked::default());
        let reported = cpu.report().unwrap().tensors;
        for (ours, theirs) in step.measures().unwrap().iter().zip(&reported) {
            let off = (ours.rms_natural / theirs.measures.rms_natural - 1.0).abs();
            assert!(off <= share && ours.eps_hat == theirs.measures.eps_hat, "{dtype:?}: {ours:?}");
        }
        for param in &params {
            let theirs = vars.get(param.name).unwrap();
            let momentum = cpu.momentum(param.name).unwrap();
            for (ours, theirs) in
                [(param.theta.as_tensor(), theirs.as_tensor()), (&param.m, &momentum)]
            {
                let (ours, theirs) = (values(ours), values(theirs));
                let largest = theirs.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
                for (ours, theirs) in ours.iter().zip(&theirs) {
                    assert!((ours - theirs).abs() <= share * largest, "{dtype:?} {}", param.name);
                }
            }
        }
    }
}

#[test]
fn a_bad_step_changes_nothing_and_is_told_at_the_check() {
    let Some(cuda) = device() else { return };
    let device = Device::Cuda(cuda.clone());
    let config = FAdafactorConfig::default();
    let params = thetas(DType::F32).map(|(name, theta)| Param::new(name, &theta, &device));
    let good = thetas(DType::F32).map(|(_, theta)| theta.to_device(&device).unwrap());
    let mut values: Vec<f32> = good[1].flatten_all().unwrap().to_vec1().unwrap();
    *values.last_mut().unwrap() = f32::NAN;
    let bad = Tensor::from_vec(values, good[1].shape(), &Device::Cpu).unwrap();
    let bad = bad.to_device(&device).unwrap();
    let mut step = DeviceStep::new(&cuda, OnBad::Halt).unwrap();
    let go = |step: &mut DeviceStep, second: &Tensor, t| {
        let jobs = [
            params[0].job(&good[0], numbers(&config, t)),
            params[1].job(second, numbers(&config, t)),
        ];
        step.step(&jobs).unwrap();
        params.iter().map(Param::bits).collect::<Vec<_>>()
    };
    let before = go(&mut step, &good[1], 1);
    assert!(go(&mut step, &bad, 2) == before);
    assert!(go(&mut step, &good[1], 3) == before, "all halt until the check");
    let checked = step.check().unwrap();
    assert_eq!(checked.cancelled, 2);
    assert_eq!(checked.missed, [("a".to_owned(), 2), ("b".to_owned(), 2)]);
    assert!(matches!(checked.error(), Some(Error::NonFiniteGradient { name }) if name == "b"));
    assert!(go(&mut step, &good[1], 2) != before);
    assert_eq!(step.check().unwrap(), Checked::default());
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let Some(cuda) = device() else { return };
    let device = Device::Cuda(cuda.clone());
    let config = FAdafactorConfig::default();
    let (name, theta) = &thetas(DType::F32)[1];
    let param = Param::new(name, theta, &device);
    let before = param.bits();
    let mut step = DeviceStep::new(&cuda, OnBad::Halt).unwrap();
    let on_device = |x: &Tensor| x.to_device(&device).unwrap();
    for (why, g) in [
        ("dtype", on_device(&noise(&[40, 300], 3, 1.0, DType::F64))),
        ("count", on_device(&noise(&[40, 299], 3, 1.0, DType::F32))),
        ("layout", on_device(&noise(&[300, 40], 3, 1.0, DType::F32)).t().unwrap()),
        ("device", noise(&[40, 300], 3, 1.0, DType::F32)),
    ] {
        assert!(step.step(&[param.job(&g, numbers(&config, 1))]).is_err(), "{why}");
    }
    assert_eq!(step.check().unwrap(), Checked::default());
    assert!(param.bits() == before);
}
