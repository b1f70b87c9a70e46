//! Downloads from a hub on loopback, and everything that can go wrong with them.

mod server;

use std::fs;
use std::path::Path;
use std::time::Duration;

use fadam_data::Error;
use fadam_data::hub::{Hub, HubFile, RepoKind};
use server::{COMMIT, Fault, Server};
use tempfile::TempDir;

const REPO: &str = "datasets/allenai/c4";
const FILE: &str = "en/c4-train.00000-of-01024.json.gz";
const SECRET: &str = "hf_TheSecretOfThisTest";

/// Bytes that a wrong order, a gap or a repetition would change.
fn contents() -> Vec<u8> {
    (0..50_000u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).collect()
}

fn place() -> HubFile {
    HubFile::parse(&format!("hub:allenai/c4/{FILE}"), RepoKind::Dataset, None).unwrap()
}

/// A hub with these variables beside the endpoint, and a cache of its own.
fn hub(server: &Server, home: &TempDir, variables: &[(&str, &str)]) -> Hub {
    let hub = Hub::from_vars(|name| match name {
        "HF_ENDPOINT" => Some(server.endpoint()),
        "HF_HOME" => Some(home.path().to_str().unwrap().to_owned()),
        _ => variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()),
    });
    hub.with_waits(Duration::from_millis(1), Duration::from_secs(20))
}

/// Why it cannot be fetched; the token is never told.
fn refusal(hub: &Hub, file: &HubFile) -> String {
    let error = hub.fetch(file).unwrap_err();
    assert!(matches!(error, Error::Hub { .. }), "{error:?}");
    let (text, debug) = (error.to_string(), format!("{error:?} {hub:?}"));
    assert!(!text.contains(SECRET) && !debug.contains(SECRET), "{text} {debug}");
    text.strip_prefix(&format!("{file}: ")).expect(&text).to_owned()
}

#[test]
fn a_large_file_is_followed_to_where_it_is_and_kept() {
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    server.put_large(REPO, FILE, contents());
    let hub = hub(&server, &home, &[("HF_TOKEN", SECRET)]);
    let path = hub.fetch(&place()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), contents());
    // The cache of huggingface_hub.
    let cache = home.path().join("hub/datasets--allenai--c4");
    assert_eq!(path, cache.join("snapshots").join(COMMIT).join(FILE));
    assert_eq!(fs::read_to_string(cache.join("refs/main")).unwrap(), COMMIT);

    let requests = server.requests();
    assert!(requests.iter().any(|r| r.path.starts_with("/lfs/")), "{requests:?}");
    // Nobody asked for the token.
    assert!(requests.iter().all(|r| r.authorization.is_none()), "{requests:?}");
    assert_eq!(hub.fetch(&place()).unwrap(), path);
    assert_eq!(server.requests(), requests, "what is in the cache is not asked for again");
}

#[test]
fn a_renamed_repository_is_followed() {
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    server.put("google-t5/t5-base", "tokenizer.json", "{}");
    server.rename("google/t5-base", "google-t5/t5-base");
    let file =
        HubFile::parse("hub:google/t5-base", RepoKind::Model, Some("tokenizer.json")).unwrap();
    let path = hub(&server, &home, &[]).fetch(&file).unwrap();
    assert_eq!(fs::read(path).unwrap(), b"{}");
}

#[test]
fn what_is_not_there_is_named() {
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    let reason = refusal(&hub(&server, &home, &[]), &place());
    assert_eq!(reason, "the hub has no such repository, revision or file (404)");
    assert_eq!(server.requests().len(), 1, "it is not tried again");
}

#[test]
fn a_token_is_shown_to_a_hub_that_asks_and_told_to_nobody() {
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    server.put(REPO, FILE, contents());
    server.gate(REPO, SECRET);
    let reason = refusal(&hub(&server, &home, &[]), &place());
    assert!(
        reason.starts_with("the hub wants to know who you are (401): set HF_TOKEN"),
        "{reason}"
    );
    let reason = refusal(&hub(&server, &home, &[("HF_TOKEN", "hf_another")]), &place());
    assert!(reason.starts_with("the token may not read it (403): ask for access"), "{reason}");
    assert!(!reason.contains("hf_another"), "{reason}");
    // The three places of a token.
    fs::write(home.path().join("elsewhere"), format!("{SECRET}\n")).unwrap();
    let elsewhere = home.path().join("elsewhere");
    for variables in
        [&[("HF_TOKEN", SECRET)][..], &[("HF_TOKEN_PATH", elsewhere.to_str().unwrap())], &[]]
    {
        if variables.is_empty() {
            fs::rename(&elsewhere, home.path().join("token")).unwrap();
        }
        let path = hub(&server, &home, variables).fetch(&place()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), contents());
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_broken_connection_is_resumed_where_it_broke() {
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    server.put_large(REPO, FILE, contents());
    server.fail(REPO, FILE, [Fault::CutAfter(70_000), Fault::CutAfter(0), Fault::Status(503)]);
    let path = hub(&server, &home, &[]).fetch(&place()).unwrap();
    assert_eq!(fs::read(path).unwrap(), contents());
    let of_lfs = |r: &server::Request| r.path.starts_with("/lfs/") && r.range.is_some();
    let ranges: Vec<_> =
        server.requests().into_iter().filter(of_lfs).filter_map(|r| r.range).collect();
    assert!(ranges.contains(&"bytes=70000-".to_owned()), "{ranges:?}");
    assert_eq!(ranges.iter().filter(|range| *range == "bytes=0-").count(), 1, "{ranges:?}");
}

#[test]
fn a_connection_that_keeps_breaking_is_an_error_and_the_next_run_goes_on() {
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    server.put(REPO, FILE, contents());
    server.fail(REPO, FILE, [Fault::CutAfter(1000); 5]);
    let reason = refusal(&hub(&server, &home, &[]), &place());
    assert!(reason.starts_with("the download failed 5 times, last with: "), "{reason}");
    let path = hub(&server, &home, &[]).fetch(&place()).unwrap();
    assert_eq!(fs::read(path).unwrap(), contents());
    let last = server.requests().pop().unwrap();
    assert_eq!(last.range.as_deref(), Some("bytes=5000-"));
}

#[test]
fn a_part_that_cannot_be_resumed_is_begun_anew() {
    // Once the whole file was sent where the rest was asked for; once a run ended before it could
    // rename a finished part, and the link leads nowhere.
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    server.put(REPO, FILE, contents());
    server.fail(REPO, FILE, [Fault::CutAfter(70_000), Fault::WholeFile]);
    let path = hub(&server, &home, &[]).fetch(&place()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), contents());
    let blob = fs::canonicalize(&path).unwrap();
    fs::rename(&blob, blob.with_extension("part")).unwrap();
    let path = hub(&server, &home, &[]).fetch(&place()).unwrap();
    assert_eq!(fs::read(path).unwrap(), contents());
}

#[test]
fn a_silent_server_is_not_waited_for_without_end() {
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    server.put(REPO, FILE, contents());
    server.fail(REPO, FILE, [Fault::Silence]);
    let patience = Duration::from_millis(200);
    let hub = hub(&server, &home, &[]).with_waits(Duration::from_millis(1), patience);
    let reason = refusal(&hub, &place());
    assert!(reason.starts_with("the server has sent nothing for 0.2 s"), "{reason}");
}

#[test]
fn a_slow_server_is_waited_for() {
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    server.put_large(REPO, FILE, contents());
    server.fail(REPO, FILE, [Fault::Slow(0), Fault::Slow(100), Fault::Slow(100), Fault::Slow(100)]);
    // It takes longer than anybody waits for a server that says nothing.
    let patience = Duration::from_millis(400);
    let hub = hub(&server, &home, &[]).with_waits(Duration::from_millis(1), patience);
    assert_eq!(fs::read(hub.fetch(&place()).unwrap()).unwrap(), contents());
}

#[test]
fn a_circle_of_redirects_ends() {
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    server.put(REPO, FILE, contents());
    server.fail(REPO, FILE, [Fault::Circle]);
    let reason = refusal(&hub(&server, &home, &[]), &place());
    assert_eq!(reason, "not what a hub answers: more than 10 redirects");
    assert_eq!(server.requests().len(), 11);
}

#[test]
fn a_wrong_length_is_no_file() {
    for size in [0, 1000, 1 << 40] {
        let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
        server.put(REPO, FILE, contents());
        server.fail(REPO, FILE, [Fault::Says(size); 100]);
        let reason = refusal(&hub(&server, &home, &[]), &place());
        assert!(reason.starts_with("the download failed 5 times, last with: "), "{reason}");
        server.forgive(REPO, FILE);
        assert_eq!(
            fs::read(hub(&server, &home, &[]).fetch(&place()).unwrap()).unwrap(),
            contents()
        );
    }
}

#[test]
fn a_token_does_not_follow_a_file_to_another_server() {
    let (server, other) = (Server::start(), Server::start());
    let home = tempfile::tempdir().unwrap();
    server.put_large(REPO, FILE, contents());
    server.gate(REPO, SECRET);
    server.keep_large_at(&other);
    other.put(REPO, FILE, contents());
    let hub = hub(&server, &home, &[("HF_TOKEN", SECRET)]);
    assert_eq!(fs::read(hub.fetch(&place()).unwrap()).unwrap(), contents());
    let asked = other.requests();
    assert!(!asked.is_empty() && asked.iter().all(|r| r.authorization.is_none()), "{asked:?}");
    assert!(server.requests().iter().any(|r| r.authorization.is_some()));
}

#[test]
fn an_address_that_is_no_longer_good_is_asked_for_again() {
    let (server, other) = (Server::start(), Server::start());
    let home = tempfile::tempdir().unwrap();
    server.put_large(REPO, FILE, contents());
    server.keep_large_at(&other);
    other.put(REPO, FILE, contents());
    other.fail(REPO, FILE, [Fault::Status(403)]);
    let hub = hub(&server, &home, &[("HF_TOKEN", SECRET)]);
    assert_eq!(fs::read(hub.fetch(&place()).unwrap()).unwrap(), contents());
    other.fail(REPO, FILE, [Fault::Status(403); 5]);
    fs::remove_dir_all(home.path().join("hub")).unwrap();
    let reason = refusal(&hub, &place());
    assert!(reason.contains("failed 5 times, last with: http status: 403"), "{reason}");
    assert!(other.requests().iter().all(|r| r.authorization.is_none()));
}

#[test]
fn a_login_page_is_no_file() {
    let (server, other) = (Server::start(), Server::start());
    let home = tempfile::tempdir().unwrap();
    server.put_large(REPO, FILE, contents());
    server.keep_large_at(&other);
    other.put(REPO, FILE, contents());
    server.fail(REPO, FILE, [Fault::Page]);
    let hub = hub(&server, &home, &[]);
    let reason = refusal(&hub, &place());
    let expected = "not what a hub answers: an answer without x-repo-commit; is it the login page";
    assert!(reason.starts_with(expected), "{reason}");
    assert!(!home.path().join("hub").exists(), "nothing is left in the cache");
    // In the place of the bytes, where a part is already.
    other.fail(REPO, FILE, [Fault::CutAfter(5000)]);
    other.fail(REPO, FILE, [Fault::Page; 8]);
    let reason = refusal(&hub, &place());
    assert!(reason.contains(&format!("25 bytes came instead of {}", contents().len())), "{reason}");
    assert_eq!(fs::read(hub.fetch(&place()).unwrap()).unwrap(), contents());
}

#[test]
fn what_falls_silent_is_resumed_by_the_next_run() {
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    server.put_large(REPO, FILE, contents());
    server.fail(REPO, FILE, [Fault::Stall(70_000)]);
    let patience = Duration::from_millis(400);
    let hub = hub(&server, &home, &[]).with_waits(Duration::from_millis(1), patience);
    let reason = refusal(&hub, &place());
    assert!(reason.starts_with("the server has sent nothing for 0.4 s; run it again"), "{reason}");
    assert_eq!(fs::read(hub.fetch(&place()).unwrap()).unwrap(), contents());
    assert_eq!(server.requests().pop().unwrap().range.as_deref(), Some("bytes=70000-"));
}

#[test]
fn more_bytes_and_compressed_ones() {
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    server.put_large(REPO, FILE, contents());
    server.fail(REPO, FILE, [Fault::Tail; 3]);
    let path = hub(&server, &home, &[]).fetch(&place()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), contents());
    fs::remove_dir_all(home.path().join("hub")).unwrap();
    // Undone where the hub says how large it is: by the redirect, for the first byte, and for all.
    server.fail(REPO, FILE, [Fault::Gzip; 3]);
    hub(&server, &home, &[]).fetch(&place()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), contents());
    let asked = server.requests();
    assert!(asked.iter().all(|r| r.accept_encoding.as_deref() == Some("identity")), "{asked:?}");
    // Refused where nobody knows.
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    server.put(REPO, FILE, contents());
    server.fail(REPO, FILE, [Fault::Gzip]);
    let reason = refusal(&hub(&server, &home, &[]), &place());
    assert_eq!(reason, "not what a hub answers: the size is not told");
}

#[test]
fn two_at_once_download_once() {
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    server.put(REPO, FILE, contents());
    server.fail(REPO, FILE, [Fault::Slow(30); 6]);
    let hub = hub(&server, &home, &[]);
    std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| hub.fetch(&place()).unwrap()));
        for one in both {
            assert_eq!(fs::read(one.join().unwrap()).unwrap(), contents());
        }
    });
    let whole = |r: &server::Request| r.range.as_deref() == Some("bytes=0-");
    assert_eq!(server.requests().into_iter().filter(whole).count(), 1);
}

#[test]
fn a_download_of_another_process_is_waited_for_while_it_grows() {
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    server.put(REPO, FILE, contents());
    let hub = hub(&server, &home, &[]);
    let path = hub.fetch(&place()).unwrap();
    let blob = fs::canonicalize(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::remove_file(&blob).unwrap();
    let lock = fs::File::create(blob.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let hub = hub.with_waits(Duration::from_millis(1), Duration::from_millis(300));
    let reason = refusal(&hub, &place());
    assert!(reason.starts_with("another process downloads it (it holds "), "{reason}");
    assert!(reason.ends_with("has got nothing for 0.3 s"), "{reason}");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| hub.fetch(&place()).unwrap());
        for length in 1..=5 {
            std::thread::sleep(Duration::from_millis(150));
            fs::write(blob.with_extension("part"), &contents()[..length * 1000]).unwrap();
        }
        lock.unlock().unwrap();
        assert_eq!(fs::read(waiting.join().unwrap()).unwrap(), contents());
    });
    assert_eq!(server.requests().pop().unwrap().range.as_deref(), Some("bytes=5000-"));
}

#[test]
fn a_cache_that_cannot_be_written_is_named_at_once() {
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    server.put(REPO, FILE, contents());
    fs::write(home.path().join("hub"), "a file").unwrap();
    let reason = refusal(&hub(&server, &home, &[]), &place());
    assert!(reason.starts_with("the cache cannot be written: "), "{reason}");
    assert!(reason.contains("datasets--allenai--c4"), "{reason}");
    assert_eq!(server.requests().len(), 1, "it is not tried again");
}

#[test]
fn what_is_no_hub_and_what_is_not_reached() {
    let home = tempfile::tempdir().unwrap();
    let at = |endpoint: &str, offline: &str| {
        let hub = Hub::from_vars(|name| match name {
            "HF_ENDPOINT" => Some(endpoint.to_owned()),
            "HF_HUB_CACHE" => Some(home.path().to_str().unwrap().to_owned()),
            "HF_HUB_OFFLINE" => Some(offline.to_owned()),
            _ => None,
        });
        hub.with_waits(Duration::from_millis(1), Duration::from_secs(20))
    };
    let reason = refusal(&at("mirror.example", "0"), &place());
    assert_eq!(reason, "HF_ENDPOINT must begin with http:// or https://");
    let reason = refusal(&at("http://mirror.example", "1"), &place());
    assert_eq!(reason, "it is not in the cache, and HF_HUB_OFFLINE is set");
    // A port that nobody listens on.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let reason = refusal(&at(&format!("http://{closed}"), "0"), &place());
    assert!(reason.starts_with("the download failed 5 times, last with: "), "{reason}");
    assert!(fs::read_dir(home.path()).unwrap().next().is_none(), "nothing is left in the cache");
}

#[test]
fn places_of_the_hub() {
    assert!(HubFile::is_meant(Path::new("hub:a/b")) && !HubFile::is_meant(Path::new("a/hub:b")));
    let file = HubFile::parse("hub:a/b@v1.0/c/d.json", RepoKind::Dataset, None).unwrap();
    assert_eq!((file.file(), file.to_string().as_str()), ("c/d.json", "hub:a/b@v1.0/c/d.json"));
    for wrong in [
        "hub:",
        "hub:a",
        "hub:a/b",
        "hub:a/b/",
        "hub:/b/c",
        "hub:a/b@/c",
        "hub:a/b/../../c",
        "hub:a/b/c d",
        "hub:a/b/{1..2",
        "a/b/c",
    ] {
        let error = HubFile::parse(wrong, RepoKind::Dataset, None).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{wrong}: not a place of the hub")), "{error}");
    }
}
