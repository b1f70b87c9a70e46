//! Files of the Hugging Face hub, or of a mirror that speaks its protocol.
//!
//! hf-hub says where the cache has a file, which Python's `huggingface_hub` shares. What asks the hub
//! is here: the usual environment variables, a token that nobody else is shown, retries that resume
//! where the file ends, a check of the size, an end to waiting for a silent server, and errors that say
//! what to do.

mod download;
mod failure;
mod file;
mod resolve;

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use failure::Failure;
use hf_hub::Cache;
use resolve::Client;

pub use file::{HubFile, RepoKind};

use crate::{Error, Result};

/// Attempts at a file before a broken connection is an error.
pub const TRIES: u32 = 5;

/// A way to the hub, and the folder where its files are kept.
#[derive(Clone)]
pub struct Hub {
    endpoint: String,
    cache: Cache,
    token: Option<String>,
    offline: bool,
    /// Before the second try; doubled for each one after it.
    first_wait: Duration,
    /// How long a server may say nothing.
    patience: Duration,
}

impl Hub {
    /// As the environment says.
    ///
    /// | variable | meaning | default |
    /// |---|---|---|
    /// | `HF_ENDPOINT` | the hub, or a mirror of it | `https://huggingface.co` |
    /// | `HF_HOME` | folder of the cache and of the token | `huggingface` in `XDG_CACHE_HOME` or `~/.cache` |
    /// | `HF_HUB_CACHE` | the cache | `hub` in `HF_HOME` |
    /// | `HF_TOKEN` | who you are | the file `HF_TOKEN_PATH`, or `token` in `HF_HOME` |
    /// | `HF_HUB_OFFLINE` | `1`: only what the cache has | `0` |
    ///
    /// The token is shown only to the hub, and only if it asks: never to the server that a file is
    /// redirected to. It is part of no message.
    pub fn from_env() -> Self {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// The same with variables from elsewhere.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Self {
        let var = |name: &str| {
            let value = var(name)?.trim().to_owned();
            (!value.is_empty()).then_some(value)
        };
        let folder = |name: &str| var(name).map(PathBuf::from);
        let user_cache = || {
            let of_home = || std::env::home_dir().unwrap_or_default().join(".cache");
            folder("XDG_CACHE_HOME").unwrap_or_else(of_home)
        };
        let home = folder("HF_HOME").unwrap_or_else(|| user_cache().join("huggingface"));
        let token_file = folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let stored_token = || {
            let token = fs::read_to_string(token_file).ok()?.trim().to_owned();
            (!token.is_empty()).then_some(token)
        };
        Self {
            endpoint: var("HF_ENDPOINT").unwrap_or_default().trim_end_matches('/').to_owned(),
            cache: Cache::new(folder("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub"))),
            token: var("HF_TOKEN").or_else(stored_token),
            offline: var("HF_HUB_OFFLINE").is_some_and(|on| on != "0"),
            first_wait: Duration::from_secs(1),
            patience: Duration::from_mins(1),
        }
    }

    /// Waits so long before the second of [`TRIES`] tries (then twice as long, …), and at most
    /// `patience` for a byte of a silent server; otherwise 1 s and 60 s.
    #[must_use]
    pub fn with_waits(self, first_wait: Duration, patience: Duration) -> Self {
        Self { first_wait, patience, ..self }
    }

    /// The file in the cache, downloaded if it is not there yet. A download that broke off goes on
    /// where it stopped, now and in a later run.
    ///
    /// # Errors
    /// [`Error::Hub`]: the hub refuses, has no such file, is silent, is none, or breaks the connection
    /// [`TRIES`] times; the cache cannot be written.
    pub fn fetch(&self, file: &HubFile) -> Result<PathBuf> {
        if let Some(path) = self.cache.repo(file.repo()).get(file.file()) {
            return Ok(path);
        }
        let failed = |reason| Error::Hub { file: file.to_string(), reason };
        if self.offline {
            let reason = "it is not in the cache, and HF_HUB_OFFLINE is set".to_owned();
            return Err(failed(reason));
        }
        let mut tries = 1;
        loop {
            match self.try_fetch(file) {
                Ok(path) => return Ok(path),
                Err(failure) if failure.may_pass() && tries < TRIES => {
                    thread::sleep(self.first_wait * (1 << (tries - 1)));
                    tries += 1;
                }
                Err(failure) => {
                    let has_token = self.token.is_some();
                    return Err(failed(failure.explain(tries, self.patience, has_token)));
                }
            }
        }
    }

    fn try_fetch(&self, file: &HubFile) -> std::result::Result<PathBuf, Failure> {
        let client = Client::new(&self.endpoint, self.token.as_deref(), self.patience)?;
        download::into_cache(&client, &self.cache.repo(file.repo()), file, self.patience)
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hub {{ cache: {}, .. }}", self.cache.path().display())
    }
}
