//! Parquet tables of pictures as the hub has them, written with the crate that reads them.

use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// A row of `ILSVRC/imagenet-1k`.
pub(super) struct Row {
    pub(super) bytes: Option<Vec<u8>>,
    pub(super) path: Option<String>,
    pub(super) label: i64,
}

/// Its layout, in the order in which it has its columns.
const IMAGENET: &str = "message schema {
    OPTIONAL GROUP image { OPTIONAL BYTE_ARRAY bytes; OPTIONAL BYTE_ARRAY path (UTF8); }
    OPTIONAL INT64 label;
}";

/// A table with one row group for each of `groups`, in pages of at most two rows.
pub(super) fn imagenet(groups: &[Vec<Row>], compression: Compression) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(IMAGENET).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_write_batch_size(1)
        .set_data_page_row_count_limit(2)
        .build();
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties.into()).unwrap();
    for rows in groups {
        let mut group = writer.next_row_group().unwrap();
        let pictures = rows.iter().map(|row| row.bytes.clone().map(ByteArray::from));
        let paths = rows.iter().map(|row| row.path.as_deref().map(ByteArray::from));
        for values in [pictures.collect::<Vec<_>>(), paths.collect()] {
            // `image` is there in each row: a null within it has level 1, a value 2.
            let levels: Vec<i16> = values.iter().map(|v| 2 - i16::from(v.is_none())).collect();
            let values: Vec<ByteArray> = values.into_iter().flatten().collect();
            let mut column = group.next_column().unwrap().unwrap();
            let writer = column.typed::<ByteArrayType>();
            writer.write_batch(&values, Some(&levels), None).unwrap();
            column.close().unwrap();
        }
        let labels: Vec<i64> = rows.iter().map(|row| row.label).collect();
        let mut column = group.next_column().unwrap().unwrap();
        let writer = column.typed::<Int64Type>();
        writer.write_batch(&labels, Some(&vec![1; labels.len()]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

/// A table of another layout, without rows.
pub(super) fn empty(schema: &str) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut bytes = Vec::new();
    SerializedFileWriter::new(&mut bytes, schema, Arc::default()).unwrap().close().unwrap();
    bytes
}
