//! `vector_quantize`

use candle_core::{D, DType, Device, Result, Tensor, Var};
use fadam_ops::Quantized;
use proptest::prelude::*;

use crate::check::{
    Case, Draw, assert_same, cast, difference, functional, numbers, relative, vars,
};

/// What of the result a case is about: candle's autograd has one value a node, and each has a gradient of one argument alone.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// The codes, by z.
    Codes,
    /// The codebook loss, by the codes.
    Codebook,
    /// The commitment loss, by z.
    Commitment,
}

fn unit(x: &Tensor) -> Result<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}

/// One of several parts, of candle's ops, with the whole matrix of products.
fn composed(z: &Tensor, codes: &Tensor, part: Part) -> Result<Tensor> {
    let width = codes.dim(1)?;
    let (n, e) = (unit(&z.reshape(((), width))?)?, unit(codes)?);
    let nearest = n.detach().matmul(&e.detach().t()?)?.argmax(D::Minus1)?;
    let q = e.index_select(&nearest, 0)?;
    match part {
        Part::Codes => (&n + (q.detach() - n.detach())?)?.reshape(z.shape()),
        Part::Codebook => (q - n.detach())?.sqr()?.mean_all(),
        Part::Commitment => (n - q.detach())?.sqr()?.mean_all(),
    }
}

fn of_part(quantized: Quantized, part: Part) -> Tensor {
    match part {
        Part::Codes => quantized.codes,
        Part::Codebook => quantized.codebook_loss,
        Part::Commitment => quantized.commitment_loss,
    }
}

/// In sixty-fourths, which every float type holds.
fn coarse(x: &Tensor) -> Tensor {
    ((x * 64.0).unwrap().round().unwrap() / 64.0).unwrap()
}

/// Of `codes` codes and rows `[..., w]`.
pub(crate) fn case(seed: u64, shape: &[usize], codes: usize, part: Part) -> Case {
    let mut draw = Draw::new(seed);
    let width = shape[shape.len() - 1];
    let z = coarse(&draw.tensor(shape));
    let codes = coarse(&draw.tensor((codes, width)));
    let name = format!("vector_quantize {shape:?} {:?} {part:?}", codes.dims());
    let (argument, other) = match part {
        Part::Codebook => (codes, z),
        _ => (z, codes),
    };
    let both = move |given: &Tensor, other: &Tensor| match part {
        Part::Codebook => (other.clone(), given.clone()),
        _ => (given.clone(), other.clone()),
    };
    let same = other.clone();
    Case {
        name,
        arguments: vec![argument],
        op: Box::new(move |x: &[Tensor]| {
            let (z, codes) = both(&x[0], &other.to_dtype(x[0].dtype())?);
            Ok(of_part(fadam_ops::vector_quantize(&z, &codes)?, part))
        }),
        composed: Box::new(move |x: &[Tensor]| {
            let (z, codes) = both(&x[0], &same);
            composed(&z, &codes, part)
        }),
    }
}

/// Shapes and codes: tiles of 128 rows, blocks of 256 codes; fewer, as many, more. Of three numbers a row at least, so that no two
/// codes are equally near.
const SIZES: [(&[usize], usize); 6] = [
    (&[3], 4),
    (&[5, 3], 1),
    (&[2, 3, 8], 300),
    (&[128, 32], 256),
    (&[300, 5], 700),
    (&[40, 67], 9),
];

/// The losses are what their gradients say, within the cell of a code.
#[test]
fn losses_and_gradients() {
    for (shape, codes) in SIZES {
        for part in [Part::Codebook, Part::Commitment] {
            let case = case(90, shape, codes, part);
            case.against_composed(16.0);
            case.halves();
            // Of a hundred rows and codes, some are at the edge of their cell, where a loss has a corner.
            if !matches!(shape, [128 | 300, _]) {
                case.against_differences();
            }
        }
    }
}

/// The codes do not change with z, so that there are no differences: the gradient is that of `Σ unit(z) g`.
#[test]
fn straight_through() {
    for (shape, codes) in SIZES {
        let case = case(91, shape, codes, Part::Codes);
        case.against_composed(16.0);
        case.halves();
        let g = case.g(4);
        let of = |unit: &dyn Fn(&Tensor) -> Result<Tensor>| {
            let (vars, x) = vars(&case.arguments);
            let loss = functional(&unit(&x[0]).unwrap(), &g).unwrap();
            loss.backward().unwrap().get(&vars[0]).unwrap().clone()
        };
        let through = of(&|z| (case.op)(std::slice::from_ref(z)));
        assert!(relative(&through, &of(&unit)) < 1e-12, "{}", case.name);
        // As unit(z) does, along the direction of z nothing changes.
        let along = (&through * &case.arguments[0]).unwrap().sum(D::Minus1).unwrap();
        assert!(numbers(&along).iter().all(|x| x.abs() < 1e-12), "{}", case.name);
    }
}

/// Against a search in f64, number by number.
#[test]
fn the_nearest_code_of_each_row() {
    let mut draw = Draw::new(92);
    let (z, codes) = (draw.tensor((2, 150, 6)), draw.tensor((600, 6)));
    let found = fadam_ops::vector_quantize(&z, &codes).unwrap();
    assert_eq!((found.indices.dims(), found.indices.dtype()), (&[2, 150][..], DType::U32));
    let rows = |x: &Tensor| x.reshape(((), 6)).unwrap().to_vec2::<f64>().unwrap();
    let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let places: Vec<u32> = found.indices.flatten_all().unwrap().to_vec1().unwrap();
    for ((z, place), q) in rows(&z).iter().zip(places).zip(rows(&found.codes)) {
        let cosine = |c: &Vec<f64>| z.iter().zip(c).map(|(z, c)| z * c).sum::<f64>() / length(c);
        let all: Vec<f64> = rows(&codes).iter().map(cosine).collect();
        let most = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert!(all[place as usize] >= most - 1e-12);
        let c = &rows(&codes)[place as usize];
        let by = length(c);
        assert!(q.iter().zip(c).all(|(q, c)| (q - c / by).abs() < 1e-14));
    }
    // Lengths do not matter: powers of two change no bit.
    let scaled = fadam_ops::vector_quantize(&(z * 8.0).unwrap(), &(codes * 0.25).unwrap()).unwrap();
    assert_same("codes", &found.codes, &scaled.codes);
    assert_same("indices", &found.indices, &scaled.indices);
}

/// Of equal codes the first, also where they are in different blocks.
#[test]
fn the_first_of_equal_codes() {
    let code = Draw::new(93).tensor((1, 4));
    let codes = code.repeat((600, 1)).unwrap();
    let found = fadam_ops::vector_quantize(&code.repeat((200, 1)).unwrap(), &codes).unwrap();
    assert!(numbers(&found.indices).iter().all(|place| *place == 0.0));
    assert!(numbers(&found.commitment_loss)[0] < 1e-30);
}

/// Both losses are one number; each has a gradient of one argument, and the value has one of z.
#[test]
fn what_has_a_gradient_of_what() {
    let (vars, x) = vars(&[Draw::new(94).tensor((7, 3)), Draw::new(95).tensor((9, 3))]);
    let of = fadam_ops::vector_quantize(&x[0], &x[1]).unwrap();
    assert_same("losses", &of.codebook_loss.detach(), &of.commitment_loss.detach());
    for (y, wanted) in [
        (&of.codes, [true, false]),
        (&of.commitment_loss, [true, false]),
        (&of.codebook_loss, [false, true]),
    ] {
        for gradients in
            [y.sum_all().unwrap().backward(), fadam_ops::backward(&y.sum_all().unwrap())]
        {
            let gradients = gradients.unwrap();
            assert_eq!([0, 1].map(|i| gradients.get(&vars[i]).is_some()), wanted);
        }
    }
    // A code that no row has gets a gradient of 0.
    let gradients = of.codebook_loss.backward().unwrap();
    let of_codes = gradients.get(&vars[1]).unwrap().to_vec2::<f64>().unwrap();
    let used: Vec<u32> = of.indices.to_vec1().unwrap();
    for (k, g) in (0..).zip(&of_codes) {
        assert_eq!(g.iter().any(|g| *g != 0.0), used.contains(&k), "code {k}");
    }
    assert!(used.iter().any(|k| *k != used[0]) && (0..9).any(|k| !used.contains(&k)));
}

/// A row of zeros has the direction 0, as in `torch.nn.functional.normalize`, and its gradient is divided by ε.
#[test]
fn a_row_of_zeros() {
    let z = Var::new(&[[0f64, 0.0], [3.0, 4.0]], &Device::Cpu).unwrap();
    let codes = Tensor::new(&[[2f64, 0.0], [0.0, 2.0]], &Device::Cpu).unwrap();
    let found = fadam_ops::vector_quantize(&z, &codes).unwrap();
    assert_eq!(found.indices.to_vec1::<u32>().unwrap(), [0, 1]);
    assert!((numbers(&found.commitment_loss)[0] - (1.0 + 0.36 + 0.04) / 4.0).abs() < 1e-12);
    let g = Tensor::new(&[[1f64, 2.0], [0.0, 0.0]], &Device::Cpu).unwrap();
    let gradients = functional(&found.codes, &g).unwrap().backward().unwrap();
    let dz = numbers(gradients.get(&z).unwrap());
    assert!((dz[0] / 1e12 - 1.0).abs() < 1e-12 && (dz[1] / 1e12 - 2.0).abs() < 1e-12, "{dz:?}");
}

#[test]
fn halves_have_losses_in_f32() {
    let x = cast(&[Draw::new(96).tensor((4, 3)), Draw::new(97).tensor((5, 3))], DType::BF16);
    let of = fadam_ops::vector_quantize(&x[0], &x[1]).unwrap();
    assert_eq!(of.codes.dtype(), DType::BF16);
    assert_eq!([of.codebook_loss.dtype(), of.commitment_loss.dtype()], [DType::F32; 2]);
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, a in 1usize..4, b in 1usize..5, d in 3usize..20, codes in 1usize..40) {
        let case = |part| case(seed, &[a, b, d], codes, part);
        for part in [Part::Codes, Part::Codebook, Part::Commitment] {
            case(part).against_composed(f64::INFINITY);
            case(part).halves();
        }
        let of = |part| (case(part).op)(&case(part).arguments).unwrap();
        assert_eq!(difference(&of(Part::Codebook), &of(Part::Commitment)), 0.0);
    }
}
