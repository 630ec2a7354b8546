//! Figures of merit, and the log they are written to.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::Serialize;

/// A run's log: one JSON object per line, appended, so that a resumed run goes on in the same file.
#[derive(Debug)]
pub struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    pub fn open(path: &Path) -> Result<Log> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Log {
            file: file.with_context(|| format!("opening the log {}", path.display()))?,
            path: path.to_owned(),
        })
    }

    /// Writes `entry` as one line.
    pub fn write(&mut self, entry: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.file.write_all(&line).with_context(|| format!("writing the log {}", self.path.display()))
    }
}

/// Counts of `[truth][answer]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Confusion<const N: usize>(#[serde(serialize_with = "rows")] pub [[u32; N]; N]);

fn rows<const N: usize, S: serde::Serializer>(counts: &[[u32; N]; N], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(counts.iter().map(|row| row.to_vec()))
}

impl<const N: usize> Default for Confusion<N> {
    fn default() -> Self {
        Self([[0; N]; N])
    }
}

impl<const N: usize> Confusion<N> {
    pub fn add(&mut self, truth: usize, answer: usize) {
        self.0[truth][answer] += 1;
    }

    pub fn total(&self) -> u32 {
        self.0.iter().flatten().sum()
    }

    /// Part of right answers, 0–1; 0 when nothing was counted.
    pub fn accuracy(&self) -> f64 {
        let right: u32 = (0..N).map(|i| self.0[i][i]).sum();
        f64::from(right) / f64::from(self.total().max(1))
    }

    /// Mean of the classes' F1; a class that is neither there nor answered is left out.
    pub fn macro_f1(&self) -> f64 {
        let f1 = (0..N).filter_map(|i| {
            let truths: u32 = self.0[i].iter().sum();
            let answers: u32 = self.0.iter().map(|row| row[i]).sum();
            (truths + answers > 0).then(|| 2.0 * f64::from(self.0[i][i]) / f64::from(truths + answers))
        });
        let f1: Vec<f64> = f1.collect();
        f1.iter().fold(0.0, |sum, f1| sum + f1) / f1.len().max(1) as f64
    }
}

/// Figures of one class.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ClassFigures {
    /// Faces of the class.
    pub faces: u32,
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
}

impl<const N: usize> Confusion<N> {
    /// Figures of each class; 0 where nothing was counted.
    pub fn classes(&self) -> [ClassFigures; N] {
        std::array::from_fn(|i| {
            let faces: u32 = self.0[i].iter().sum();
            let answers: u32 = self.0.iter().map(|row| row[i]).sum();
            let part = |of: u32| f64::from(self.0[i][i]) / f64::from(of.max(1));
            ClassFigures {
                faces,
                precision: part(answers),
                recall: part(faces),
                f1: 2.0 * part(faces + answers),
            }
        })
    }
}

/// How far probabilities are from the share of right answers: expected calibration error (Guo et al., 2017), over
/// fifteen bins of equal width.
#[derive(Debug, Clone, Copy, Default)]
pub struct Calibration {
    /// Answers, right answers and the sum of probabilities in each bin.
    bins: [(u32, u32, f64); 15],
}

impl Calibration {
    /// Counts an answer given with `probability`, 0–1.
    pub fn add(&mut self, probability: f32, right: bool) {
        let last = self.bins.len() - 1;
        let bin = &mut self.bins[((probability * (last + 1) as f32) as usize).min(last)];
        bin.0 += 1;
        bin.1 += u32::from(right);
        bin.2 += f64::from(probability);
    }

    /// 0–1; 0 when nothing was counted.
    pub fn error(&self) -> f64 {
        let total: u32 = self.bins.iter().map(|bin| bin.0).sum();
        let gaps = self.bins.iter().map(|&(_, right, sum)| (f64::from(right) - sum).abs());
        gaps.sum::<f64>() / f64::from(total.max(1))
    }
}

/// A running mean; `None` before the first value.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    pub fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    pub fn value(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_and_macro_f1_by_hand() {
        let confusion = Confusion([[8, 2, 0], [1, 3, 0], [0, 0, 0]]);
        assert!((confusion.accuracy() - 11.0 / 14.0).abs() < 1e-9);
        // F1: 16/19 and 6/9; the third class is absent.
        assert!((confusion.macro_f1() - (16.0 / 19.0 + 6.0 / 9.0) / 2.0).abs() < 1e-9);
        assert_eq!(Confusion::<2>::default().accuracy(), 0.0);
    }

    #[test]
    fn precision_and_recall_by_hand() {
        let [first, _, absent] = Confusion([[8, 2, 0], [1, 3, 0], [0, 0, 0]]).classes();
        assert_eq!((first.faces, first.recall), (10, 0.8));
        assert!((first.precision - 8.0 / 9.0).abs() < 1e-9 && (first.f1 - 16.0 / 19.0).abs() < 1e-9);
        assert_eq!((absent.faces, absent.f1), (0, 0.0));
    }

    #[test]
    fn calibration_error_by_hand() {
        let mut calibration = Calibration::default();
        for right in [true, true, true, false] {
            calibration.add(0.95, right);
        }
        calibration.add(0.5, false);
        // (4 × |0.75 − 0.95| + 1 × |0 − 0.5|) / 5
        assert!((calibration.error() - 0.26).abs() < 1e-6, "{}", calibration.error());
    }

    #[test]
    fn log_lines_are_appended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        for step in [1, 2] {
            Log::open(&path).unwrap().write(&serde_json::json!({ "step": step })).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), "{\"step\":1}\n{\"step\":2}\n");
    }
}
