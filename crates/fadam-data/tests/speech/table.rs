//! Parquet tables as the hub has them, written with the crate that reads them.

use std::sync::Arc;

use parquet::basic::Compression;
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// A row of LibriSpeech on the hub.
pub(super) struct Row {
    pub(super) sound: Option<Vec<u8>>,
    pub(super) name: Option<String>,
    pub(super) text: Option<String>,
    pub(super) speaker: i64,
    pub(super) id: String,
}

/// The layout of `openslr/librispeech_asr`, in the order in which it has its columns.
const LIBRISPEECH: &str = "message schema {
    OPTIONAL BYTE_ARRAY file (UTF8);
    OPTIONAL GROUP audio { OPTIONAL BYTE_ARRAY bytes; OPTIONAL BYTE_ARRAY path (UTF8); }
    OPTIONAL BYTE_ARRAY text (UTF8);
    OPTIONAL INT64 speaker_id;
    OPTIONAL INT64 chapter_id;
    OPTIONAL BYTE_ARRAY id (UTF8);
}";

/// A table with one row group for each of `groups`, in pages of at most two rows.
pub(super) fn librispeech(groups: &[Vec<Row>], compression: Compression) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(LIBRISPEECH).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_write_batch_size(1)
        .set_data_page_row_count_limit(2)
        .build();
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties.into()).unwrap();
    for rows in groups {
        let mut group = writer.next_row_group().unwrap();
        for column in 0..7 {
            let mut open = group.next_column().unwrap().unwrap();
            match open.untyped() {
                ColumnWriter::ByteArrayColumnWriter(writer) => {
                    // `audio` is there in each row: a null within it has level 1, a value 2.
                    let top = if column == 1 || column == 2 { 2 } else { 1 };
                    let values: Vec<_> = rows.iter().map(|row| cell(row, column)).collect();
                    let level = |value: &Option<ByteArray>| top - i16::from(value.is_none());
                    let levels: Vec<i16> = values.iter().map(level).collect();
                    let values: Vec<ByteArray> = values.into_iter().flatten().collect();
                    writer.write_batch(&values, Some(&levels), None).unwrap();
                }
                ColumnWriter::Int64ColumnWriter(writer) => {
                    let values: Vec<i64> = rows.iter().map(|row| row.speaker).collect();
                    writer.write_batch(&values, Some(&vec![1; rows.len()]), None).unwrap();
                }
                _ => unreachable!("no other type in the schema"),
            }
            open.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

fn cell(row: &Row, column: usize) -> Option<ByteArray> {
    let text = |text: &Option<String>| text.as_deref().map(ByteArray::from);
    match column {
        1 => row.sound.clone().map(ByteArray::from),
        3 => text(&row.text),
        6 => Some(ByteArray::from(&*row.id)),
        _ => text(&row.name),
    }
}

/// A table of another layout, without rows.
pub(super) fn empty(schema: &str) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut bytes = Vec::new();
    SerializedFileWriter::new(&mut bytes, schema, Arc::default()).unwrap().close().unwrap();
    bytes
}
