//! What a run was made with.

use std::process::Command;

use serde::{Deserialize, Serialize};
use tch::Device;

/// The revision of the sources, marked when they differ from it.
pub fn git_revision() -> String {
    let folder = env!("CARGO_MANIFEST_DIR");
    let described = Command::new("git").args(["-C", folder, "describe", "--always", "--dirty"]).output();
    match described {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// The machine of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hardware {
    pub device: String,
    /// The accelerator's name, or the processor's.
    pub name: String,
    pub cores: usize,
}

impl Hardware {
    /// What `device` (`cpu`, `cuda:0`) is, as far as Linux tells.
    pub fn of(device: &str, kind: Device) -> Hardware {
        let name = if kind.is_cuda() { gpu() } else { cpu() };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Hardware { device: device.to_owned(), name: name.unwrap_or_else(|| "unknown".to_owned()), cores }
    }
}

fn cpu() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn gpu() -> Option<String> {
    let query = ["--query-gpu=name", "--format=csv,noheader"];
    let output = Command::new("nvidia-smi").args(query).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned())
}
