//! Settings in a TOML file: one table whose keys are the flags of `mien run`.

use std::fmt;

use toml::de::{DeInteger, DeTable, DeValue};

/// What a key's value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// A number without a fraction.
    Whole,
    Number,
    Text,
    /// A text or a list of texts.
    Texts,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Switch => "true or false",
            Kind::Whole => "a whole number",
            Kind::Number => "a number",
            Kind::Text => "a text in quotes",
            Kind::Texts => "a text in quotes or a list of such",
        })
    }
}

/// A key that a file may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub name: String,
    pub kind: Kind,
}

/// A key that a file sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub name: String,
    /// As they would be written on the command line; one, unless the kind is [`Kind::Texts`].
    pub values: Vec<String>,
    /// Counted from 1.
    pub line: usize,
}

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ConfigError {
    /// Counted from 1.
    pub line: usize,
    pub reason: String,
}

/// The settings in a TOML document, in its order.
///
/// # Errors
/// When it is no TOML, or a key is not among `keys` or has a value of another kind.
pub fn parse(text: &str, keys: &[Key]) -> Result<Vec<Setting>, ConfigError> {
    let line = |offset: usize| 1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count();
    let table = DeTable::parse(text).map_err(|error| ConfigError {
        line: line(error.span().map_or(0, |span| span.start)),
        reason: error.message().lines().collect::<Vec<_>>().join(", "),
    })?;
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    let setting = |(name, value): (&toml::Spanned<_>, &toml::Spanned<DeValue>)| {
        let (name, line) = (AsRef::<str>::as_ref(name.get_ref()), line(name.span().start));
        let values = find(name, keys).and_then(|key| {
            values(value.get_ref(), key.kind)
                .ok_or_else(|| format!("{name} must be {}, and is {}", key.kind, describe(value.get_ref())))
        });
        match values {
            Ok(values) => Ok(Setting { name: name.to_owned(), values, line }),
            Err(reason) => Err(ConfigError { line, reason }),
        }
    };
    entries.into_iter().map(setting).collect()
}

fn find<'k>(name: &str, keys: &'k [Key]) -> Result<&'k Key, String> {
    keys.iter().find(|key| key.name == name).ok_or_else(|| {
        let known: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        format!("unknown key {name:?}; there are {}", known.join(", "))
    })
}

fn values(value: &DeValue, kind: Kind) -> Option<Vec<String>> {
    let text = |value: &DeValue| value.as_str().map(str::to_owned);
    let one = match (kind, value) {
        (Kind::Switch, DeValue::Boolean(on)) => Some(on.to_string()),
        (Kind::Whole | Kind::Number, DeValue::Integer(number)) => {
            whole(number).map(|number| number.to_string())
        }
        (Kind::Number, DeValue::Float(number)) => {
            number.as_str().parse::<f64>().ok().map(|number| number.to_string())
        }
        (Kind::Text | Kind::Texts, DeValue::String(_)) => text(value),
        (Kind::Texts, DeValue::Array(list)) if !list.is_empty() => {
            return list.iter().map(|item| text(item.get_ref())).collect();
        }
        _ => None,
    };
    one.map(|value| vec![value])
}

/// A text, a number, `true`, `false` or a list of texts as TOML, on one line.
pub fn to_toml(value: &serde_json::Value) -> String {
    // JSON's texts, numbers and lists are TOML's too, but for one character that only JSON allows in a text.
    value.to_string().replace('\x7f', "\\u007F")
}

fn whole(number: &DeInteger) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// The kind of value that was found, in words.
fn describe(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(number) if whole(number).is_none() => "too large a number",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> Vec<Key> {
        let kinds = [Kind::Switch, Kind::Whole, Kind::Number, Kind::Text, Kind::Texts];
        let names = ["headless", "fps", "min-score", "size", "source"];
        names.into_iter().zip(kinds).map(|(name, kind)| Key { name: name.into(), kind }).collect()
    }

    fn error(text: &str) -> String {
        parse(text, &keys()).unwrap_err().to_string()
    }

    #[test]
    fn every_kind_is_read_in_order_with_its_line() {
        let text = "# a comment\nsource = ['a.jpg', \"b.jpg\"]\n\nfps = 0x1e\nheadless = true\r\n\
                    min-score = 0.25\nsize = '640x480'\n";
        let settings = parse(text, &keys()).unwrap();
        let found: Vec<(&str, String, usize)> =
            settings.iter().map(|s| (s.name.as_str(), s.values.join("+"), s.line)).collect();
        let expected = [
            ("source", "a.jpg+b.jpg", 2),
            ("fps", "30", 4),
            ("headless", "true", 5),
            ("min-score", "0.25", 6),
            ("size", "640x480", 7),
        ];
        assert_eq!(found, expected.map(|(name, values, line)| (name, values.to_owned(), line)));
        assert_eq!(parse("source = 'demo'\nmin-score = 1", &keys()).unwrap()[1].values, ["1"]);
        assert_eq!(parse("", &keys()), Ok(vec![]));
    }

    #[test]
    fn an_unknown_key_is_an_error_that_lists_the_known_ones() {
        let said = error("fps = 30\n\nspurce = 'demo'\n");
        assert!(said.starts_with("line 3: unknown key \"spurce\"; there are headless, fps,"), "{said}");
        assert!(error("[camera]\nfps = 30\n").starts_with("line 1: unknown key \"camera\""));
    }

    #[test]
    fn a_wrong_kind_is_an_error_that_says_what_is_wanted() {
        assert_eq!(error("\nfps = '30'"), "line 2: fps must be a whole number, and is a text");
        assert_eq!(
            error("fps = 29.97"),
            "line 1: fps must be a whole number, and is a number with a fraction"
        );
        assert_eq!(error("headless = 1"), "line 1: headless must be true or false, and is a whole number");
        // Found by fuzzing: it was said to be a whole number.
        assert_eq!(
            error("fps = 99999999999999999999"),
            "line 1: fps must be a whole number, and is too large a number"
        );
        assert!(error("source = ['a', 1]").contains("a text in quotes or a list of such"));
        assert!(error("source = []").contains("must be"));
        assert!(error("size = [640, 480]").contains("a text in quotes, and is a list"));
        assert!(error("fps.x = 1").contains("is a table"));
    }

    /// Found by fuzzing: JSON lets U+007F stand in a text as it is, TOML does not.
    #[test]
    fn a_text_with_a_delete_character_can_be_written_and_read() {
        let written = to_toml(&"a\x7f\n\"b".into());
        let settings = parse(&format!("size = {written}"), &keys()).unwrap();
        assert_eq!(settings[0].values, ["a\x7f\n\"b"]);
    }

    #[test]
    fn what_is_no_toml_is_an_error_with_its_line() {
        for (text, line) in [("fps = 30\nfps = 20", 2), ("fps =\n", 1), ("\n\n= 3", 3), ("size = 'x", 1)] {
            let error = parse(text, &keys()).unwrap_err();
            assert_eq!(error.line, line, "{text:?}: {error}");
            assert!(!error.reason.contains('\n'), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_settings_or_an_error_within_it(text in "([a-z\\-]{1,9} ?= ?[0-9'\"\\[\\]., ]{0,6}\n?){0,5}\\PC*") {
            match parse(&text, &keys()) {
                Ok(settings) => prop_assert!(settings.iter().all(|setting| !setting.values.is_empty())),
                Err(error) => prop_assert!((1..=text.lines().count().max(1) + 1).contains(&error.line)),
            }
        }
    }
}
