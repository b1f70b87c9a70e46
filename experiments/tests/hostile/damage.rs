//! Damage to valid bytes: what disks, networks, other programs and people do to files.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// One change. Places are drawn as [`Index`], so that they fit whatever the changes before have left.
#[derive(Debug, Clone)]
pub enum Damage {
    /// A flipped bit.
    Flip(Index, u8),
    /// A byte of any value.
    Byte(Index, u8),
    /// A number that a length or an offset may be read from.
    Number { at: Index, value: i64, bytes: usize, big_endian: bool },
    /// The end is gone.
    Cut(Index),
    /// A stretch is gone.
    Remove(Index, usize),
    /// A stretch is there several times.
    Repeat { at: Index, bytes: usize, times: usize },
    /// Bytes that do not belong.
    Insert(Index, Vec<u8>),
    /// What means something in a text format.
    Token(Index, &'static str),
    /// Brackets without an end.
    Nest(Index, &'static str, usize),
}

/// What readers of TOML, JSON, CSV and names of files may trip over.
const TOKENS: [&str; 24] = [
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "\\",
    "\\u0000",
    "\0",
    "\n",
    "\r",
    "\t",
    ",",
    "=",
    "#",
    "-1",
    "1e999",
    "nan",
    "null",
    "true",
    "../../",
    "18446744073709551616",
    "\u{feff}",
    "\u{202e}",
];

/// The ends of the types that lengths have.
const NUMBERS: [i64; 14] = [
    0,
    1,
    -1,
    i8::MIN as i64,
    u8::MAX as i64,
    i16::MAX as i64,
    u16::MAX as i64,
    1 << 24,
    i32::MIN as i64,
    i32::MAX as i64,
    u32::MAX as i64,
    1 << 40,
    i64::MAX,
    i64::MIN,
];

pub fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    let number = prop_oneof![select(&NUMBERS[..]), any::<i64>()];
    prop_oneof![
        3 => (at(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        3 => (at(), number, select(&[1usize, 2, 4, 8][..]), any::<bool>())
            .prop_map(|(at, value, bytes, big_endian)| Damage::Number { at, value, bytes, big_endian }),
        1 => at().prop_map(Damage::Cut),
        1 => (at(), 1..200usize).prop_map(|(at, bytes)| Damage::Remove(at, bytes)),
        1 => (at(), 1..100usize, 1..100usize)
            .prop_map(|(at, bytes, times)| Damage::Repeat { at, bytes, times }),
        1 => (at(), vec(any::<u8>(), 1..40)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        2 => (at(), select(&TOKENS[..])).prop_map(|(at, token)| Damage::Token(at, token)),
        1 => (at(), select(&["[", "{\"a\":", "(", "{"][..]), 1..20_000usize)
            .prop_map(|(at, open, times)| Damage::Nest(at, open, times)),
    ]
}

impl Damage {
    pub fn to(&self, bytes: &mut Vec<u8>) {
        // A place of its own for what comes after the last byte.
        let place = |at: &Index, bytes: &[u8]| at.index(bytes.len() + 1);
        let put = |bytes: &mut Vec<u8>, at: usize, new: &[u8]| {
            bytes.splice(at..at, new.iter().copied());
        };
        match self {
            Self::Flip(at, bit) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            Self::Byte(at, byte) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Self::Flip(..) | Self::Byte(..) => {}
            Self::Number { at, value, bytes: width, big_endian } => {
                let number = if *big_endian {
                    value.to_be_bytes()[8 - width..].to_vec()
                } else {
                    value.to_le_bytes()[..*width].to_vec()
                };
                let at = place(at, bytes);
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, number);
            }
            Self::Cut(at) => bytes.truncate(place(at, bytes)),
            Self::Remove(at, count) => {
                let at = place(at, bytes);
                bytes.drain(at..(at + count).min(bytes.len()));
            }
            Self::Repeat { at, bytes: count, times } => {
                let at = place(at, bytes);
                let stretch = bytes[at..(at + count).min(bytes.len())].repeat(*times);
                put(bytes, at, &stretch);
            }
            Self::Insert(at, new) => put(bytes, place(at, bytes), new),
            Self::Token(at, token) => put(bytes, place(at, bytes), token.as_bytes()),
            Self::Nest(at, open, times) => {
                put(bytes, place(at, bytes), open.repeat(*times).as_bytes());
            }
        }
    }
}

/// One of some valid files, and what happened to it.
#[derive(Debug, Clone)]
pub struct Hostile {
    pub of: usize,
    pub damages: Vec<Damage>,
}

impl Hostile {
    pub fn any(seeds: usize) -> impl Strategy<Value = Self> {
        (0..seeds, vec(damage(), 1..6)).prop_map(|(of, damages)| Self { of, damages })
    }

    pub fn bytes(&self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.of].clone();
        for damage in &self.damages {
            damage.to(&mut bytes);
        }
        bytes
    }
}
