//! Which files the commands that look at shipped networks look at, and which faces those never learnt from.

use std::path::PathBuf;

use anyhow::Result;

use crate::classifier::{
    labels::{Face, read_all},
    split::Split,
};

#[derive(Debug, clap::Args)]
pub struct Files {
    /// The folder that holds the data packs
    #[arg(long)]
    pub data: PathBuf,
    /// The folder that holds the networks and their cards
    #[arg(long, default_value = "models")]
    pub models: PathBuf,
}

/// Of the classifier's training run.
#[derive(Debug, clap::Args)]
pub struct Kept {
    /// Chooses the faces: the seed of the classifier's training run
    #[arg(long, default_value_t = 1)]
    classifier_seed: u64,
    /// The part of the faces that training kept, 0–1
    #[arg(long, default_value_t = 0.1)]
    holdout: f64,
}

impl Files {
    /// Faces of the data packs that are kept from training.
    pub fn faces(&self, kept: &Kept) -> Result<Vec<Face>> {
        let faces = read_all(&self.data)?;
        Ok(Split::by_hash(&faces, kept.classifier_seed, kept.holdout).partition(faces).0)
    }
}
