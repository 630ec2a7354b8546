//! The attribute classifier: calibration and checking faces, temperatures, card.

use std::{collections::BTreeMap, iter, path::Path};

use anyhow::{Context, Result, ensure};
use mien::{
    attributes::{AgeGroup, Attributes, Temperatures, Thresholds},
    models::ClassifierSettings,
};
use serde::Serialize;
use serde_json::Value;
use tch::{Device, Tensor, with_grad};

use super::{
    BATCH, Difference, Options,
    card::{self, About},
    draw,
    graph::Graph,
    lower::{self, Variables},
    onnx,
    quantize::{Partial, Quantized, partial},
    temperature::{Truth, temperatures},
    threshold::thresholds,
};
use crate::{
    augment::{Equalisation, Input, Normalisation},
    classifier::{
        config::{Config, Head},
        dataset::{Pictures, normalise, read, to_tensor},
        evaluate::{Validation, answers},
        labels::{Face, Set, read_all},
        model::config_of,
        prediction::Prediction,
        split::Split,
    },
    network::Architecture,
};

/// What was measured on held-out faces.
#[derive(Debug, Serialize)]
struct Measured {
    /// Of the trained network.
    trained: Value,
    /// Of the network in the file.
    file: Value,
    logits: Difference,
    same: Same,
    /// Of labels above the thresholds.
    given: Given,
    /// The error of the outputs by each rule for int8's ranges; the least was taken.
    error_by_range: BTreeMap<&'static str, f64>,
    /// From f32 to the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<StepFigures>,
}

/// What the network is worth after a step of its quantisation, over all faces measured, those with painted masks among
/// them.
#[derive(Debug, Serialize)]
struct StepFigures {
    step: String,
    mask_accuracy: f64,
    gender_accuracy: f64,
    age_group_accuracy: f64,
    age_mae: Option<f64>,
    /// [`Difference::relative`] of the logits.
    logits_error: f64,
}

/// How often a head's label is not "unsure", and how often it is right then.
#[derive(Debug, Default, Serialize)]
struct HeadGiven {
    part: f64,
    accuracy: f64,
}

#[derive(Debug, Serialize)]
struct Given {
    mask: HeadGiven,
    gender: HeadGiven,
    age: HeadGiven,
}

/// The part of faces to which the trained network and the file give the same label.
#[derive(Debug, Serialize)]
struct Same {
    mask: f64,
    gender: f64,
    age: f64,
    class18: f64,
}

/// Writes `attributes.onnx` and its card; returns what was measured.
pub fn export(options: &Options, variables: &Variables) -> Result<Value> {
    let config = config_of(&options.weights)?;
    ensure_runs(&config)?;
    options.finetuning.check()?;
    let architecture = Architecture::by_name(&config.network, config.head.outputs() as i64)?;
    let mut graph =
        lower::classifier(variables, &architecture, i64::from(config.size())).with_context(|| {
            format!("exporting {}; the camera runs efficientnet_lite0 to _lite4", config.network)
        })?;
    let split: Split = options.split()?;
    let (held_out, training) = split.partition(read_all(&options.data)?);
    let own = held_out.iter().all(|face| matches!(face.set, Set::Other(_)));
    let held_out = draw(held_out, options.check);
    ensure!(!held_out.is_empty(), "no face is held out; --check must be at least 1");

    // What is measured must not be what temperatures and thresholds were fitted on.
    let (fitted_on, held_out) = held_out.split_at(held_out.len() / 2);
    let fitting = Validation::of_run(&config, &options.data, fitted_on.to_vec(), Device::Cpu)?;
    let validation = Validation::of_run(&config, &options.data, held_out.to_vec(), Device::Cpu)?;
    let (quantized, steps) = quantized(options, &config, &mut graph, training, &validation)?;
    let run = |validation: &Validation| match &quantized {
        Some(quantized) => said(&graph, quantized, validation),
        None => validation.logits(|images| logits(graph.run(images))),
    };
    let trained = validation.logits(|images| logits(graph.run(images)))?;
    let file = run(&validation)?;
    let (fitting_logits, fitting_truths) = (run(&fitting)?, truths(&fitting));
    let temperatures = temperatures(&fitting_logits, &fitting_truths);
    let chosen = thresholds(&answers(&fitting_logits, temperatures), &fitting_truths, options.accuracy);
    let thresholds = Thresholds {
        mask: options.mask_threshold.unwrap_or(chosen.mask),
        gender: options.gender_threshold.unwrap_or(chosen.gender),
        age: options.age_threshold.unwrap_or(chosen.age),
    };
    let step = |step: &Step| step_figures(&validation, step, &trained, temperatures);
    let measured = serde_json::to_value(Measured {
        steps: match &quantized {
            Some(quantized) if options.steps => {
                let last = Step { name: last_step(options, quantized), logits: file.clone() };
                let first = Step { name: "f32".to_owned(), logits: trained.clone() };
                iter::once(&first).chain(&steps).chain([&last]).map(step).collect()
            }
            _ => Vec::new(),
        },
        trained: figures(&validation, &answers(&trained, temperatures))?,
        file: figures(&validation, &answers(&file, temperatures))?,
        logits: Difference::between(&Tensor::from_slice(&trained), &Tensor::from_slice(&file)),
        same: same(&answers(&trained, temperatures), &answers(&file, temperatures)),
        error_by_range: quantized.as_ref().map(|quantized| quantized.errors.clone()).unwrap_or_default(),
        given: given(&answers(&file, temperatures), &truths(&validation), thresholds),
    })?;
    let settings = ClassifierSettings {
        input_size: config.size(),
        crop: config.input.crop as f32,
        temperatures,
        thresholds,
    };
    let facts = if own { card::classifier_of_own_photos } else { card::classifier };
    let about = About {
        facts: facts(&config.network, config.size()),
        format: options.format(),
        export: measured.clone(),
    };
    card::write(&options.out, "attributes", &onnx::encode(&graph, quantized.as_ref()), settings, &about)?;
    Ok(measured)
}

/// Refuses what the runtime would not run as it was trained.
fn ensure_runs(config: &Config) -> Result<()> {
    ensure!(
        config.head == Head::Three,
        "the weights are of the head {:?}; the camera runs {:?}",
        config.head,
        Head::Three
    );
    let Input { size: _, centre_crop, crop: _, normalise, equalise } = config.input;
    ensure!(
        centre_crop && normalise == Normalisation::Symmetric && equalise == Equalisation::Off,
        "the network was trained on other pictures than the camera shows it: input.centre_crop must be true, \
         input.normalise \"symmetric\" and input.equalise \"off\""
    );
    Ok(())
}

/// Faces as the program crops them, normalised.
pub fn batches(data: &Path, config: &Config, faces: Vec<Face>) -> Result<Vec<Tensor>> {
    let framing = config.framing(&faces);
    let Pictures { faces, pictures, .. } = read(data, faces, framing)?;
    let view = config.view();
    let crops: Vec<_> = pictures.iter().zip(&faces).map(|(picture, face)| view.of(picture, face)).collect();
    Ok(crops.chunks(BATCH).map(|crops| normalise(&to_tensor(crops))).collect())
}

/// What a network says of the faces measured, after a step of its quantisation.
struct Step {
    name: String,
    logits: Vec<f32>,
}

/// Quantises the graph as the options say, and measures every step before the last if they say so.
fn quantized(
    options: &Options,
    config: &Config,
    graph: &mut Graph,
    training: Vec<Face>,
    validation: &Validation,
) -> Result<(Option<Quantized>, Vec<Step>)> {
    let mut steps = Vec::new();
    let before = graph.clone();
    let batches = batches(&options.data, config, draw(training.clone(), options.calibration))?;
    let Some(calibrated) = options.quantize(graph, &batches)? else { return Ok((None, steps)) };
    if options.steps {
        for Partial { name, graph, quantized } in partial(&before, &batches, calibrated.range)? {
            let logits = said(&graph, &quantized, validation)?;
            steps.push(Step { name: format!("int8, {name}"), logits });
        }
    }
    if !options.finetuning.is_wanted() {
        return Ok((Some(calibrated), steps));
    }
    if options.steps {
        steps.push(Step { name: corrected(&calibrated), logits: said(graph, &calibrated, validation)? });
    }
    let tuned = with_grad(|| options.finetuning.run(&options.data, config, training, graph, calibrated))?;
    Ok((Some(tuned), steps))
}

fn said(graph: &Graph, quantized: &Quantized, validation: &Validation) -> Result<Vec<f32>> {
    validation.logits(|images| logits(quantized.run(graph, images)))
}

/// The name of the step that ends calibration.
fn corrected(quantized: &Quantized) -> String {
    format!("int8, {}, channels equalised, biases corrected", quantized.range.name())
}

fn last_step(options: &Options, quantized: &Quantized) -> String {
    let tuned = if options.finetuning.is_wanted() { ", fine-tuned" } else { "" };
    corrected(quantized) + tuned
}

fn step_figures(
    validation: &Validation,
    step: &Step,
    trained: &[f32],
    temperatures: Temperatures,
) -> StepFigures {
    let Step { name, logits } = step;
    let predictions: Vec<Prediction> =
        answers(logits, temperatures).iter().map(Prediction::from_heads).collect();
    let figures = validation.figures(&predictions);
    StepFigures {
        step: name.clone(),
        mask_accuracy: figures.mask.accuracy,
        gender_accuracy: figures.gender.accuracy,
        age_group_accuracy: figures.age.accuracy,
        age_mae: figures.age_mae,
        logits_error: Difference::between(&Tensor::from_slice(trained), &Tensor::from_slice(logits)).relative,
    }
}

/// The graph's only output.
fn logits(mut outputs: Vec<Tensor>) -> Tensor {
    outputs.remove(0)
}

fn truths(validation: &Validation) -> Vec<Truth> {
    let truth = |(face, mask): (&Face, _)| {
        // A range of ages that spans two groups says nothing of the group.
        let age = face.age.as_ref().and_then(|age| {
            let [low, high] = [age.start(), age.end()].map(|&years| AgeGroup::of_years(f32::from(years)));
            (low == high).then_some(low)
        });
        let mask_photo = face.set == Set::Masks && !face.synthetic;
        Truth { mask, mask_photo, gender: face.gender, age }
    };
    validation.faces().map(truth).collect()
}

fn given(answers: &[Attributes], truths: &[Truth], thresholds: Thresholds) -> Given {
    /// Whether the label is given and whether it is right; nothing where the truth is unknown.
    type Judge<'a> = &'a dyn Fn(&Attributes, &Truth) -> Option<(bool, bool)>;
    let head = |of: Judge| {
        let labels: Vec<(bool, bool)> =
            answers.iter().zip(truths).filter_map(|(answer, truth)| of(answer, truth)).collect();
        let given: Vec<bool> = labels.iter().filter(|(given, _)| *given).map(|(_, right)| *right).collect();
        let part = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
        HeadGiven {
            part: part(given.len(), labels.len()),
            accuracy: part(given.iter().filter(|right| **right).count(), given.len()),
        }
    };
    let sure = |p: &[f32], threshold| p.iter().any(|&p| p >= threshold);
    Given {
        mask: head(&|a, truth| Some((sure(&a.mask, thresholds.mask), a.best().0 == truth.mask))),
        gender: head(&|a, truth| Some((sure(&a.gender, thresholds.gender), a.best().1 == truth.gender?))),
        age: head(&|a, truth| Some((sure(&a.age, thresholds.age), a.best().2 == truth.age?))),
    }
}

/// By data pack, or in short of photos that are of none.
fn figures(validation: &Validation, answers: &[Attributes]) -> Result<Value> {
    if validation.has_packs() {
        return Ok(serde_json::to_value(validation.report(answers))?);
    }
    let predictions: Vec<Prediction> = answers.iter().map(Prediction::from_heads).collect();
    Ok(serde_json::to_value(validation.figures(&predictions).summary())?)
}

fn same(trained: &[Attributes], file: &[Attributes]) -> Same {
    let part = |same: fn(&Attributes, &Attributes) -> bool| {
        trained.iter().zip(file).filter(|(a, b)| same(a, b)).count() as f64 / trained.len() as f64
    };
    Same {
        mask: part(|a, b| a.best().0 == b.best().0),
        gender: part(|a, b| a.best().1 == b.best().1),
        age: part(|a, b| a.best().2 == b.best().2),
        class18: part(|a, b| a.class18() == b.class18()),
    }
}
