//! The one thing that is read from EXIF: which way up a picture is.

/// Tag 0x0112, "Orientation".
const ORIENTATION: u16 = 0x0112;
/// Its type, SHORT.
const SHORT: u16 = 3;

/// The orientation, 1 to 8, that an EXIF block has in its first directory.
///
/// ```text
/// "II" or "MM", 42, offset of the directory; there: count, then 12 bytes each: tag, type, count, value
/// ```
pub(super) fn orientation(exif: &[u8]) -> Option<u16> {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    let little = match tiff.get(..4)? {
        b"II\x2a\0" => true,
        b"MM\0\x2a" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let pair = [*tiff.get(at)?, *tiff.get(at.checked_add(1)?)?];
        Some(if little { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) })
    };
    let (low, high) = (short(4)?, short(6)?);
    let (low, high) = if little { (low, high) } else { (high, low) };
    let directory = usize::from(high) << 16 | usize::from(low);
    let entry = |n: usize| directory + 2 + 12 * n;
    let entries = usize::from(short(directory)?);
    let at = (0..entries).map(entry).find(|&at| short(at) == Some(ORIENTATION))?;
    let value = (short(at + 2)? == SHORT).then(|| short(at + 8))??;
    (1..=8).contains(&value).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_byte_order_is_read_and_nonsense_is_none() {
        let little = b"II\x2a\0\x08\0\0\0\x02\0\
            \x0f\x01\x02\0\x01\0\0\0X\0\0\0\
            \x12\x01\x03\0\x01\0\0\0\x06\0\0\0";
        let big = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0";
        assert_eq!(orientation(little), Some(6));
        assert_eq!(orientation(big), Some(8));
        for cut in 0..little.len() - 2 {
            assert_eq!(orientation(&little[..cut]), None, "{cut}");
        }
        let mut nine = *little;
        nine[30] = 9;
        assert_eq!(orientation(&nine), None);
        let far = b"II\x2a\0\xff\xff\xff\xff";
        assert_eq!(orientation(far), None);
        assert_eq!(orientation(b"no exif at all"), None);
    }
}
