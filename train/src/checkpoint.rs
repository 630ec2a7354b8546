//! Averaged weights, and checkpoints that a run resumes from.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tch::{Tensor, nn, no_grad};

use crate::{network::Architecture, optimizer::Optimizer};

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
    /// The best score so far and the epoch after which it was reached.
    pub best: Option<(f64, u64)>,
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
    let Position { step, samples, seconds, best } = position;
    let (score, epoch) = best.unwrap_or((f64::NAN, 0));
    let numbers = [step as f64, samples as f64, seconds, score, epoch as f64];
    let mut tensors = vec![(POSITION.to_owned(), Tensor::from_slice(&numbers))];
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
    // Older checkpoints do not say what was best.
    let known = position.size();
    ensure!(matches!(known[..], [3] | [5]), "{}: the position has the shape {known:?}", named());
    let at = |i| position.double_value(&[i]);
    let best = (known == [5] && !at(3).is_nan()).then(|| (at(3), at(4) as u64));
    Ok(Position { step: at(0) as u64, samples: at(1) as u64, seconds: at(2), best })
}

/// Writes a store's variables under their own names: what the exporter reads.
pub fn save_weights(path: &Path, store: &nn::VarStore) -> Result<()> {
    write(path, &store.variables().into_iter().collect::<Vec<_>>())
}

/// Writes beside `path` and renames, so that a stopped run leaves no half file.
pub fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let partial = path.with_extension("partial");
    let tensors: Vec<(&str, Tensor)> = tensors
        .iter()
        .map(|(name, t)| (name.as_str(), t.detach().to_device(tch::Device::Cpu).contiguous()))
        .collect();
    Tensor::write_safetensors(&tensors, &partial)
        .with_context(|| format!("writing {}", partial.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("writing {}", path.display()))
}

/// What a file of weights had for a network.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The network's variables that the file lacks.
    pub missing: Vec<String>,
    /// The file's tensors that the network has no use for.
    pub unexpected: Vec<String>,
    /// The classifier's variables that the file holds for other classes.
    pub changed: Vec<String>,
    /// How many variables took the leading channels of the file's wider ones.
    pub narrowed: usize,
}

/// Loads weights into the variables of the same names of a network of `architecture`. Those of its last layer may be missing
/// or of another shape, and then keep their values; those of the backbone must all be there, and a narrowed one takes
/// leading channels.
pub fn load_pretrained(path: &Path, store: &mut nn::VarStore, architecture: &Architecture) -> Result<Loaded> {
    let named = || format!("reading the pretrained weights {}", path.display());
    let mut tensors: std::collections::HashMap<_, _> =
        Tensor::read_safetensors(path).with_context(named)?.into_iter().collect();
    let mut loaded = Loaded::default();
    let mut misfits = Vec::new();
    let of_classifier = |name: &str| {
        name.strip_prefix(architecture.classifier.as_str()).is_some_and(|rest| rest.starts_with('.'))
    };
    let mut matched = Vec::new();
    for (name, variable) in store.variables() {
        match tensors.remove(&name) {
            None => loaded.missing.push(name),
            Some(tensor) if tensor.size() == variable.size() => matched.push((variable, tensor)),
            Some(_) if of_classifier(&name) => loaded.changed.push(name),
            Some(tensor) if architecture.narrowed && holds(&tensor, &variable) => {
                let sizes = variable.size();
                let axes = sizes.iter().enumerate();
                let leading = axes.fold(tensor, |part, (axis, &size)| part.narrow(axis as i64, 0, size));
                matched.push((variable, leading));
                loaded.narrowed += 1;
            }
            Some(tensor) => misfits.push(format!("{name} {:?} for {:?}", tensor.size(), variable.size())),
        }
    }
    // PyTorch counts batches beside each batch norm; the momentum here does not depend on it.
    loaded.unexpected = tensors.into_keys().filter(|name| !name.ends_with(".num_batches_tracked")).collect();
    for names in [&mut loaded.missing, &mut loaded.unexpected, &mut loaded.changed, &mut misfits] {
        names.sort();
    }
    let lacking: Vec<&String> = loaded.missing.iter().filter(|name| !of_classifier(name)).collect();
    ensure!(
        lacking.is_empty() && misfits.is_empty(),
        "{} is not of this network: it lacks {}, has {} that the network lacks, and of another shape {}",
        path.display(),
        listed(&lacking),
        listed(&loaded.unexpected),
        listed(&misfits)
    );
    for (mut variable, tensor) in matched {
        no_grad(|| variable.f_copy_(&tensor)).with_context(named)?;
    }
    Ok(loaded)
}

/// Whether `tensor` is at least as long as `part` along every axis.
fn holds(tensor: &Tensor, part: &Tensor) -> bool {
    let (whole, part) = (tensor.size(), part.size());
    whole.len() == part.len() && whole.iter().zip(&part).all(|(whole, part)| whole >= part)
}

/// The first names of a list and how many there are.
fn listed(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 8;
    let first: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    match names.len() {
        0 => "nothing".to_owned(),
        n if n > SHOWN => format!("{} and {} more", first.join(", "), n - SHOWN),
        _ => first.join(", "),
    }
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
        let position = Position { step: 12, samples: 768, seconds: 33.5, best: Some((0.75, 3)) };
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

    /// A network whose last layer is called `head`.
    fn under_head() -> Architecture {
        Architecture { classifier: "head".into(), ..Architecture::by_name("simple_cnn", 18).unwrap() }
    }

    #[test]
    fn pretrained_weights_load_by_name_under_a_changed_head() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pretrained.safetensors");
        let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, Device::Cpu));
        let tensors = [
            ("conv.weight", ones(&[4, 2])),
            ("bn.running_mean", ones(&[4])),
            ("bn.num_batches_tracked", Tensor::from_slice(&[7i64])),
            ("head.weight", ones(&[1000, 4])),
            ("extra.weight", ones(&[1])),
        ];
        Tensor::write_safetensors(&tensors, &path).unwrap();
        let mut target = store(0.0);
        let _ = (&target.root() / "head").var("weight", &[18, 4], nn::Init::Const(0.5));
        let _ = (&target.root() / "head").var("bias", &[18], nn::Init::Const(0.5));
        let loaded = load_pretrained(&path, &mut target, &under_head()).unwrap();
        assert_eq!(loaded.missing, ["head.bias"]);
        assert_eq!(loaded.unexpected, ["extra.weight"]);
        assert_eq!(loaded.changed, ["head.weight"]);
        assert_eq!((weight(&target), target.variables()["head.weight"].double_value(&[0, 0])), (1.0, 0.5));
    }

    #[test]
    fn pretrained_weights_of_another_backbone_are_refused_and_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pretrained.safetensors");
        let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, Device::Cpu));
        let tensors =
            [("conv.weight", ones(&[4, 2])), ("stem.weight", ones(&[1])), ("bn.running_mean", ones(&[5]))];
        Tensor::write_safetensors(&tensors, &path).unwrap();
        let mut target = store(0.0);
        let _ = (&target.root() / "conv").var("bias", &[4], nn::Init::Const(0.0));
        let error = load_pretrained(&path, &mut target, &under_head()).unwrap_err().to_string();
        assert!(
            error.contains("lacks conv.bias, has stem.weight")
                && error.contains("another shape bn.running_mean [5] for [4]"),
            "{error}"
        );
        assert_eq!(weight(&target), 0.0);
    }
}
