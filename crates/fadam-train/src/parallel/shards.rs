//! `ZeRO`, stage 1: each rank keeps the optimizer's state of some of the parameters, steps those, and gives their new
//! numbers to the others.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use fadam_core::NamedVars;
use safetensors::View;

use super::Collective;

/// Which rank steps which parameter: whole ones, the largest first, each to the rank that has least.
#[derive(Debug)]
pub(super) struct Shards {
    owners: BTreeMap<String, usize>,
}

impl Shards {
    pub(super) fn new(vars: &NamedVars, world: usize) -> Self {
        let mut by_size: Vec<(Reverse<usize>, &str)> =
            vars.iter().map(|(name, var)| (Reverse(bytes_of(var)), name)).collect();
        by_size.sort_unstable();
        let mut loads = vec![0; world];
        let mut owners = BTreeMap::new();
        for (Reverse(bytes), name) in by_size {
            let least = (0..world).min_by_key(|rank| loads[*rank]).unwrap_or(0);
            loads[least] += bytes;
            owners.insert(name.to_owned(), least);
        }
        Self { owners }
    }

    pub(super) fn owner(&self, name: &str) -> usize {
        self.owners.get(name).copied().unwrap_or(0)
    }

    /// Gives every rank the parameters that the others have stepped, `block` bytes of each rank at a time.
    pub(super) fn exchange(
        &self,
        collective: &dyn Collective,
        vars: &NamedVars,
        block: usize,
    ) -> anyhow::Result<()> {
        let (rank, world) = (collective.rank(), collective.world());
        let of = |rank| vars.iter().filter(move |(name, _)| self.owner(name) == rank);
        let sizes: Vec<usize> =
            (0..world).map(|rank| of(rank).map(|(_, v)| bytes_of(v)).sum()).collect();
        let mut mine = of(rank).map(|(_, var)| var);
        let mut others: Vec<Incoming<'_>> = (0..world)
            .map(|other| Incoming::new(of(other).map(|(_, var)| var).collect()))
            .collect();
        let largest = sizes.iter().copied().max().unwrap_or(0);
        let (mut sent, mut ahead) = (0, Vec::new());
        while sent < largest {
            // The blocks of all ranks are as long as the longest; what is behind a rank's own end is not read.
            let length = block.min(largest - sent);
            while ahead.len() < length {
                let Some(var) = mine.next() else { break };
                ahead.extend_from_slice(&bytes(var)?);
            }
            let mut own: Vec<u8> = ahead.drain(..length.min(ahead.len())).collect();
            own.resize(length, 0);
            let all = collective.all_gather(&own)?;
            for (other, bytes) in all.chunks_exact(length).enumerate() {
                if other != rank {
                    let real = sizes[other].saturating_sub(sent).min(length);
                    others[other].take(&bytes[..real])?;
                }
            }
            sent += length;
        }
        Ok(())
    }
}

/// Parameters that arrive in blocks.
struct Incoming<'v> {
    vars: std::vec::IntoIter<&'v Var>,
    /// Of the parameter that comes next.
    so_far: Vec<u8>,
}

impl<'v> Incoming<'v> {
    fn new(vars: Vec<&'v Var>) -> Self {
        Self { vars: vars.into_iter(), so_far: Vec::new() }
    }

    fn take(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.so_far.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(var) = self.vars.as_slice().first() {
            let size = bytes_of(var);
            if self.so_far.len() < at + size {
                break;
            }
            let numbers = &self.so_far[at..at + size];
            let new = Tensor::from_raw_buffer(numbers, var.dtype(), var.dims(), &Device::Cpu)?;
            var.set(&new.to_device(var.device())?)?;
            at += size;
            self.vars.next();
        }
        self.so_far.drain(..at);
        Ok(())
    }
}

fn bytes_of(var: &Var) -> usize {
    var.elem_count() * var.dtype().size_in_bytes()
}

/// The numbers of a variable as they are in memory.
pub(super) fn bytes(var: &Var) -> anyhow::Result<Vec<u8>> {
    let tensor = var.as_detached_tensor().to_device(&Device::Cpu)?.contiguous()?;
    Ok(tensor.data().into_owned())
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::parallel::Threads;

    fn vars(rank: usize) -> NamedVars {
        let shapes: [(&str, &[usize], DType); 6] = [
            ("a", &[5], DType::F32),
            ("b", &[7, 3], DType::F64),
            ("c", &[1], DType::BF16),
            ("d", &[40], DType::F32),
            ("e", &[3, 3], DType::F32),
            ("f", &[2, 8], DType::F32),
        ];
        let var = |(name, shape, dtype): (&str, &[usize], DType)| {
            let value = (rank * 100 + name.len()) as f64 + 0.5;
            let tensor = Tensor::full(value, shape, &Device::Cpu).unwrap();
            (name.to_owned(), Var::from_tensor(&tensor.to_dtype(dtype).unwrap()).unwrap())
        };
        shapes.into_iter().map(var).collect()
    }

    #[test]
    fn every_parameter_ends_up_as_its_owner_has_it_whatever_the_blocks() {
        for (world, block) in [(2, 1 << 20), (3, 7), (3, 64), (8, 33)] {
            let results: Vec<NamedVars> = std::thread::scope(|scope| {
                let ranks: Vec<_> = Threads::team(world)
                    .into_iter()
                    .map(|rank| {
                        scope.spawn(move || {
                            let vars = vars(rank.rank());
                            let shards = Shards::new(&vars, world);
                            shards.exchange(&rank, &vars, block).unwrap();
                            vars
                        })
                    })
                    .collect();
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
            });
            let shards = Shards::new(&vars(0), world);
            for vars_of in &results {
                for (name, var) in vars_of.iter() {
                    let owners = vars(shards.owner(name));
                    let expected = owners.get(name).unwrap();
                    assert_eq!(
                        bytes(var).unwrap(),
                        bytes(expected).unwrap(),
                        "{name}, {world} ranks"
                    );
                }
            }
        }
    }

    #[test]
    fn ranks_own_about_as_much() {
        let vars = vars(0);
        let shards = Shards::new(&vars, 2);
        let load = |rank| -> usize {
            let own = vars.iter().filter(|(name, _)| shards.owner(name) == rank);
            own.map(|(_, var)| bytes_of(var)).sum()
        };
        // 168, 160, 64, 36, 20 and 2 bytes.
        assert_eq!([load(0), load(1)], [168 + 36 + 20 + 2, 160 + 64]);
    }
}
