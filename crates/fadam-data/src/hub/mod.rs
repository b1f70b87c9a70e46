//! Files of the Hugging Face hub, or of a mirror that speaks its protocol.
//!
//! hf-hub does the protocol and keeps the cache that Python's `huggingface_hub` shares. What it
//! lacks is here: the usual environment variables, retries that resume where the file ends, a check
//! of the size, an end to waiting for a silent server, and errors that say what to do.

mod file;

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use hf_hub::Cache;
use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};

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
    /// | `HF_ENDPOINT` | the hub, or a mirror of it | hf-hub's |
    /// | `HF_HOME` | folder of the cache and of the token | `huggingface` in `XDG_CACHE_HOME` or `~/.cache` |
    /// | `HF_HUB_CACHE` | the cache | `hub` in `HF_HOME` |
    /// | `HF_TOKEN` | who you are | the file `HF_TOKEN_PATH`, or `token` in `HF_HOME` |
    /// | `HF_HUB_OFFLINE` | `1`: only what the cache has | `0` |
    ///
    /// The token is shown only to a hub that asks for it, since hf-hub also sends it to the host that
    /// a file is redirected to. It is part of no message.
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

    /// Waits so long before the second of [`TRIES`] tries (then twice as long, …), and at most about
    /// twice `patience` for a byte of a silent server; otherwise 1 s and 60 s.
    #[must_use]
    pub fn with_waits(self, first_wait: Duration, patience: Duration) -> Self {
        Self { first_wait, patience, ..self }
    }

    /// The file in the cache, downloaded if it is not there yet. A download that broke off goes on
    /// where it stopped, now and in a later run.
    ///
    /// # Errors
    /// [`Error::Hub`]: the hub refuses, has no such file, is silent, or breaks the connection
    /// [`TRIES`] times.
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
                Err(failure) => return Err(failed(self.explain(&failure, tries))),
            }
        }
    }

    /// Without the token; with it where that is not enough.
    fn try_fetch(&self, file: &HubFile) -> std::result::Result<PathBuf, Failure> {
        let answer = self.watch(self.api(None)?, file);
        match answer {
            Err(Failure::Api(ref error)) if matches!(status(error), Some(401 | 403 | 429)) => {
                match &self.token {
                    Some(token) => self.watch(self.api(Some(token.clone()))?, file),
                    None => answer,
                }
            }
            _ => answer,
        }
    }

    fn api(&self, token: Option<String>) -> std::result::Result<Api, Failure> {
        let builder = ApiBuilder::from_cache(self.cache.clone()).with_token(token);
        let builder = match self.endpoint.as_str() {
            "" => builder,
            // hf-hub would panic when redirected.
            other if !other.starts_with("http://") && !other.starts_with("https://") => {
                return Err(Failure::Endpoint);
            }
            endpoint => builder.with_endpoint(endpoint.to_owned()),
        };
        builder.with_progress(false).build().map_err(Failure::Api)
    }

    /// Downloads in a thread of its own, which is left behind if the server falls silent: hf-hub knows
    /// no time limit.
    fn watch(&self, api: Api, file: &HubFile) -> std::result::Result<PathBuf, Failure> {
        let (cache, file) = (self.cache.clone(), file.clone());
        let bytes = Bytes::default();
        let counter = bytes.clone();
        let (done, answer) = mpsc::sync_channel(1);
        thread::spawn(move || done.send(download(&api, &cache, &file, counter)));
        let mut seen = 0;
        loop {
            match answer.recv_timeout(self.patience) {
                Ok(answer) => return answer.map_err(Failure::Api),
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::Panic),
                Err(RecvTimeoutError::Timeout) => {
                    let now = bytes.0.load(Ordering::Relaxed);
                    if now == seen {
                        return Err(Failure::Silence);
                    }
                    seen = now;
                }
            }
        }
    }

    /// What a person can do about it.
    fn explain(&self, failure: &Failure, tries: u32) -> String {
        let error = match failure {
            Failure::Endpoint => {
                return "HF_ENDPOINT must begin with http:// or https://".to_owned();
            }
            Failure::Silence => {
                let secs = self.patience.as_secs_f64();
                return format!(
                    "the server has sent nothing for {secs} s; run it again, the download goes on \
                     where it stopped"
                );
            }
            Failure::Panic => return "hf-hub cannot make sense of the server's answer".to_owned(),
            Failure::Api(error) => error,
        };
        match (status(error), &self.token) {
            (Some(401), None) => {
                "the hub wants to know who you are (401): set HF_TOKEN to a token \
                                  that may read the repository, or check its name"
                    .to_owned()
            }
            (Some(status @ (401 | 403)), Some(_)) => format!(
                "the token may not read it ({status}): ask for access on the repository's page, or \
                 set HF_TOKEN to another token"
            ),
            (Some(404), _) => "the hub has no such repository, revision or file (404)".to_owned(),
            (Some(status), _) if !failure.may_pass() => format!("the hub refuses ({status})"),
            _ if failure.may_pass() => format!(
                "the download failed {tries} times, last with: {error}; run it again, it goes on where \
                 it stopped"
            ),
            _ => format!("not what a hub answers: {error}"),
        }
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hub {{ cache: {}, .. }}", self.cache.path().display())
    }
}

/// Why a try failed.
enum Failure {
    Endpoint,
    Silence,
    Panic,
    Api(ApiError),
}

impl Failure {
    /// Whether the next try may go better.
    fn may_pass(&self) -> bool {
        let Self::Api(error) = self else { return false };
        match error {
            ApiError::RequestError(_) => match status(error) {
                Some(status) => status == 408 || status == 429 || status >= 500,
                None => true,
            },
            ApiError::IoError(_) | ApiError::LockAcquisition(_) | ApiError::InvalidResume => true,
            _ => false,
        }
    }
}

/// The HTTP status that an error stands for.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        _ => None,
    }
}

/// One download, resumed from what the cache has of it, and checked for its size.
fn download(
    api: &Api,
    cache: &Cache,
    file: &HubFile,
    bytes: Bytes,
) -> std::result::Result<PathBuf, ApiError> {
    let repo = api.repo(file.repo());
    let about = api.metadata(&repo.url(file.file()))?;
    let size = about.size() as u64;
    let kept = cache.repo(file.repo());
    // A link to what somebody deleted; hf-hub would not replace it.
    let link = kept.pointer_path(about.commit_hash()).join(file.file());
    if link.is_symlink() && !link.exists() {
        fs::remove_file(&link)?;
    }
    let part = kept.blob_path(about.etag()).with_extension("part");
    // hf-hub would ask for what is behind the end, and be refused for ever.
    if fs::metadata(&part).is_ok_and(|part| part.len() >= size) {
        fs::remove_file(&part)?;
    }
    let path = repo.download_with_progress(file.file(), bytes)?;
    let blob = fs::canonicalize(&path)?;
    let got = fs::metadata(&blob)?.len();
    if got != size {
        // For example of a server that sent all of it where the rest was asked for.
        fs::remove_file(&blob)?;
        fs::remove_file(&path).or_else(|gone| match gone.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(gone),
        })?;
        let message = format!("{got} bytes came instead of {size}");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message).into());
    }
    Ok(path)
}

/// Counts what has come.
#[derive(Clone, Default)]
struct Bytes(Arc<AtomicU64>);

impl Progress for Bytes {
    fn init(&mut self, _size: usize, _filename: &str) {}
    fn update(&mut self, size: usize) {
        self.0.fetch_add(size as u64, Ordering::Relaxed);
    }
    fn finish(&mut self) {}
}
