//! The two passes over a tensor whose f is kept element by element.

use candle_core::Tensor;
use rayon::prelude::*;

use super::Tensors;
use super::access::{TASK, read, sum_tasks, task, write};
use super::lanes::{BLOCK, Element, LANES, Real, all_finite, load, store};
use crate::Result;

/// What an algorithm does to [`LANES`] elements.
pub(super) trait Elementwise<C: Real>: Sync {
    /// What pass A sums the squares of, from g, f and a third tensor of the algorithm's choice.
    fn measured(&self, g: [C; LANES], f: [C; LANES], third: [C; LANES]) -> [[C; LANES]; 3];

    /// f, m and θ after the step.
    fn step(
        &self,
        g: [C; LANES],
        f: [C; LANES],
        m: [C; LANES],
        theta: [C; LANES],
    ) -> [[C; LANES]; 3];
}

/// Pass A: three sums of squares over the tensor. `X` is the type that `third` is stored in.
pub(super) fn sums<C: Real, P: Element, S: Element, X: Element>(
    [g, f, third]: [&Tensor; 3],
    algorithm: &impl Elementwise<C>,
) -> Result<[f64; 3]> {
    let (g, f, third) = (read(g)?, read(f)?, read(third)?);
    let (g, f, third) = (g.slice::<P>()?, f.slice::<S>()?, third.slice::<X>()?);
    Ok(sum_tasks(g.len().div_ceil(TASK), |k| {
        let (g, f, third) = (task(g, k), task(f, k), task(third, k));
        pulp::Arch::new().dispatch(|| sum_task(g, f, third, algorithm))
    }))
}

#[inline(always)]
fn sum_task<C: Real, P: Element, S: Element, X: Element>(
    g: &[P],
    f: &[S],
    third: &[X],
    algorithm: &impl Elementwise<C>,
) -> [f64; 3] {
    let mut sums = [0.0; 3];
    for ((g, f), third) in g
        .chunks(BLOCK)
        .zip(f.chunks(BLOCK))
        .zip(third.chunks(BLOCK))
    {
        let mut lanes = [[C::zero(); LANES]; 3];
        for ((g, f), third) in g
            .chunks(LANES)
            .zip(f.chunks(LANES))
            .zip(third.chunks(LANES))
        {
            let measured = algorithm.measured(load(g), load(f), load(third));
            for (lanes, x) in lanes.iter_mut().zip(measured) {
                for l in 0..LANES {
                    lanes[l] = lanes[l] + x[l] * x[l];
                }
            }
        }
        for (sum, lanes) in sums.iter_mut().zip(lanes) {
            *sum += lanes.into_iter().map(Real::f64).sum::<f64>();
        }
    }
    sums
}

/// Pass B: f, m and θ in place.
pub(super) fn apply<C: Real, P: Element, S: Element>(
    t: &Tensors,
    f: &Tensor,
    algorithm: &impl Elementwise<C>,
) -> Result<()> {
    let g = read(t.g)?;
    let g = g.slice::<P>()?;
    write::<P, _>(t.theta, |theta| {
        write::<S, _>(&t.state.m, |m| {
            write::<S, _>(f, |f| {
                let tasks = theta.par_chunks_mut(TASK).zip(m.par_chunks_mut(TASK));
                let tasks = tasks.zip(f.par_chunks_mut(TASK)).zip(g.par_chunks(TASK));
                tasks.for_each(|(((theta, m), f), g)| {
                    pulp::Arch::new().dispatch(|| step_task(g, theta, m, f, algorithm));
                });
                Ok(())
            })
        })
    })
}

#[inline(always)]
fn step_task<C: Real, P: Element, S: Element>(
    g: &[P],
    theta: &mut [P],
    m: &mut [S],
    f: &mut [S],
    algorithm: &impl Elementwise<C>,
) {
    let lanes = theta.chunks_mut(LANES).zip(m.chunks_mut(LANES));
    for (((theta, m), f), g) in lanes.zip(f.chunks_mut(LANES)).zip(g.chunks(LANES)) {
        let new = algorithm.step(load(g), load(f), load(m), load(theta));
        store(new[0], f);
        store(new[1], m);
        store(new[2], theta);
    }
}

/// The first of f, m and θ that pass B would make not finite.
pub(super) fn verify<C: Real, P: Element, S: Element>(
    t: &Tensors,
    f: &Tensor,
    algorithm: &impl Elementwise<C>,
) -> Result<Option<&'static str>> {
    let (g, theta, m, f) = (read(t.g)?, read(t.theta)?, read(&t.state.m)?, read(f)?);
    let lanes = g
        .slice::<P>()?
        .chunks(LANES)
        .zip(theta.slice::<P>()?.chunks(LANES));
    let mut lanes = lanes
        .zip(m.slice::<S>()?.chunks(LANES))
        .zip(f.slice::<S>()?.chunks(LANES));
    Ok(lanes.find_map(|(((g, theta), m), f)| {
        let n = g.len();
        let [f, m, theta] = algorithm.step(load(g), load(f), load(m), load(theta));
        if !all_finite::<C, S>(&f[..n]) {
            Some("f")
        } else if !all_finite::<C, S>(&m[..n]) {
            Some("m")
        } else {
            (!all_finite::<C, P>(&theta[..n])).then_some("theta")
        }
    }))
}
