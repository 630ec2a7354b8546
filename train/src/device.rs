//! Where tensors live.

use anyhow::{Context, Result, ensure};
use tch::Device;

/// `cpu` or `cuda:N`; CUDA must be there when it is asked for.
pub fn parse_device(word: &str) -> Result<Device> {
    if word == "cpu" {
        return Ok(Device::Cpu);
    }
    let index = word.strip_prefix("cuda:").and_then(|n| n.parse().ok());
    let index: usize = index.with_context(|| format!("--device is {word:?}; it must be cpu or cuda:0"))?;
    let found = tch::Cuda::device_count().max(0) as usize;
    ensure!(index < found, "--device is {word:?}, but libtorch sees {found} CUDA devices");
    Ok(Device::Cuda(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_devices() {
        assert_eq!(parse_device("cpu").unwrap(), Device::Cpu);
        let error = parse_device("gpu").unwrap_err().to_string();
        assert!(error.contains("must be cpu or cuda:0"), "{error}");
    }
}
