//! Averaged weights, and checkpoints that a run resumes from.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tch::{Tensor, nn, no_grad};

use crate::optimizer::Optimizer;

/// Exponential moving average of a store's variables (batch norm statistics included) in a second store.
#[derive(Debug)]
pub struct Ema {
    pairs: Vec<(Tensor, Tensor)>,
    decay: f64,
}

impl Ema {
    /// Starts `average` as a copy of `live`; both must hold the same network.
    pub fn new(average: &mut nn::VarStore, live: &nn::VarStore, decay: f64) -> Result<Ema> {
        average.copy(live).context("copying the weights into their average")?;
        average.freeze();
        let sources = live.variables();
        let pairs = average.variables().into_iter().map(|(name, to)| (to, sources[&name].shallow_clone()));
        Ok(Ema { pairs: pairs.collect(), decay })
    }

    /// Moves the average towards the live weights; early steps (from 1) move further.
    pub fn update(&mut self, step: u64) {
        let decay = self.decay.min((1 + step) as f64 / (10 + step) as f64);
        no_grad(|| {
            for (average, live) in &mut self.pairs {
                let _ = average.lerp_(live, 1.0 - decay);
            }
        });
    }
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Position {
    /// Batches learnt from.
    pub step: u64,
    /// Pictures learnt from.
    pub samples: u64,
    /// Seconds spent.
    pub seconds: f64,
}

const POSITION: &str = "position";
const LIVE: &str = "live.";
const AVERAGE: &str = "average.";
const OPTIMIZER: &str = "optimizer.";

/// Writes all that a run needs to go on; an interrupted write leaves the older file whole.
pub fn save(
    path: &Path,
    position: Position,
    live: &nn::VarStore,
    average: &nn::VarStore,
    optimizer: &dyn Optimizer,
) -> Result<()> {
    let Position { step, samples, seconds } = position;
    let mut tensors =
        vec![(POSITION.to_owned(), Tensor::from_slice(&[step as f64, samples as f64, seconds]))];
    for (prefix, store) in [(LIVE, live), (AVERAGE, average)] {
        tensors
            .extend(store.variables().into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
    }
    tensors
        .extend(optimizer.state().into_iter().map(|(name, tensor)| (format!("{OPTIMIZER}{name}"), tensor)));
    write(path, &tensors)
}

/// Reads what [`save`] wrote into stores of the same network.
pub fn load(
    path: &Path,
    live: &mut nn::VarStore,
    average: &mut nn::VarStore,
    optimizer: &mut dyn Optimizer,
) -> Result<Position> {
    let named = || format!("reading the checkpoint {}", path.display());
    let tensors: std::collections::HashMap<_, _> =
        Tensor::read_safetensors(path).with_context(named)?.into_iter().collect();
    for (prefix, store) in [(LIVE, live), (AVERAGE, average)] {
        for (name, mut variable) in store.variables() {
            let name = format!("{prefix}{name}");
            let source = tensors.get(&name).with_context(|| format!("{}: there is no {name}", named()))?;
            no_grad(|| variable.f_copy_(source))
                .with_context(|| format!("{}: {name} has another shape", named()))?;
        }
    }
    let state = tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(OPTIMIZER)?, tensor)));
    let state = state.map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).collect();
    ensure!(optimizer.restore(&state), "{}: its optimizer's state is of another network", named());
    let position = tensors.get(POSITION).with_context(|| format!("{}: there is no {POSITION}", named()))?;
    ensure!(position.size() == [3], "{}: the position has the shape {:?}", named(), position.size());
    let at = |i| position.double_value(&[i]);
    Ok(Position { step: at(0) as u64, samples: at(1) as u64, seconds: at(2) })
}

/// Writes a store's variables under their own names: what the exporter reads.
pub fn save_weights(path: &Path, store: &nn::VarStore) -> Result<()> {
    write(path, &store.variables().into_iter().collect::<Vec<_>>())
}

fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let partial = path.with_extension("partial");
    let tensors: Vec<(&str, Tensor)> = tensors
        .iter()
        .map(|(name, t)| (name.as_str(), t.detach().to_device(tch::Device::Cpu).contiguous()))
        .collect();
    Tensor::write_safetensors(&tensors, &partial)
        .with_context(|| format!("writing {}", partial.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("writing {}", path.display()))
}

/// Loads ImageNet weights into all of a network but its classifier.
pub fn load_pretrained(path: &Path, store: &mut nn::VarStore, classifier: &str) -> Result<()> {
    let missing = store.load_partial(path).with_context(|| {
        format!(
            "reading the ImageNet weights {}; train/scripts/pretrained_lite0.py writes them",
            path.display()
        )
    })?;
    let other: Vec<&String> = missing.iter().filter(|name| !name.starts_with(classifier)).collect();
    ensure!(other.is_empty(), "{} lacks {other:?}; it must hold the same network", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::AdamW;
    use tch::{Device, Kind};

    fn store(value: f64) -> nn::VarStore {
        let store = nn::VarStore::new(Device::Cpu);
        let root = store.root();
        let _ = (&root / "conv").var("weight", &[4, 2], nn::Init::Const(value));
        let _ = (&root / "bn").zeros_no_train("running_mean", &[4]);
        store
    }

    fn weight(store: &nn::VarStore) -> f64 {
        store.variables()["conv.weight"].double_value(&[0, 0])
    }

    #[test]
    fn a_run_resumes_where_it_was_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let position = Position { step: 12, samples: 768, seconds: 33.5 };
        let trained = store(1.0);
        let mut optimizer = AdamW::new(&trained, 0.0);
        optimizer.step(&trained.variables()["conv.weight"].square().sum(Kind::Float), 0.1);
        save(&path, position, &trained, &store(0.5), &optimizer).unwrap();

        let (mut live, mut average) = (store(0.0), store(0.0));
        let mut resumed = AdamW::new(&live, 0.0);
        assert_eq!(load(&path, &mut live, &mut average, &mut resumed).unwrap(), position);
        assert_eq!((weight(&live), weight(&average)), (weight(&trained), 0.5));
        let second = |optimizer: &mut AdamW, store: &nn::VarStore| {
            optimizer.step(&store.variables()["conv.weight"].sum(Kind::Float), 0.1);
            weight(store)
        };
        assert_eq!(second(&mut resumed, &live), second(&mut optimizer, &trained));
    }

    #[test]
    fn a_checkpoint_of_another_network_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        save_weights(&path, &store(1.0)).unwrap();
        let (mut live, mut average) = (store(0.0), store(0.0));
        let mut optimizer = AdamW::new(&live, 0.0);
        let error = load(&path, &mut live, &mut average, &mut optimizer).unwrap_err();
        assert!(format!("{error:#}").contains("there is no live."), "{error:#}");
    }

    #[test]
    fn the_average_follows_the_weights() {
        let (mut average, live) = (store(0.0), store(0.0));
        let mut ema = Ema::new(&mut average, &live, 0.9).unwrap();
        let _ = no_grad(|| live.variables().get_mut("conv.weight").unwrap().fill_(1.0));
        ema.update(1000);
        assert!((weight(&average) - 0.1).abs() < 1e-6);
        ema.update(1000);
        assert!((weight(&average) - 0.19).abs() < 1e-6);
    }
}
