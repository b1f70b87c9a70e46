//! The two passes over a tensor whose f is kept element by element.

use std::marker::PhantomData;

use candle_core::Tensor;
use rayon::prelude::*;

use super::Tensors;
use super::access::{TASK, read, sum_tasks, task, write};
use super::lanes::{BLOCK, STRIP, Sum, Vectorised, vectorise};
use super::number::{Element, Real};
use crate::Result;

/// What an algorithm does to one element.
pub(super) trait Elementwise<C: Real>: Copy + Send + Sync {
    /// What pass A sums the squares of, from g, f and a third tensor of the algorithm's choice.
    fn measured(&self, g: C, f: C, third: C) -> [C; 3];

    /// f, m and θ after the step.
    fn step(&self, g: C, f: C, m: C, theta: C) -> [C; 3];
}

/// Pass A: three sums of squares over the tensor. `X` is the type that `third` is stored in.
pub(super) fn sums<C: Real, P: Element, S: Element, X: Element>(
    [g, f, third]: [&Tensor; 3],
    algorithm: impl Elementwise<C>,
) -> Result<[f64; 3]> {
    let (g, f, third) = (read(g)?, read(f)?, read(third)?);
    let (g, f, third) = (g.slice::<P>()?, f.slice::<S>()?, third.slice::<X>()?);
    Ok(sum_tasks(g.len().div_ceil(TASK), |k| {
        let (g, f, third) = (task(g, k), task(f, k), task(third, k));
        vectorise(SumTask { g, f, third, algorithm, computed: PhantomData })
    }))
}

struct SumTask<'a, C, P, S, X, A> {
    g: &'a [P],
    f: &'a [S],
    third: &'a [X],
    algorithm: A,
    computed: PhantomData<C>,
}

impl<C, P, S, X, A> Vectorised for SumTask<'_, C, P, S, X, A>
where
    C: Real,
    P: Element,
    S: Element,
    X: Element,
    A: Elementwise<C>,
{
    type Output = [f64; 3];

    #[inline(always)]
    fn run(self) -> [f64; 3] {
        let Self { g, f, third, algorithm, .. } = self;
        let [mut first, mut second, mut last] = [Sum::<C>::new(), Sum::<C>::new(), Sum::<C>::new()];
        for ((g, f), third) in g.chunks(BLOCK).zip(f.chunks(BLOCK)).zip(third.chunks(BLOCK)) {
            for ((g, f), third) in g.chunks(STRIP).zip(f.chunks(STRIP)).zip(third.chunks(STRIP)) {
                let n = g.len();
                let (f, third) = (&f[..n], &third[..n]);
                let (a, b, c) = (first.strip(n), second.strip(n), last.strip(n));
                for i in 0..n {
                    let [x, y, z] = algorithm.measured(g[i].load(), f[i].load(), third[i].load());
                    a[i] = a[i] + x * x;
                    b[i] = b[i] + y * y;
                    c[i] = c[i] + z * z;
                }
            }
            first.flush();
            second.flush();
            last.flush();
        }
        [first.total(), second.total(), last.total()]
    }
}

/// Pass B: f, m and θ in place.
pub(super) fn apply<C: Real, P: Element, S: Element>(
    t: &Tensors,
    f: &Tensor,
    algorithm: impl Elementwise<C>,
) -> Result<()> {
    let g = read(t.g)?;
    let g = g.slice::<P>()?;
    write::<P, _>(t.theta, |theta| {
        write::<S, _>(&t.state.m, |m| {
            write::<S, _>(f, |f| {
                let tasks = theta.par_chunks_mut(TASK).zip(m.par_chunks_mut(TASK));
                let tasks = tasks.zip(f.par_chunks_mut(TASK)).zip(g.par_chunks(TASK));
                tasks.for_each(|(((theta, m), f), g)| {
                    vectorise(StepTask { g, theta, m, f, algorithm, computed: PhantomData });
                });
                Ok(())
            })
        })
    })
}

struct StepTask<'a, C, P, S, A> {
    g: &'a [P],
    theta: &'a mut [P],
    m: &'a mut [S],
    f: &'a mut [S],
    algorithm: A,
    computed: PhantomData<C>,
}

impl<C: Real, P: Element, S: Element, A: Elementwise<C>> Vectorised for StepTask<'_, C, P, S, A> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let n = self.g.len();
        let Self { g, algorithm, .. } = self;
        let (theta, m, f) = (&mut self.theta[..n], &mut self.m[..n], &mut self.f[..n]);
        for i in 0..n {
            let new = algorithm.step(g[i].load(), f[i].load(), m[i].load(), theta[i].load());
            f[i] = S::store(new[0]);
            m[i] = S::store(new[1]);
            theta[i] = P::store(new[2]);
        }
    }
}

/// The first of f, m and θ that pass B would make not finite.
pub(super) fn verify<C: Real, P: Element, S: Element>(
    t: &Tensors,
    f: &Tensor,
    algorithm: impl Elementwise<C>,
) -> Result<Option<&'static str>> {
    let (g, theta, m, f) = (read(t.g)?, read(t.theta)?, read(&t.state.m)?, read(f)?);
    let all = g.slice::<P>()?.iter().zip(theta.slice::<P>()?);
    let mut all = all.zip(m.slice::<S>()?).zip(f.slice::<S>()?);
    Ok(all.find_map(|(((g, theta), m), f)| {
        let [f, m, theta] = algorithm.step(g.load(), f.load(), m.load(), theta.load());
        // A bf16 is stored without a look at infinities, so what it is made of has to be finite too.
        let finite = |stored: bool, computed: C| stored && computed.is_finite();
        if !finite(S::store(f).finite(), f) {
            Some("f")
        } else if !finite(S::store(m).finite(), m) {
            Some("m")
        } else {
            (!finite(P::store(theta).finite(), theta)).then_some("theta")
        }
    }))
}
