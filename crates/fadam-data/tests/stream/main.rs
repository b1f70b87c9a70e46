//! Streams: what their batches are, resuming, the cache of tokens, and bad shards.

#[allow(dead_code)] // all of it is used by the tests of the hub
#[path = "../hub/server.rs"]
mod server;

mod batches;
mod cache;
mod from_hub;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fadam_data::hub::Hub;
use fadam_data::text::{
    Document, Origin, Shards, StreamBatches, StreamSpec, TextSource, TokenBatch, Tokenizer,
};
use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

/// A gzip member.
fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// JSON lines as C4 has them.
fn lines(texts: &[String]) -> String {
    let line = |text: &String| {
        let (time, url) = ("2019-04-25T12:57:54Z", "https://example.org/page");
        serde_json::json!({ "text": text, "timestamp": time, "url": url }).to_string() + "\n"
    };
    texts.iter().map(line).collect()
}

/// Documents of different lengths, none like another.
fn texts(shard: usize, count: usize) -> Vec<String> {
    let words = ["peace", "the", "people", "of", "this", "nation", "ask", "not", "great", "we"];
    let text = |n: usize| {
        let word = |i: usize| words[(i * i + 3 * n + shard) % words.len()];
        let sentence: Vec<&str> = (0..5 + (7 * n + shard) % 23).map(word).collect();
        format!("{shard}.{n} {}", sentence.join(" "))
    };
    (0..count).map(text).collect()
}

fn shard_name(shard: usize) -> String {
    format!("c4-train.{shard:05}-of-00003.json.gz")
}

/// Three shards of two gzip members each, with an empty document and an empty line between them.
fn shard(shard: usize) -> Vec<u8> {
    let texts = texts(shard, 20 + 5 * shard);
    let (first, second) = texts.split_at(8);
    let empty = lines(&[" \n".to_owned()]) + "\n";
    [gzip(&(lines(first) + &empty)), gzip(&lines(second))].concat()
}

/// A folder with the three shards.
fn mirror() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..3 {
        fs::write(folder.path().join(shard_name(n)), shard(n)).unwrap();
    }
    folder
}

fn tokenizer() -> Tokenizer {
    let origin = Origin { file: Path::new("a").into(), line: None };
    let text = (0..3).flat_map(|n| texts(n, 30)).collect::<Vec<_>>().join(" ");
    Tokenizer::train_byte_level_bpe(&[Document { text, origin }], 290).unwrap()
}

/// No hub can be reached.
fn offline() -> Hub {
    Hub::from_vars(|name| (name == "HF_HUB_OFFLINE").then(|| "1".to_owned()))
}

fn stream_of(paths: &[PathBuf], cache: &Path, spec: StreamSpec) -> StreamBatches {
    let shards = Shards::find(paths, &tokenizer(), cache.into(), offline()).unwrap();
    StreamBatches::new(Arc::new(shards), spec).unwrap()
}

fn stream(mirror: &TempDir, cache: &TempDir, spec: StreamSpec) -> StreamBatches {
    stream_of(&[mirror.path().into()], cache.path(), spec)
}

fn spec(batch: usize, seq_len: usize, shuffle: usize) -> StreamSpec {
    StreamSpec { batch, seq_len, seed: 7, shuffle }
}

fn take(stream: &mut StreamBatches, count: usize) -> Vec<TokenBatch> {
    (0..count).map(|_| stream.next_batch().unwrap()).collect()
}

/// The tokens of a file, read without a stream.
fn tokens_of(file: &Path) -> Vec<u32> {
    let (documents, _) = TextSource::Paths(vec![file.into()]).read().unwrap();
    tokenizer().encode_documents(&documents).unwrap()
}
