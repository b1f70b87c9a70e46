//! `embedding`

use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;

use crate::check::{Case, Draw, difference, largest};

/// `count` ids, of any rank, of a table `[rows, d]`.
pub(crate) fn case(seed: u64, count: &[usize], rows: usize, d: usize) -> Case {
    let mut draw = Draw::new(seed);
    let ids = draw.ids(count.iter().product(), rows);
    let ids = Tensor::from_vec(ids, count, &Device::Cpu).unwrap();
    // As a product with rows of the unit matrix.
    let hot = |id: u32| (0..rows).map(move |row| f64::from(u8::from(row == id as usize)));
    let hot: Vec<f64> =
        ids.flatten_all().unwrap().to_vec1::<u32>().unwrap().into_iter().flat_map(hot).collect();
    let hot = Tensor::from_vec(hot, (ids.elem_count(), rows), &Device::Cpu).unwrap();
    let shape: Vec<usize> = count.iter().copied().chain([d]).collect();
    Case {
        name: format!("embedding {count:?} of {rows} x {d}"),
        arguments: vec![draw.tensor((rows, d))],
        op: Box::new(move |x: &[Tensor]| fadam_ops::embedding(&ids, &x[0])),
        composed: Box::new(move |x: &[Tensor]| hot.matmul(&x[0])?.reshape(shape.as_slice())),
    }
}

#[test]
fn values_and_gradients() {
    for (count, rows, d) in
        [(&[][..], 3, 2), (&[4], 5, 3), (&[2, 3], 4, 1), (&[2, 200], 30, 7), (&[3, 2, 5], 9, 64)]
    {
        // A row that is looked up some ten times is a sum of as many.
        case(20, count, rows, d).check(16.0);
    }
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, a in 1usize..4, b in 1usize..5, rows in 1usize..20, d in 1usize..20) {
        case(seed, &[a, b], rows, d).check_of_any_shape();
    }
}

#[test]
fn rows_that_are_not_looked_up_have_no_gradient_and_others_one_for_each_use() {
    let w = Var::from_tensor(&Draw::new(21).tensor((6, 3))).unwrap();
    let ids = Tensor::new(&[[4u32, 1], [4, 4]], &Device::Cpu).unwrap();
    for in_place in [false, true] {
        let loss = fadam_ops::embedding(&ids, &w).unwrap().sum_all().unwrap();
        let gradients = if in_place { fadam_ops::backward(&loss) } else { loss.backward() };
        let dw = gradients.unwrap().get(&w).unwrap().to_vec2::<f64>().unwrap();
        let wanted = [0.0, 1.0, 0.0, 0.0, 3.0, 0.0].map(|uses| vec![uses; 3]);
        assert_eq!(dw, wanted);
    }
}

#[test]
fn values_are_copied_exactly() {
    let w = Draw::new(22).tensor((6, 3));
    let ids = Tensor::new(&[5u32, 0], &Device::Cpu).unwrap();
    for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
        let w = w.to_dtype(dtype).unwrap();
        let y = fadam_ops::embedding(&ids, &w).unwrap();
        assert_eq!(y.dtype(), dtype);
        assert_eq!(difference(&y, &w.index_select(&ids, 0).unwrap()), 0.0);
        assert!(largest(&y) > 0.1);
    }
}
