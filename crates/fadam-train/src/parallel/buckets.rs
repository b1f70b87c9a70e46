//! Means of many tensors over all ranks, in buckets of a fixed size: few large sums in place of many small ones.
//!
//! ```text
//! tensors, in order ─ flat, cut every `bucket` bytes ─► [bucket 0][bucket 1] … ─ mean ─► cut back
//! ```
//!
//! A bucket is f32 (bf16 and f16 are widened, and rounded once at the end) or f64, whatever tensors it spans. One thread
//! collects, another one sums: bucket k + 1 is copied together while bucket k is on its way.

use std::ops::Range;
use std::sync::mpsc::sync_channel;

use anyhow::{Context, anyhow};
use candle_core::{DType, Device, Shape, Tensor};

use super::Collective;

/// The mean of each tensor over all ranks. They are let go of as they are copied.
pub(super) fn mean_all(
    collective: &dyn Collective,
    bucket_bytes: usize,
    tensors: Vec<Tensor>,
) -> anyhow::Result<Vec<Tensor>> {
    let kinds: Vec<Kind> = tensors.iter().map(Kind::of).collect();
    let buckets = plan(&kinds, bucket_bytes);
    let mut means: Vec<Vec<Tensor>> = kinds.iter().map(|_| Vec::new()).collect();
    let mut tensors: Vec<Option<Tensor>> = tensors.into_iter().map(Some).collect();
    std::thread::scope(|scope| {
        let (to_sum, collected) = sync_channel::<Tensor>(1);
        let (to_take, summed) = sync_channel::<anyhow::Result<Tensor>>(1);
        scope.spawn(move || {
            for bucket in collected {
                let mean = collective.mean(bucket);
                let failed = mean.is_err();
                if to_take.send(mean).is_err() || failed {
                    return;
                }
            }
        });
        let mut sent = 0;
        for (taken, bucket) in buckets.iter().enumerate() {
            // One bucket is being summed and the next one waits: memory is bounded.
            while sent < buckets.len().min(taken + 2) {
                // Where nobody takes it, the reason is what comes back.
                let _ended = to_sum.send(collect(&buckets[sent], &kinds, &mut tensors)?);
                sent += 1;
            }
            let mean = summed.recv().map_err(|_| anyhow!("the thread that sums has ended"))??;
            let mut at = 0;
            for Piece { tensor, range } in bucket {
                means[*tensor].push(mean.narrow(0, at, range.len())?);
                at += range.len();
            }
        }
        anyhow::Ok(())
    })?;
    let whole = |(kind, pieces): (&Kind, Vec<Tensor>)| {
        let mean = match &pieces[..] {
            [] => Tensor::zeros(0, kind.sums(), &Device::Cpu)?, // it has no elements
            [one] => one.clone(),
            several => Tensor::cat(several, 0)?,
        };
        Ok(mean.reshape(&kind.shape)?.to_dtype(kind.dtype)?)
    };
    kinds.iter().zip(means).map(whole).collect()
}

/// A bucket: its pieces one after the other. A tensor is let go of with its last piece.
fn collect(
    bucket: &[Piece],
    kinds: &[Kind],
    tensors: &mut [Option<Tensor>],
) -> anyhow::Result<Tensor> {
    let mut flat = Vec::with_capacity(bucket.len());
    for Piece { tensor, range } in bucket {
        let (kind, whole) = (&kinds[*tensor], &mut tensors[*tensor]);
        let piece = whole.as_ref().context("a tensor after its last piece")?;
        let piece = piece.detach().flatten_all()?.narrow(0, range.start, range.len())?;
        flat.push(piece.to_dtype(kind.sums())?);
        if range.end == kind.shape.elem_count() {
            *whole = None;
        }
    }
    Ok(Tensor::cat(&flat, 0)?)
}

/// What a tensor is, once it was let go of.
struct Kind {
    shape: Shape,
    dtype: DType,
}

impl Kind {
    fn of(tensor: &Tensor) -> Self {
        Self { shape: tensor.shape().clone(), dtype: tensor.dtype() }
    }

    /// What its numbers are added up in.
    fn sums(&self) -> DType {
        if self.dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }
}

/// A range of a tensor, taken flat.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    tensor: usize,
    range: Range<usize>,
}

/// Which pieces make up which bucket: full ones but for the last of each run of tensors that are summed alike.
fn plan(kinds: &[Kind], bucket_bytes: usize) -> Vec<Vec<Piece>> {
    let mut buckets: Vec<Vec<Piece>> = Vec::new();
    let mut room = 0;
    let mut last = None;
    for (tensor, kind) in kinds.iter().enumerate() {
        if last != Some(kind.sums()) {
            (room, last) = (0, Some(kind.sums()));
        }
        let full = (bucket_bytes / kind.sums().size_in_bytes()).max(1);
        let elements = kind.shape.elem_count();
        let mut start = 0;
        while start < elements {
            if room == 0 {
                buckets.push(Vec::new());
                room = full;
            }
            let end = elements.min(start + room);
            room -= end - start;
            let piece = Piece { tensor, range: start..end };
            if let Some(bucket) = buckets.last_mut() {
                bucket.push(piece);
            }
            start = end;
        }
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::Threads;

    fn tensor(rank: usize, shape: &[usize], dtype: DType) -> Tensor {
        let n: usize = shape.iter().product();
        let numbers: Vec<f64> = (0..n).map(|i| ((i * 7 + rank * 3) % 32) as f64 / 4.0).collect();
        Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }

    const SHAPES: [(&[usize], DType); 7] = [
        (&[3], DType::F32),
        (&[5, 9], DType::F32),
        (&[0, 2], DType::F32),
        (&[4, 2], DType::BF16),
        (&[], DType::F32),
        (&[6], DType::F64),
        (&[2, 2], DType::F32),
    ];

    /// Quarters have exact sums here, so that every way to cut and to add gives one result.
    #[test]
    fn the_mean_of_each_tensor_is_that_of_the_ranks_whatever_the_buckets() {
        let all = |rank| SHAPES.map(|(shape, dtype)| tensor(rank, shape, dtype)).to_vec();
        let numbers = |tensor: &Tensor| -> Vec<f64> {
            tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        for bucket_bytes in [1, 16, 40, 1 << 20] {
            let results: Vec<Vec<Tensor>> = std::thread::scope(|scope| {
                let ranks: Vec<_> = Threads::team(4)
                    .into_iter()
                    .map(|rank| {
                        scope
                            .spawn(move || mean_all(&rank, bucket_bytes, all(rank.rank())).unwrap())
                    })
                    .collect();
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
            });
            for (i, (shape, dtype)) in SHAPES.into_iter().enumerate() {
                let own = |rank| numbers(&tensor(rank, shape, dtype));
                let expected: Vec<f64> = (0..own(0).len())
                    .map(|at| (0..4).map(|rank| own(rank)[at]).sum::<f64>() / 4.0)
                    .collect();
                for result in &results {
                    assert_eq!((result[i].dims(), result[i].dtype()), (shape, dtype));
                    assert_eq!(numbers(&result[i]), expected, "tensor {i}, {bucket_bytes} bytes");
                }
            }
        }
    }

    #[test]
    fn buckets_are_full_and_cover_each_element_once() {
        let kinds = SHAPES.map(|(shape, dtype)| Kind { shape: shape.into(), dtype });
        let buckets = plan(&kinds, 40);
        let sizes: Vec<usize> =
            buckets.iter().map(|b| b.iter().map(|piece| piece.range.len()).sum()).collect();
        // 3 + 45 + 8 + 1 numbers of f32, ten a bucket; 6 of f64, five a bucket; 4 of f32.
        assert_eq!(sizes, [10, 10, 10, 10, 10, 7, 5, 1, 4]);
        let mut covered: Vec<usize> = vec![0; kinds.len()];
        for Piece { tensor, range } in buckets.into_iter().flatten() {
            assert_eq!(covered[tensor], range.start);
            covered[tensor] = range.end;
        }
        assert_eq!(covered, SHAPES.map(|(shape, _)| shape.iter().product::<usize>()));
    }

    #[test]
    fn a_rank_that_is_gone_is_an_error_and_no_hang() {
        let mut team = Threads::team(2);
        drop(team.pop());
        let tensors = vec![tensor(0, &[100], DType::F32); 5];
        let error = mean_all(&team[0], 64, tensors).unwrap_err();
        assert_eq!(error.to_string(), "rank 1 of 2 is gone");
    }
}
