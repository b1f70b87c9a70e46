//! Why a try failed, and what a person can do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a try failed. Nothing in it has the token, or an address: those of large files are signed.
#[derive(Debug)]
pub(super) enum Failure {
    /// `HF_ENDPOINT` is no address.
    Endpoint,
    /// Nothing has come for as long as anybody waits.
    Silence,
    /// Another process has the lock, and gets nothing.
    Busy(PathBuf),
    /// A status that is a refusal, of the hub or of the server that it redirects to.
    Status { status: u16, of_hub: bool },
    /// An answer that no hub gives.
    Nonsense(String),
    /// A connection that broke, or bytes that are not those of the file.
    Broken(String),
    /// The cache cannot be written.
    Disk(PathBuf, io::Error),
}

impl Failure {
    /// A closure for `map_err`, where the file system is asked for `path`.
    pub(super) fn disk(path: &Path) -> impl Fn(io::Error) -> Self {
        |error| Self::Disk(path.to_owned(), error)
    }

    /// What went wrong with a request to the hub, or to another server.
    pub(super) fn of_request(error: &ureq::Error, of_hub: bool) -> Self {
        match *error {
            ureq::Error::StatusCode(status) => Self::Status { status, of_hub },
            ureq::Error::Timeout(_) => Self::Silence,
            _ => Self::Broken(error.to_string()),
        }
    }

    /// Whether the next try may go better.
    pub(super) fn may_pass(&self) -> bool {
        match *self {
            Self::Broken(_) => true,
            // The address of a large file is good for some time only.
            Self::Status { status: 403, of_hub } => !of_hub,
            Self::Status { status, .. } => status == 408 || status == 429 || status >= 500,
            _ => false,
        }
    }

    /// What a person can do about it, after so many tries.
    pub(super) fn explain(&self, tries: u32, patience: Duration, has_token: bool) -> String {
        let secs = patience.as_secs_f64();
        let last = match self {
            Self::Endpoint => return "HF_ENDPOINT must begin with http:// or https://".to_owned(),
            Self::Silence => {
                return format!(
                    "the server has sent nothing for {secs} s; run it again, the download goes on \
                     where it stopped"
                );
            }
            Self::Busy(lock) => {
                return format!(
                    "another process downloads it (it holds {}) and has got nothing for {secs} s",
                    lock.display()
                );
            }
            Self::Disk(path, error) => {
                return format!("the cache cannot be written: {}: {error}", path.display());
            }
            Self::Nonsense(what) => return format!("not what a hub answers: {what}"),
            Self::Status { status: 401, .. } if !has_token => {
                return "the hub wants to know who you are (401): set HF_TOKEN to a token that may \
                        read the repository, or check its name"
                    .to_owned();
            }
            Self::Status { status: status @ (401 | 403), of_hub: true } if has_token => {
                return format!(
                    "the token may not read it ({status}): ask for access on the repository's page, \
                     or set HF_TOKEN to another token"
                );
            }
            Self::Status { status: 404, .. } => {
                return "the hub has no such repository, revision or file (404)".to_owned();
            }
            Self::Status { status, .. } if !self.may_pass() => {
                return format!("the hub refuses ({status})");
            }
            Self::Status { status, .. } => format!("http status: {status}"),
            Self::Broken(how) => how.clone(),
        };
        format!(
            "the download failed {tries} times, last with: {last}; run it again, it goes on where it \
             stopped"
        )
    }
}
