//! The networks and their cards: which file, what it expects, how to read what it says.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::attributes::{Temperatures, Thresholds};

/// The machine-readable part of a model card that every model has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Card<Settings> {
    pub schema: u32,
    pub name: String,
    /// The model's file name, beside the card.
    pub file: String,
    /// SHA-256 of the file, lower-case hexadecimal.
    pub sha256: String,
    pub settings: Settings,
    /// Training data, recipe, figures: for people, not read by the program.
    #[serde(default)]
    pub about: serde_json::Value,
}

/// How to run the face detector.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DetectorSettings {
    /// Least score of a face that is shown, 0–1.
    pub min_score: f32,
    /// IoU above which the weaker of two boxes is dropped.
    pub nms_iou: f32,
}

/// How to run the attribute classifier.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassifierSettings {
    /// Side of the square input in pixels.
    pub input_size: u32,
    /// The crop's side over the longer side of the face box.
    pub crop: f32,
    pub temperatures: Temperatures,
    pub thresholds: Thresholds,
}

/// A model's bytes, checked against its card.
#[derive(Debug, Clone)]
pub struct Model<Settings> {
    pub card: Card<Settings>,
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

impl<Settings: for<'a> Deserialize<'a>> Model<Settings> {
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
        let card: Card<Settings> = parse(&text, card_path)?;
        let path = card_path.with_file_name(&card.file);
        let onnx = read(&path)?;
        Self::check(&text, onnx, card_path, &path)
    }

    fn check(card: &str, onnx: Vec<u8>, card_path: &Path, path: &Path) -> Result<Self, ModelError> {
        let card: Card<Settings> = parse(card, card_path)?;
        let found = sha256(&onnx);
        if found != card.sha256 {
            return Err(ModelError::Hash { path: path.to_owned(), found, expected: card.sha256 });
        }
        Ok(Self { card, onnx, origin: path.display().to_string() })
    }
}

fn parse<Settings: for<'a> Deserialize<'a>>(text: &str, path: &Path) -> Result<Card<Settings>, ModelError> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    let bad = |source| ModelError::Card { path: path.to_owned(), source };
    let Version { schema } = serde_json::from_str(text).map_err(bad)?;
    if schema != SCHEMA {
        return Err(ModelError::Schema { path: path.to_owned(), found: schema });
    }
    serde_json::from_str(text).map_err(bad)
}

/// SHA-256 in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
