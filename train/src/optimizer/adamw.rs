use tch::{Tensor, nn::VarStore};

use super::{Descent, Rule, Step};

/// Decoupled weight decay regularisation, Loshchilov and Hutter 2019.
pub type AdamW = Descent<AdamWRule>;

#[derive(Debug)]
pub struct AdamWRule {
    weight_decay: f64,
}

const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;

impl AdamW {
    /// For every trainable variable; those of one dimension (biases and batch norm) do not decay.
    pub fn new(vs: &VarStore, weight_decay: f64) -> AdamW {
        Descent::over(vs, AdamWRule { weight_decay })
    }
}

impl Rule for AdamWRule {
    /// Running means of the gradient and of its square.
    const MEMORY: &'static [&'static str] = &["mean", "square"];

    fn update(&self, step: &Step, value: &mut Tensor, gradient: &Tensor, memory: &mut [Tensor]) {
        let [mean, square] = memory else { unreachable!("as many as MEMORY has names") };
        let corrected = |beta: f64| 1.0 - beta.powf(step.number as f64);
        let _ = mean.lerp_(gradient, 1.0 - BETAS.0);
        let _ = square.lerp_(&gradient.square(), 1.0 - BETAS.1);
        if step.decays {
            let _ = value.g_mul_scalar_(1.0 - step.rate * self.weight_decay);
        }
        let spread = (&*square / corrected(BETAS.1)).sqrt() + EPSILON;
        let _ = value.g_sub_(&(&*mean * (step.rate / corrected(BETAS.0)) / spread));
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, nn};

    use super::{
        super::{
            Optimizer,
            golden::{ADAMW, check},
        },
        *,
    };

    #[test]
    fn one_step_is_as_published() {
        let vs = nn::VarStore::new(Device::Cpu);
        let value = vs.root().var("w", &[1, 1], nn::Init::Const(2.0));
        let mut adam = AdamW::new(&vs, 0.1);
        // The first step is `rate` in the gradient's direction, after the decay, whatever the gradient's size.
        adam.step(&(&value * 7.0).sum(Kind::Float), 0.01);
        let expected = 2.0 * (1.0 - 0.01 * 0.1) - 0.01;
        assert!((value.double_value(&[0, 0]) - expected).abs() < 1e-6);
    }

    #[test]
    fn steps_as_pytorch() {
        check(|vs| AdamW::new(vs, 0.1), &ADAMW);
    }
}
