//! A model card, as either of the two networks'.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use mien::{
    attributes::{Attributes, LOGITS},
    models::{Card, ClassifierSettings, DetectorSettings, SCHEMA, Settings},
};
use mien_fuzz::within;
use serde::Serialize;
use std::{fmt::Debug, path::Path};

/// Bytes held for each byte of a card: a map of one entry takes 7 of them and a node that has room for 11.
const BUDGET: usize = 200;

/// What the text says, if it is a card.
fn settings<S>(text: &str) -> Option<S>
where
    S: Settings + Serialize + PartialEq + Debug,
{
    let parse = |text: &str| Card::<S>::parse(text, Path::new("fuzz.json"));
    let card = match within(BUDGET * text.len() + (64 << 10), || parse(text)) {
        Ok(card) => card,
        Err(error) => {
            assert!(error.to_string().contains("fuzz.json"), "{error}");
            return None;
        }
    };
    assert_eq!(card.schema, SCHEMA);
    let file = Path::new(&card.file).file_name().expect("a name");
    assert_eq!(file, card.file.as_str(), "a file that is not beside the card");

    let written = serde_json::to_string(&card).expect("a card can be written");
    let again = parse(&written).expect("what is written can be read");
    assert_eq!((again.name, again.file, again.sha256), (card.name, card.file, card.sha256));
    assert_eq!(again.settings, card.settings);
    Some(card.settings)
}

fn is_share(value: f32) -> bool {
    (0.0..=1.0).contains(&value)
}

fn is_distribution(probabilities: &[f32]) -> bool {
    probabilities.iter().all(|&p| is_share(p - 1e-5) || is_share(p))
        && (probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-3
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let Ok(text) = str::from_utf8(input) else { return Corpus::Reject };
    if let Some(DetectorSettings { min_score, nms_iou }) = settings(text) {
        assert!(is_share(min_score) && is_share(nms_iou));
    }
    if let Some(settings) = settings(text) {
        let ClassifierSettings { input_size, crop, temperatures, thresholds } = settings;
        assert!((1..=4096).contains(&input_size) && crop > 0.0 && crop <= 4.0);
        assert!([thresholds.mask, thresholds.gender, thresholds.age].into_iter().all(is_share));
        let logits: [f32; LOGITS] = std::array::from_fn(|index| index as f32 - 50.0);
        let said = Attributes::from_logits(&logits, temperatures);
        assert!(is_distribution(&said.mask) && is_distribution(&said.gender) && is_distribution(&said.age));
        assert!((0.0..=100.0).contains(&said.years));
    }
    Corpus::Keep
});
