//! Where configuration values come from: a TOML file, then `--set` arguments in their order; and
//! how an error finds its way back to the line or argument that caused it.

use std::path::Path;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::FieldError;
use crate::Error;

/// One value given on the command line.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// As it was typed, for messages: `--set train.batch=4`.
    argument: String,
    path: Vec<String>,
    value: Value,
}

impl Override {
    /// `key.path=value`, the argument of `--set`. The value is TOML; what is not TOML is a bare string.
    ///
    /// A whole section can be replaced with an inline table, for instance to change the algorithm:
    /// `--set 'optimizer={algorithm="adam", lr=1e-3}'`.
    ///
    /// # Errors
    ///
    /// When there is no `=`, or a part of the path is empty.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let argument = format!("--set {text}");
        let Some((path, value)) = text.split_once('=') else {
            return Err(Error::argument(argument, "is not of the form key.path=value"));
        };
        let path: Vec<String> = path.split('.').map(|key| key.trim().to_owned()).collect();
        if path.iter().any(String::is_empty) {
            return Err(Error::argument(argument, "has an empty key before the ="));
        }
        let value = value.trim();
        let value = value.parse().unwrap_or_else(|_| Value::String(value.to_owned()));
        Ok(Self { argument, path, value })
    }

    /// `--seed N`, a short way to set `train.seed`.
    pub(crate) fn seed(seed: u64) -> Result<Self, Error> {
        let argument = format!("--seed {seed}");
        let Ok(value) = i64::try_from(seed) else {
            return Err(Error::argument(argument, "is above what TOML can hold, 2^63 - 1"));
        };
        let path = vec!["train".to_owned(), "seed".to_owned()];
        Ok(Self { argument, path, value: Value::Integer(value) })
    }

    /// `--init FILE`, a short way to set `train.init`.
    pub(crate) fn init(file: &Path) -> Result<Self, Error> {
        let argument = format!("--init {}", file.display());
        let Some(text) = file.to_str() else {
            return Err(Error::argument(argument, "is not a path in UTF-8, as TOML needs it"));
        };
        let path = vec!["train".to_owned(), "init".to_owned()];
        Ok(Self { argument, path, value: Value::String(text.to_owned()) })
    }

    /// A value from elsewhere than the command line; `place` is what messages begin with.
    pub(crate) fn from_place(place: impl Into<String>, key: &str, value: Value) -> Self {
        Self { argument: place.into(), path: key.split('.').map(str::to_owned).collect(), value }
    }

    /// Sets the value, creating the tables on the way.
    fn apply(&self, table: &mut Table) -> Result<(), Error> {
        let (last, parents) = self.path.split_last().expect("parse() leaves at least one key");
        let mut table = table;
        for key in parents {
            let item = table.entry(key.clone()).or_insert_with(|| Value::Table(Table::new()));
            table = item.as_table_mut().ok_or_else(|| {
                Error::argument(&self.argument, format!("{key} is a value, not a section"))
            })?;
        }
        table.insert(last.clone(), self.value.clone());
        Ok(())
    }

    /// True if this argument set `key`, a part of it, or the section it is in.
    fn concerns(&self, key: &str) -> bool {
        let mut both = key.split('.').zip(&self.path);
        both.all(|(a, b)| a == b)
    }
}

/// A configuration as text, before it means anything.
pub(crate) struct Source<'a> {
    /// What messages call the text: the path of the file.
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) overrides: &'a [Override],
}

impl<'a> Source<'a> {
    pub(crate) fn read(path: Option<&Path>, overrides: &'a [Override]) -> Result<Self, Error> {
        let Some(path) = path else {
            return Ok(Self { name: "defaults".into(), text: String::new(), overrides });
        };
        let name = path.display().to_string();
        let failed = |message: String| Error::Config { place: name.clone(), message };
        let bytes = std::fs::read(path).map_err(|err| failed(format!("cannot be read: {err}")))?;
        let text = String::from_utf8(bytes).map_err(|err| {
            let at = err.utf8_error().valid_up_to();
            failed(format!("is not UTF-8 (first bad byte at offset {at})"))
        })?;
        Ok(Self { name, text, overrides })
    }

    /// The text as a `T`, overrides applied. Each override is checked by itself, so that an error
    /// names the argument.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let from_file: T = toml::from_str(&self.text).map_err(|err| self.explain_toml(err))?;
        if self.overrides.is_empty() {
            return Ok(from_file);
        }
        let mut table: Table = toml::from_str(&self.text).map_err(|err| self.explain_toml(err))?;
        let mut parsed = from_file;
        for given in self.overrides {
            given.apply(&mut table)?;
            parsed = T::deserialize(Value::Table(table.clone()))
                .map_err(|err| Error::argument(&given.argument, err.message()))?;
        }
        Ok(parsed)
    }

    /// An error of the TOML parser, or of a field's type, with its line.
    fn explain_toml(&self, mut err: toml::de::Error) -> Error {
        let place = match err.span() {
            Some(span) => format!("{}:{}", self.name, line_of(&self.text, span.start)),
            None => self.name.clone(),
        };
        // Without its input the error prints as its message, then "in `train.batch`".
        err.set_input(None);
        let shown = err.to_string();
        let key = shown.lines().last().and_then(|l| l.strip_prefix("in `")?.strip_suffix('`'));
        let message = match key {
            Some(key) if !err.message().starts_with("unknown field") => {
                format!("{key}: {}", err.message())
            }
            Some(section) => format!("{} in [{section}]", err.message()),
            None => err.message().to_owned(),
        };
        Error::Config { place, message }
    }

    /// A field that is impossible, with the argument or line that set it.
    pub(crate) fn explain(&self, err: &FieldError) -> Error {
        if let Some(given) = self.overrides.iter().rev().find(|o| o.concerns(&err.key)) {
            return Error::argument(&given.argument, err.to_string());
        }
        let place = match self.line_of_key(&err.key) {
            Some(line) => format!("{}:{line}", self.name),
            None => self.name.clone(),
        };
        Error::Config { place, message: err.to_string() }
    }

    /// The line on which `key` is set; if it is not, the line of the section it belongs in.
    fn line_of_key(&self, key: &str) -> Option<usize> {
        let document = toml_edit::Document::parse(self.text.as_str()).ok()?;
        let mut table: &dyn toml_edit::TableLike = document.as_table();
        let mut found = None;
        for part in key.split('.') {
            let Some((name, item)) = table.get_key_value(part) else {
                break;
            };
            found = name.span().or_else(|| item.span()).or(found);
            let Some(inner) = item.as_table_like() else {
                break;
            };
            table = inner;
        }
        found.map(|span| line_of(&self.text, span.start))
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_toml_and_falls_back_to_a_bare_string() {
        let value = |text: &str| Override::parse(text).unwrap().value;
        assert_eq!(value("a.b=3"), Value::Integer(3));
        assert_eq!(value("a.b = 1e-3 "), Value::Float(1e-3));
        assert_eq!(value("a=runs/x.txt"), Value::String("runs/x.txt".into()));
        assert_eq!(value("a=\"3\""), Value::String("3".into()));
        assert_eq!(value("a=[1, 2]"), Value::Array(vec![1.into(), 2.into()]));
        assert_eq!(value("a=x=y"), Value::String("x=y".into()));
    }

    #[test]
    fn an_argument_of_another_form_is_refused() {
        for text in ["train.batch", "=3", "train..batch=3", ".a=1"] {
            let err = Override::parse(text).unwrap_err().to_string();
            assert!(err.starts_with(&format!("--set {text}: ")), "{err}");
        }
    }

    #[test]
    fn a_key_is_found_in_sections_dotted_keys_and_inline_tables() {
        let text = "a.b = 1\n\n[train]\n# batch = 9\nbatch = 0\nx = {y = 1}\n";
        let source = Source { name: "t".into(), text: text.into(), overrides: &[] };
        assert_eq!(source.line_of_key("a.b"), Some(1));
        assert_eq!(source.line_of_key("train.batch"), Some(5));
        assert_eq!(source.line_of_key("train.x.y"), Some(6));
        assert_eq!(source.line_of_key("train.absent"), Some(3));
        assert_eq!(source.line_of_key("absent.too"), None);
    }
}
