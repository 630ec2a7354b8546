//! A configuration file.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use mien::config::{self, Key, Kind, Setting};
use serde_json::Value;

const KEYS: [(&str, Kind); 5] = [
    ("headless", Kind::Switch),
    ("fps", Kind::Whole),
    ("min-score", Kind::Number),
    ("size", Kind::Text),
    ("source", Kind::Texts),
];

fn kind(name: &str) -> Kind {
    KEYS.iter().find(|(key, _)| *key == name).expect("only known keys are taken").1
}

fn check(setting: &Setting, text: &str) {
    let line = text.split('\n').nth(setting.line - 1).expect("a line of the text");
    assert!(line.contains(&setting.name) || line.contains('\\'), "{setting:?} is not in {line:?}");
    let [value] = setting.values.as_slice() else {
        assert!(kind(&setting.name) == Kind::Texts && !setting.values.is_empty());
        return;
    };
    assert!(match kind(&setting.name) {
        Kind::Switch => value.parse::<bool>().is_ok(),
        Kind::Whole => value.parse::<i64>().is_ok(),
        Kind::Number => value.parse::<f64>().is_ok(),
        Kind::Text | Kind::Texts => true,
    });
}

/// The value as `mien config` writes it; `None` for a number that JSON has no word for.
fn written(Setting { name, values, .. }: &Setting) -> Option<String> {
    let value = match kind(name) {
        Kind::Texts => values.clone().into(),
        Kind::Text => values[0].clone().into(),
        Kind::Switch | Kind::Whole | Kind::Number => serde_json::from_str::<Value>(&values[0]).ok()?,
    };
    Some(format!("{name} = {} # as it stands\n", config::to_toml(&value)))
}

/// Equal, or numbers that differ by rounding.
fn is_same(one: &Setting, other: &Setting) -> bool {
    let close = || {
        let [Ok(a), Ok(b)] = [one, other].map(|setting| setting.values[0].parse::<f64>()) else {
            return false;
        };
        (a - b).abs() <= 1e-14 * a.abs()
    };
    one.name == other.name && (one.values == other.values || kind(&one.name) == Kind::Number && close())
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let Ok(text) = str::from_utf8(input) else { return Corpus::Reject };
    let keys = KEYS.map(|(name, kind)| Key { name: name.to_owned(), kind });
    match config::parse(text, &keys) {
        Ok(settings) => {
            settings.iter().for_each(|setting| check(setting, text));
            assert!(settings.is_sorted_by(|a, b| a.line < b.line && a.name != b.name));
            let (kept, lines): (Vec<_>, Vec<_>) =
                settings.iter().filter_map(|setting| Some((setting, written(setting)?))).unzip();
            let again = config::parse(&lines.concat(), &keys).expect("what is written can be read");
            assert_eq!(again.len(), kept.len());
            assert!(std::iter::zip(&again, kept).all(|(a, b)| is_same(a, b)), "{settings:?} and {again:?}");
        }
        Err(error) => {
            assert!((1..=text.split('\n').count()).contains(&error.line), "{error}");
            assert!(!error.reason.is_empty() && !error.reason.contains(['\n', '\r']), "{error}");
            let said =
                error.reason.split_once(" must be ").and_then(|(_, said)| said.split_once(", and is "));
            assert!(said.is_none_or(|(wanted, found)| wanted != found), "{error}");
        }
    }
    Corpus::Keep
});
