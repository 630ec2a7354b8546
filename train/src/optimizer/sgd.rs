use tch::{Tensor, nn::VarStore};

use super::{Descent, Rule, Step};

/// Stochastic gradient descent with momentum, plain or Nesterov's (Sutskever et al., 2013, in PyTorch's form):
/// `v ← momentum·v + g`, then `x −= rate·v`, or `x −= rate·(g + momentum·v)`.
pub type Sgd = Descent<SgdRule>;

#[derive(Debug)]
pub struct SgdRule {
    momentum: f64,
    nesterov: bool,
    weight_decay: f64,
}

impl Sgd {
    /// For every trainable variable. `weight_decay` is added to the gradient, but not of variables of one dimension
    /// (biases and batch norm).
    pub fn new(vs: &VarStore, momentum: f64, nesterov: bool, weight_decay: f64) -> Sgd {
        Descent::over(vs, SgdRule { momentum, nesterov, weight_decay })
    }
}

impl Rule for SgdRule {
    const MEMORY: &'static [&'static str] = &["velocity"];

    fn update(&self, step: &Step, value: &mut Tensor, gradient: &Tensor, memory: &mut [Tensor]) {
        let [velocity] = memory else { unreachable!("as many as MEMORY has names") };
        let decayed =
            (self.weight_decay != 0.0 && step.decays).then(|| gradient + &*value * self.weight_decay);
        let gradient = decayed.as_ref().unwrap_or(gradient);
        let _ = velocity.g_mul_scalar_(self.momentum).g_add_(gradient);
        let way =
            if self.nesterov { gradient + &*velocity * self.momentum } else { velocity.shallow_clone() };
        let _ = value.g_sub_(&(way * step.rate));
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::golden::{SGD, SGD_NESTEROV, check},
        *,
    };

    #[test]
    fn steps_as_pytorch() {
        check(|vs| Sgd::new(vs, 0.9, false, 0.1), &SGD);
        check(|vs| Sgd::new(vs, 0.9, true, 0.1), &SGD_NESTEROV);
    }
}
