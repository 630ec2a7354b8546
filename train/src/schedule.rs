//! The learning rate over a run.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How long a run lasts: its epochs, or the time if that is over earlier.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Extent {
    pub epochs: f64,
    /// `None` for as long as it takes.
    pub seconds: Option<f64>,
}

impl Extent {
    /// 0 at the start, 1 or more at the end; `epochs` and `seconds` are what is behind.
    pub fn progress(&self, epochs: f64, seconds: f64) -> f64 {
        let timed = self.seconds.map_or(0.0, |all| seconds / all);
        timed.max(epochs / self.epochs)
    }
}

/// How the rate goes after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    Constant,
    /// StepLR: times `gamma` every `step` epochs.
    Step,
    /// Half a cosine from the largest rate to `last` of it (Loshchilov and Hutter, 2017).
    Cosine,
}

/// A schedule as a configuration file sets it. A run that time cuts short goes through the whole of it, faster.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    pub name: Shape,
    /// The largest learning rate.
    pub rate: f64,
    /// The part of the run, 0–1, over which the rate rises in a line.
    pub warm_up: f64,
    /// The last rate of the cosine, and the first of the warm-up, over the largest.
    pub last: f64,
    /// Epochs between two steps of StepLR.
    pub step: f64,
    /// What a step of StepLR multiplies the rate by.
    pub gamma: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { name: Shape::Cosine, rate: 8e-4, warm_up: 0.03, last: 0.01, step: 2.0, gamma: 0.5 }
    }
}

impl Schedule {
    /// The learning rate at `progress`, 0–1, of a run of `extent`.
    pub fn rate(&self, progress: f64, extent: &Extent) -> f64 {
        if progress < self.warm_up {
            return self.rate * (progress / self.warm_up).max(self.last);
        }
        self.rate
            * match self.name {
                Shape::Constant => 1.0,
                Shape::Step => {
                    // An epoch's end is a sum of batches: rounding must not put the step a batch later.
                    const SLACK: f64 = 1e-9;
                    self.gamma.powf(((progress * extent.epochs + SLACK) / self.step).floor())
                }
                Shape::Cosine => {
                    let done = ((progress - self.warm_up) / (1.0 - self.warm_up)).min(1.0);
                    self.last + (1.0 - self.last) * (0.5 + 0.5 * (PI * done).cos())
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Extent = Extent { epochs: 10.0, seconds: None };

    #[test]
    fn the_cosine_rises_and_falls() {
        let schedule = Schedule { rate: 2.0, ..Schedule::default() };
        let rate = |progress| schedule.rate(progress, &TEN);
        assert!((rate(0.0) - 0.02).abs() < 1e-9 && (rate(0.015) - 1.0).abs() < 1e-9);
        assert!((rate(0.03) - 2.0).abs() < 1e-9 && (rate(0.515) - 1.01).abs() < 1e-9);
        assert!((rate(1.0) - 0.02).abs() < 1e-9 && (rate(1.2) - 0.02).abs() < 1e-9);
    }

    #[test]
    fn steps_halve_the_rate_as_pytorch() {
        let schedule =
            Schedule { name: Shape::Step, rate: 0.8, warm_up: 0.0, step: 3.0, ..Schedule::default() };
        // torch.optim.lr_scheduler.StepLR(step_size=3, gamma=0.5), epoch by epoch.
        let expected = [0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2, 0.2, 0.1];
        for (epoch, expected) in expected.into_iter().enumerate() {
            let progress = TEN.progress(epoch as f64, 0.0);
            assert!((schedule.rate(progress, &TEN) - expected).abs() < 1e-12, "epoch {epoch}");
        }
    }

    #[test]
    fn a_constant_stays_after_its_warm_up() {
        let schedule = Schedule { name: Shape::Constant, rate: 0.5, warm_up: 0.1, ..Schedule::default() };
        assert_eq!([0.05, 0.1, 0.9].map(|progress| schedule.rate(progress, &TEN)), [0.25, 0.5, 0.5]);
    }

    #[test]
    fn time_shortens_the_run_but_not_the_schedule() {
        let extent = Extent { seconds: Some(60.0), ..TEN };
        assert_eq!(extent.progress(1.0, 45.0), 0.75);
        assert_eq!(extent.progress(9.0, 45.0), 0.9);
        let schedule = Schedule { name: Shape::Step, rate: 1.0, step: 5.0, ..Schedule::default() };
        assert_eq!(schedule.rate(extent.progress(1.0, 29.0), &extent), 1.0);
        assert_eq!(schedule.rate(extent.progress(1.0, 31.0), &extent), 0.5);
    }
}
