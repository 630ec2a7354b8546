//! The networks and their cards: which file, what it expects, how to read what it says.

use std::{
    fmt,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::attributes::{Temperatures, Thresholds};

/// The machine-readable part of a model card that every model has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Card<S> {
    pub schema: u32,
    pub name: String,
    /// The model's file name, beside the card.
    pub file: String,
    /// SHA-256 of the file, lower-case hexadecimal.
    pub sha256: String,
    pub settings: S,
    /// Training data, recipe, figures: for people, not read by the program.
    #[serde(default)]
    pub about: serde_json::Value,
}

/// How to run the face detector.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DetectorSettings {
    /// Least score of a face that is shown, 0–1.
    pub min_score: f32,
    /// IoU above which the weaker of two boxes is dropped, 0–1.
    pub nms_iou: f32,
}

/// How to run the attribute classifier.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassifierSettings {
    /// Side of the square input in pixels, 1–4096.
    pub input_size: u32,
    /// The crop's side over the longer side of the face box, 0.1–4.
    pub crop: f32,
    /// 0.01–100.
    pub temperatures: Temperatures,
    /// 0–1.
    pub thresholds: Thresholds,
}

/// What a card says of how to run its model.
pub trait Settings: for<'a> Deserialize<'a> {
    /// # Errors
    /// When a value is out of its range; says which.
    fn check(&self) -> Result<(), String>;
}

impl Settings for DetectorSettings {
    fn check(&self) -> Result<(), String> {
        check("min_score", self.min_score, 0.0..=1.0)?;
        check("nms_iou", self.nms_iou, 0.0..=1.0)
    }
}

impl Settings for ClassifierSettings {
    fn check(&self) -> Result<(), String> {
        check("input_size", self.input_size, 1..=4096)?;
        check("crop", self.crop, 0.1..=4.0)?;
        let Temperatures { mask, gender, age } = self.temperatures;
        [mask, gender, age].into_iter().try_for_each(|value| check("a temperature", value, 0.01..=100.0))?;
        let Thresholds { mask, gender, age } = self.thresholds;
        [mask, gender, age].into_iter().try_for_each(|value| check("a threshold", value, 0.0..=1.0))
    }
}

fn check<T: PartialOrd + fmt::Display>(what: &str, value: T, range: RangeInclusive<T>) -> Result<(), String> {
    let (least, most) = (range.start(), range.end());
    match range.contains(&value) {
        true => Ok(()),
        false => Err(format!("{what} is {value}, and must be from {least} to {most}")),
    }
}

/// A model's bytes, checked against its card.
#[derive(Debug, Clone)]
pub struct Model<S> {
    pub card: Card<S>,
    pub onnx: Vec<u8>,
    /// Where it came from, for messages.
    pub origin: String,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    #[error(
        "model file {path}: {source}; give a folder that holds face.json, face.onnx, attributes.json and attributes.onnx"
    )]
    Read { path: PathBuf, source: std::io::Error },
    #[error("model card {path}: {source}; the card must be the one written beside the model by mien-train")]
    Card { path: PathBuf, source: serde_json::Error },
    #[error("model card {path}: {reason}; the card must be the one written beside the model by mien-train")]
    Value { path: PathBuf, reason: String },
    #[error("model card {path} has schema {found}; this program reads schema {SCHEMA}")]
    Schema { path: PathBuf, found: u32 },
    #[error(
        "model {path}: its SHA-256 is {found}, but its card says {expected}; fetch the model and its card again, together"
    )]
    Hash { path: PathBuf, found: String, expected: String },
}

/// The schema of the cards that this program reads.
pub const SCHEMA: u32 = 1;

const FACE_CARD: &str = include_str!("../models/face.json");
const FACE_ONNX: &[u8] = include_bytes!("../models/face.onnx");
const ATTRIBUTES_CARD: &str = include_str!("../models/attributes.json");
const ATTRIBUTES_ONNX: &[u8] = include_bytes!("../models/attributes.onnx");

impl Model<DetectorSettings> {
    /// The face detector in `folder`, or the built-in one.
    pub fn face(folder: Option<&Path>) -> Result<Self, ModelError> {
        Model::open(folder, "face.json", FACE_CARD, FACE_ONNX)
    }
}

impl Model<ClassifierSettings> {
    /// The attribute classifier in `folder`, or the built-in one.
    pub fn attributes(folder: Option<&Path>) -> Result<Self, ModelError> {
        Model::open(folder, "attributes.json", ATTRIBUTES_CARD, ATTRIBUTES_ONNX)
    }
}

impl<S: Settings> Model<S> {
    fn open(folder: Option<&Path>, card_name: &str, card: &str, onnx: &[u8]) -> Result<Self, ModelError> {
        match folder {
            Some(folder) => Self::read(&folder.join(card_name)),
            None => Self::check(card, onnx.to_vec(), Path::new(card_name), Path::new("built in")),
        }
    }

    /// Reads a card and the model file beside it.
    pub fn read(card_path: &Path) -> Result<Self, ModelError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| ModelError::Read { path: path.to_owned(), source })
        };
        let text = String::from_utf8_lossy(&read(card_path)?).into_owned();
        let card = Card::<S>::parse(&text, card_path)?;
        let path = card_path.with_file_name(&card.file);
        let onnx = read(&path)?;
        Self::check(&text, onnx, card_path, &path)
    }

    fn check(card: &str, onnx: Vec<u8>, card_path: &Path, path: &Path) -> Result<Self, ModelError> {
        let card = Card::<S>::parse(card, card_path)?;
        let found = sha256(&onnx);
        if found != card.sha256 {
            return Err(ModelError::Hash { path: path.to_owned(), found, expected: card.sha256 });
        }
        Ok(Self { card, onnx, origin: path.display().to_string() })
    }
}

impl<S: Settings> Card<S> {
    /// `path` is where `text` comes from, for messages.
    ///
    /// # Errors
    /// When the text is no card, is one of another schema, names a file elsewhere, or a setting is out of its range.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ModelError> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let bad = |source| ModelError::Card { path: path.to_owned(), source };
        let Version { schema } = serde_json::from_str(text).map_err(bad)?;
        if schema != SCHEMA {
            return Err(ModelError::Schema { path: path.to_owned(), found: schema });
        }
        let card: Self = serde_json::from_str(text).map_err(bad)?;
        let wrong = |reason| ModelError::Value { path: path.to_owned(), reason };
        if Path::new(&card.file).file_name() != Some(card.file.as_ref()) {
            return Err(wrong(format!("the file {:?} does not lie beside it", card.file)));
        }
        card.settings.check().map_err(wrong)?;
        Ok(card)
    }
}

/// SHA-256 in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn classifier() -> Value {
        let three = json!({ "mask": 1.0, "gender": 0.5, "age": 0.5 });
        json!({
            "schema": SCHEMA, "name": "a", "file": "a.onnx", "sha256": "",
            "settings": { "input_size": 112, "crop": 1.2, "temperatures": three, "thresholds": three },
        })
    }

    fn error(card: &Value) -> String {
        Card::<ClassifierSettings>::parse(&card.to_string(), Path::new("a.json")).unwrap_err().to_string()
    }

    /// Found by fuzzing: such settings were taken, and pictures of any size or probabilities of NaN came of them.
    #[test]
    fn settings_out_of_their_range_are_errors() {
        let path = Path::new("a.json");
        assert!(Card::<ClassifierSettings>::parse(&classifier().to_string(), path).is_ok());
        for (setting, value) in [
            ("/settings/input_size", json!(0)),
            ("/settings/input_size", json!(u32::MAX)),
            ("/settings/crop", json!(-1)),
            ("/settings/crop", json!(1e39)),
            ("/settings/temperatures/age", json!(0)),
            ("/settings/thresholds/mask", json!(1.5)),
        ] {
            let mut card = classifier();
            *card.pointer_mut(setting).unwrap() = value;
            let said = error(&card);
            assert!(said.starts_with("model card a.json: ") && said.contains("must be from"), "{said}");
        }
        let detector = json!({ "min_score": 1.5, "nms_iou": 0.5 });
        let card = json!({ "schema": SCHEMA, "name": "a", "file": "a", "sha256": "", "settings": detector });
        assert!(Card::<DetectorSettings>::parse(&card.to_string(), path).is_err());
    }

    /// Found by fuzzing: a card could name any file of the machine.
    #[test]
    fn a_model_lies_beside_its_card() {
        for file in ["../a.onnx", "/etc/passwd", "b/a.onnx", "a.onnx/", "..", ""] {
            let mut card = classifier();
            card["file"] = file.into();
            assert!(error(&card).contains("does not lie beside it"), "{file}");
        }
    }
}
