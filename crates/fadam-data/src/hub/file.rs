//! What a file of the hub is called.

use std::fmt;
use std::path::Path;

use hf_hub::{Repo, RepoType};

use crate::{Error, Result};

/// What a repository holds; the hub has them under different addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepoKind {
    /// Text, speech or images.
    Dataset,
    /// Weights, or a tokenizer.
    Model,
}

/// A file of a repository, written `hub:OWNER/NAME[@REVISION]/FILE`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubFile {
    kind: RepoKind,
    repo: String,
    revision: String,
    file: String,
}

impl HubFile {
    /// What the place of such a file begins with.
    pub const PREFIX: &str = "hub:";

    /// Whether `place` is meant as a file of the hub.
    pub fn is_meant(place: &Path) -> bool {
        place.to_str().is_some_and(|place| place.starts_with(Self::PREFIX))
    }

    /// Reads `hub:OWNER/NAME[@REVISION]/FILE`; the revision is `main` unless given, and the file
    /// `default_file`.
    ///
    /// ```
    /// use fadam_data::hub::{HubFile, RepoKind};
    ///
    /// let shard = "hub:allenai/c4/en/c4-train.00000-of-01024.json.gz";
    /// let shard = HubFile::parse(shard, RepoKind::Dataset, None)?;
    /// assert_eq!(shard.file(), "en/c4-train.00000-of-01024.json.gz");
    /// let t5 = HubFile::parse("hub:google-t5/t5-base@main", RepoKind::Model, Some("tokenizer.json"))?;
    /// assert_eq!(t5.to_string(), "hub:google-t5/t5-base@main/tokenizer.json");
    /// # Ok::<(), fadam_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// Anything of another form.
    pub fn parse(place: &str, kind: RepoKind, default_file: Option<&str>) -> Result<Self> {
        let wrong = || Error::HubPlace { place: place.to_owned() };
        let parts = place.strip_prefix(Self::PREFIX).ok_or_else(wrong)?;
        let mut parts = parts.splitn(3, '/');
        let owner = parts.next().ok_or_else(wrong)?;
        let name = parts.next().ok_or_else(wrong)?;
        let file = parts.next().or(default_file).ok_or_else(wrong)?;
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        // The parts become folders of the cache and parts of an address.
        let plain = |part: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+=".contains(c);
            !part.is_empty() && part != "." && part != ".." && part.chars().all(allowed)
        };
        if ![owner, name, revision].into_iter().chain(file.split('/')).all(plain) {
            return Err(wrong());
        }
        let (revision, file) = (revision.to_owned(), file.to_owned());
        Ok(Self { kind, repo: format!("{owner}/{name}"), revision, file })
    }

    /// The path within the repository.
    pub fn file(&self) -> &str {
        &self.file
    }

    pub(super) fn repo(&self) -> Repo {
        let kind = match self.kind {
            RepoKind::Dataset => RepoType::Dataset,
            RepoKind::Model => RepoType::Model,
        };
        Repo::with_revision(self.repo.clone(), kind, self.revision.clone())
    }

    /// Behind the address of the hub.
    pub(super) fn path_on_hub(&self) -> String {
        let repo = self.repo();
        format!("/{}/resolve/{}/{}", repo.url(), repo.url_revision(), self.file)
    }
}

impl fmt::Display for HubFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}@{}/{}", Self::PREFIX, self.repo, self.revision, self.file)
    }
}
