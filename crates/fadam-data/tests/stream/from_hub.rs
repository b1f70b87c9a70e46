//! Shards of a hub: the same batches as from a folder, and what is wrong with a shard.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fadam_data::Error;
use fadam_data::hub::Hub;
use fadam_data::text::{Shards, StreamBatches, StreamSpec, TextSource};
use tempfile::TempDir;

use super::server::{Fault, Server};
use super::{gzip, lines, mirror, shard, shard_name, spec, stream, take, texts, tokenizer};

const REPO: &str = "datasets/allenai/c4";
const TRAIN: &str = "hub:allenai/c4/en/c4-train.{00000..00002}-of-00003.json.gz";

fn file(shard: usize) -> String {
    format!("en/{}", shard_name(shard))
}

/// A hub with the three shards.
fn c4() -> Server {
    let server = Server::start();
    (0..3).for_each(|n| server.put_large(REPO, &file(n), shard(n)));
    server
}

fn hub(server: &Server, home: &TempDir) -> Hub {
    let hub = Hub::from_vars(|name| match name {
        "HF_ENDPOINT" => Some(server.endpoint()),
        "HF_HOME" => Some(home.path().to_str().unwrap().to_owned()),
        _ => None,
    });
    hub.with_waits(Duration::from_millis(1), Duration::from_secs(20))
}

fn streamed(server: &Server, home: &TempDir, spec: StreamSpec) -> StreamBatches {
    let cache = home.path().join("tokens");
    let shards = Shards::find(&[TRAIN.into()], &tokenizer(), cache, hub(server, home)).unwrap();
    StreamBatches::new(Arc::new(shards), spec).unwrap()
}

#[test]
fn a_hub_and_its_mirror_give_the_same_batches() {
    let (server, home) = (c4(), tempfile::tempdir().unwrap());
    server.fail(REPO, &file(1), [Fault::CutAfter(100), Fault::Status(502)]);
    let of_hub = take(&mut streamed(&server, &home, spec(4, 12, 30)), 100);
    let (mirror, cache) = (mirror(), tempfile::tempdir().unwrap());
    assert_eq!(of_hub, take(&mut stream(&mirror, &cache, spec(4, 12, 30)), 100));
    // From then on neither the hub nor its cache is needed.
    let requests = server.requests().len();
    fs::remove_dir_all(home.path().join("hub")).unwrap();
    assert_eq!(of_hub, take(&mut streamed(&server, &home, spec(4, 12, 30)), 100));
    assert_eq!(server.requests().len(), requests);
}

#[test]
fn a_missing_shard_is_an_error_of_the_next_batch_and_not_the_end() {
    let (server, home) = (c4(), tempfile::tempdir().unwrap());
    server.fail(REPO, &file(2), [Fault::Status(404), Fault::Status(404)]);
    let mut stream = streamed(&server, &home, spec(4, 12, usize::MAX));
    for _ in 0..2 {
        let error = stream.next_batch().unwrap_err().to_string();
        assert!(error.starts_with("hub:allenai/c4@main/en/c4-train.00002-of-00003.json.gz: "));
        assert!(error.ends_with("(404)"), "{error}");
    }
    // It is there now: as if nothing had been.
    let (mirror, cache) = (mirror(), tempfile::tempdir().unwrap());
    let expected = take(&mut super::stream(&mirror, &cache, spec(4, 12, usize::MAX)), 50);
    assert_eq!(take(&mut stream, 50), expected);
    assert_eq!(stream.report().encoded_shards, 3);
}

/// What the next batch says of a shard 1 with these bytes; the cache must hold nothing of it.
fn refusal(bytes: Vec<u8>) -> (Error, PathBuf) {
    let (server, home) = (c4(), tempfile::tempdir().unwrap());
    server.put_large(REPO, &file(1), bytes);
    let mut stream = streamed(&server, &home, spec(4, 12, usize::MAX));
    let error = stream.next_batch().unwrap_err();
    let kept = fs::read_dir(home.path().join("tokens")).unwrap();
    for entry in kept {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let of_others = !name.starts_with(&shard_name(1)) && name.ends_with(".tokens");
        assert!(of_others || name == "lock", "{name} is left of the bad shard");
    }
    (error, home.path().join("hub"))
}

#[test]
fn a_corrupt_gzip_member_names_file_and_line() {
    // The checksum of the second member.
    let mut bytes = shard(1);
    let at = bytes.len() - 8;
    bytes[at] ^= 0xff;
    let (error, cache) = refusal(bytes);
    let (text, lines) = (error.to_string(), 25 + 2);
    assert!(matches!(error, Error::CorruptGzip { line, .. } if line == lines + 1), "{text}");
    assert!(text.starts_with(cache.to_str().unwrap()) && text.contains(&shard_name(1)), "{text}");

    let cut = shard(1);
    let (error, _) = refusal(cut[..cut.len() - 30].to_vec());
    assert!(matches!(error, Error::TruncatedGzip { .. }), "{error}");
}

#[test]
fn a_malformed_line_names_file_and_line() {
    let good = lines(&texts(1, 3));
    let (error, _) = refusal(gzip(&(good.clone() + "{\"text\": \"cut of")));
    assert!(error.to_string().contains(&format!("{}:4: not JSON: ", shard_name(1))), "{error}");
    let (error, _) = refusal(gzip(&(good + "{\"url\": \"https://example.org\"}\n")));
    assert!(error.to_string().contains(&format!("{}:4: no string field", shard_name(1))));
}

#[test]
fn held_out_text_is_read_as_far_as_it_is_needed() {
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    let name = "en/c4-validation.00000-of-00002.json.gz";
    // Enough, and then a line that would be an error.
    let text = lines(&texts(4, 2000)) + "no JSON";
    server.put_large(REPO, name, gzip(&text));
    let hub = hub(&server, &home);
    let source = |files: &str| {
        let pattern = format!("hub:allenai/c4/en/c4-validation.{files}-of-00002.json.gz");
        TextSource::Paths(vec![pattern.into()])
    };
    let tokenizer = tokenizer();
    // The second file is not there, and not asked for.
    let (few, report) = tokenizer.encode_first(&source("{00000..00001}"), &hub, 500).unwrap();
    assert!((500..5000).contains(&few.tokens.len()), "{}", few.tokens.len());
    assert_eq!(report.files, 1);
    assert_eq!(few.bytes.iter().map(|&b| u64::from(b)).sum::<u64>(), report.bytes);
    let error = tokenizer.encode_first(&source("00000"), &hub, usize::MAX).unwrap_err();
    assert!(error.to_string().contains(":2001: not JSON"), "{error}");
}

#[test]
fn training_files_are_not_held_out() {
    let (server, home, mirror) = (c4(), tempfile::tempdir().unwrap(), mirror());
    let cache = home.path().join("tokens");
    let find = |paths: &[PathBuf]| {
        Shards::find(paths, &tokenizer(), cache.clone(), hub(&server, &home)).unwrap()
    };
    let one = PathBuf::from(format!("hub:allenai/c4@main/{}", file(1)));
    let error = find(&[TRAIN.into()]).check_held_out(&[one]).unwrap_err().to_string();
    assert!(error.contains("c4-train.00001") && error.contains("both in the training"), "{error}");
    let local = mirror.path().join("../").join(mirror.path().file_name().unwrap());
    let error = find(&[mirror.path().into()]).check_held_out(&[local.join(shard_name(2))]);
    assert!(matches!(error, Err(Error::HeldOutOverlap { .. })));
    find(&[TRAIN.into()]).check_held_out(&[mirror.path().into()]).unwrap();
    assert!(server.requests().is_empty(), "nothing is downloaded for that");
}
