//! The mean of several networks' weights: of a network and of what it was before fine-tuning, better on photos of either kind
//! than both (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903).

use std::{collections::HashMap, path::PathBuf};

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use crate::checkpoint;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Weights of the same network (safetensors), of runs that began with one another's or with the same ones
    #[arg(required = true, num_args = 2..)]
    weights: Vec<PathBuf>,
    /// The weights to write
    #[arg(long)]
    out: PathBuf,
}

/// Writes the mean of all tensors.
pub fn average(options: &Options) -> Result<()> {
    let mut sums: HashMap<String, Tensor> = HashMap::new();
    for (n, path) in options.weights.iter().enumerate() {
        let read = Tensor::read_safetensors(path)
            .with_context(|| format!("reading the weights {}", path.display()))?;
        let other =
            || format!("{} is of another network than {}", path.display(), options.weights[0].display());
        ensure!(n == 0 || read.len() == sums.len(), other());
        for (name, tensor) in read {
            let tensor = tensor.to_kind(Kind::Float);
            let sum = match sums.remove(&name) {
                Some(sum) => {
                    ensure!(sum.size() == tensor.size(), other());
                    sum + tensor
                }
                None => {
                    ensure!(n == 0, other());
                    tensor
                }
            };
            sums.insert(name, sum);
        }
    }
    let count = options.weights.len() as f64;
    let means: Vec<_> = sums.into_iter().map(|(name, sum)| (name, sum / count)).collect();
    checkpoint::write(&options.out, &means)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_averaged_and_other_networks_refused() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, tensor: &str, values: &[f32]| {
            let path = folder.path().join(name);
            Tensor::write_safetensors(&[(tensor, Tensor::from_slice(values))], &path).unwrap();
            path
        };
        let (a, b) = (write("a", "x", &[1.0, 2.0]), write("b", "x", &[2.0, 6.0]));
        let out = folder.path().join("mean");
        average(&Options { weights: vec![a.clone(), b], out: out.clone() }).unwrap();
        let mean = Tensor::read_safetensors(&out).unwrap();
        assert_eq!(Vec::<f32>::try_from(&mean[0].1).unwrap(), [1.5, 4.0]);
        for other in [write("c", "y", &[1.0, 2.0]), write("d", "x", &[1.0])] {
            let error = average(&Options { weights: vec![a.clone(), other], out: out.clone() }).unwrap_err();
            assert!(error.to_string().contains("another network"), "{error:#}");
        }
    }
}
