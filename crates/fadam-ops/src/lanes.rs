//! Loops in vector instructions, chosen at run time by `pulp`.
//!
//! A loop without a sum is plain Rust that the compiler vectorises, run by [`vectorise`]. A sum of floats is not
//! reordered by the compiler, so [`dot`], [`sum`] and [`largest`] are written in vectors.

use pulp::{Simd, WithSimd};

/// Work to be compiled for each instruction set. A trait and not a closure, because only what is inlined into
/// pulp's dispatch is compiled for its instruction set, and a closure cannot be told to be.
pub(crate) trait Vectorised {
    type Output;
    /// Implementations are `#[inline(always)]`, and so is all that they call.
    fn run(self) -> Self::Output;
}

/// Runs work with the widest vectors that this machine has.
pub(crate) fn vectorise<V: Vectorised>(work: V) -> V::Output {
    struct Dispatched<V>(V);
    impl<V: Vectorised> WithSimd for Dispatched<V> {
        type Output = V::Output;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _simd: S) -> V::Output {
            self.0.run()
        }
    }
    pulp::Arch::new().dispatch(Dispatched(work))
}

/// Vectors of a type of number, for loops that must be written in them.
pub(crate) trait Lanes: Copy {
    /// A vector of the instruction set S.
    type Vector<S: Simd>: Copy;
    /// The vectors of a slice of whole ones; what is left over is not among them.
    fn vectors<S: Simd>(x: &[Self]) -> &[Self::Vector<S>];
    fn vectors_mut<S: Simd>(x: &mut [Self]) -> &mut [Self::Vector<S>];
    fn zeros<S: Simd>(simd: S) -> Self::Vector<S>;
    /// `a b + c`
    fn multiply_add<S: Simd>(
        simd: S,
        a: Self::Vector<S>,
        b: Self::Vector<S>,
        c: Self::Vector<S>,
    ) -> Self::Vector<S>;
}

macro_rules! lanes {
    ($number:ty, $vector:ident, $vectors:ident, $vectors_mut:ident, $splat:ident, $multiply_add:ident) => {
        impl Lanes for $number {
            type Vector<S: Simd> = S::$vector;

            #[inline(always)]
            fn vectors<S: Simd>(x: &[Self]) -> &[S::$vector] {
                S::$vectors(x).0
            }

            #[inline(always)]
            fn vectors_mut<S: Simd>(x: &mut [Self]) -> &mut [S::$vector] {
                S::$vectors_mut(x).0
            }

            #[inline(always)]
            fn zeros<S: Simd>(simd: S) -> S::$vector {
                simd.$splat(0.0)
            }

            #[inline(always)]
            fn multiply_add<S: Simd>(
                simd: S,
                a: S::$vector,
                b: S::$vector,
                c: S::$vector,
            ) -> S::$vector {
                simd.$multiply_add(a, b, c)
            }
        }
    };
}

lanes!(f32, f32s, as_simd_f32s, as_mut_simd_f32s, splat_f32s, mul_add_e_f32s);
lanes!(f64, f64s, as_simd_f64s, as_mut_simd_f64s, splat_f64s, mul_add_e_f64s);

/// Vectors that are added up side by side, so that one addition need not wait for another.
const SIDE_BY_SIDE: usize = 4;

/// Σ aᵢ bᵢ
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    struct Dot<'a>(&'a [f32], &'a [f32]);
    impl WithSimd for Dot<'_> {
        type Output = f32;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> f32 {
            let ((a, a_rest), (b, b_rest)) = (S::as_simd_f32s(self.0), S::as_simd_f32s(self.1));
            let (a_groups, a) = pulp::as_arrays::<SIDE_BY_SIDE, _>(a);
            let (b_groups, b) = pulp::as_arrays::<SIDE_BY_SIDE, _>(b);
            let mut sums = [simd.splat_f32s(0.0); SIDE_BY_SIDE];
            for (a, b) in a_groups.iter().zip(b_groups) {
                for i in 0..SIDE_BY_SIDE {
                    sums[i] = simd.mul_add_e_f32s(a[i], b[i], sums[i]);
                }
            }
            for (a, b) in a.iter().zip(b) {
                sums[0] = simd.mul_add_e_f32s(*a, *b, sums[0]);
            }
            let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
            simd.reduce_sum_f32s(fold(simd, sums)) + rest
        }
    }
    assert_eq!(a.len(), b.len(), "one length");
    pulp::Arch::new().dispatch(Dot(a, b))
}

#[inline(always)]
fn fold<S: Simd>(simd: S, sums: [S::f32s; SIDE_BY_SIDE]) -> S::f32s {
    simd.add_f32s(simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3]))
}

/// Σ aᵢ
pub(crate) fn sum(a: &[f32]) -> f32 {
    struct Sum<'a>(&'a [f32]);
    impl WithSimd for Sum<'_> {
        type Output = f32;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> f32 {
            let (a, rest) = S::as_simd_f32s(self.0);
            let (groups, a) = pulp::as_arrays::<SIDE_BY_SIDE, _>(a);
            let mut sums = [simd.splat_f32s(0.0); SIDE_BY_SIDE];
            for group in groups {
                for i in 0..SIDE_BY_SIDE {
                    sums[i] = simd.add_f32s(group[i], sums[i]);
                }
            }
            for a in a {
                sums[0] = simd.add_f32s(*a, sums[0]);
            }
            simd.reduce_sum_f32s(fold(simd, sums)) + rest.iter().sum::<f32>()
        }
    }
    pulp::Arch::new().dispatch(Sum(a))
}

/// The largest number, −∞ of none; NaN is passed over.
pub(crate) fn largest(a: &[f32]) -> f32 {
    struct Largest<'a>(&'a [f32]);
    impl WithSimd for Largest<'_> {
        type Output = f32;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> f32 {
            let (a, rest) = S::as_simd_f32s(self.0);
            let mut most = simd.splat_f32s(f32::NEG_INFINITY);
            for a in a {
                // x86 gives the second of two numbers one of which is NaN.
                most = simd.max_f32s(*a, most);
            }
            rest.iter().copied().fold(simd.reduce_max_f32s(most), f32::max)
        }
    }
    pulp::Arch::new().dispatch(Largest(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_maxima_of_every_length() {
        for n in (0..200).chain([1000, 4097]) {
            let a: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 8.0).collect();
            let b: Vec<f32> = (0..n).map(|i| ((i * 53 % 97) as f32 - 40.0) / 8.0).collect();
            let exact = |x: &mut dyn Iterator<Item = f64>| x.sum::<f64>() as f32;
            // All products and partial sums are multiples of 1/64 below 2^18: exact in f32.
            let products = &mut a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b));
            assert_eq!(dot(&a, &b), exact(products), "{n}");
            assert_eq!(sum(&a), exact(&mut a.iter().map(|a| f64::from(*a))), "{n}");
            assert_eq!(largest(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max), "{n}");
        }
    }
}
