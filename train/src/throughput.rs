//! How fast training steps are on random pictures that lie on the device already.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::{
    classifier::{
        config::{Config, Head},
        model::Model,
    },
    device::{parse_device, precision},
    network::channels_last,
    output,
};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// As for `mien-train classifier`
    #[arg(long, default_value = "tf_efficientnet_lite0")]
    network: String,
    /// Side of the pictures
    #[arg(long, default_value_t = 112)]
    size: i64,
    /// Pictures that go through the network together
    #[arg(long, default_value_t = 64)]
    batch: i64,
    /// Steps that are timed together; the figure is the fastest of three such rounds
    #[arg(long, default_value_t = 20)]
    steps: u32,
    /// cpu, or cuda:0
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Half precision where it is safe, on CUDA
    #[arg(long)]
    mixed_precision: bool,
    /// Let cuDNN try its ways to convolve first, and keep the fastest
    #[arg(long)]
    autotune: bool,
    /// CPU threads of libtorch
    #[arg(long, default_value_t = 1)]
    threads: i32,
}

/// What was timed, as JSON.
#[derive(Debug, Serialize)]
struct Figures<'a> {
    network: &'a str,
    size: i64,
    batch: i64,
    device: &'a str,
    mixed_precision: bool,
    autotune: bool,
    images_per_second: f64,
}

const ROUNDS: usize = 3;
/// Steps before the first that is timed: memory is taken, and ways to convolve are chosen.
const WARM_UP: u32 = 5;

/// Prints how many pictures a second are learnt from: the network forth and back under cross-entropy of 18 classes,
/// scaled and clipped gradients, AdamW. train/scripts/throughput.py does the same with timm.
pub fn throughput(options: &Options) -> Result<()> {
    ensure!(options.steps > 0 && options.batch > 0, "--steps and --batch must be at least 1");
    tch::set_num_threads(options.threads);
    let device = parse_device(&options.device)?;
    tch::Cuda::cudnn_set_benchmark(options.autotune);
    let precision = precision(options.mixed_precision, device);
    let half = precision == Kind::Half;
    let config = Config {
        network: options.network.clone(),
        head: Head::Classes,
        sizes: vec![options.size],
        dropout: 0.0,
        drop_path: 0.0,
        ..Config::default()
    };
    let model = Model::new(&config, device)?;
    let least = model.architecture.least_side;
    ensure!(
        options.size >= least,
        "--size {}: the least for {} is {least} pixels",
        options.size,
        options.network
    );
    let mut optimizer = config.optimizer.build(&model.vs, half);
    let images = Tensor::randn([options.batch, 3, options.size, options.size], (precision, device));
    let images = channels_last(&images);
    let classes = Tensor::randint(config.head.outputs() as i64, [options.batch], (Kind::Int64, device));
    let mut step = || {
        let logits = model.network.forward(&images, true);
        optimizer.step(&logits.cross_entropy_for_logits(&classes), 1e-4);
    };
    (0..WARM_UP).for_each(|_| step());
    let rounds = (0..ROUNDS).map(|_| {
        wait_for(device);
        let clock = Instant::now();
        (0..options.steps).for_each(|_| step());
        wait_for(device);
        clock.elapsed().as_secs_f64()
    });
    let fastest = rounds.fold(f64::INFINITY, f64::min);
    output::print(&serde_json::to_string(&Figures {
        network: &options.network,
        size: options.size,
        batch: options.batch,
        device: &options.device,
        mixed_precision: half,
        autotune: options.autotune,
        images_per_second: options.batch as f64 * f64::from(options.steps) / fastest,
    })?)
}

fn wait_for(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_timed_on_a_cpu_too() {
        let options = Options {
            network: "simple_cnn".into(),
            size: 32,
            batch: 2,
            steps: 1,
            device: "cpu".into(),
            mixed_precision: true,
            autotune: true,
            threads: 1,
        };
        throughput(&options).unwrap();
        assert!(throughput(&Options { network: "nothing".into(), ..options }).is_err());
    }
}
