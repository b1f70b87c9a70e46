//! `rnnt_loss`

use candle_core::{D, DType, Device, Result, Tensor, Var};
use fadam_ops::Transducer;
use proptest::prelude::*;

use crate::check::{
    Case, Draw, assert_same, difference, largest, numbers, relative, value_and_gradients,
};

/// Labels and frames of the utterances of a batch, and the size of its logits.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) targets: Vec<Vec<u32>>,
    pub(crate) frames: Vec<usize>,
    /// B, T, U and V.
    pub(crate) size: [usize; 4],
}

impl Batch {
    /// The first utterance fills the batch; of the others, with `ragged`, anything from 1 frame and no label on.
    pub(crate) fn draw(draw: &mut Draw, size: [usize; 4], blank: u32, ragged: bool) -> Self {
        let [b, t, u, v] = size;
        let label = |draw: &mut Draw| (blank + 1 + draw.below(v.max(2) - 1) as u32) % v as u32;
        let mut batch = Self { targets: Vec::new(), frames: Vec::new(), size };
        for i in 0..b {
            let full = !ragged || i == 0;
            let (frames, labels) = (1 + draw.below(t), draw.below(u + 1));
            let (frames, labels) = if full { (t, u) } else { (frames, labels) };
            batch.frames.push(frames);
            batch.targets.push((0..labels).map(|_| label(draw)).collect());
        }
        batch
    }

    pub(crate) fn loss(&self, logits: &Tensor, options: &Transducer) -> Result<Tensor> {
        fadam_ops::rnnt_loss(logits, &self.targets, &self.frames, options)
    }

    fn shape(&self) -> [usize; 4] {
        let [b, t, u, v] = self.size;
        [b, t, u + 1, v]
    }

    /// The part of a `[B, T, U + 1, V]` tensor that belongs to utterance b.
    fn part(&self, x: &Tensor, b: usize) -> Tensor {
        let x = x.narrow(0, b, 1).unwrap().narrow(1, 0, self.frames[b]).unwrap();
        x.narrow(2, 0, self.targets[b].len() + 1).unwrap().contiguous().unwrap()
    }

    fn alone(&self, b: usize) -> Self {
        let [_, _, _, v] = self.size;
        let (targets, frames) = (self.targets[b].clone(), self.frames[b]);
        let size = [1, frames, targets.len(), v];
        Self { targets: vec![targets], frames: vec![frames], size }
    }
}

/// `log(exp a + exp b)` of tensors of one number, where there are any.
fn log_add(a: Option<Tensor>, b: Option<Tensor>) -> Result<Option<Tensor>> {
    match (a, b) {
        (Some(a), Some(b)) => Ok(Some(Tensor::cat(&[a, b], 0)?.log_sum_exp(0)?.reshape(1)?)),
        (a, b) => Ok(a.or(b)),
    }
}

/// α cell by cell, in tensors that keep the graph. With FastEmit, a label's log-probability keeps its value, and its gradient is
/// 1 + λ times as large.
pub(crate) fn composed(logits: &Tensor, batch: &Batch, options: &Transducer) -> Result<Tensor> {
    let log_p = logits.broadcast_sub(&logits.log_sum_exp(D::Minus1)?.unsqueeze(D::Minus1)?)?;
    let one = |(b, (labels, &frames)): (usize, (&Vec<u32>, &usize))| {
        let log_p = log_p.get(b)?;
        let blank = log_p.narrow(2, options.blank as usize, 1)?.squeeze(2)?;
        let at = |x: &Tensor, t, u| x.narrow(0, t, 1)?.narrow(1, u, 1)?.reshape(1);
        let label = |t, u: usize| -> Result<Tensor> {
            let x = at(&log_p.narrow(2, labels[u] as usize, 1)?.squeeze(2)?, t, u)?;
            (&x * (1.0 + options.fast_emit))? - (x.detach() * options.fast_emit)?
        };
        let mut before: Vec<Option<Tensor>> = vec![None; labels.len() + 1];
        for t in 0..frames {
            let mut alpha: Vec<Option<Tensor>> = Vec::new();
            for (u, above) in before.iter().enumerate() {
                let start = (t == 0 && u == 0)
                    .then(|| log_p.zeros_like()?.flatten_all()?.get(0)?.reshape(1));
                let start = start.transpose()?;
                let by_label = match u {
                    0 => start,
                    u => alpha[u - 1].as_ref().map(|a| a + label(t, u - 1)?).transpose()?,
                };
                let by_blank = above.as_ref().map(|a| a + at(&blank, t - 1, u)?).transpose()?;
                alpha.push(log_add(by_blank, by_label)?);
            }
            before = alpha;
        }
        let end = before[labels.len()].as_ref().expect("a path");
        (end + at(&blank, frames - 1, labels.len())?)?.neg()
    };
    let losses = batch.targets.iter().zip(&batch.frames).enumerate().map(one);
    Tensor::cat(&losses.collect::<Result<Vec<_>>>()?, 0)
}

pub(crate) fn case(seed: u64, size: [usize; 4], options: Transducer, ragged: bool) -> Case {
    let mut draw = Draw::new(seed);
    let batch = Batch::draw(&mut draw, size, options.blank, ragged);
    let same = batch.clone();
    Case {
        name: format!("rnnt_loss {batch:?} {options:?}"),
        arguments: vec![(draw.tensor(&batch.shape()[..]) * 2.0).unwrap()],
        op: Box::new(move |x: &[Tensor]| batch.loss(&x[0], &options)),
        composed: Box::new(move |x: &[Tensor]| composed(&x[0], &same, &options)),
    }
}

const SIZES: [[usize; 4]; 9] = [
    [1, 1, 0, 1],
    [1, 1, 0, 4],
    [2, 1, 3, 4],
    [2, 4, 0, 3],
    [1, 2, 1, 3],
    [3, 5, 4, 6],
    [2, 3, 7, 5],
    [4, 9, 2, 20],
    [1, 4, 2, 300],
];

#[test]
fn values_and_gradients() {
    for size in SIZES {
        for (ragged, blank) in [(false, 0), (true, 0), (true, size[3] as u32 - 1)] {
            // A loss is a sum of T + U logarithms, each right to a unit in the last place.
            case(80, size, Transducer { blank, ..Transducer::default() }, ragged).check(16.0);
        }
    }
}

/// FastEmit has no loss whose differences its gradient could be held against: the composed form is its definition.
#[test]
fn fast_emit() {
    for size in SIZES {
        let options = Transducer { fast_emit: 0.3, ..Transducer::default() };
        let case = case(81, size, options, true);
        case.against_composed(16.0);
        case.halves();
    }
    let of = |fast_emit| {
        let options = Transducer { fast_emit, ..Transducer::default() };
        let case = case(82, [2, 5, 3, 6], options, false);
        value_and_gradients(&case.op, &case.arguments, &case.g(83))
    };
    let (plain, fast) = (of(0.0), of(0.5));
    assert_same("FastEmit leaves the loss", &fast[0], &plain[0]);
    assert!(relative(&fast[1], &plain[1]) > 1e-2, "and changes the gradient");
}

/// Each element of ∂L/∂z of one utterance, before the loss's own gradient.
#[test]
fn clamp() {
    for dtype in [DType::F32, DType::F64] {
        let plain = case(84, [3, 5, 4, 6], Transducer::default(), true);
        let bound = 0.125;
        let clamped = case(
            84,
            [3, 5, 4, 6],
            Transducer { clamp: Some(bound), ..Transducer::default() },
            true,
        );
        let x = crate::check::cast(&plain.arguments, dtype);
        let g = Tensor::new(&[3.0, -2.0, 0.5], &Device::Cpu).unwrap();
        let of_one = value_and_gradients(&plain.op, &x, &g.ones_like().unwrap());
        let weights = g.to_dtype(dtype).unwrap().reshape((3, 1, 1, 1)).unwrap();
        let wanted = of_one[1].clamp(-bound, bound).unwrap().broadcast_mul(&weights).unwrap();
        let ours = value_and_gradients(&clamped.op, &x, &g);
        assert_same("the loss", &ours[0], &of_one[0]);
        assert_same("the gradient", &ours[1], &wanted);
        assert!(largest(&of_one[1]) > 2.0 * bound, "nothing was to be clamped");
    }
}

/// Against `tests/goldens/rnnt`: f64 to 1e-10; in f32, which does not hold the golden logits' log-probabilities, losses to 1e-5 of
/// each and gradients to 1e-5.
#[test]
fn goldens() {
    for file in ["tiny", "batch", "long", "peaked", "no_labels", "more_labels_than_frames"] {
        let path = format!("{}/tests/goldens/rnnt/{file}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        let [b, t, columns, v] = *golden["logits"].dims() else { panic!("{file}: a rank") };
        let lengths = |name: &str| golden[name].to_vec1::<i64>().unwrap();
        let targets = match columns {
            1 => vec![Vec::new(); b],
            _ => golden["targets"].to_vec2::<i64>().unwrap(),
        };
        let labels = |(labels, n): (&Vec<i64>, i64)| {
            labels[..n as usize].iter().map(|y| *y as u32).collect()
        };
        let batch = Batch {
            targets: targets.iter().zip(lengths("target_lengths")).map(labels).collect(),
            frames: lengths("logit_lengths").iter().map(|n| *n as usize).collect(),
            size: [b, t, columns - 1, v],
        };
        for (dtype, bound) in [(DType::F64, 1e-10), (DType::F32, 1e-5)] {
            let logits = Var::from_tensor(&golden["logits"].to_dtype(dtype).unwrap()).unwrap();
            let loss = batch.loss(&logits, &Transducer::default()).unwrap();
            for (ours, wanted) in numbers(&loss).iter().zip(numbers(&golden["loss"])) {
                let off = (ours - wanted).abs() / wanted.abs();
                assert!(off <= bound, "{file}, {dtype:?}: a loss is off by {off:e}");
            }
            let gradients = loss.sum_all().unwrap().backward().unwrap();
            let ours = gradients.get(&logits).unwrap().to_dtype(DType::F64).unwrap();
            let off = difference(&ours, &golden["grad"]);
            assert!(off <= bound, "{file}, {dtype:?}: the gradient is off by {off:e}");
        }
    }
}

/// Where all symbols are equally probable, all `C(T + U − 1, U)` alignments are, with V^−(T + U) each.
#[test]
fn alignments_are_counted() {
    let mut binomial = vec![vec![1.0f64; 40]; 40];
    for n in 1..40 {
        for k in 1..n {
            binomial[n][k] = binomial[n - 1][k - 1] + binomial[n - 1][k];
        }
    }
    for (t, u, v) in [(1, 0, 2), (1, 5, 3), (6, 0, 7), (4, 3, 5), (20, 15, 9), (3, 30, 4)] {
        let batch = Batch { targets: vec![vec![1; u]], frames: vec![t], size: [1, t, u, v] };
        let logits = Tensor::ones(&batch.shape()[..], DType::F64, &Device::Cpu).unwrap();
        let loss = numbers(&batch.loss(&logits, &Transducer::default()).unwrap())[0];
        let wanted = (t + u) as f64 * (v as f64).ln() - binomial[t + u - 1][u].ln();
        assert!((loss - wanted).abs() < 1e-12 * wanted, "{t} {u} {v}: {loss}, not {wanted}");
    }
}

/// The gradients of `Σ losses`.
fn gradient(batch: &Batch, logits: &Tensor, options: &Transducer) -> (Tensor, Tensor) {
    let logits = Var::from_tensor(logits).unwrap();
    let loss = batch.loss(&logits, options).unwrap();
    let gradients = loss.sum_all().unwrap().backward().unwrap();
    (loss.detach(), gradients.get(&logits).unwrap().clone())
}

fn peaked(seed: u64, size: [usize; 4], scale: f64) -> (Batch, Tensor) {
    let mut draw = Draw::new(seed);
    let batch = Batch::draw(&mut draw, size, 0, true);
    let logits = (draw.tensor(&batch.shape()[..]) * scale).unwrap();
    (batch, logits)
}

/// Probabilities sum to 1 whatever the logits are, with FastEmit too.
#[test]
fn the_gradient_sums_to_0_in_each_cell() {
    for scale in [0.5, 4.0, 40.0] {
        let (batch, logits) = peaked(85, [3, 30, 11, 40], scale);
        for fast_emit in [0.0, 0.7] {
            let options = Transducer { fast_emit, ..Transducer::default() };
            for (dtype, bound) in [(DType::F64, 1e-14), (DType::F32, 1e-6)] {
                let dz = gradient(&batch, &logits.to_dtype(dtype).unwrap(), &options).1;
                let off = largest(&dz.sum(D::Minus1).unwrap());
                assert!(off <= bound && largest(&dz) > 0.1, "{scale} {dtype:?}: {off:e}");
            }
        }
    }
}

/// Each path crosses each diagonal t + u in one cell: shares of paths, `∂z/p` at a symbol that is neither blank nor label, sum to 1
/// on each diagonal, and with FastEmit to that and λ for each label.
#[test]
fn shares_of_paths_sum_to_1_on_each_diagonal() {
    let (b, t, u, v) = (2, 12, 7, 5);
    let mut draw = Draw::new(86);
    let labels = |draw: &mut Draw| draw.ids(u, v - 2).iter().map(|y| y + 1).collect::<Vec<_>>();
    let targets = (0..b).map(|_| labels(&mut draw)).collect();
    let batch = Batch { targets, frames: vec![t; b], size: [b, t, u, v] };
    let logits = (draw.tensor(&batch.shape()[..]) * 3.0).unwrap();
    let lambda = 0.25;
    let shares = |fast_emit| {
        let dz = gradient(&batch, &logits, &Transducer { fast_emit, ..Transducer::default() }).1;
        let shares = (dz / fadam_ops::softmax(&logits).unwrap()).unwrap();
        shares.narrow(3, v - 1, 1).unwrap().squeeze(3).unwrap()
    };
    let (plain, fast) = (shares(0.0), shares(lambda));
    for b in 0..b {
        let [plain, fast] = [&plain, &fast].map(|x| x.get(b).unwrap().to_vec2::<f64>().unwrap());
        for d in 0..t + u {
            let cells = (0..t).flat_map(|t| (0..=u).map(move |u| (t, u)));
            let sum: f64 = cells.filter(|(t, u)| t + u == d).map(|(t, u)| plain[t][u]).sum();
            assert!((sum - 1.0).abs() < 1e-11, "diagonal {d}: {sum}");
        }
        let total = |x: &[Vec<f64>]| x.iter().flatten().sum::<f64>();
        let more = total(&fast) - total(&plain);
        assert!((more - lambda * u as f64).abs() < 1e-10, "{more}");
    }
}

/// A batch is its utterances alone, to the bit, whatever lies in the padding, whose gradient is 0.
#[test]
fn padding_is_neither_read_nor_moved() {
    for dtype in [DType::F32, DType::F64] {
        let (batch, logits) = peaked(87, [5, 9, 6, 19], 3.0);
        let [b, t, u, v] = batch.size;
        let inside = |e: usize| {
            let (b, t, u) = (e / v / (u + 1) / t, e / v / (u + 1) % t, e / v % (u + 1));
            t < batch.frames[b] && u <= batch.targets[b].len()
        };
        let mut filled = numbers(&logits);
        let nothing = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e30];
        let padding = (0..filled.len()).filter(|e| !inside(*e));
        padding.for_each(|e| filled[e] = nothing[e % nothing.len()]);
        let filled = Tensor::from_vec(filled, (b, t, u + 1, v), &Device::Cpu).unwrap();
        let options = Transducer { fast_emit: 0.1, clamp: Some(0.5), ..Transducer::default() };
        let (losses, dz) = gradient(&batch, &filled.to_dtype(dtype).unwrap(), &options);
        for (e, dz) in numbers(&dz).iter().enumerate() {
            assert!(inside(e) || *dz == 0.0, "a gradient of {dz} in the padding");
        }
        for b in 0..b {
            let logits = batch.part(&logits, b).to_dtype(dtype).unwrap();
            let (loss, alone) = gradient(&batch.alone(b), &logits, &options);
            assert_same("loss", &losses.narrow(0, b, 1).unwrap(), &loss);
            assert_same("gradient", &batch.part(&dz, b), &alone);
        }
    }
}

/// A symbol of −∞ is as if it were not there.
#[test]
fn impossible_symbols() {
    let (mut batch, logits) = peaked(88, [2, 6, 3, 5], 2.0);
    let none = Tensor::full(f64::NEG_INFINITY, (2, 6, 4, 2), &Device::Cpu).unwrap();
    let more = Tensor::cat(&[&logits, &none], 3).unwrap();
    let plain = Transducer::default();
    for dtype in [DType::F64, DType::F32] {
        batch.size[3] = 5;
        let (wanted, of_few) = gradient(&batch, &logits.to_dtype(dtype).unwrap(), &plain);
        batch.size[3] = 7;
        let (ours, of_more) = gradient(&batch, &more.to_dtype(dtype).unwrap(), &plain);
        let bound = if dtype == DType::F64 { 1e-14 } else { 1e-6 };
        assert!(relative(&ours, &wanted) < bound);
        assert!(difference(&of_more.narrow(3, 0, 5).unwrap(), &of_few) < bound);
        assert_eq!(largest(&of_more.narrow(3, 5, 2).unwrap()), 0.0);
    }
}

/// Two frames and one label, of which only the alignment ∅ y ∅ is left: by a label or a blank that cannot be, and by a cell where
/// nothing can.
#[test]
fn impossible_paths() {
    let none = f64::NEG_INFINITY;
    // [T, U + 1, V], the label being 1.
    let possible = [[[0.5, -0.25], [1.0, 0.0]], [[0.0, 2.0], [-1.0, 1.5]]];
    let log_p = |z: [f64; 2], v: usize| z[v] - (z[0].exp() + z[1].exp()).ln();
    let batch = Batch { targets: vec![vec![1]], frames: vec![2], size: [1, 2, 1, 2] };
    let plain = Transducer::default();
    let losses = |z: [[[f64; 2]; 2]; 2]| {
        let z = Tensor::new(&[z], &Device::Cpu).unwrap();
        let single = gradient(&batch, &z.to_dtype(DType::F32).unwrap(), &plain);
        let double = gradient(&batch, &z, &plain);
        assert!(
            (numbers(&single.0)[0] - numbers(&double.0)[0]).abs() < 1e-6
                || numbers(&double.0)[0].is_infinite()
        );
        assert!(difference(&single.1, &double.1) < 1e-6);
        (numbers(&double.0)[0], double.1.get(0).unwrap().to_vec3::<f64>().unwrap())
    };
    let way = |z: [[[f64; 2]; 2]; 2]| -(log_p(z[0][0], 0) + log_p(z[1][0], 1) + log_p(z[1][1], 0));
    let mut label = possible;
    label[0][0][1] = none;
    let mut blank = possible;
    blank[0][1][0] = none;
    let mut cell = possible;
    cell[0][1] = [none; 2];
    let mut lost = possible;
    lost[1][1] = [none; 2];
    for z in [label, blank, cell] {
        let (loss, dz) = losses(z);
        assert!((loss - way(z)).abs() < 1e-14, "{z:?}: {loss}");
        assert_eq!(dz[0][1], [0.0; 2], "{z:?}");
        // In the last cell the only path leaves by its blank: ∂z = p − [∅].
        assert!((dz[1][1][1] - log_p(z[1][1], 1).exp()).abs() < 1e-14, "{z:?}");
    }
    let (loss, dz) = losses(lost);
    assert_eq!(loss, f64::INFINITY);
    assert!(dz.iter().flatten().flatten().all(|dz| *dz == 0.0), "{dz:?}");
}

/// An utterance without a path has no part in the others' losses and gradients.
#[test]
fn an_impossible_utterance_beside_others() {
    let (batch, logits) = peaked(89, [3, 5, 3, 6], 1.0);
    let impossible = Tensor::full(f64::NEG_INFINITY, (1, 5, 4, 6), &Device::Cpu).unwrap();
    let plain = Transducer::default();
    let with = logits.slice_assign(&[1..2, 0..5, 0..4, 0..6], &impossible).unwrap();
    let ((wanted, of_all), (ours, dz)) =
        (gradient(&batch, &logits, &plain), gradient(&batch, &with, &plain));
    assert_eq!(numbers(&ours)[1], f64::INFINITY);
    assert_eq!(largest(&dz.get(1).unwrap()), 0.0);
    for b in [0, 2] {
        assert_eq!(numbers(&ours)[b], numbers(&wanted)[b]);
        assert_same("gradient", &dz.get(b).unwrap(), &of_all.get(b).unwrap());
    }
}

/// Logits of ±1e4, and losses of hundreds of thousands: what is added to all logits of a cell changes nothing.
#[test]
fn logits_far_from_0() {
    let (batch, logits) = peaked(90, [2, 7, 4, 9], 1.0);
    // Multiples of 1/256 keep their last bit beside 8192 in f32.
    let logits = ((logits * 256.0).unwrap().round().unwrap() / 256.0).unwrap();
    let plain = Transducer::default();
    for dtype in [DType::F32, DType::F64] {
        let logits = logits.to_dtype(dtype).unwrap();
        let wanted = gradient(&batch, &logits, &plain);
        for far in [8192.0, -8192.0] {
            let ours = gradient(&batch, &(&logits + far).unwrap(), &plain);
            assert_same("loss", &ours.0, &wanted.0);
            assert_same("gradient", &ours.1, &wanted.1);
        }
        let steep = gradient(&batch, &(&logits * 1e4).unwrap(), &plain);
        assert!(numbers(&steep.0).iter().all(|loss| loss.is_finite() && *loss > 1e3));
        assert!(
            largest(&steep.1) <= 1.0 + 1e-6 && largest(&steep.1.sum(D::Minus1).unwrap()) < 1e-6
        );
    }
}

/// Without a gradient the same value is computed, and a second backward pass gives the same again.
#[test]
fn evaluation_and_a_second_backward_pass() {
    let (batch, logits) = peaked(91, [2, 7, 4, 9], 2.0);
    for dtype in [DType::F32, DType::F64] {
        let logits = Var::from_tensor(&logits.to_dtype(dtype).unwrap()).unwrap();
        let loss = batch.loss(&logits, &Transducer::default()).unwrap();
        let evaluated = batch.loss(&logits.detach(), &Transducer::default()).unwrap();
        assert!(!evaluated.track_op());
        assert_same("value", &evaluated, &loss.detach());
        let [first, second] =
            [0, 1].map(|_| loss.backward().unwrap().get(&logits).unwrap().clone());
        assert_same("gradient", &first, &second);
    }
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(
        seed: u64,
        (b, t, u) in (1usize..4, 1usize..6, 0usize..5),
        (v, blank) in (2usize..9).prop_flat_map(|v| (Just(v), 0..v as u32)),
    ) {
        let options = Transducer { blank, ..Transducer::default() };
        case(seed, [b, t, u, v], options, true).check_of_any_shape();
    }
}
