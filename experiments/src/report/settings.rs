//! What a run was configured as: dotted keys with their values as text, from TOML and from columns of a CSV alike.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// `optimizer.rho` → `0.5`.
pub type Settings = BTreeMap<String, String>;

/// The key of the learning rate, which a sweep may choose for each cell.
pub const LEARNING_RATE: &str = "optimizer.lr";

/// A TOML table with dotted keys. A list is a value.
///
/// ```
/// use experiments::report::settings::flatten;
/// let table = "train.steps = 40\n[optimizer]\nrho = 0.5\neps2 = 'off'".parse().unwrap();
/// let settings = flatten(&table);
/// assert_eq!(settings["optimizer.rho"], "0.5");
/// assert_eq!(settings["optimizer.eps2"], "off");
/// assert_eq!(settings.len(), 3);
/// ```
pub fn flatten(table: &Table) -> Settings {
    let mut settings = Settings::new();
    add("", table, &mut settings);
    settings
}

fn add(prefix: &str, table: &Table, settings: &mut Settings) {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) => add(&path, inner, settings),
            Value::String(text) => drop(settings.insert(path, text.clone())),
            other => drop(settings.insert(path, other.to_string())),
        }
    }
}

/// Whether two values are the same: as numbers if both are, else as text.
///
/// ```
/// use experiments::report::settings::is_same;
/// assert!(is_same("1e-3", "0.001") && is_same("off", "off"));
/// assert!(!is_same("0.3", "0.30001") && !is_same("off", "0"));
/// ```
pub fn is_same(a: &str, b: &str) -> bool {
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => a == b || (a - b).abs() <= 1e-12 * a.abs().max(b.abs()),
        _ => a == b,
    }
}
