//! Folders of pictures: `train/n01440764/n01440764_10026.JPEG`.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::SourceReport;
use super::picture::{Picture, PictureData};
use crate::{Error, Result};

/// What names of pictures end in; what they are is read from their bytes.
const ENDINGS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// Whether a file is called as pictures are.
pub(super) fn is_picture(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    ENDINGS.contains(&&*ending)
}

/// Adds the pictures below `root`, in the order of their paths, each with the name of its folder as its
/// class; those in `root` itself have none.
pub(super) fn read(
    root: &Path,
    pictures: &mut Vec<Picture>,
    report: &mut SourceReport,
) -> Result<()> {
    read_below(root, "", None, pictures, report)
}

/// The same for `folder`, whose path below the root is `prefix`, with a slash behind it.
fn read_below(
    folder: &Path,
    prefix: &str,
    class: Option<&Arc<str>>,
    pictures: &mut Vec<Picture>,
    report: &mut SourceReport,
) -> Result<()> {
    let refused = |cause| Error::Io { action: "list", path: folder.to_path_buf(), cause };
    let mut entries =
        fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(refused)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().map_err(refused)?;
        // Links to folders are not followed: they may lead back up.
        if kind.is_dir() {
            let (below, class) = (format!("{prefix}{name}/"), Arc::from(name));
            read_below(&path, &below, Some(&class), pictures, report)?;
        } else if is_picture(&path) && !(kind.is_symlink() && path.is_dir()) {
            let (name, class) = (format!("{prefix}{name}"), class.cloned());
            pictures.push(Picture { name, class, data: PictureData::File(path) });
            report.files += 1;
        } else {
            report.ignored_files.push(path);
        }
    }
    Ok(())
}
