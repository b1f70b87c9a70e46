//! Tables of the hub, with a picture in each row: the layout of `ILSVRC/imagenet-1k`.
//!
//! ```text
//! image: { bytes, path }, label
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::picture::{Picture, PictureData};
use crate::table::{ParquetRow, Table};
use crate::{Error, Result};

/// What the table holds, for messages.
const EXPECTED: &str = "image {bytes, path}, and perhaps label";

/// The pictures of a table, in the order of its rows; `place` is what it is called in messages.
pub(super) fn read(path: &Path, place: &str) -> Result<Vec<Picture>> {
    let wrong = |place, reason| Error::ImageTable { place, reason };
    let table = Arc::new(Table::open(path, place, wrong)?);
    let column = table.needed("image.bytes", EXPECTED)?;
    let (name, label) = (table.column("image.path"), table.column("label"));
    let used: Vec<usize> = [Some(column), name, label].into_iter().flatten().collect();
    table.check_compression(&used)?;

    // The cache of the hub has the file under the same name.
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let mut classes: BTreeMap<String, Arc<str>> = BTreeMap::new();
    let mut pictures = Vec::new();
    for group in 0..table.groups() {
        let optional =
            |column: Option<usize>| column.map(|column| table.strings(group, column)).transpose();
        let (names, labels) = (optional(name)?, optional(label)?);
        for row in 0..table.rows(group) {
            let of = |column: &Option<Vec<Option<String>>>| column.as_ref()?[row].clone();
            let class = of(&labels).map(|label| {
                classes.entry(label).or_insert_with_key(|label| label.as_str().into()).clone()
            });
            let (table, number) = (table.clone(), pictures.len());
            let name = of(&names).unwrap_or_default();
            let data = PictureData::Row(ParquetRow { table, column, group, row, number, name });
            pictures.push(Picture { name: format!("{file}:{number}"), class, data });
        }
    }
    Ok(pictures)
}
