//! The two passes over the strips of a tensor, the same for all algorithms and ways of storing.

use rayon::prelude::*;

use super::column::{Column, ColumnMut};
use super::descent::{Descent, Natural, OnManifold, Raw, Sums, for_direction, measure_auxiliary};
use super::factored::{FactoredTask, Scratch};
use super::full::{Found, Full, Inverse as _, OfGradient, Reading, Writing};
use super::given::Given;
use super::lanes::{BLOCK, STRIP, Vectorised, vectorise};
use super::noise::{Half, Noise};
use super::number::Real;
use super::power::{Exponent, General, Identity, SquareRoot};
use super::stored::{Stored, write_all};
use super::tasks::{Matrices, Task};
use super::{Measured, Momentum, Rule, Tensors};
use crate::Result;
use crate::algorithm::Fim;
use crate::terms::Estimate;

/// `$do`, with `$q` the estimate of the FIM of a strip.
macro_rules! for_estimate {
    ($given:expr, $q:ident, $at:expr, $n:expr, $room:expr => $do:expr) => {
        if let Estimate::OfGradient = $given.estimate {
            let $q = OfGradient;
            $do
        } else {
            let $q = &$given.estimate($at, $n, $room)[..$n];
            $do
        }
    };
}

/// `$do`, with `$power` the power of an exponent.
macro_rules! for_power {
    ($exponent:expr, $power:ident => $do:expr) => {
        match *$exponent {
            Exponent::Half => {
                let $power = SquareRoot;
                $do
            }
            Exponent::One => {
                let $power = Identity;
                $do
            }
            Exponent::Other(whole, rest) => {
                let $power = General(C::of(whole), C::of(rest));
                $do
            }
        }
    };
}

/// f of a task to read.
enum FimTask<'a, C> {
    Full(Full<C>, Exponent, Column<'a>),
    Factored(FactoredTask<'a, C>),
}

/// Pass A: Σ g² (if `count_g`), and the sums of squares of what is clipped.
pub(super) fn sums<C: Real>(
    t: &Tensors<'_>,
    rule: &Rule,
    measured: &Measured,
    scratch: &Scratch,
    count_g: bool,
) -> Result<[f64; 4]> {
    let terms = t.terms.lock()?;
    let given = terms.columns()?;
    let third = match rule.momentum {
        Momentum::OfNaturalGradient { .. } => t.theta.lock()?,
        Momentum::OfGradient => t.state.m.lock()?,
    };
    let third = third.column()?;
    let f = match &t.state.f {
        Fim::Full(f) => Some(f.lock()?),
        Fim::Factored { .. } => None,
    };
    let f = f.as_ref().map(super::stored::Locked::column).transpose()?;
    let (numbers, descent) = (Full::new(rule, measured), Descent::<C>::new(rule, measured));
    let exponent = Exponent::of(rule.rho);
    let matrices = t.matrices();
    let of = |task: &Task| {
        vectorise(SumTask {
            given: given.task(task),
            third: third.task(task),
            momentum: rule.momentum,
            fim: match f {
                Some(f) => FimTask::Full(numbers, exponent, f.task(task)),
                None => FimTask::Factored(FactoredTask::new(
                    task,
                    matrices.expect("factored"),
                    rule,
                    measured,
                    scratch,
                )),
            },
            len: task.len,
            count_g,
            descent,
        })
    };
    let tasks = t.tasks;
    let sums: Vec<[f64; 4]> =
        if let [task] = tasks { vec![of(task)] } else { tasks.par_iter().map(of).collect() };
    // In order: the same bits whatever the number of threads.
    Ok(sums.into_iter().fold([0.0; 4], |a, b| std::array::from_fn(|k| a[k] + b[k])))
}

struct SumTask<'a, C> {
    given: Given<'a>,
    /// θ, or m where it is of the gradient.
    third: Column<'a>,
    fim: FimTask<'a, C>,
    momentum: Momentum,
    len: usize,
    count_g: bool,
    descent: Descent<C>,
}

impl<C: Real> Vectorised for SumTask<'_, C> {
    type Output = [f64; 4];

    #[inline(always)]
    fn run(self) -> [f64; 4] {
        let Self { given, third, fim, momentum, len, count_g, descent } = self;
        let mut sums = Sums::<C>::new();
        let zero = [C::zero(); STRIP];
        let (mut room_g, mut room_o, mut room_q, mut inverse) = (zero, zero, zero, zero);
        let (mut room_f, mut room_a) = (zero, zero);
        for at in (0..len).step_by(STRIP) {
            let n = STRIP.min(len - at);
            let g = given.gradient(at, n, &mut room_g);
            let third = third.strip(at, n, &mut room_o);
            match &fim {
                FimTask::Full(numbers, exponent, f) => {
                    let (numbers, f) = (*numbers, f.strip(at, n, &mut room_f));
                    for_estimate!(given, q, at, n, &mut room_q => for_power!(exponent, power => {
                        for_direction!(momentum, direction => {
                            let read = Reading { numbers, power, q, f };
                            descent.measure(direction, read, g, third, count_g, &mut sums);
                        });
                        if let Some(auxiliary) = given.auxiliary(at, n, &mut room_a) {
                            let read = Reading { numbers, power, q, f };
                            measure_auxiliary(read, g, auxiliary, &mut sums);
                        }
                    }));
                }
                FimTask::Factored(fim) => {
                    fim.inverse(at, n, &mut inverse);
                    let inverse = &inverse[..n];
                    for_direction!(momentum, direction => {
                        descent.measure(direction, Found(inverse), g, third, count_g, &mut sums);
                    });
                    if let Some(auxiliary) = given.auxiliary(at, n, &mut room_a) {
                        measure_auxiliary(Found(inverse), g, auxiliary, &mut sums);
                    }
                }
            }
            if (at + STRIP).is_multiple_of(BLOCK) {
                sums.flush();
            }
        }
        sums.flush();
        sums.totals()
    }
}

/// Pass B: f, m and θ in place. If `dry`, nothing is written, and the first that would not be finite is returned.
pub(super) fn steps<C: Real>(
    t: &Tensors<'_>,
    rule: &Rule,
    measured: &Measured,
    scratch: &Scratch,
    dry: bool,
) -> Result<Option<&'static str>> {
    let terms = t.terms.lock()?;
    let given = terms.columns()?;
    let (numbers, descent) = (Full::new(rule, measured), Descent::<C>::new(rule, measured));
    let exponent = Exponent::of(rule.rho);
    let matrices = t.matrices();
    let noise = Noise::new(t.name, rule.t);
    let mut all: Vec<&Stored> = vec![t.theta, &t.state.m];
    all.extend(t.state.f.as_full());
    write_all(&all, |columns| {
        let mut columns = columns.into_iter();
        let (theta, m, mut f) = (columns.next(), columns.next(), columns.next());
        let (mut theta, mut m) = (theta.expect("three of them"), m.expect("or two"));
        let mut work = Vec::with_capacity(t.tasks.len());
        for task in t.tasks {
            let (theta_here, theta_rest) = theta.split(task);
            let (m_here, m_rest) = m.split(task);
            (theta, m) = (theta_rest, m_rest);
            let fim = if let Some(full) = f.take() {
                let (f_here, f_rest) = full.split(task);
                f = Some(f_rest);
                FimMut::Full(numbers, exponent, f_here)
            } else {
                let matrices: Matrices = matrices.expect("factored");
                FimMut::Factored(FactoredTask::new(task, matrices, rule, measured, scratch))
            };
            let given = given.task(task);
            let (theta, m, first, len) = (theta_here, m_here, task.start, task.len);
            let momentum = rule.momentum;
            work.push(StepTask { given, theta, m, fim, momentum, descent, noise, first, len, dry });
        }
        let one = work.len() == 1;
        let bad: Vec<Option<&'static str>> = if one {
            work.into_iter().map(vectorise).collect()
        } else {
            work.into_par_iter().map(vectorise).collect()
        };
        Ok(bad.into_iter().flatten().next())
    })
}

/// f of a task to change.
enum FimMut<'a, C> {
    Full(Full<C>, Exponent, ColumnMut<'a>),
    Factored(FactoredTask<'a, C>),
}

struct StepTask<'a, C> {
    given: Given<'a>,
    theta: ColumnMut<'a>,
    m: ColumnMut<'a>,
    fim: FimMut<'a, C>,
    momentum: Momentum,
    descent: Descent<C>,
    noise: Noise,
    /// The index of the task's first element in the tensor.
    first: usize,
    len: usize,
    dry: bool,
}

impl<C: Real> Vectorised for StepTask<'_, C> {
    type Output = Option<&'static str>;

    #[inline(always)]
    fn run(self) -> Option<&'static str> {
        let Self { given, mut theta, mut m, mut fim, momentum, descent, noise, first, len, dry } =
            self;
        let zero = [C::zero(); STRIP];
        let (mut room_f, mut room_m, mut room_theta, mut inverse) = (zero, zero, zero, zero);
        let (mut room_g, mut room_q, mut room_a) = (zero, zero, zero);
        let theta_is_random = theta.is_random();
        let state_is_random =
            m.is_random() || matches!(&fim, FimMut::Full(_, _, f) if f.is_random());
        let mut random = [0; STRIP];
        for at in (0..len).step_by(STRIP) {
            let n = STRIP.min(len - at);
            if state_is_random && !dry {
                noise.of_state(first + at, &mut random);
            }
            let g = given.gradient(at, n, &mut room_g);
            let auxiliary = given.auxiliary(at, n, &mut room_a);
            let (direct_m, direct_theta) = (m.is_direct::<C>(), theta.is_direct::<C>());
            let m_strip = open(&mut m, at, n, &mut room_m, dry);
            let theta_strip = open(&mut theta, at, n, &mut room_theta, dry);
            match &mut fim {
                FimMut::Full(numbers, exponent, f) => {
                    let (numbers, direct) = (*numbers, f.is_direct::<C>());
                    let f_strip = open(f, at, n, &mut room_f, dry);
                    for_estimate!(given, q, at, n, &mut room_q => for_power!(exponent, power => {
                        if auxiliary.is_some() {
                            // 1/d is of f as it was, which the step overwrites.
                            let mut read = Reading { numbers, power, q, f: &*f_strip };
                            for i in 0..n {
                                inverse[i] = read.at(i, g[i]);
                            }
                        }
                        for_direction!(momentum, direction => {
                            let write = Writing { numbers, power, q, f: f_strip };
                            descent.step(direction, write, g, m_strip, theta_strip);
                        });
                    }));
                    if dry && !f.can_store(&room_f[..n]) {
                        return Some("f");
                    }
                    if !dry && !direct {
                        f.store(at, &room_f[..n], &random, Half::High);
                    }
                }
                FimMut::Factored(fim) => {
                    fim.inverse(at, n, &mut inverse);
                    for_direction!(momentum, direction => {
                        descent.step(direction, Found(&inverse[..n]), g, m_strip, theta_strip);
                    });
                }
            }
            if let Some(auxiliary) = auxiliary {
                descent.step_auxiliary(&inverse[..n], auxiliary, theta_strip);
            }
            if dry {
                if !m.can_store(&room_m[..n]) {
                    return Some("m");
                }
                if !theta.can_store(&room_theta[..n]) {
                    return Some("theta");
                }
                continue;
            }
            if !direct_m {
                m.store(at, &room_m[..n], &random, Half::Low);
            }
            if !direct_theta {
                if theta_is_random {
                    noise.of_theta(first + at, &mut random);
                }
                theta.store(at, &room_theta[..n], &random, Half::Low);
            }
        }
        None
    }
}

/// A strip to be changed; in `room` in any case if nothing is to be written.
#[inline(always)]
fn open<'b, C: Real>(
    column: &'b mut ColumnMut<'_>,
    at: usize,
    n: usize,
    room: &'b mut [C; STRIP],
    dry: bool,
) -> &'b mut [C] {
    if dry {
        column.column().copy(at, n, room);
        return &mut room[..n];
    }
    column.edit(at, n, room)
}
