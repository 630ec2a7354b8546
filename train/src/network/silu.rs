use tch::{Tensor, nn::Module};

/// The sigmoid linear unit `x · σ(x)`, also called Swish (Elfwing et al., 2018; Ramachandran et al., 2017).
#[derive(Debug, Clone, Copy, Default)]
pub struct Silu;

impl Module for Silu {
    fn forward(&self, x: &Tensor) -> Tensor {
        x.silu()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_slopes_as_defined() {
        for x in [-20.0, -1.3, 0.0, 0.4, 3.0, 30.0f64] {
            let sigmoid = 1.0 / (1.0 + (-x).exp());
            let input = Tensor::from(x).set_requires_grad(true);
            let y = Silu.forward(&input);
            y.backward();
            assert!((y.double_value(&[]) - x * sigmoid).abs() < 1e-12);
            let slope = sigmoid * (1.0 + x * (1.0 - sigmoid));
            assert!((input.grad().double_value(&[]) - slope).abs() < 1e-12);
        }
    }
}
