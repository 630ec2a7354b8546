//! Where tensors live.

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor};

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

/// What a network's images are given as: half precision where that is `mixed` in, and on a GPU alone.
pub fn precision(mixed: bool, device: Device) -> Kind {
    if mixed && device.is_cuda() { Kind::Half } else { Kind::Float }
}

/// A tensor of the CPU's memory where a GPU fetches it by itself; for a CPU, the tensor as it is.
pub fn pin(tensor: &Tensor, device: Device) -> Tensor {
    // The other `pin_memory` writes a warning to stderr at each call.
    if device.is_cuda() { tensor.internal_pin_memory(device) } else { tensor.shallow_clone() }
}

/// A pinned tensor on `device`, without waiting for what a GPU has yet to do.
pub fn upload_pinned(tensor: &Tensor, device: Device) -> Tensor {
    tensor.to_device_(device, tensor.kind(), true, false)
}

/// A tensor of the CPU's memory on `device`, without waiting for what a GPU has yet to do.
pub fn upload(tensor: &Tensor, device: Device) -> Tensor {
    upload_pinned(&pin(tensor, device), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The linker leaves it out unless `build.rs` asks for it, and then no machine has CUDA devices.
    #[test]
    #[cfg(target_os = "linux")]
    fn libtorch_comes_with_its_cuda_half() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let loaded = |name: &str| maps.split_whitespace().find(|word| word.ends_with(name));
        let cpu = std::path::Path::new(loaded("/libtorch_cpu.so").unwrap());
        let there = cpu.with_file_name("libtorch_cuda.so").exists();
        assert_eq!(loaded("/libtorch_cuda.so").is_some(), there);
    }

    #[test]
    fn words_for_devices() {
        assert_eq!(parse_device("cpu").unwrap(), Device::Cpu);
        let error = parse_device("gpu").unwrap_err().to_string();
        assert!(error.contains("must be cpu or cuda:0"), "{error}");
    }
}
