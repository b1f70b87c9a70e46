//! The tokens of one text file on disk, so that they are made once and take no memory.
//!
//! ```text
//! tokens, 2 or 4 bytes each, little-endian | account, JSON | its length, u64 little-endian | MAGIC
//! ```
//!
//! The account stands behind the tokens, since it is known only then.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use flate2::Crc;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use crate::text::SourceReport;

/// The last bytes of a whole file.
const MAGIC: &[u8; 8] = b"FADAMTK1";

/// The length of the account, and [`MAGIC`].
const TAIL: usize = 16;

/// What tokens are made of: with the same identity they are the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The text: its place, and for a local file its size and time of change.
    pub(super) source: String,
    /// The tokenizer's [fingerprint](crate::text::Tokenizer::fingerprint).
    pub(super) tokenizer: String,
}

/// What a file says about its tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Account {
    identity: Identity,
    bytes_per_token: usize,
    tokens: u64,
    /// CRC-32 of the tokens' bytes.
    crc: u32,
    documents: usize,
    text_bytes: u64,
    empty_documents: usize,
}

/// Writes tokens as they are made, and at last the account.
pub(super) struct TokenWriter<W> {
    out: W,
    wide: bool,
    tokens: u64,
    crc: Crc,
    bytes: Vec<u8>,
}

impl<W: Write> TokenWriter<W> {
    /// Of ids below `vocab_size`.
    pub(super) fn new(out: W, vocab_size: usize) -> Self {
        let wide = vocab_size > 1 << 16;
        Self { out, wide, tokens: 0, crc: Crc::new(), bytes: Vec::new() }
    }

    pub(super) fn write(&mut self, tokens: &[u32]) -> io::Result<()> {
        self.bytes.clear();
        for &token in tokens {
            if self.wide {
                self.bytes.extend(token.to_le_bytes());
            } else {
                self.bytes.extend((token as u16).to_le_bytes());
            }
        }
        self.tokens += tokens.len() as u64;
        self.crc.update(&self.bytes);
        self.out.write_all(&self.bytes)
    }

    pub(super) fn finish(mut self, identity: &Identity, report: &SourceReport) -> io::Result<()> {
        let account = Account {
            identity: identity.clone(),
            bytes_per_token: if self.wide { 4 } else { 2 },
            tokens: self.tokens,
            crc: self.crc.sum(),
            documents: report.documents,
            text_bytes: report.bytes,
            empty_documents: report.empty_documents,
        };
        let account = serde_json::to_vec(&account)?;
        self.out.write_all(&account)?;
        self.out.write_all(&(account.len() as u64).to_le_bytes())?;
        self.out.write_all(MAGIC)
    }
}

/// Tokens on disk, mapped into memory and checked.
#[derive(Debug)]
pub(super) struct TokenFile {
    map: Mmap,
    account: Account,
}

impl TokenFile {
    /// Opens the file at `path`, if there is one, as that of `identity`.
    ///
    /// # Errors
    /// In words, why it is of no use: damaged, or of another text or tokenizer.
    pub(super) fn open(path: &Path, identity: &Identity) -> Result<Option<Self>, String> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("cannot be opened: {error}")),
        };
        let map = map(&file).map_err(|error| format!("cannot be mapped: {error}"))?;
        let account = account(&map).ok_or("is damaged: it has no account at its end")?;
        if account.identity.tokenizer != identity.tokenizer {
            return Err("is of another tokenizer".to_owned());
        }
        if account.identity != *identity {
            let Identity { source, .. } = &account.identity;
            return Err(format!("is of another text ({source})"));
        }
        let file = Self { map, account };
        let mut crc = Crc::new();
        crc.update(file.payload());
        if crc.sum() != file.account.crc {
            return Err("is damaged: the checksum is wrong".to_owned());
        }
        Ok(Some(file))
    }

    /// How many tokens there are.
    pub(super) fn len(&self) -> u64 {
        self.account.tokens
    }

    /// What the text was.
    pub(super) fn report(&self) -> SourceReport {
        SourceReport {
            files: 1,
            documents: self.account.documents,
            bytes: self.account.text_bytes,
            empty_documents: self.account.empty_documents,
            ignored_files: Vec::new(),
        }
    }

    /// Appends the tokens from `at` on to `to`: `len` of them, or as many as there are.
    pub(super) fn read(&self, at: u64, len: usize, to: &mut Vec<u32>) {
        let width = self.account.bytes_per_token;
        let from = at.min(self.len()) as usize * width;
        let all = self.payload();
        let bytes = &all[from..all.len().min(from + len * width)];
        if width == 2 {
            to.extend(bytes.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))));
        } else {
            to.extend(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        }
    }

    fn payload(&self) -> &[u8] {
        &self.map[..self.len() as usize * self.account.bytes_per_token]
    }
}

/// The account at the end of a file, if the file is whole.
fn account(bytes: &[u8]) -> Option<Account> {
    let (rest, tail) = bytes.split_at_checked(bytes.len().checked_sub(TAIL)?)?;
    let (length, magic) = tail.split_at(8);
    let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
    let (payload, account) = rest.split_at_checked(rest.len().checked_sub(length)?)?;
    let account: Account = serde_json::from_slice(account).ok()?;
    let width = account.bytes_per_token as u64;
    let whole = (width == 2 || width == 4)
        && account.tokens.checked_mul(width) == Some(payload.len() as u64);
    (magic == MAGIC && whole).then_some(account)
}

#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: nobody changes a mapped file: they are written aside, renamed when whole, and replaced by
    // another file, never written to again. Whoever truncates one by hand ends the program.
    unsafe { Mmap::map(file) }
}
