//! What two configurations have differently.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One key that two configurations have differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub key: String,
    /// Empty for a key that is not set.
    pub from: String,
    pub to: String,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} → {}", self.key, self.from, self.to)
    }
}

/// What `to` has otherwise than `from`.
pub fn changes(from: &Value, to: &Value) -> Vec<Change> {
    let (from, to) = (flat(from), flat(to));
    let keys: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let value = |of: &BTreeMap<String, String>, key: &String| of.get(key).cloned().unwrap_or_default();
    let changes =
        keys.into_iter().map(|key| Change { key: key.clone(), from: value(&from, key), to: value(&to, key) });
    changes.filter(|change| change.from != change.to).collect()
}

/// Every key, with dots for objects, and its value; keys of null are not set.
pub fn flat(configuration: &Value) -> BTreeMap<String, String> {
    fn walk(path: &str, value: &Value, flat: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(object) => object.iter().for_each(|(key, value)| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(&path, value, flat);
            }),
            Value::Null => {}
            value => {
                flat.insert(path.to_owned(), text(value));
            }
        }
    }
    let mut keys = BTreeMap::new();
    walk("", configuration, &mut keys);
    keys
}

/// As TOML has it.
fn text(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("[{}]", values.iter().map(text).collect::<Vec<_>>().join(", ")),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_differs_is_a_change() {
        let from = json!({ "rate": 0.1, "loss": { "name": "ce", "gamma": 2.0 }, "limit": null, "seed": 1 });
        let to = json!({ "rate": 0.1, "loss": { "name": "focal", "gamma": 2.0 }, "limit": 30 });
        let told: Vec<String> = changes(&from, &to).iter().map(ToString::to_string).collect();
        assert_eq!(told, ["limit:  → 30", r#"loss.name: "ce" → "focal""#, "seed: 1 → "]);
        assert!(changes(&to, &to).is_empty());
    }
}
