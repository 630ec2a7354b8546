//! A network with what it must be shown.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mien::attributes::{Attributes, LOGITS, Temperatures};
use tch::{Device, Kind, Tensor, nn};

use super::{
    config::{Config, Head},
    evaluate::Validation,
    prediction::{CLASSES, Prediction},
};
use crate::{
    augment::Input,
    network::{Architecture, Network, Regularisation},
};

/// A network and its variables.
#[derive(Debug)]
pub struct Model {
    pub vs: nn::VarStore,
    pub network: Network,
    pub architecture: Architecture,
    head: Head,
    input: Input,
}

impl Model {
    /// With random weights.
    pub fn new(config: &Config, device: Device) -> Result<Model> {
        let architecture = Architecture::by_name(&config.network, config.head.outputs() as i64)?;
        let regularisation = Regularisation {
            frozen_blocks: config.frozen_blocks,
            dropout: config.dropout,
            drop_path: config.drop_path,
        };
        let vs = nn::VarStore::new(device);
        let network = Network::new(&vs.root(), &architecture, regularisation);
        ensure!(
            config.frozen_blocks <= network.blocks(),
            "frozen_blocks is {}; {} has {} blocks",
            config.frozen_blocks,
            config.network,
            network.blocks()
        );
        // Faces are cut out before, as the runtime does.
        let input = Input { size: config.size().into(), centre_crop: false, ..config.input };
        Ok(Model { network, vs, architecture, head: config.head, input })
    }

    /// With the weights of a file.
    pub fn load(config: &Config, weights: &Path, device: Device) -> Result<Model> {
        let mut model = Model::new(config, device)?;
        model.vs.load(weights).with_context(|| {
            format!(
                "reading the weights {} into {} with the head {:?}; is its run.json beside it?",
                weights.display(),
                config.network,
                config.head
            )
        })?;
        model.vs.freeze();
        Ok(model)
    }

    /// What the network says of all faces; with `flip`, the mean of what it says of each and of its mirror image.
    pub fn predict(&self, faces: &Validation, flip: bool) -> Result<Vec<Prediction>> {
        let forward = |crops: &Tensor| {
            let images =
                &self.input.prepare(crops, &Tensor::ones([crops.size()[0]], (Kind::Float, crops.device())));
            let logits = self.network.forward(images, false);
            // The mean of logits is the geometric mean of odds.
            if flip { (&logits + self.network.forward(&images.flip([3]), false)) / 2.0 } else { logits }
        };
        let logits = faces.outputs(forward)?;
        Ok(match self.head {
            Head::Classes => logits.chunks_exact(CLASSES).map(Prediction::from_classes).collect(),
            Head::Three => logits
                .chunks_exact(LOGITS)
                .map(|row| Prediction::from_heads(&Attributes::from_logits(row, Temperatures::default())))
                .collect(),
        })
    }
}

/// Names within a run's folder.
pub const WEIGHTS: &str = "weights.safetensors";
pub const BEST: &str = "best.safetensors";
pub const CONFIG: &str = "config.toml";
pub const SPLIT: &str = "split.json";

/// The configuration of the run that weights are of: `config.toml` beside them, or, of weights that older versions
/// wrote, the camera's.
pub fn config_of(weights: &Path) -> Result<Config> {
    let path = weights.with_file_name(CONFIG);
    if path.exists() { Config::read(&path) } else { Ok(Config { sizes: vec![112], ..Config::default() }) }
}

/// The weights of a run's folder, the best ones if it has them; a file of weights is itself.
pub fn weights_of(path: &Path) -> Result<PathBuf> {
    if path.is_file() {
        return Ok(path.to_owned());
    }
    let found = [BEST, WEIGHTS].map(|name| path.join(name)).into_iter().find(|path| path.exists());
    let found = found.with_context(|| {
        format!("{} holds neither {BEST} nor {WEIGHTS}; name a run's folder", path.display())
    })?;
    ensure!(found.is_file(), "{} is no file", found.display());
    Ok(found)
}
