//! AdamW with a state that can be saved: tch's own keeps it out of reach.

use tch::{Kind, Tensor, nn::VarStore};

/// Decoupled weight decay regularisation, Loshchilov and Hutter 2019.
#[derive(Debug)]
pub struct AdamW {
    parameters: Vec<Parameter>,
    steps: i64,
    weight_decay: f64,
    largest_norm: f64,
}

#[derive(Debug)]
struct Parameter {
    name: String,
    value: Tensor,
    /// Running means of the gradient and of its square.
    mean: Tensor,
    square: Tensor,
}

const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;

impl AdamW {
    /// For every trainable variable; those of one dimension (biases and batch norm) do not decay.
    pub fn new(vs: &VarStore, weight_decay: f64) -> Self {
        let mut parameters: Vec<Parameter> = vs
            .variables()
            .into_iter()
            .filter(|(_, value)| value.requires_grad())
            .map(|(name, value)| {
                let zeros = || value.detach().zeros_like();
                Parameter { name, mean: zeros(), square: zeros(), value }
            })
            .collect();
        parameters.sort_by(|a, b| a.name.cmp(&b.name));
        Self { parameters, steps: 0, weight_decay, largest_norm: f64::INFINITY }
    }

    /// Scales gradients down to this L2 norm over all variables (Pascanu et al., 2013).
    pub fn clipped(self, largest_norm: f64) -> Self {
        Self { largest_norm, ..self }
    }

    /// What every gradient is multiplied by to keep the largest norm.
    fn clipping(&self) -> f64 {
        if self.largest_norm.is_infinite() {
            return 1.0;
        }
        let gradients = self.parameters.iter().map(|parameter| parameter.value.grad());
        let norms: Vec<Tensor> = gradients.filter(Tensor::defined).map(|gradient| gradient.norm()).collect();
        if norms.is_empty() {
            return 1.0;
        }
        (self.largest_norm / Tensor::stack(&norms, 0).norm().double_value(&[]).max(EPSILON)).min(1.0)
    }

    /// Moves every variable against its gradient by a step of size `rate`, and clears the gradients.
    pub fn step(&mut self, loss: &Tensor, rate: f64) {
        loss.backward();
        self.steps += 1;
        let (correct_mean, correct_square) =
            (1.0 - BETAS.0.powf(self.steps as f64), 1.0 - BETAS.1.powf(self.steps as f64));
        let clipping = self.clipping();
        tch::no_grad(|| {
            for Parameter { value, mean, square, .. } in &mut self.parameters {
                let mut gradient = value.grad();
                if !gradient.defined() {
                    continue;
                }
                if clipping < 1.0 {
                    let _ = gradient.g_mul_scalar_(clipping);
                }
                let _ = mean.lerp_(&gradient, 1.0 - BETAS.0);
                let _ = square.lerp_(&gradient.square(), 1.0 - BETAS.1);
                if value.dim() > 1 {
                    let _ = value.g_mul_scalar_(1.0 - rate * self.weight_decay);
                }
                let spread = (&*square / correct_square).sqrt() + EPSILON;
                let _ = value.g_sub_(&(&*mean * (rate / correct_mean) / spread));
                let _ = gradient.zero_();
            }
        });
    }

    /// The state by name: what [`AdamW::restore`] reads.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = vec![("steps".to_owned(), Tensor::from_slice(&[self.steps]))];
        for Parameter { name, mean, square, .. } in &self.parameters {
            state.push((format!("mean.{name}"), mean.shallow_clone()));
            state.push((format!("square.{name}"), square.shallow_clone()));
        }
        state
    }

    /// Goes on from a saved state; false, with nothing changed, if it is not of the same variables.
    pub fn restore(&mut self, state: &std::collections::HashMap<String, Tensor>) -> bool {
        let fits =
            |name: String, like: &Tensor| state.get(&name).is_some_and(|saved| saved.size() == like.size());
        let whole = self.parameters.iter().all(|parameter| {
            fits(format!("mean.{}", parameter.name), &parameter.mean)
                && fits(format!("square.{}", parameter.name), &parameter.square)
        });
        let Some(steps) = state.get("steps").filter(|_| whole) else { return false };
        self.steps = steps.to_kind(Kind::Int64).int64_value(&[0]);
        for Parameter { name, mean, square, .. } in &mut self.parameters {
            mean.copy_(&state[&format!("mean.{name}")]);
            square.copy_(&state[&format!("square.{name}")]);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, nn};

    use super::*;

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
    fn large_gradients_are_clipped_together() {
        let vs = nn::VarStore::new(Device::Cpu);
        let [a, b] = ["a", "b"].map(|name| vs.root().var(name, &[1], nn::Init::Const(0.0)));
        let mut adam = AdamW::new(&vs, 0.0).clipped(1.0);
        adam.step(&(&a * 3.0 + &b * 4.0).sum(Kind::Float), 0.01);
        let mean =
            |name: &str| adam.parameters.iter().find(|p| p.name == name).unwrap().mean.double_value(&[0]);
        assert!((mean("a") - 0.1 * 0.6).abs() < 1e-6 && (mean("b") - 0.1 * 0.8).abs() < 1e-6);
    }

    #[test]
    fn a_restored_state_goes_on_alike() {
        let run = |interrupted: bool| {
            let vs = nn::VarStore::new(Device::Cpu);
            let value = vs.root().var("w", &[3, 1], nn::Init::Const(1.0));
            let mut adam = AdamW::new(&vs, 0.01);
            for step in 0..6 {
                if interrupted && step == 3 {
                    let state = adam.state().into_iter().collect();
                    adam = AdamW::new(&vs, 0.01);
                    assert!(adam.restore(&state));
                }
                adam.step(&(value.square() * (step + 1)).sum(Kind::Float), 0.05);
            }
            value.double_value(&[0, 0])
        };
        assert_eq!(run(false), run(true));
        let vs = nn::VarStore::new(Device::Cpu);
        let _value = vs.root().var("w", &[3, 1], nn::Init::Const(1.0));
        assert!(!AdamW::new(&vs, 0.0).restore(&Default::default()));
    }
}
