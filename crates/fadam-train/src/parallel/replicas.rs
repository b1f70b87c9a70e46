//! Whether every rank has the same model, to the last bit.

use anyhow::bail;
use fadam_core::NamedVars;

use super::Collective;
use super::shards::bytes;

/// How many names an error gives.
const NAMED: usize = 5;

/// Compares the checksums of all variables among the ranks.
///
/// # Errors
/// Naming the first rank that differs from rank 0, and in which variables; on every rank.
pub(super) fn check(
    collective: &dyn Collective,
    model: &NamedVars,
    step: u64,
) -> anyhow::Result<()> {
    let mut mine = Vec::with_capacity(8 * model.len());
    for (_, var) in model.iter() {
        mine.extend_from_slice(&checksum(&bytes(var)?).to_le_bytes());
    }
    let all = collective.all_gather(&mine)?;
    let mut ranks = all.chunks_exact(mine.len().max(1));
    let first = ranks.next().unwrap_or(&[]);
    let Some(rank) = ranks.position(|other| other != first).map(|at| at + 1) else { return Ok(()) };
    let of = &all[rank * mine.len()..];
    let same = first.chunks_exact(8).zip(of.chunks_exact(8)).map(|(a, b)| a == b);
    let names = model.iter().map(|(name, _)| name).zip(same);
    let different: Vec<&str> = names.filter(|(_, same)| !same).map(|(name, _)| name).collect();
    let (count, shown) = (different.len(), &different[..different.len().min(NAMED)]);
    bail!(
        "after step {step} the replicas differ: rank {rank} has other numbers than rank 0 in {count} of {} variables, first {shown:?}",
        model.len()
    )
}

/// A number that changes with every bit: FNV-1a over words of eight bytes. Each of its steps is one-to-one, so that two
/// variables that differ in one word never have the same.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().chain([&last]).fold(0xcbf2_9ce4_8422_2325, |hash, word| {
        (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor, Var};

    use super::*;
    use crate::parallel::Threads;

    fn model() -> NamedVars {
        let var = |n: usize| Var::ones(n, DType::F32, &Device::Cpu).unwrap();
        [("a", 3), ("b", 1000), ("c", 1)]
            .map(|(name, n)| (name.to_owned(), var(n)))
            .into_iter()
            .collect()
    }

    #[test]
    fn one_bit_on_one_rank_is_found_and_named_on_every_rank() {
        let run = |changed: Option<(usize, usize)>| -> Vec<anyhow::Result<()>> {
            std::thread::scope(|scope| {
                let ranks: Vec<_> = Threads::team(3)
                    .into_iter()
                    .map(|rank| {
                        scope.spawn(move || {
                            let model = model();
                            if let Some((at, _)) =
                                changed.filter(|(_, which)| *which == rank.rank())
                            {
                                let mut numbers = vec![1f32; 1000];
                                numbers[at] = f32::from_bits(1f32.to_bits() + 1);
                                let new = Tensor::new(numbers, &Device::Cpu).unwrap();
                                model.get("b").unwrap().set(&new).unwrap();
                            }
                            check(&rank, &model, 7)
                        })
                    })
                    .collect();
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
            })
        };
        for result in run(None) {
            result.unwrap();
        }
        for at in [0, 501, 999] {
            for result in run(Some((at, 2))) {
                let text = result.unwrap_err().to_string();
                let expected = "after step 7 the replicas differ: rank 2 has other numbers than rank 0 in 1 of 3 \
                                variables, first [\"b\"]";
                assert_eq!(text, expected);
            }
        }
    }
}
