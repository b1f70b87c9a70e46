//! `TFRecord`, the frame of each event in a file:
//!
//! ```text
//! length: u64 │ masked CRC of the length: u32 │ the message │ masked CRC of the message: u32      little-endian
//! masked = rotate_right(crc32c, 15) + 0xa282ead8
//! ```

use crc::{CRC_32_ISCSI, Crc, Table};
use prost::Message;

/// CRC-32C, which its catalogue calls after iSCSI; sixteen bytes at a time.
static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// Appends the record of a message.
pub(crate) fn append(message: &impl Message, to: &mut Vec<u8>) {
    let message = message.encode_to_vec();
    let length = (message.len() as u64).to_le_bytes();
    to.extend(length);
    to.extend(masked_crc(&length).to_le_bytes());
    to.extend(&message);
    to.extend(masked_crc(&message).to_le_bytes());
}

fn masked_crc(bytes: &[u8]) -> u32 {
    CRC32C.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The messages of a file, each of which must be whole.
#[cfg(test)]
pub(crate) fn messages<M: Message + Default>(mut bytes: &[u8]) -> Vec<M> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_at(8);
        let crc = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
        assert_eq!(crc(rest), masked_crc(length), "of the length");
        let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
        let (message, rest) = rest[4..].split_at(length);
        assert_eq!(crc(rest), masked_crc(message), "of the message");
        messages.push(M::decode(message).unwrap());
        bytes = &rest[4..];
    }
    messages
}
