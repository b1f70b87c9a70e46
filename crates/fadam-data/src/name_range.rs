//! Many files in one name, in the notation of shells: `c4-train.{00000..01023}-of-01024.json.gz`.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The highest number that a range may end with.
const HIGHEST: u64 = 1_000_000;

/// The names that `path` stands for, in order: itself, unless it has ranges `{from..to}` and is no
/// file. The numbers have at least the digits of `from`.
pub(crate) fn expand(path: &Path) -> Result<Vec<PathBuf>> {
    let Some(name) = path.to_str().filter(|_| !path.exists()) else {
        return Ok(vec![path.to_path_buf()]);
    };
    let mut names = Vec::new();
    expand_into(name, &mut names)?;
    Ok(names)
}

fn expand_into(name: &str, names: &mut Vec<PathBuf>) -> Result<()> {
    let Some((before, range, after)) = first_range(name) else {
        names.push(name.into());
        return Ok(());
    };
    let wrong = || Error::NameRange { place: name.to_owned(), range: range.to_owned() };
    let (from, to) = range.split_once("..").ok_or_else(wrong)?;
    let number = |digits: &str| digits.parse::<u64>().ok().filter(|&n| n <= HIGHEST);
    let (first, last) = (number(from).ok_or_else(wrong)?, number(to).ok_or_else(wrong)?);
    if first > last {
        return Err(wrong());
    }
    let digits = from.len();
    (first..=last).try_for_each(|n| expand_into(&format!("{before}{n:0digits$}{after}"), names))
}

/// What stands before, within and behind the first pair of braces that holds digits, two dots and
/// digits.
fn first_range(name: &str) -> Option<(&str, &str, &str)> {
    name.match_indices('{').find_map(|(open, _)| {
        let (range, after) = name[open + 1..].split_once('}')?;
        let (from, to) = range.split_once("..")?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        (digits(from) && digits(to)).then_some((&name[..open], range, after))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &str) -> Result<Vec<String>> {
        let paths = expand(Path::new(name))?;
        Ok(paths.into_iter().map(|path| path.to_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn ranges_stand_for_their_numbers() {
        assert_eq!(names("a.txt").unwrap(), ["a.txt"]);
        assert_eq!(names("a{008..011}b").unwrap(), ["a008b", "a009b", "a010b", "a011b"]);
        assert_eq!(names("{1..2}-{0..1}").unwrap(), ["1-0", "1-1", "2-0", "2-1"]);
        assert_eq!(names("{a}{3..3}{").unwrap(), ["{a}3{"]);
        let shards = names("hub:allenai/c4/en/c4-train.{00000..01023}-of-01024.json.gz").unwrap();
        assert_eq!(shards.len(), 1024);
        assert_eq!(shards[1023], "hub:allenai/c4/en/c4-train.01023-of-01024.json.gz");
    }

    #[test]
    fn ranges_that_are_none() {
        for range in ["3..2", "0..1000001", "0..99999999999999999999"] {
            let error = names(&format!("a{{{range}}}")).unwrap_err().to_string();
            assert!(error.starts_with(&format!("a{{{range}}}: {{{range}}} must go up")), "{error}");
        }
    }
}
