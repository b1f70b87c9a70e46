//! A tensor as the loops of the kernel see it: strips of [`STRIP`] numbers in the compute type, whatever they are
//! stored as.

use half::{bf16, f16};

use super::access::{Slice, SliceMut};
use super::blocks::{self, BLOCK, Code};
use super::lanes::STRIP;
use super::noise::Half;
use super::number::Real;
use super::tasks::Task;

/// Numbers to read.
#[derive(Clone, Copy)]
pub(super) enum Column<'a> {
    Plain(Slice<'a>),
    /// bf16, and what was rounded away from it.
    Compensated(&'a [bf16], &'a [bf16]),
    /// 8-bit codes with the scales of their blocks.
    Blocks(&'a [u8], &'a [f32], Code),
}

/// Numbers to change.
pub(super) enum ColumnMut<'a> {
    /// Rounded to the nearest.
    Plain(SliceMut<'a>),
    /// bf16 with stochastic rounding.
    Stochastic(&'a mut [bf16]),
    Compensated(&'a mut [bf16], &'a mut [bf16]),
    Blocks(&'a mut [u8], &'a mut [f32], Code),
}

/// Numbers of any type as numbers of the compute type.
#[inline(always)]
fn convert<'b, T: Copy, C: Real>(
    from: &[T],
    room: &'b mut [C; STRIP],
    each: impl Fn(T) -> C,
) -> &'b [C] {
    let room = &mut room[..from.len()];
    for (to, from) in room.iter_mut().zip(from) {
        *to = each(*from);
    }
    room
}

impl<'a> Column<'a> {
    /// Numbers `at..at + n` with n ≤ [`STRIP`] and `at` a multiple of it, in `room` unless they are there already.
    #[inline(always)]
    pub(super) fn strip<'b, C: Real>(
        &self,
        at: usize,
        n: usize,
        room: &'b mut [C; STRIP],
    ) -> &'b [C]
    where
        'a: 'b,
    {
        let single = |x: f32| C::of(f64::from(x));
        match *self {
            Self::Plain(Slice::F32(x)) => {
                let x = &x[at..at + n];
                C::of_f32s(x).unwrap_or_else(|| convert(x, room, single))
            }
            Self::Plain(Slice::F64(x)) => {
                let x = &x[at..at + n];
                C::of_f64s(x).unwrap_or_else(|| convert(x, room, C::of))
            }
            Self::Plain(Slice::Bf16(x)) => convert(&x[at..at + n], room, |x| single(widen(x))),
            Self::Plain(Slice::F16(x)) => convert(&x[at..at + n], room, |x| single(x.to_f32())),
            Self::Plain(Slice::U8(_)) => unreachable!("codes come with their scales"),
            Self::Compensated(x, low) => {
                let (x, low, room) = (&x[at..at + n], &low[at..at + n], &mut room[..n]);
                for i in 0..n {
                    room[i] = single(widen(x[i])) + single(widen(low[i]));
                }
                room
            }
            Self::Blocks(codes, scales, code) => {
                let scale = single(scales[at / BLOCK]);
                convert(&codes[at..at + n], room, |x| single(blocks::decode(x, code)) * scale)
            }
        }
    }

    /// The same in `room` in any case.
    #[inline(always)]
    pub(super) fn copy<C: Real>(&self, at: usize, n: usize, room: &mut [C; STRIP]) {
        let mut other = [C::zero(); STRIP];
        let strip = self.strip(at, n, &mut other);
        room[..n].copy_from_slice(strip);
    }

    /// The part that belongs to a task.
    pub(super) fn task(self, task: &Task) -> Self {
        let at = task.start..task.start + task.len;
        match self {
            Self::Plain(Slice::F32(x)) => Self::Plain(Slice::F32(&x[at])),
            Self::Plain(Slice::F64(x)) => Self::Plain(Slice::F64(&x[at])),
            Self::Plain(Slice::Bf16(x)) => Self::Plain(Slice::Bf16(&x[at])),
            Self::Plain(Slice::F16(x)) => Self::Plain(Slice::F16(&x[at])),
            Self::Plain(Slice::U8(x)) => Self::Plain(Slice::U8(&x[at])),
            Self::Compensated(x, low) => Self::Compensated(&x[at.clone()], &low[at]),
            Self::Blocks(x, scales, code) => Self::Blocks(&x[at], &scales[task.blocks()], code),
        }
    }
}

impl ColumnMut<'_> {
    /// The same numbers to read.
    #[inline(always)]
    pub(super) fn column(&self) -> Column<'_> {
        match self {
            Self::Plain(SliceMut::F32(x)) => Column::Plain(Slice::F32(x)),
            Self::Plain(SliceMut::F64(x)) => Column::Plain(Slice::F64(x)),
            Self::Plain(SliceMut::Bf16(x)) | Self::Stochastic(x) => Column::Plain(Slice::Bf16(x)),
            Self::Plain(SliceMut::F16(x)) => Column::Plain(Slice::F16(x)),
            Self::Plain(SliceMut::U8(x)) => Column::Plain(Slice::U8(x)),
            Self::Compensated(x, low) => Column::Compensated(x, low),
            Self::Blocks(x, scales, code) => Column::Blocks(x, scales, *code),
        }
    }

    /// Whether numbers of the compute type can be changed where they are stored.
    #[inline(always)]
    pub(super) fn is_direct<C: Real>(&self) -> bool {
        match self {
            Self::Plain(SliceMut::F32(_)) => C::of_f32s(&[]).is_some(),
            Self::Plain(SliceMut::F64(_)) => C::of_f64s(&[]).is_some(),
            _ => false,
        }
    }

    /// A strip to be changed: where it is stored if that [`is_direct`](Self::is_direct), or else in `room`, to be
    /// [stored](Self::store) afterwards.
    #[inline(always)]
    pub(super) fn edit<'b, C: Real>(
        &'b mut self,
        at: usize,
        n: usize,
        room: &'b mut [C; STRIP],
    ) -> &'b mut [C] {
        if !self.is_direct::<C>() {
            // What cannot be borrowed is converted into the room.
            self.column().strip(at, n, room);
            return &mut room[..n];
        }
        let direct = match self {
            Self::Plain(SliceMut::F32(x)) => C::of_f32s_mut(&mut x[at..at + n]),
            Self::Plain(SliceMut::F64(x)) => C::of_f64s_mut(&mut x[at..at + n]),
            _ => None,
        };
        direct.unwrap_or(&mut room[..n])
    }

    /// Whether random bits are needed to store numbers.
    pub(super) fn is_random(&self) -> bool {
        matches!(self, Self::Stochastic(_) | Self::Blocks(..))
    }

    /// Stores a strip, with the bits of `half` of `random` if it [`is_random`](Self::is_random).
    #[inline(always)]
    pub(super) fn store<C: Real>(
        &mut self,
        at: usize,
        strip: &[C],
        random: &[u32; STRIP],
        half: Half,
    ) {
        let n = strip.len();
        match self {
            Self::Plain(SliceMut::F32(x)) => put(&mut x[at..at + n], strip, |x| x.f64() as f32),
            Self::Plain(SliceMut::F64(x)) => put(&mut x[at..at + n], strip, C::f64),
            Self::Plain(SliceMut::Bf16(x)) => {
                put(&mut x[at..at + n], strip, |x| nearest(x.f64() as f32));
            }
            Self::Plain(SliceMut::F16(x)) => {
                put(&mut x[at..at + n], strip, |x| f16::from_f32(x.f64() as f32));
            }
            Self::Plain(SliceMut::U8(_)) => unreachable!("codes come with their scales"),
            Self::Stochastic(x) => {
                let (x, random) = (&mut x[at..at + n], &random[..n]);
                for i in 0..n {
                    let bits = (strip[i].f64() as f32).to_bits();
                    x[i] = bf16::from_bits((bits.wrapping_add(half.of(random[i])) >> 16) as u16);
                }
            }
            Self::Compensated(x, low) => {
                let (x, low) = (&mut x[at..at + n], &mut low[at..at + n]);
                for i in 0..n {
                    let exact = strip[i].f64() as f32;
                    x[i] = nearest(exact);
                    low[i] = nearest(exact - widen(x[i]));
                }
            }
            Self::Blocks(codes, scales, code) => {
                let codes = &mut codes[at..at + n];
                let scale = &mut scales[at / BLOCK];
                if let Some(strip) = C::as_f32s(strip) {
                    *scale = blocks::encode(strip, codes, *code, random, half);
                } else {
                    let mut room = [0f32; STRIP];
                    put(&mut room[..n], strip, |x| x.f64() as f32);
                    *scale = blocks::encode(&room[..n], codes, *code, random, half);
                }
            }
        }
    }

    /// Whether what [`store`](Self::store) would store is finite.
    pub(super) fn can_store<C: Real>(&self, strip: &[C]) -> bool {
        let largest = match self {
            Self::Plain(SliceMut::F64(_)) => f64::MAX,
            Self::Plain(SliceMut::F16(_)) => f64::from(f16::MAX),
            Self::Plain(SliceMut::F32(_)) => f64::from(f32::MAX),
            // What rounds to less than 2^128.
            _ => f64::from(bf16::MAX),
        };
        strip.iter().all(|x| x.f64().abs() <= largest)
    }

    /// Cut in two at the end of a task.
    pub(super) fn split(self, task: &Task) -> (Self, Self) {
        let (n, blocks) = (task.len, task.blocks().len());
        match self {
            Self::Plain(x) => {
                let (a, b) = split_slice(x, n);
                (Self::Plain(a), Self::Plain(b))
            }
            Self::Stochastic(x) => {
                let (a, b) = x.split_at_mut(n);
                (Self::Stochastic(a), Self::Stochastic(b))
            }
            Self::Compensated(x, low) => {
                let ((a, b), (c, d)) = (x.split_at_mut(n), low.split_at_mut(n));
                (Self::Compensated(a, c), Self::Compensated(b, d))
            }
            Self::Blocks(x, scales, code) => {
                let ((a, b), (c, d)) = (x.split_at_mut(n), scales.split_at_mut(blocks));
                (Self::Blocks(a, c, code), Self::Blocks(b, d, code))
            }
        }
    }
}

fn split_slice(slice: SliceMut<'_>, n: usize) -> (SliceMut<'_>, SliceMut<'_>) {
    macro_rules! split {
        ($kind:ident, $x:expr) => {{
            let (a, b) = $x.split_at_mut(n);
            (SliceMut::$kind(a), SliceMut::$kind(b))
        }};
    }
    match slice {
        SliceMut::F32(x) => split!(F32, x),
        SliceMut::F64(x) => split!(F64, x),
        SliceMut::Bf16(x) => split!(Bf16, x),
        SliceMut::F16(x) => split!(F16, x),
        SliceMut::U8(x) => split!(U8, x),
    }
}

#[inline(always)]
fn put<T, C: Real>(to: &mut [T], from: &[C], each: impl Fn(C) -> T) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = each(*from);
    }
}

/// A bf16 is the upper half of an f32.
#[inline(always)]
pub(super) fn widen(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

/// To the nearest, ties to even, without `half`'s branch on NaN: what is stored is finite.
#[inline(always)]
pub(super) fn nearest(x: f32) -> bf16 {
    let bits = x.to_bits();
    bf16::from_bits(((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_stored_to_the_nearest() {
        for bits in (0..=u32::MAX).step_by(9973) {
            let x = f32::from_bits(bits);
            if x.is_finite() {
                assert_eq!(nearest(x).to_bits(), bf16::from_f32(x).to_bits(), "{x:e}");
                assert_eq!(widen(nearest(x)).to_bits(), bf16::from_f32(x).to_f32().to_bits());
            }
        }
    }
}
