//! Draws from torch's generators: numbers of pictures on the device of `like`; choices, that the program waits for, on the
//! CPU, so that no GPU has to be waited for.

use tch::{Device, Kind, Tensor};

use crate::device::upload;

pub fn uniform(n: i64, (low, high): (f64, f64), like: &Tensor) -> Tensor {
    Tensor::rand([n], (Kind::Float, like.device())) * (high - low) + low
}

pub fn normal(n: i64, deviation: f64, like: &Tensor) -> Tensor {
    Tensor::randn([n], (Kind::Float, like.device())) * deviation
}

/// Ones with the given probability, else zeros.
pub fn choose(n: i64, probability: f64, like: &Tensor) -> Tensor {
    Tensor::rand([n], (Kind::Float, like.device())).lt(probability).to_kind(Kind::Float)
}

/// Indices of the pictures drawn with the given probability; `None` when there are none.
pub fn subset(x: &Tensor, probability: f64) -> Option<Tensor> {
    if probability <= 0.0 {
        return None;
    }
    let chosen =
        Tensor::rand([x.size()[0]], (Kind::Float, Device::Cpu)).lt(probability).nonzero().squeeze_dim(1);
    (chosen.numel() > 0).then(|| upload(&chosen, x.device()))
}

/// One number for a whole batch.
pub fn one((low, high): (f64, f64)) -> f64 {
    low + (high - low) * Tensor::rand([], (Kind::Double, Device::Cpu)).double_value(&[])
}
