//! First-order optimisers whose whole state can be saved: tch's own keep it out of reach.
//!
//! A [`Rule`] moves variables; [`Descent`] does for all of a store what every rule needs: it clips and accumulates
//! gradients, leaves frozen variables alone, and saves and restores the state bit by bit.

mod adamw;
#[cfg(test)]
mod golden;
mod madgrad;
mod sgd;

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, nn::VarStore};

pub use adamw::AdamW;
pub use madgrad::Madgrad;
pub use sgd::Sgd;

/// What a training loop needs of an optimiser.
pub trait Optimizer: std::fmt::Debug {
    /// Differentiates `loss`, a scalar, and adds the gradient to those at hand. When there are as many as are
    /// accumulated to a step, moves every variable by a step of size `rate`, clears the gradients and says true.
    fn step(&mut self, loss: &Tensor, rate: f64) -> bool;

    /// The state by name: what [`Optimizer::restore`] reads.
    fn state(&self) -> Vec<(String, Tensor)>;

    /// Goes on from a saved state; false, with nothing changed, if it is not of the same rule and variables.
    fn restore(&mut self, state: &HashMap<String, Tensor>) -> bool;
}

/// How variables move. Every rule is element by element, and sees many variables as one row of numbers.
pub trait Rule: std::fmt::Debug {
    /// Names of the tensors that the rule keeps, each of the variables' shape and at first all zeros.
    const MEMORY: &'static [&'static str];

    /// Prepares the memory, in the order of [`Rule::MEMORY`], when the first step is about to be taken.
    fn begin(&self, _value: &Tensor, _memory: &mut [Tensor]) {}

    /// Moves `value` by its `gradient` in the step number `step` (from 1).
    fn update(&self, step: &Step, value: &mut Tensor, gradient: &Tensor, memory: &mut [Tensor]);
}

/// What a step is taken with.
#[derive(Debug)]
pub struct Step {
    /// From 1.
    pub number: i64,
    pub rate: f64,
    /// Whether the variables have two or more dimensions: biases and batch norm do not decay.
    pub decays: bool,
}

/// A rule applied to every trainable variable of a store.
#[derive(Debug)]
pub struct Descent<R> {
    rule: R,
    groups: Vec<Group>,
    steps: i64,
    largest_norm: f64,
    accumulated: u32,
    /// Gradients summed since the last step, fewer than `accumulated`.
    pending: u32,
    scaling: Option<Scaling>,
}

/// What a loss in half precision is multiplied by, so that small gradients do not vanish (Micikevicius et al., 2018).
#[derive(Debug)]
struct Scaling {
    scale: f64,
    /// Steps since the scale last changed.
    steps: u32,
}

impl Scaling {
    /// Halves the scale after a gradient that is not finite, and doubles it after many that are.
    fn adapt(&mut self, finite: bool) {
        const PATIENCE: u32 = 2000;
        self.steps += 1;
        if !finite {
            *self = Scaling { scale: self.scale / 2.0, steps: 0 };
        } else if self.steps >= PATIENCE {
            *self = Scaling { scale: self.scale * 2.0, steps: 0 };
        }
    }
}

/// Variables that lie one after the other in one tensor, so that a GPU moves them all at once.
#[derive(Debug)]
struct Group {
    decays: bool,
    parameters: Vec<Parameter>,
    value: Tensor,
    gradient: Tensor,
    memory: Vec<Tensor>,
}

#[derive(Debug)]
struct Parameter {
    name: String,
    value: Tensor,
    /// Where it begins in its group.
    offset: i64,
}

/// Elements that a variable's beginning is a multiple of: what vectorised kernels like.
const ALIGNMENT: i64 = 32;
/// Keeps a norm from dividing by zero.
const LEAST_NORM: f64 = 1e-8;
/// Names in a saved state.
const STEPS: &str = "steps";
const PENDING: &str = "pending";
const GRADIENT: &str = "gradient";
const SCALE: &str = "scale";
const FIRST_SCALE: f64 = 65536.0;

impl Parameter {
    /// The elements that it takes up in its group.
    fn room(&self) -> i64 {
        (self.value.numel() as i64 + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT
    }

    /// Its part of a tensor of its group.
    fn part(&self, of: &Tensor) -> Tensor {
        of.narrow(0, self.offset, self.value.numel() as i64).view_as(&self.value)
    }
}

impl Group {
    /// Moves the variables' storage, and that of their gradients, into the group's.
    fn new(decays: bool, variables: Vec<(String, Tensor)>, memory: usize) -> Group {
        let mut parameters: Vec<Parameter> =
            variables.into_iter().map(|(name, value)| Parameter { name, value, offset: 0 }).collect();
        let mut length = 0;
        for parameter in &mut parameters {
            parameter.offset = length;
            length += parameter.room();
        }
        let of =
            parameters.first().map_or((Kind::Float, Device::Cpu), |p| (p.value.kind(), p.value.device()));
        let zeros = || Tensor::zeros([length], of);
        let mut group = Group {
            decays,
            value: zeros(),
            gradient: zeros(),
            memory: (0..memory).map(|_| zeros()).collect(),
            parameters,
        };
        for parameter in &mut group.parameters {
            let mut home = parameter.part(&group.value);
            let frozen = !parameter.value.requires_grad();
            // libtorch makes a gradient only by differentiating.
            let _ = parameter.value.set_requires_grad(true);
            parameter.value.zero_grad();
            (&parameter.value * 0.0).sum(of.0).backward();
            tch::no_grad(|| {
                home.copy_(&parameter.value);
                parameter.value.set_data(&home);
                parameter.value.grad().set_data(&parameter.part(&group.gradient));
            });
            let _ = parameter.value.set_requires_grad(!frozen);
        }
        group
    }

    /// Beginnings and lengths of the stretches without a frozen variable.
    fn live(&self) -> Vec<(i64, i64)> {
        let mut stretches: Vec<(i64, i64)> = Vec::new();
        for parameter in self.parameters.iter().filter(|parameter| parameter.value.requires_grad()) {
            match stretches.last_mut() {
                Some((start, length)) if *start + *length == parameter.offset => *length += parameter.room(),
                _ => stretches.push((parameter.offset, parameter.room())),
            }
        }
        stretches
    }
}

impl<R: Rule> Descent<R> {
    fn over(vs: &VarStore, rule: R) -> Self {
        let trainable: HashSet<_> = vs.trainable_variables().iter().map(Tensor::data_ptr).collect();
        let mut variables: Vec<(String, Tensor)> = vs.variables().into_iter().collect();
        variables.retain(|(_, value)| trainable.contains(&value.data_ptr()));
        variables.sort_by(|a, b| a.0.cmp(&b.0));
        let (matrices, vectors): (Vec<_>, Vec<_>) =
            variables.into_iter().partition(|(_, value)| value.dim() > 1);
        let group = |decays, variables| Group::new(decays, variables, R::MEMORY.len());
        let groups = vec![group(true, matrices), group(false, vectors)];
        Self {
            rule,
            groups,
            steps: 0,
            largest_norm: f64::INFINITY,
            accumulated: 1,
            pending: 0,
            scaling: None,
        }
    }

    /// Scales losses for half precision; a step whose gradients are not finite is left out.
    pub fn scaled(self) -> Self {
        Self { scaling: Some(Scaling { scale: FIRST_SCALE, steps: 0 }), ..self }
    }

    /// Scales gradients down to this L2 norm over all variables (Pascanu et al., 2013).
    pub fn clipped(self, largest_norm: f64) -> Self {
        Self { largest_norm, ..self }
    }

    /// Steps once in `batches` calls, with the mean of their gradients.
    pub fn accumulating(self, batches: u32) -> Self {
        Self { accumulated: batches.max(1), ..self }
    }

    /// Undoes the scale of the gradients and keeps the largest norm; false where they are not finite, for a scale too
    /// large.
    fn clip(&mut self) -> bool {
        if self.largest_norm.is_infinite() && self.scaling.is_none() {
            return true;
        }
        let norms: Vec<Tensor> = self.groups.iter().map(|group| group.gradient.norm()).collect();
        let norm = Tensor::stack(&norms, 0).norm();
        let mut scale = 1.0;
        if let Some(scaling) = &mut self.scaling {
            scale = scaling.scale;
            let finite = norm.double_value(&[]).is_finite();
            scaling.adapt(finite);
            if !finite {
                return false;
            }
        }
        let norm = (norm / scale).clamp_min(LEAST_NORM);
        let factor = (norm.reciprocal() * self.largest_norm).clamp_max(1.0) / scale;
        self.groups.iter_mut().for_each(|group| drop(group.gradient.g_mul_(&factor)));
        true
    }

    /// The tensors of a state with their names.
    fn entries(&self) -> impl Iterator<Item = (String, Tensor)> {
        self.groups.iter().flat_map(|group| {
            group.parameters.iter().flat_map(|parameter| {
                let named = R::MEMORY.iter().zip(&group.memory);
                named.map(|(kept, memory)| (format!("{kept}.{}", parameter.name), parameter.part(memory)))
            })
        })
    }

    /// The gradients with their names in a state.
    fn gradients(&self) -> impl Iterator<Item = (String, Tensor)> {
        self.groups.iter().flat_map(|group| {
            let named = |p: &Parameter| (format!("{GRADIENT}.{}", p.name), p.part(&group.gradient));
            group.parameters.iter().map(named)
        })
    }
}

impl<R: Rule> Optimizer for Descent<R> {
    fn step(&mut self, loss: &Tensor, rate: f64) -> bool {
        let scale = self.scaling.as_ref().map_or(1.0, |scaling| scaling.scale) / f64::from(self.accumulated);
        if scale == 1.0 {
            loss.backward()
        } else {
            (loss * scale).backward()
        }
        self.pending += 1;
        if self.pending < self.accumulated {
            return false;
        }
        self.pending = 0;
        if !tch::no_grad(|| self.clip()) {
            tch::no_grad(|| self.groups.iter_mut().for_each(|group| drop(group.gradient.zero_())));
            return false;
        }
        self.steps += 1;
        tch::no_grad(|| {
            for group in &mut self.groups {
                if self.steps == 1 {
                    self.rule.begin(&group.value, &mut group.memory);
                }
                let step = Step { number: self.steps, rate, decays: group.decays };
                for (start, length) in group.live() {
                    let live = |t: &Tensor| t.narrow(0, start, length);
                    let mut memory: Vec<Tensor> = group.memory.iter().map(live).collect();
                    let (mut value, gradient) = (live(&group.value), live(&group.gradient));
                    self.rule.update(&step, &mut value, &gradient, &mut memory);
                }
                let _ = group.gradient.zero_();
            }
        });
        true
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = vec![
            (STEPS.to_owned(), Tensor::from_slice(&[self.steps])),
            (PENDING.to_owned(), Tensor::from_slice(&[i64::from(self.pending)])),
        ];
        if let Some(scaling) = &self.scaling {
            state.push((SCALE.to_owned(), Tensor::from_slice(&[scaling.scale, f64::from(scaling.steps)])));
        }
        state.extend(self.entries());
        if self.pending > 0 {
            state.extend(self.gradients());
        }
        state
    }

    fn restore(&mut self, state: &HashMap<String, Tensor>) -> bool {
        let fits = |(name, like): (String, Tensor)| {
            state.get(&name).is_some_and(|saved| saved.size() == like.size())
        };
        if !self.entries().all(fits) {
            return false;
        }
        let count = |name: &str| state.get(name).map(|count| count.to_kind(Kind::Int64).int64_value(&[0]));
        let Some(steps) = count(STEPS) else { return false };
        self.steps = steps;
        // Checkpoints of older versions do not say it; they were written between steps.
        self.pending = count(PENDING).and_then(|pending| u32::try_from(pending).ok()).unwrap_or(0);
        if let (Some(scaling), Some(saved)) = (&mut self.scaling, state.get(SCALE)) {
            let at = |i| saved.double_value(&[i]);
            *scaling = Scaling { scale: at(0), steps: at(1) as u32 };
        }
        self.groups.iter_mut().for_each(|group| drop(group.gradient.zero_()));
        for (name, mut tensor) in self.entries().chain(self.gradients()) {
            if let Some(saved) = state.get(&name) {
                tensor.copy_(saved);
            }
        }
        true
    }
}

/// The optimisers by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    Madgrad,
    #[value(name = "adamw")]
    AdamW,
    Sgd,
}

/// An optimiser as a configuration file sets it. The learning rate is the schedule's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub name: Method,
    /// Of variables with two or more dimensions; AdamW's is decoupled, the others add it to the gradient.
    pub weight_decay: f64,
    /// Of MADGRAD and SGD.
    pub momentum: f64,
    /// SGD only.
    pub nesterov: bool,
    /// The largest L2 norm of all gradients together; 0 does not clip.
    pub clip: f64,
    /// Batches whose gradients make one step.
    pub accumulate: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: Method::AdamW,
            weight_decay: 0.02,
            momentum: 0.9,
            nesterov: false,
            clip: 5.0,
            accumulate: 1,
        }
    }
}

impl Settings {
    /// `half` for losses in half precision.
    pub fn build(&self, vs: &VarStore, half: bool) -> Box<dyn Optimizer> {
        match self.name {
            Method::Madgrad => self.boxed(Madgrad::new(vs, self.momentum, self.weight_decay), half),
            Method::AdamW => self.boxed(AdamW::new(vs, self.weight_decay), half),
            Method::Sgd => self.boxed(Sgd::new(vs, self.momentum, self.nesterov, self.weight_decay), half),
        }
    }

    fn boxed<R: Rule + 'static>(&self, descent: Descent<R>, half: bool) -> Box<dyn Optimizer> {
        let largest_norm = if self.clip > 0.0 { self.clip } else { f64::INFINITY };
        let descent = descent.clipped(largest_norm).accumulating(self.accumulate);
        Box::new(if half { descent.scaled() } else { descent })
    }
}

#[cfg(test)]
mod tests {
    use tch::nn;

    use super::*;

    const METHODS: [Method; 3] = [Method::Madgrad, Method::AdamW, Method::Sgd];

    fn settings(name: Method) -> Settings {
        Settings { name, weight_decay: 0.01, nesterov: true, clip: 3.0, accumulate: 2, ..Settings::default() }
    }

    /// A store with one matrix, and what it holds.
    fn store() -> (nn::VarStore, Tensor) {
        let vs = nn::VarStore::new(Device::Cpu);
        let value = vs.root().var("w", &[3, 2], nn::Init::Const(1.0));
        (vs, value)
    }

    fn loss(value: &Tensor, call: i64) -> Tensor {
        let slope = Tensor::from_slice(&[1.0f32, -0.5, 2.0, 0.3, -1.1, 0.7]).view([3, 2]);
        (value.square() * (call + 1) + value * slope).sum(Kind::Float)
    }

    #[test]
    fn large_gradients_are_clipped_together() {
        let vs = nn::VarStore::new(Device::Cpu);
        let [a, b] = ["a", "b"].map(|name| vs.root().var(name, &[1], nn::Init::Const(0.0)));
        let mut sgd = Sgd::new(&vs, 0.0, false, 0.0).clipped(1.0);
        sgd.step(&(&a * 3.0 + &b * 4.0).sum(Kind::Float), 0.1);
        assert!((a.double_value(&[0]) + 0.1 * 0.6).abs() < 1e-7);
        assert!((b.double_value(&[0]) + 0.1 * 0.8).abs() < 1e-7);
    }

    #[test]
    fn scaled_losses_step_as_plain_ones_and_overflow_is_left_out() {
        let run = |scaled: bool| {
            let (vs, value) = store();
            let sgd = Sgd::new(&vs, 0.9, false, 0.0).clipped(3.0);
            let mut sgd = if scaled { sgd.scaled() } else { sgd };
            (0..4).for_each(|call| assert!(sgd.step(&loss(&value, call), 0.1)));
            (value.double_value(&[1, 1]), value, sgd)
        };
        let ((plain, ..), (found, value, mut sgd)) = (run(false), run(true));
        assert!((plain - found).abs() < 1e-5, "{found}, not {plain}");
        assert!(!sgd.step(&(loss(&value, 1) * f64::INFINITY), 0.1));
        assert_eq!(value.double_value(&[1, 1]), found);
        assert_eq!(sgd.scaling.as_ref().unwrap().scale, FIRST_SCALE / 2.0);
        assert!(sgd.step(&loss(&value, 1), 0.1));
        let mut again = Sgd::new(&store().0, 0.9, false, 0.0).scaled();
        assert!(again.restore(&sgd.state().into_iter().collect()));
        assert_eq!(again.scaling.unwrap().scale, FIRST_SCALE / 2.0);
    }

    #[test]
    fn accumulated_gradients_step_as_their_mean() {
        let (vs, value) = store();
        let mut sgd = Sgd::new(&vs, 0.9, false, 0.0).accumulating(3);
        let moved: Vec<bool> = (0..6).map(|call| sgd.step(&(&value * call).sum(Kind::Float), 0.1)).collect();
        assert_eq!(moved, [false, false, true, false, false, true]);
        // Means 1 and 4; the second step's momentum is 0.9 · 1 + 4.
        assert!((value.double_value(&[1, 1]) - (1.0 - 0.1 - 0.49)).abs() < 1e-6);
    }

    #[test]
    fn a_restored_state_goes_on_bit_by_bit() {
        for method in METHODS {
            let run = |stop: Option<i64>| {
                let (vs, mut value) = store();
                let mut optimizer = settings(method).build(&vs, false);
                for call in 0..8 {
                    if stop == Some(call) {
                        let state = optimizer.state().into_iter().map(|(n, t)| (n, t.copy())).collect();
                        let weights = value.detach().copy();
                        let (other, fresh) = store();
                        value = fresh;
                        tch::no_grad(|| value.copy_(&weights));
                        optimizer = settings(method).build(&other, false);
                        assert!(optimizer.restore(&state));
                    }
                    optimizer.step(&loss(&value, call), 0.05);
                }
                Vec::<f32>::try_from(value.detach().flatten(0, -1)).unwrap()
            };
            // After four calls no gradient is pending; after five, one is.
            for stop in [4, 5] {
                assert_eq!(run(None), run(Some(stop)), "{method:?} stopped before call {stop}");
            }
        }
    }

    #[test]
    fn a_state_of_another_network_or_rule_changes_nothing() {
        let (vs, _value) = store();
        let mut sgd = Sgd::new(&vs, 0.9, false, 0.0);
        assert!(!sgd.restore(&HashMap::new()));
        assert!(!sgd.restore(&AdamW::new(&vs, 0.0).state().into_iter().collect()));
    }

    #[test]
    fn frozen_variables_stay_until_they_are_released() {
        for method in METHODS {
            let (vs, value) = store();
            let mut optimizer = Settings { accumulate: 1, ..settings(method) }.build(&vs, false);
            optimizer.step(&loss(&value, 0), 0.05);
            let _ = value.set_requires_grad(false);
            let before = value.copy();
            let other = Tensor::ones([1], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            optimizer.step(&(loss(&value, 1) + other.sum(Kind::Float)), 0.05);
            assert_eq!(value, before, "{method:?}");
            let _ = value.set_requires_grad(true);
            optimizer.step(&loss(&value, 2), 0.05);
            assert_ne!(value.detach(), before, "{method:?}");
        }
    }

    #[test]
    fn variables_keep_their_values_shapes_and_places_in_the_store() {
        let vs = nn::VarStore::new(Device::Cpu);
        let root = vs.root();
        let a = root.var("a", &[5, 7], nn::Init::Const(2.0));
        let b = root.var("b", &[3], nn::Init::Const(3.0));
        let still = root.zeros_no_train("statistics", &[4]);
        let mut sgd = Sgd::new(&vs, 0.0, false, 0.0);
        assert_eq!((a.size(), a.double_value(&[4, 6]), b.double_value(&[2])), (vec![5, 7], 2.0, 3.0));
        sgd.step(&(a.sum(Kind::Float) + b.sum(Kind::Float) * 2.0 + still.sum(Kind::Float)), 0.5);
        for _ in 0..2 {
            // Twice: the second time the gradients of the first are cleared.
            sgd.step(&(&a * 1.0).sum(Kind::Float), 0.25);
        }
        assert_eq!((vs.variables()["a"].double_value(&[4, 6]), b.double_value(&[2])), (1.0, 2.0));
        assert!(a.is_leaf() && a.requires_grad() && !still.requires_grad());
    }

    #[test]
    fn a_variable_that_was_frozen_from_the_start_moves_once_it_is_released() {
        for method in METHODS {
            let vs = nn::VarStore::new(Device::Cpu);
            let [a, b] = ["a", "b"].map(|name| vs.root().var(name, &[2, 2], nn::Init::Const(1.0)));
            let _ = a.set_requires_grad(false);
            let mut optimizer = Settings { accumulate: 1, ..settings(method) }.build(&vs, false);
            let sum = |t: &Tensor| t.square().sum(Kind::Float);
            optimizer.step(&(sum(&a) + sum(&b)), 0.1);
            assert!(!a.requires_grad() && a.double_value(&[0, 0]) == 1.0 && b.double_value(&[0, 0]) < 1.0);
            let _ = a.set_requires_grad(true);
            optimizer.step(&(sum(&a) + sum(&b)), 0.1);
            assert!(a.double_value(&[0, 0]) < 1.0, "{method:?}");
        }
    }

    #[test]
    fn every_method_finds_the_bottom_of_a_bowl() {
        for (method, rate) in [(Method::Madgrad, 0.1), (Method::AdamW, 0.05), (Method::Sgd, 0.02)] {
            let (vs, value) = store();
            let settings = Settings { name: method, weight_decay: 0.0, ..Settings::default() };
            let mut optimizer = settings.build(&vs, false);
            for _ in 0..300 {
                optimizer.step(&(&value - 3.0).square().sum(Kind::Float), rate);
            }
            let off = (&value - 3.0).abs().max().double_value(&[]);
            assert!(off < 0.02, "{method:?} is off by {off}");
        }
    }

    #[test]
    fn settings_refuse_unknown_keys() {
        let settings: Settings = serde_json::from_str(r#"{"name": "madgrad", "momentum": 0.5}"#).unwrap();
        assert_eq!(settings, Settings { name: Method::Madgrad, momentum: 0.5, ..Settings::default() });
        assert!(serde_json::from_str::<Settings>(r#"{"momentun": 0.5}"#).is_err());
    }
}
