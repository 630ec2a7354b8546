//! A student that learns from what teachers say (Hinton et al. 2015, arXiv:1503.02531).
//!
//! [`Teachers`] say it of the very picture that the student is shown, before that is distorted: while the student
//! learns, or once and for all into a file ([`SoftLabels`]), of each photo bare and with masks that can be painted again.

mod file;
mod teachers;

use std::{ops::Range, path::PathBuf};

use anyhow::{Result, ensure};
use mien::attributes::{AGE_BINS, AGE_LOGITS, GENDER_LOGITS, MASK_LOGITS};
use rand::{SeedableRng, rngs::StdRng, seq::index::sample};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::{
    config::{Config, Head},
    dataset::Dataset,
    loader::{Batch, Painting},
    objective::{Labels, part},
    split::Split,
};
use crate::loss::divergence;
use file::Aligned;
pub use file::SoftLabels;
pub use teachers::{Options, Teachers, soft_labels};

/// Distillation as a configuration sets it; without labels and teachers there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// A file of `mien-train soft-labels`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<PathBuf>,
    /// Runs, ensembles or files of weights that answer while the student learns: slower, but for any mask.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub teachers: Vec<PathBuf>,
    /// How many of the teachers answer for a batch, drawn by lot each time [default: all]: over many batches their
    /// answers come to the same mean, at less work for each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<usize>,
    /// What the teachers' word counts where a label is known, 0–1; the label counts the rest. Where none is known it
    /// counts 1.
    pub weight: f64,
    /// By which student and teachers are softened.
    pub temperature: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { labels: None, teachers: Vec::new(), asked: None, weight: 0.5, temperature: 2.0 }
    }
}

impl Settings {
    pub fn is_on(&self) -> bool {
        self.labels.is_some() || !self.teachers.is_empty()
    }

    /// Refuses what no student can be taught by.
    pub fn check(&self, head: Head) -> Result<()> {
        let Settings { weight, temperature, .. } = *self;
        ensure!(
            (0.0..=1.0).contains(&weight),
            "distillation.weight is {weight}; it must lie between 0 and 1"
        );
        ensure!(temperature > 0.0, "distillation.temperature is {temperature}; it must be more than 0");
        ensure!(
            self.labels.is_none() || self.teachers.is_empty(),
            "distillation has both labels and teachers; give one of them"
        );
        ensure!(
            self.asked.is_none() || !self.teachers.is_empty(),
            "distillation.asked is {:?}, but distillation.teachers names none to ask",
            self.asked
        );
        ensure!(
            !self.is_on() || head == Head::Three,
            "distillation is from three heads to three; the head is {head:?}"
        );
        Ok(())
    }

    /// How far `logits` `[N, LOGITS]` are from `soft` ([`head_log_p`]), a scalar: the sum over the heads, age times
    /// `age_share`, of the mean over the batch, each face by what its teachers' word counts.
    pub fn loss(&self, logits: &Tensor, soft: &Tensor, labels: &Labels, age_share: f64) -> Tensor {
        let student = head_log_p(logits);
        let head = |range: Range<usize>, known: &Tensor| {
            let off = divergence(&part(&student, range.clone()), &part(soft, range), self.temperature);
            let counts = known.gt(0.0).to_kind(Kind::Float) * (self.weight - 1.0) + 1.0;
            (off * counts).mean(Kind::Float)
        };
        head(MASK, &labels.mask_weight)
            + head(GENDER, &labels.gender_weight)
            + head(AGE, &labels.age_weight) * age_share
    }
}

/// Years that share a column: few enough to tell ages apart, and the age groups' limits are limits of columns.
const YEARS: usize = 3;
/// Columns of [`head_log_p`].
const COLUMNS: usize = 5 + AGE_BINS.div_ceil(YEARS);
const MASK: Range<usize> = 0..3;
const GENDER: Range<usize> = 3..5;
const AGE: Range<usize> = 5..COLUMNS;

/// Logarithms of each head's probabilities `[N, 39]`, mask 3, gender 2, age by three years 34, from `[N, LOGITS]`.
pub fn head_log_p(logits: &Tensor) -> Tensor {
    let head = |range| part(logits, range).log_softmax(1, Kind::Float);
    let columns = COLUMNS - AGE.start;
    let missing = (columns * YEARS - AGE_BINS) as i64;
    let years = head(AGE_LOGITS).pad([0, missing], "constant", f64::NEG_INFINITY);
    let age = years.view([-1, columns as i64, YEARS as i64]).logsumexp(2, false);
    Tensor::cat(&[head(MASK_LOGITS), head(GENDER_LOGITS), age], 1)
}

/// Where a run's soft labels come from.
#[derive(Debug)]
pub enum Teaching {
    File(Aligned),
    Teachers { teachers: Teachers, asked: usize },
}

impl Teaching {
    /// For a run on `dataset`; `None` where its configuration has no distillation.
    pub fn of(config: &Config, split: &Split, dataset: &Dataset, device: Device) -> Result<Option<Teaching>> {
        let settings = &config.distillation;
        Ok(match &settings.labels {
            Some(path) => {
                Some(Teaching::File(SoftLabels::read(path)?.aligned(path, config, split, dataset)?))
            }
            None if settings.is_on() => {
                let teachers = Teachers::load(&settings.teachers, config, split, &dataset.faces, device)?;
                let asked = settings.asked.unwrap_or(teachers.count());
                ensure!(
                    (1..=teachers.count()).contains(&asked),
                    "distillation.asked is {asked}; there are {} teachers to ask",
                    teachers.count()
                );
                Some(Teaching::Teachers { teachers, asked })
            }
            None => None,
        })
    }

    /// The masks that there are labels for.
    pub fn painting(&self) -> Painting {
        match self {
            Teaching::File(aligned) => Painting::Views(aligned.views),
            Teaching::Teachers { .. } => Painting::Any,
        }
    }

    /// The labels of the pictures that those of `labels` are blended with: at `partner`, but what was said of the blend
    /// itself holds for both.
    pub fn partners(&self, labels: &Labels, partner: &Tensor) -> Labels {
        let mut partners = labels.select(partner);
        if let (Teaching::Teachers { .. }, Some(soft)) = (self, &labels.soft) {
            partners.soft = Some(soft.shallow_clone());
        }
        partners
    }

    /// What is said of a batch's `images` with face boxes of `sides` pixels, as [`head_log_p`] has it; `lot` decides which
    /// teachers are asked.
    pub fn soft(&self, batch: &Batch, images: &Tensor, sides: &Tensor, lot: u64) -> Tensor {
        match self {
            Teaching::File(aligned) => aligned.of(batch).to_device(sides.device()),
            Teaching::Teachers { teachers, asked } => {
                let drawn = sample(&mut StdRng::seed_from_u64(lot), teachers.count(), *asked);
                teachers.say(&drawn.into_vec(), images, sides, false)
            }
        }
    }
}

#[cfg(test)]
mod tests;
