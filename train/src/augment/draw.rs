//! Draws, one per picture, from torch's generator on the device of `like`.

use tch::{Kind, Tensor};

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
    let chosen = choose(x.size()[0], probability, x).nonzero().squeeze_dim(1);
    (chosen.numel() > 0).then_some(chosen)
}
