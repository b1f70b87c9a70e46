//! Reading: what is read, in which order, what is counted, and every kind of bad input.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use fadam_data::text::{Document, SourceReport, TextSource};
use fadam_data::{Error, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn write(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

fn read(paths: &[&Path]) -> Result<(Vec<Document>, SourceReport)> {
    TextSource::Paths(paths.iter().map(|path| path.to_path_buf()).collect()).read()
}

/// The message, which begins with the path; returned without it.
fn message(path: &Path) -> String {
    let error = read(&[path]).unwrap_err().to_string();
    error.strip_prefix(&path.display().to_string()).expect("names the path").to_owned()
}

fn texts(documents: &[Document]) -> Vec<&str> {
    documents.iter().map(|document| &*document.text).collect()
}

#[test]
fn embedded_addresses_are_what_the_script_makes() {
    let (documents, report) = TextSource::Embedded.read().unwrap();
    assert_eq!((documents.len(), report.documents), (62, 62));
    // The .txt files of the package for these years have 2,143,081 bytes, each with a newline at
    // its end.
    assert_eq!(report.bytes, 2_143_081 - 62);
    assert!(documents[0].text.starts_with("To the Congress of the United States: Once again"));
    assert!(documents[61].text.starts_with("Thank you. (Applause.)"));
    assert_eq!(documents[61].origin.to_string(), "embedded:sotu-1961-2021.jsonl:62");
    assert!(documents.iter().all(|d| d.text.len() > 9_000 && !d.text.contains('\u{fffd}')));
}

#[test]
fn a_folder_is_read_in_the_order_of_its_paths_and_the_rest_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "b.txt", "B");
    write(&folder, "a/z.jsonl", "{\"text\": \"AZ1\"}\n{\"url\": 1, \"text\": \"AZ2\"}");
    write(&folder, "a/b.TXT", "AB");
    write(&folder, "c.json.gz", gzip("{\"text\": \"C\"}\n"));
    write(&folder, "d.jsonl.gz", gzip("{\"text\": \"D\"}\n"));
    write(&folder, "empty.txt", " \n");
    write(&folder, "notes.md", "not read");
    write(&folder, "table.json", "{}");
    let (documents, report) = read(&[folder.path()]).unwrap();
    assert_eq!(texts(&documents), ["AB", "AZ1", "AZ2", "B", "C", "D"]);
    let origin = documents[2].origin.to_string();
    assert!(origin.ends_with("z.jsonl:2"), "{origin}");
    let ignored_files = vec![folder.path().join("notes.md"), folder.path().join("table.json")];
    let expected =
        SourceReport { files: 6, documents: 6, bytes: 11, empty_documents: 1, ignored_files };
    assert_eq!(report, expected);
    assert_eq!(
        report.to_string(),
        format!(
            "6 documents, 11 bytes, from 6 files; 1 empty document skipped; 2 other files ignored, first {}",
            folder.path().join("notes.md").display()
        )
    );
}

#[test]
fn named_paths_keep_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let a = write(&folder, "a.txt", "A");
    let b = write(&folder, "b.txt", "B");
    let (documents, _) = read(&[&b, &a]).unwrap();
    assert_eq!(texts(&documents), ["B", "A"]);
}

#[test]
fn text_is_kept_as_it_is_but_for_a_byte_order_mark() {
    let folder = tempfile::tempdir().unwrap();
    let plain = write(&folder, "a.txt", "\u{feff} naïve\r\n\n“x” \n");
    let lines = write(&folder, "b.jsonl", "\u{feff}{\"text\":\" a\\n\\u00e9\\ud83d\\ude00 \"}\r\n");
    let (documents, _) = read(&[&plain, &lines]).unwrap();
    assert_eq!(texts(&documents), [" naïve\r\n\n“x” \n", " a\né😀 "]);
}

#[test]
fn empty_documents_and_blank_lines_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path =
        write(&folder, "a.jsonl", "{\"text\":\"\"}\n\n{\"text\":\"x\"}\n{\"text\":\" \\t\"}\n");
    let (documents, report) = read(&[&path]).unwrap();
    assert_eq!(texts(&documents), ["x"]);
    assert_eq!(documents[0].origin.line, Some(3));
    assert_eq!(report.empty_documents, 3);
}

#[test]
fn gzip_of_several_members_is_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    // The second line is cut between the members.
    let members =
        [gzip("{\"text\":\"one\"}\n{\"te"), gzip("xt\":\"two\"}\n"), gzip("{\"text\":\"three\"}")];
    let path = write(&folder, "a.jsonl.gz", members.concat());
    assert_eq!(texts(&read(&[&path]).unwrap().0), ["one", "two", "three"]);
}

#[test]
fn gzip_cut_anywhere_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let lines: Vec<_> = (0..50).map(|n| format!("{{\"text\":\"line {}\"}}", n * n)).collect();
    let whole = gzip(&lines.join("\n"));
    for length in 0..whole.len() {
        let path = write(&folder, "a.jsonl.gz", &whole[..length]);
        let error = read(&[&path]).unwrap_err();
        assert!(matches!(error, Error::TruncatedGzip { .. }), "{length}: {error}");
    }
    write(&folder, "a.jsonl.gz", &whole[..whole.len() / 2]);
    let path = folder.path().join("a.jsonl.gz");
    let message = message(&path);
    assert!(message.starts_with(": the gzip data ends early, in line "), "{message}");
}

#[test]
fn gzip_that_is_none_or_damaged_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let none = write(&folder, "none.jsonl.gz", "{\"text\":\"not compressed at all\"}\n");
    assert!(message(&none).starts_with(": not valid gzip data, in line 1 of the text: "));
    let mut bytes = gzip("{\"text\":\"checked\"}\n");
    let crc = bytes.len() - 8;
    bytes[crc] ^= 1;
    let damaged = write(&folder, "damaged.jsonl.gz", bytes);
    assert!(matches!(read(&[&damaged]).unwrap_err(), Error::CorruptGzip { .. }));
}

#[test]
fn bad_lines_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let good = "{\"text\":\"a\"}\n";
    for (bad, expected) in [
        (
            "{\"text\": \"a",
            ":3: not JSON: EOF while parsing a string (column 11); expected one object a line",
        ),
        (
            "{'text': 1}",
            ":3: not JSON: key must be a string (column 2); expected one object a line",
        ),
        ("[\"a\"]", ":3: not JSON: the line does not begin with {; expected one object a line"),
        (
            "{\"text\":\"a\"} {}",
            ":3: not JSON: trailing characters (column 14); expected one object a line",
        ),
        ("{\"body\":\"a\"}", ":3: no string field \"text\": missing field `text` (column 12)"),
        (
            "{\"text\":null}",
            ":3: no string field \"text\": invalid type: null, expected a string (column 12)",
        ),
    ] {
        let path = write(&folder, "bad.jsonl", format!("{good}{good}{bad}\n{good}"));
        assert_eq!(message(&path), expected);
        let compressed =
            write(&folder, "bad.jsonl.gz", gzip(&format!("{good}{good}{bad}\n{good}")));
        assert_eq!(message(&compressed), expected);
    }
}

#[test]
fn text_that_is_not_utf8_is_located() {
    let folder = tempfile::tempdir().unwrap();
    let latin1 = write(&folder, "a.txt", b"one\ntwo\ncaf\xe9 three\n");
    assert_eq!(
        message(&latin1),
        ": byte 11 (line 3) is not UTF-8; re-encode the file, for example with iconv"
    );
    let lines = write(&folder, "b.jsonl", b"{\"text\":\"a\"}\n{\"text\":\"\xff\"}\n");
    assert_eq!(
        message(&lines),
        ": byte 22 (line 2) is not UTF-8; re-encode the file, for example with iconv"
    );
    let utf16 = write(&folder, "c.txt", b"\xff\xfea\0");
    assert!(message(&utf16).starts_with(": byte 0 (line 1) is not UTF-8"));
}

#[test]
fn paths_that_cannot_be_right() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(message(&folder.path().join("gone.txt")), ": no such file or folder");
    let markdown = write(&folder, "x/a.md", "a");
    assert_eq!(
        message(&markdown),
        ": not a text source; expected a file ending in .txt, .jsonl, .jsonl.gz or .json.gz, or a folder of them"
    );
    assert_eq!(
        message(markdown.parent().unwrap()),
        format!(
            ": no text to train on: 0 documents, 0 bytes, from 0 files; 1 other file ignored, first {}",
            markdown.display()
        )
    );
    let empty = write(&folder, "empty.txt", "");
    assert_eq!(
        message(&empty),
        ": no text to train on: 0 documents, 0 bytes, from 1 file; 1 empty document skipped"
    );
    let below_a_file = empty.join("a.txt");
    assert!(matches!(read(&[&below_a_file]).unwrap_err(), Error::Io { .. }));
    assert!(read(&[]).unwrap_err().to_string().starts_with("(no path given): no text"));
}

#[test]
fn a_file_given_twice_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "a.txt", "A");
    let error = read(&[folder.path(), &path]).unwrap_err();
    assert!(matches!(&error, Error::DuplicateFile { path: named } if *named == path), "{error}");
}

#[cfg(unix)]
#[test]
fn a_link_back_up_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "a/a.txt", "A");
    std::os::unix::fs::symlink(folder.path(), folder.path().join("a/up.txt")).unwrap();
    let (documents, report) = read(&[folder.path()]).unwrap();
    assert_eq!(documents.len(), 1);
    assert_eq!(report.ignored_files, [folder.path().join("a/up.txt")]);
}
