//! `backward`: the gradients of `loss.backward()`, for weights that ops of this crate and of candle share.

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, Var};
use fadam_ops::CrossEntropy;

use crate::check::{Draw, assert_same, largest, of_all, relative};

/// A table that is looked up, read as a matrix of `linear` and of the loss, and decayed by candle; a scale of two norms;
/// a bias of `linear` and of an activation.
fn tied(table: &Tensor, scale: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let ids = Tensor::new(&[[3u32, 1, 3], [0, 2, 1]], &Device::Cpu)?;
    let x = fadam_ops::rms_norm(&fadam_ops::embedding(&ids, table)?, scale, 1e-6)?;
    let up = fadam_ops::linear(&x, table, Some(bias))?;
    let up = fadam_ops::bias_activation(&up, bias, fadam_ops::Activation::Silu)?;
    let x = fadam_ops::layer_norm(&(up.broadcast_matmul(table)? + x)?, scale, scale, 1e-6)?;
    let options = CrossEntropy { z_loss: 0.01, ..Default::default() };
    let loss = fadam_ops::linear_cross_entropy(&x, table, &ids, &options)?;
    loss.objective + (table.sqr()?.sum_all()? * 0.1)?
}

#[test]
fn weights_that_are_shared() {
    for (dtype, bound) in [(DType::F64, 1e-14), (DType::F32, 1e-6)] {
        let mut draw = Draw::new(70);
        let vars: Vec<Var> = [&[5, 8][..], &[8], &[5]]
            .map(|shape| Var::from_tensor(&draw.tensor(shape).to_dtype(dtype).unwrap()).unwrap())
            .into();
        let loss = || tied(&vars[0], &vars[1], &vars[2]).unwrap();
        let plain = of_all(&vars, &loss().backward().unwrap());
        let ours = of_all(&vars, &fadam_ops::backward(&loss()).unwrap());
        for (i, (ours, plain)) in ours.iter().zip(&plain).enumerate() {
            let off = relative(ours, plain);
            assert!(off < bound && largest(plain) > 0.1, "{dtype:?} {i}: {off:e}");
        }
        // What was collected is gone afterwards.
        for (again, ours) in of_all(&vars, &fadam_ops::backward(&loss()).unwrap()).iter().zip(&ours)
        {
            assert_same("again", again, ours);
        }
        for (again, plain) in of_all(&vars, &loss().backward().unwrap()).iter().zip(&plain) {
            assert_same("plain, again", again, plain);
        }
    }
}

/// A variable that the loss does not depend on has no gradient, and one whose uses are all of candle has candle's.
#[test]
fn variables_of_candles_ops_alone_and_of_none() {
    let var = |seed| Var::from_tensor(&Draw::new(seed).tensor((3, 3))).unwrap();
    let (a, b, c) = (var(71), var(72), var(73));
    let loss = (fadam_ops::linear(&a, &a, None).unwrap().sum_all().unwrap()
        + b.sqr().unwrap().sum_all().unwrap())
    .unwrap();
    let gradients = fadam_ops::backward(&loss).unwrap();
    assert_same("b", gradients.get(&b).unwrap(), &(b.as_tensor() * 2.0).unwrap());
    assert!(gradients.get(&c).is_none());
    // Σ (a aᵀ): each element of a has twice the sum of its column.
    let wanted = (a.sum_keepdim(0).unwrap().broadcast_as((3, 3)).unwrap() * 2.0).unwrap();
    assert!(relative(gradients.get(&a).unwrap(), &wanted) < 1e-14);
}

/// An op whose backward pass runs a backward pass, as checkpointing does, or fails.
struct Within {
    fails: bool,
}

impl CustomOp1 for Within {
    fn name(&self) -> &'static str {
        "within"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((x.clone(), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        if self.fails {
            candle_core::bail!("it fails");
        }
        fadam_ops::backward(&x.sum_all()?)?;
        Ok(Some(g.clone()))
    }
}

#[test]
fn a_pass_within_a_pass_is_refused_and_a_failed_one_leaves_nothing() {
    let (x, w) =
        (Draw::new(74).tensor((2, 3)), Var::from_tensor(&Draw::new(75).tensor((4, 3))).unwrap());
    let loss = |within: bool, fails: bool| {
        let y = fadam_ops::linear(&w.apply_op1(Within { fails }).unwrap(), &w, None).unwrap();
        let z = fadam_ops::linear(&x, &w, None).unwrap().sum_all().unwrap();
        if within { (y.sum_all().unwrap() + z).unwrap() } else { z }
    };
    let wanted = fadam_ops::backward(&loss(false, false)).unwrap().get(&w).unwrap().clone();
    for (fails, text) in
        [(false, "fadam_ops::backward inside of fadam_ops::backward"), (true, "it fails")]
    {
        let err = fadam_ops::backward(&loss(true, fails)).unwrap_err().to_string();
        assert!(err.contains(text), "{err}");
        let after = fadam_ops::backward(&loss(false, false)).unwrap();
        assert_same("after a failure", after.get(&w).unwrap(), &wanted);
    }
}
