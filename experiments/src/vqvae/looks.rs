//! One pass over the held-out pictures: losses, and what reconstructions look like.

use candle_core::{DType, Tensor};
use fadam_data::image::EvalImages;
use fadam_models::quality::{psnr, ssim};
use fadam_models::vqvae::{CodeCounts, VqVae};
use fadam_train::bad_input;

use super::distance::Distances;

/// The smallest side that has a structural similarity: its window's.
const SSIM_SIDE: usize = 11;

/// Means over the held-out pictures, and some of them.
#[derive(Debug)]
pub(super) struct Looks {
    /// The reconstruction's objective.
    pub(super) loss: f64,
    /// `mean ‖q − n‖²`, the codebook loss.
    pub(super) quantisation: f64,
    /// Of the mean squared error over all pictures, in dB.
    pub(super) psnr: f64,
    /// The same of the most probable values, where the loss has them.
    pub(super) likeliest_psnr: Option<f64>,
    /// Where pictures are large enough.
    pub(super) ssim: Option<f64>,
    pub(super) codes: CodeCounts,
    /// Which pictures of the set were seen: those that could be read.
    pub(super) pictures: Vec<usize>,
    /// Originals, reconstructions and perhaps the likeliest ones, of the pictures to show.
    pub(super) shown: Vec<Tensor>,
    /// Features of the reconstructions.
    pub(super) features: Option<Tensor>,
    /// What a person should know.
    pub(super) notes: Vec<String>,
}

/// What is added up on the way.
#[derive(Default)]
struct Sums {
    loss: f64,
    quantisation: f64,
    mse: f64,
    likeliest_mse: Option<f64>,
    ssim: f64,
}

/// Looks at all pictures; `show` of them, evenly spread, are kept to be shown, and features are computed if `distances` are asked for.
pub(super) fn look(
    model: &VqVae,
    eval: &EvalImages,
    show: usize,
    distances: Option<&Distances>,
) -> anyhow::Result<Looks> {
    let mut sums = Sums::default();
    let mut codes = CodeCounts::new(model.config().codes);
    let (mut pictures, mut shown, mut features) = (Vec::new(), Vec::new(), Vec::new());
    let mut batches = eval.batches();
    for batch in batches.by_ref() {
        let batch = batch.map_err(bad_input)?;
        let images = batch.tensor(model.device())?;
        let count = batch.batch() as f64;
        let losses = model.losses(&images)?;
        sums.loss += count * number(&losses.reconstruction.objective)?;
        sums.quantisation += count * number(&losses.codebook)?;
        codes.add(&losses.indices)?;
        let made = model.decode(&losses.indices)?;
        sums.mse += errors(&images, &made.expected)?;
        if let Some(likeliest) = &made.likeliest {
            *sums.likeliest_mse.get_or_insert(0.0) += errors(&images, likeliest)?;
        }
        if batch.size >= SSIM_SIDE {
            sums.ssim += ssim(&images, &made.expected)?.iter().sum::<f64>();
        }
        if let Some(distances) = distances {
            features.push(distances.features(&made.expected)?);
        }
        let rows: Vec<u32> = (0..batch.batch() as u32)
            .filter(|row| is_shown(pictures.len() + *row as usize, eval.count(), show))
            .collect();
        if !rows.is_empty() {
            let rows = Tensor::new(rows, images.device())?;
            let some = [Some(&images), Some(&made.expected), made.likeliest.as_ref()];
            let some = some.into_iter().flatten().map(|images| images.index_select(&rows, 0));
            shown.push(some.collect::<candle_core::Result<Vec<_>>>()?);
        }
        pictures.extend(&batch.pictures);
    }
    let count = pictures.len() as f64;
    let decibels = |mse: f64| 10.0 * (255f64 * 255.0 * count / mse).log10();
    Ok(Looks {
        loss: sums.loss / count,
        quantisation: sums.quantisation / count,
        psnr: decibels(sums.mse),
        likeliest_psnr: sums.likeliest_mse.map(decibels),
        ssim: (eval.set().size() >= SSIM_SIDE).then_some(sums.ssim / count),
        codes,
        pictures,
        shown: columns(&shown)?,
        features: if features.is_empty() { None } else { Some(Tensor::cat(&features, 0)?) },
        notes: batches.take_notes(),
    })
}

/// Features of the originals, and which pictures they are of.
pub(super) fn originals(
    eval: &EvalImages,
    distances: &Distances,
    device: &candle_core::Device,
) -> anyhow::Result<(Vec<usize>, Tensor)> {
    let (mut pictures, mut features) = (Vec::new(), Vec::new());
    for batch in eval.batches() {
        let batch = batch.map_err(bad_input)?;
        features.push(distances.features(&batch.tensor(device)?)?);
        pictures.extend(&batch.pictures);
    }
    Ok((pictures, Tensor::cat(&features, 0)?))
}

/// Whether the picture in this place is one of `show` that are spread over `count`.
fn is_shown(place: usize, count: usize, show: usize) -> bool {
    let before = |place: usize| place * show / count.max(1);
    place < count && (show >= count || before(place) < before(place + 1))
}

/// The pictures to show of all batches, column by column.
fn columns(shown: &[Vec<Tensor>]) -> candle_core::Result<Vec<Tensor>> {
    let columns = shown.first().map_or(0, Vec::len);
    let column = |c: usize| Tensor::cat(&shown.iter().map(|some| &some[c]).collect::<Vec<_>>(), 0);
    (0..columns).map(column).collect()
}

/// The sum of the pictures' mean squared errors, in squares of 1/255.
fn errors(images: &Tensor, others: &Tensor) -> candle_core::Result<f64> {
    let of_decibels = |psnr: &f64| 255f64 * 255.0 * 10f64.powf(-psnr / 10.0);
    Ok(psnr(images, others)?.iter().map(of_decibels).sum())
}

fn number(scalar: &Tensor) -> candle_core::Result<f64> {
    scalar.to_dtype(DType::F64)?.to_scalar()
}

#[cfg(test)]
mod tests {
    use super::is_shown;

    #[test]
    fn what_is_shown_is_spread_over_all() {
        let shown = |count: usize, show: usize| -> Vec<usize> {
            (0..count).filter(|place| is_shown(*place, count, show)).collect()
        };
        assert_eq!(shown(10, 2), [4, 9]);
        assert_eq!(shown(3, 5), [0, 1, 2]);
        assert!(shown(3, 0).is_empty());
        assert!((1..200).all(|count| (0..=count).all(|show| shown(count, show).len() == show)));
    }
}
