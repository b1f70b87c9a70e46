//! The unpacker behind `scripts/fetch-data.sh speech`, on a small archive made here.

#[path = "../../examples/amazon_queen/archive.rs"]
mod archive;
#[path = "../../examples/amazon_queen/split.rs"]
mod split;

use std::collections::BTreeMap;

use archive::Archive;
use split::Part;

/// The table, then the files, one after the other.
fn pack(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut table = Vec::from(*b"QTBL01.00000\x01");
    table.extend((files.len() as u16).to_be_bytes());
    let mut at = table.len() + 21 * files.len();
    for (name, bytes) in files {
        let mut field = name.as_bytes().to_vec();
        field.resize(13, 0);
        table.extend(field);
        table.extend((at as u32).to_be_bytes());
        table.extend((bytes.len() as u32).to_be_bytes());
        at += bytes.len();
    }
    table.extend(files.iter().flat_map(|(_, bytes)| bytes.clone()));
    table
}

/// A dialogue of one level.
fn dialogue(number: i16, joe: &[(u16, &[u8])], other: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 32 + 96];
    let put = |bytes: &mut Vec<u8>, lines: &[(u16, &[u8])]| {
        for (id, text) in lines {
            bytes.extend([0, 0]);
            bytes.extend(id.to_be_bytes());
            bytes.push(text.len() as u8);
            bytes.extend(*text);
            if !text.is_empty() {
                bytes.resize(bytes.len().next_multiple_of(4), 0xee);
            }
        }
    };
    put(&mut bytes, joe);
    // A line without text has no padding, and what follows it begins anywhere.
    let begin = bytes.len() as u16;
    put(&mut bytes, other);
    let count = |lines: &[(u16, &[u8])]| i16::try_from(lines.len()).unwrap();
    for (n, field) in [-1, 2, number, count(joe), count(other)].into_iter().enumerate() {
        bytes[2 * n..2 * n + 2].copy_from_slice(&field.to_be_bytes());
    }
    bytes[22..24].copy_from_slice(&begin.to_be_bytes());
    let mut file = vec![0xff; 20];
    file.extend(bytes);
    file
}

#[test]
fn lines_are_cut_into_what_is_spoken() {
    let joe: &[(u16, &[u8])] = &[
        (1, b"Hello  there*AB(he waves) friend^_, isn't*XY12(123,456)it?"),
        (2, b"*CCNobody says this"),
    ];
    let other: &[(u16, &[u8])] = &[(0x1f, b"caf\x82!"), (7, b"...")];
    let mp3 = |n: u8| vec![n; usize::from(n)];
    let bytes = pack(&[
        ("SARA12.DOG", dialogue(7, joe, other)),
        ("070001J1.SB", mp3(1)),
        ("070001J2.SB", mp3(2)),
        ("070001J3.SB", mp3(3)),
        ("07001FP1.SB", mp3(4)),
        ("070007P1.SB", mp3(5)),
        ("MUSIC.RL", mp3(9)),
    ]);
    let archive = Archive::open(&bytes).unwrap();
    let spoken = archive.spoken().unwrap();
    let found: Vec<_> = spoken
        .iter()
        .map(|one| (one.name.as_str(), one.character.as_str(), one.text.as_str(), one.sound.len()))
        .collect();
    let expected = [
        ("070001J1", "joe", "Hello there", 1),
        ("070001J2", "joe", "friend , isn't", 2),
        ("070001J3", "joe", "it?", 3),
        ("07001FP1", "sara", "café!", 4),
    ];
    assert_eq!(found, expected);
}

#[test]
fn lines_without_text_have_no_padding() {
    let joe: &[(u16, &[u8])] = &[(1, b""), (2, b"After nothing")];
    let bytes = pack(&[("BOB1.DOG", dialogue(12, joe, &[])), ("120002J1.SB", vec![1])]);
    let archive = Archive::open(&bytes).unwrap();
    let spoken = archive.spoken().unwrap();
    assert_eq!(spoken.len(), 1);
    assert_eq!(spoken[0].text, "After nothing");
}

#[test]
fn what_is_damaged_is_named() {
    assert!(Archive::open(b"").is_none());
    assert!(Archive::open(b"QTBL01.00000\x02\0\0").is_none(), "other compressions");
    let whole =
        pack(&[("BOB1.DOG", dialogue(12, &[(1, b"Hello")], &[])), ("120001J1.SB", vec![1])]);
    for length in 0..whole.len() {
        assert!(Archive::open(&whole[..length]).is_none(), "{length} bytes");
    }
    let mut cut = dialogue(12, &[(1, b"Hello")], &[]);
    cut.truncate(cut.len() - 6);
    let bytes = pack(&[("BOB1.DOG", cut)]);
    assert_eq!(Archive::open(&bytes).unwrap().spoken().unwrap_err(), "BOB1.DOG");
}

#[test]
fn characters_are_split_by_how_much_they_say() {
    let seconds: BTreeMap<String, f64> = [
        ("joe", 40.0),
        ("bob", 20.0),
        ("eve", 16.0),
        ("ann", 6.0),
        ("dan", 5.0),
        ("zoe", 5.0),
        ("ian", 4.0),
        ("lou", 4.0),
    ]
    .map(|(who, seconds)| (who.to_owned(), seconds))
    .into();
    let parts = split::split(&seconds);
    let of = |part: Part| -> Vec<&str> {
        parts.iter().filter(|(_, of)| **of == part).map(|(who, _)| who.as_str()).collect()
    };
    // 100 seconds: 7.5 for each. ian, lou (4 each, by name), dan to dev (9 is nearer than 4), zoe to
    // test; then both are full.
    assert_eq!(of(Part::Dev), ["dan", "ian"]);
    assert_eq!(of(Part::Test), ["lou", "zoe"]);
    assert_eq!(of(Part::Train), ["ann", "bob", "eve", "joe"]);
    assert_eq!(Part::ALL.map(Part::name), ["train", "dev", "test"]);
    assert!(split::split(&BTreeMap::new()).is_empty());
}
