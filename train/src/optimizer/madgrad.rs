use tch::{Tensor, nn::VarStore};

use super::{Descent, Rule, Step};

/// Momentumized, adaptive, dual averaged gradient (Defazio and Jelassi, 2021, <https://arxiv.org/abs/2101.11075>).
///
/// With `λ_k = rate·√k`, step `k` sums `s += λ_k·g` and `ν += λ_k·g²`, finds `z = x₀ − s / (∛ν + ε)`, and moves
/// `x ← momentum·x + (1 − momentum)·z`.
pub type Madgrad = Descent<MadgradRule>;

#[derive(Debug)]
pub struct MadgradRule {
    momentum: f64,
    weight_decay: f64,
}

/// Added to the cube root, and, as the authors' package does, to the rate.
const EPSILON: f64 = 1e-6;

impl Madgrad {
    /// For every trainable variable. `weight_decay` is added to the gradient, but not of variables of one dimension
    /// (biases and batch norm).
    pub fn new(vs: &VarStore, momentum: f64, weight_decay: f64) -> Madgrad {
        Descent::over(vs, MadgradRule { momentum, weight_decay })
    }
}

impl Rule for MadgradRule {
    /// `ν`, `s` and `x₀`.
    const MEMORY: &'static [&'static str] = &["squares", "sum", "start"];

    /// Weights may have been loaded after the optimiser was made.
    fn begin(&self, value: &Tensor, memory: &mut [Tensor]) {
        let [_, _, start] = memory else { unreachable!("as many as MEMORY has names") };
        start.copy_(value);
    }

    fn update(&self, step: &Step, value: &mut Tensor, gradient: &Tensor, memory: &mut [Tensor]) {
        let [squares, sum, start] = memory else { unreachable!("as many as MEMORY has names") };
        let lambda = (step.rate + EPSILON) * (step.number as f64).sqrt();
        let decayed =
            (self.weight_decay != 0.0 && step.decays).then(|| gradient + &*value * self.weight_decay);
        let gradient = decayed.as_ref().unwrap_or(gradient);
        let _ = squares.g_add_(&(gradient.square() * lambda));
        let _ = sum.g_add_(&(gradient * lambda));
        let z = &*start - &*sum / (squares.pow_tensor_scalar(1.0 / 3.0) + EPSILON);
        let _ = value.lerp_(&z, 1.0 - self.momentum);
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::{
        super::{
            Optimizer,
            golden::{CURVATURE, MADGRAD, MADGRAD_PLAIN, START, TARGET, check, row},
        },
        *,
    };

    #[test]
    fn steps_as_the_authors_package() {
        check(|vs| Madgrad::new(vs, 0.9, 0.1), &MADGRAD);
        check(|vs| Madgrad::new(vs, 0.0, 0.0), &MADGRAD_PLAIN);
    }

    #[test]
    fn steps_as_the_formulas() {
        let (rate, momentum) = (0.03, 0.8);
        let (vs, x) = row(START);
        let [target, curvature] = [TARGET, CURVATURE].map(|values| Tensor::from_slice(&values));
        let mut madgrad = Madgrad::new(&vs, momentum, 0.0);
        let (mut expected, mut sum, mut squares) = (START, [0.0; 4], [0.0; 4]);
        for step in 1..=20 {
            madgrad.step(&(&curvature * (&x - &target).square()).sum(Kind::Double), rate);
            let lambda = (rate + EPSILON) * f64::from(step).sqrt();
            for i in 0..4 {
                let gradient = 2.0 * CURVATURE[i] * (expected[i] - TARGET[i]);
                sum[i] += lambda * gradient;
                squares[i] += lambda * gradient * gradient;
                let z = START[i] - sum[i] / (squares[i].cbrt() + EPSILON);
                expected[i] = momentum * expected[i] + (1.0 - momentum) * z;
                let found = x.double_value(&[0, i as i64]);
                assert!((found - expected[i]).abs() < 1e-12, "step {step}: {found}, not {}", expected[i]);
            }
        }
    }

    #[test]
    fn weights_loaded_later_are_where_it_starts() {
        let (vs, mut x) = row([100.0; 4]);
        let mut madgrad = Madgrad::new(&vs, 0.9, 0.0);
        tch::no_grad(|| x.copy_(&Tensor::from_slice(&START).view([1, 4])));
        madgrad.step(&x.square().sum(Kind::Double), 1e-3);
        assert!((x.double_value(&[0, 0]) - START[0]).abs() < 0.01);
    }
}
