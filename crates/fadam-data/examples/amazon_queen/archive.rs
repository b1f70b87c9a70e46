//! `queen.1c`, the archive of the game, and the dialogues in it.
//!
//! ```text
//! archive    "QTBL", version [8], compression [1] (1 is MP3), entries: u16, entries
//! entry      name [12] (zeros after it), bundle [1], offset: u32, size: u32
//! *.SB       a spoken line, MP3
//! *.DOG      a dialogue, its fields 20 bytes after the beginning; offsets count from there:
//!   0        levels: i16 (negative for some), pupils: i16, number: i16, Joe's lines: i16, the other's: i16
//!   22       offset of the other's lines: u16; Joe's are behind the levels, at 32 + 96·|levels|
//! line       padding: u16, id: u16, length: u8, text (CP437), then to a multiple of four; no text and
//!            no padding where the length is 0
//! ```
//!
//! Numbers are big-endian. A line is spoken in segments, which marks such as `*AB` and
//! `*XYnn(xxx,yyy)` separate; segment k of line `id` of dialogue `number` is the file
//! `NNiiiiWk.SB`, where W is J for Joe and P for the other.

use std::collections::BTreeMap;

/// The files of the archive by name.
pub(crate) struct Archive<'a> {
    entries: BTreeMap<String, &'a [u8]>,
}

/// A segment of a line that somebody speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spoken<'a> {
    /// The name of its file, without `.SB`.
    pub(crate) name: String,
    /// `joe`, or the name of the dialogue without its digits, in lower case.
    pub(crate) character: String,
    /// What is said.
    pub(crate) text: String,
    /// MP3.
    pub(crate) sound: &'a [u8],
}

impl<'a> Archive<'a> {
    /// Reads the table of files; none if that is not this game's archive.
    pub(crate) fn open(bytes: &'a [u8]) -> Option<Self> {
        if !bytes.starts_with(b"QTBL") || *bytes.get(12)? != 1 {
            return None;
        }
        let mut entries = BTreeMap::new();
        for n in 0..usize::from(u16_at(bytes, 13)?) {
            let entry = bytes.get(15 + 21 * n..15 + 21 * (n + 1))?;
            let (begin, size) = (u32_at(entry, 13)? as usize, u32_at(entry, 17)? as usize);
            let name = entry[..12].split(|&byte| byte == 0).next()?;
            let name = String::from_utf8(name.to_vec()).ok()?;
            entries.insert(name, bytes.get(begin..begin.checked_add(size)?)?);
        }
        Some(Self { entries })
    }

    /// Every spoken segment with words in it, by name, or the dialogue that cannot be read.
    pub(crate) fn spoken(&self) -> Result<Vec<Spoken<'a>>, String> {
        let mut spoken = BTreeMap::new();
        for (file, contents) in &self.entries {
            let Some(dialogue) = file.strip_suffix(".DOG") else { continue };
            let lines = contents.get(20..).and_then(lines).ok_or_else(|| file.clone())?;
            let other: String = dialogue.chars().filter(|c| !c.is_ascii_digit()).collect();
            let other = other.to_ascii_lowercase();
            for Line { number, id, is_joe, text } in lines {
                for (k, text) in segments(&text).iter().map(|text| clean(text)).enumerate() {
                    let who = if is_joe { 'J' } else { 'P' };
                    let name = format!("{number:02}{id:04X}{who}{:X}", k + 1);
                    let Some(&sound) = self.entries.get(&format!("{name}.SB")) else { continue };
                    if text.contains(|c: char| c.is_ascii_alphabetic()) {
                        let character = if is_joe { "joe".to_owned() } else { other.clone() };
                        let one = Spoken { name: name.clone(), character, text, sound };
                        spoken.insert(name, one);
                    }
                }
            }
        }
        Ok(spoken.into_values().collect())
    }
}

struct Line {
    number: i16,
    id: u16,
    is_joe: bool,
    text: String,
}

/// All lines of a dialogue; none if it ends within one.
fn lines(dialogue: &[u8]) -> Option<Vec<Line>> {
    let field = |n: usize| u16_at(dialogue, 2 * n).map(u16::cast_signed);
    let (levels, number) = (usize::from(field(0)?.unsigned_abs()), field(2)?);
    let joe = (true, 32 + 96 * levels, field(3)?);
    let other = (false, usize::from(u16_at(dialogue, 22)?), field(4)?);
    let mut all = Vec::new();
    for (is_joe, mut at, count) in [joe, other] {
        for _ in 0..count {
            let id = u16_at(dialogue, at + 2)?;
            let length = usize::from(*dialogue.get(at + 4)?);
            at += 5;
            if length > 0 {
                let text = dialogue.get(at..at + length)?.iter().copied().map(cp437).collect();
                all.push(Line { number, id, is_joe, text });
                at = (at + length).next_multiple_of(4);
            }
        }
    }
    Some(all)
}

/// What stands between the marks: `*XY` and eleven more characters, or `*` and two.
fn segments(line: &str) -> Vec<String> {
    let mut segments = vec![String::new()];
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        let marked = rest.clone().take(13).collect::<String>();
        if c == '*' && marked.chars().count() >= 2 {
            let long = marked.starts_with("XY") && marked.chars().count() == 13;
            rest.nth(if long { 12 } else { 1 });
            segments.push(String::new());
        } else if let Some(segment) = segments.last_mut() {
            segment.push(c);
        }
    }
    segments
}

/// Without stage directions in parentheses and marks of pauses, single spaces between words.
fn clean(segment: &str) -> String {
    let mut text = String::new();
    let mut rest = segment;
    while let Some(begin) = rest.find('(') {
        let Some(end) = rest[begin..].find(')') else { break };
        text.push_str(&rest[..begin]);
        text.push(' ');
        rest = &rest[begin + end + 1..];
    }
    text.push_str(rest);
    text.replace("^_", " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A byte of the PC's code page 437.
fn cp437(byte: u8) -> char {
    const UPPER: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";
    match byte.checked_sub(128) {
        None => char::from(byte),
        Some(upper) => UPPER.chars().nth(usize::from(upper)).unwrap_or('?'),
    }
}
