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
        f1.iter().sum::<f64>() / f1.len().max(1) as f64
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
    fn log_lines_are_appended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        for step in [1, 2] {
            Log::open(&path).unwrap().write(&serde_json::json!({ "step": step })).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), "{\"step\":1}\n{\"step\":2}\n");
    }
}
