//! Which faces are held out for validation: by person, never one person on both sides.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use mien::attributes::{AgeGroup, Gender};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    labels::{Face, Set, read_all},
    model::SPLIT,
};
use crate::output;

/// The files that are held out, as `split.json` has them: a list for each set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Split {
    pub seed: u64,
    /// The part that is held out, 0–1.
    pub holdout: f64,
    #[serde(flatten)]
    held_out: BTreeMap<String, Vec<String>>,
}

/// A person within a set.
type Person<'a> = (&'a Set, &'a str);
/// What both sides should have the same shares of.
type Stratum = (Option<Gender>, Option<AgeGroup>);

impl Split {
    fn new(faces: &[Face], seed: u64, holdout: f64, holds_out: impl Fn(&Face) -> bool) -> Split {
        let mut held_out: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for face in faces {
            let files = held_out.entry(face.set.name().to_owned()).or_default();
            if holds_out(face) {
                files.push(face.file.clone());
            }
        }
        Split { seed, holdout, held_out }
    }

    /// By a hash of the person and the seed alone, so that a face's side stays the same when tables grow.
    pub fn by_hash(faces: &[Face], seed: u64, holdout: f64) -> Split {
        Split::new(faces, seed, holdout, |face| {
            let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(&face.person).finalize();
            let first = u64::from_le_bytes(std::array::from_fn(|i| digest[i]));
            (first as f64) < holdout * u64::MAX as f64
        })
    }

    /// The part `holdout` of the persons, to the nearest whole person, and of each gender × age group, to within
    /// one person.
    pub fn stratified(faces: &[Face], seed: u64, holdout: f64) -> Split {
        let strata = strata(faces, seed);
        let persons: usize = strata.iter().map(Vec::len).sum();
        let mut quotas: Vec<usize> = strata.iter().map(|s| (s.len() as f64 * holdout) as usize).collect();
        let mut by_remainder: Vec<usize> = (0..strata.len()).collect();
        let remainder = |i: usize| (strata[i].len() as f64 * holdout).fract();
        by_remainder.sort_by(|&a, &b| remainder(b).total_cmp(&remainder(a)));
        let missing = ((persons as f64 * holdout).round() as usize).saturating_sub(quotas.iter().sum());
        by_remainder.iter().take(missing).for_each(|&i| quotas[i] += 1);
        let held_out: HashSet<Person> = strata
            .iter()
            .zip(quotas)
            .flat_map(|(persons, quota)| persons.iter().take(quota).copied())
            .collect();
        Split::new(faces, seed, holdout, |face| held_out.contains(&person(face)))
    }

    /// `folds` splits, each holding out another part of the persons; the parts' sizes differ by at most one, in all
    /// and in each gender × age group.
    pub fn folds(faces: &[Face], seed: u64, folds: usize) -> Vec<Split> {
        let persons: Vec<Person> = strata(faces, seed).concat();
        let fold = |i: usize| {
            let held_out: HashSet<Person> = persons.iter().skip(i).step_by(folds).copied().collect();
            Split::new(faces, seed, 1.0 / folds as f64, |face| held_out.contains(&person(face)))
        };
        (0..folds).map(fold).collect()
    }

    /// Reads what [`Split::write`] wrote.
    pub fn read(path: &Path) -> Result<Split> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("reading the split {}; mien-train split writes one", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("reading the split {}", path.display()))
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("writing the split {}", path.display()))
    }

    /// The faces that are held out, and the others.
    pub fn partition(&self, faces: Vec<Face>) -> (Vec<Face>, Vec<Face>) {
        let held_out: HashSet<(&str, &str)> = self
            .held_out
            .iter()
            .flat_map(|(set, files)| files.iter().map(move |file| (set.as_str(), file.as_str())))
            .collect();
        faces.into_iter().partition(|face| held_out.contains(&(face.set.name(), face.file.as_str())))
    }

    /// Whether the run that left these weights held out the same, as the split beside them tells; `None` without one.
    pub fn is_that_of(&self, weights: &Path) -> Result<Option<bool>> {
        let beside = weights.with_file_name(SPLIT);
        if !beside.exists() {
            return Ok(None);
        }
        Ok(Some(Split::read(&beside)?.hash() == self.hash()))
    }

    /// Tells splits apart: the first half of the SHA-256 of what is held out.
    pub fn hash(&self) -> String {
        let mut digest = Sha256::new();
        for (set, files) in &self.held_out {
            let files: BTreeSet<&String> = files.iter().collect();
            files.iter().for_each(|file| digest.update(format!("{set}/{file}\n")));
        }
        digest.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
    }
}

fn person(face: &Face) -> Person<'_> {
    (&face.set, &face.person)
}

/// All persons by gender and age group, each group in an order drawn by lot.
fn strata(faces: &[Face], seed: u64) -> Vec<Vec<Person<'_>>> {
    let mut strata: BTreeMap<(Option<u8>, Option<u8>), Vec<Person>> = BTreeMap::new();
    let mut seen = HashSet::new();
    for face in faces {
        if seen.insert(person(face)) {
            let (gender, age): Stratum = (face.gender, face.age_group());
            let key = (gender.map(|g| g as u8), age.map(|a| a as u8));
            strata.entry(key).or_default().push(person(face));
        }
    }
    let mut rng = StdRng::seed_from_u64(seed);
    let mut strata: Vec<Vec<Person>> = strata.into_values().collect();
    for persons in &mut strata {
        persons.sort();
        persons.shuffle(&mut rng);
    }
    strata
}

#[derive(Debug, clap::Args)]
pub struct Options {
    /// A folder of photos with labels, or a label table
    data: PathBuf,
    /// The split file to write; with --folds, one for each fold: NAME-1.json, NAME-2.json, …
    #[arg(long, default_value = "split.json")]
    out: PathBuf,
    /// Part of the persons that is held out
    #[arg(long, default_value_t = 0.2)]
    holdout: f64,
    /// Write this many splits, which hold out every person once
    #[arg(long, conflicts_with = "holdout")]
    folds: Option<usize>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Writes a split, stratified on gender × age group, and prints what lies on each side.
pub fn split(options: &Options) -> Result<()> {
    let faces = read_all(&options.data)?;
    let splits = match options.folds {
        None => {
            ensure!(
                options.holdout > 0.0 && options.holdout < 1.0,
                "--holdout {} must lie between 0 and 1",
                options.holdout
            );
            vec![(options.out.clone(), Split::stratified(&faces, options.seed, options.holdout))]
        }
        Some(folds) => {
            ensure!(folds > 1, "--folds {folds}: at least two");
            let name = options.out.file_stem().unwrap_or_default().to_string_lossy();
            let paths = (1..).map(|i| options.out.with_file_name(format!("{name}-{i}.json")));
            paths.zip(Split::folds(&faces, options.seed, folds)).collect()
        }
    };
    for (path, split) in splits {
        split.write(&path)?;
        let (held_out, training) = split.partition(faces.clone());
        let mut text = format!("{} ({})\n", path.display(), split.hash());
        text += &format!("{:24}{:>10}{:>10}{:>10}\n", "", "training", "held out", "part");
        let mut line = |name: &str, of: &dyn Fn(&Face) -> bool| {
            let [training, held_out] =
                [&training, &held_out].map(|side| side.iter().filter(|face| of(face)).count());
            if training + held_out > 0 {
                let part = held_out as f64 / (training + held_out) as f64;
                text += &format!("{name:24}{training:>10}{held_out:>10}{part:>10.4}\n");
            }
        };
        line("photos", &|_| true);
        for gender in Gender::ALL {
            for age in AgeGroup::ALL {
                line(&format!("{} {}", gender.name(), age.name()), &|face| {
                    face.gender == Some(gender) && face.age_group() == Some(age)
                });
            }
        }
        line("gender or age unknown", &|face| face.gender.is_none() || face.age.is_none());
        output::print(&text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classifier::labels::tests_support::face;
    use proptest::prelude::*;

    /// A face of each `(person, gender, age)`, `photos` times.
    fn faces(persons: &[(usize, u8)], photos: usize) -> Vec<Face> {
        let face = |i: usize, photo: usize, (gender, age): (usize, u8)| Face {
            file: format!("{i}/{photo}.jpg"),
            person: i.to_string(),
            ..face(gender, age)
        };
        let all = persons.iter().enumerate();
        all.flat_map(|(i, &labels)| (0..photos).map(move |photo| face(i, photo, labels))).collect()
    }

    fn persons(faces: &[Face]) -> HashSet<&str> {
        faces.iter().map(|face| face.person.as_str()).collect()
    }

    fn in_stratum(faces: &[Face], like: &Face) -> f64 {
        let of = |face: &&Face| face.gender == like.gender && face.age_group() == like.age_group();
        persons(&faces.iter().filter(of).cloned().collect::<Vec<_>>()).len() as f64
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn hold_outs_keep_persons_whole_and_shares_alike(
            labels in prop::collection::vec((0usize..2, 18u8..70), 2..200),
            photos in 1usize..8,
            holdout in 0.05f64..0.5,
            seed: u64,
        ) {
            let all = faces(&labels, photos);
            let split = Split::stratified(&all, seed, holdout);
            prop_assert_eq!(&split, &Split::stratified(&all, seed, holdout));
            let (out, kept) = split.partition(all.clone());
            prop_assert!(persons(&out).is_disjoint(&persons(&kept)));
            prop_assert_eq!(out.len() + kept.len(), all.len());
            let expected = labels.len() as f64 * holdout;
            prop_assert!((persons(&out).len() as f64 - expected).abs() <= 0.5 + 1e-9);
            for face in &all {
                let (found, of) = (in_stratum(&out, face), in_stratum(&all, face));
                prop_assert!((found - of * holdout).abs() < 1.0 + 1e-9, "{} of {}", found, of);
            }
        }

        #[test]
        fn folds_hold_out_everybody_once(
            labels in prop::collection::vec((0usize..2, 18u8..70), 10..120),
            folds in 2usize..6,
            seed: u64,
        ) {
            let all = faces(&labels, 2);
            let splits = Split::folds(&all, seed, folds);
            let sides: Vec<_> = splits.iter().map(|split| split.partition(all.clone())).collect();
            let sizes: Vec<usize> = sides.iter().map(|(out, _)| persons(out).len()).collect();
            prop_assert_eq!(sizes.iter().sum::<usize>(), labels.len());
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
            for (out, kept) in &sides {
                prop_assert!(persons(out).is_disjoint(&persons(kept)));
                for face in &all {
                    let (found, of) = (in_stratum(out, face), in_stratum(&all, face));
                    prop_assert!((found - of / folds as f64).abs() < 1.0);
                }
            }
        }
    }

    #[test]
    fn a_hash_keeps_persons_whole_when_tables_grow() {
        let all = faces(&vec![(0, 30); 2000], 3);
        let (out, kept) = Split::by_hash(&all, 7, 0.1).partition(all.clone());
        assert!(persons(&out).is_disjoint(&persons(&kept)));
        assert!((160..240).contains(&persons(&out).len()));
        let (fewer, _) = Split::by_hash(&all[..3000], 7, 0.1).partition(all[..3000].to_vec());
        assert_eq!(
            fewer,
            out.into_iter().filter(|f| f.person.parse::<usize>().unwrap() < 1000).collect::<Vec<_>>()
        );
        assert_ne!(Split::by_hash(&all, 8, 0.1).hash(), Split::by_hash(&all, 7, 0.1).hash());
    }

    #[test]
    fn split_files_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("split.json");
        let all = faces(&[(0, 20), (1, 40), (1, 61), (0, 33)], 2);
        let split = Split::stratified(&all, 3, 0.5);
        split.write(&path).unwrap();
        assert_eq!(Split::read(&path).unwrap(), split);
        // As runs wrote it before there were other sets.
        std::fs::write(&path, r#"{"seed":1,"holdout":0.1,"utkface":["a.webp"],"fairface":[],"masks":[]}"#)
            .unwrap();
        assert_eq!(Split::read(&path).unwrap().held_out["utkface"], ["a.webp"]);
    }

    #[test]
    fn weights_are_known_by_the_split_beside_them() {
        let folder = tempfile::tempdir().unwrap();
        let faces = faces(&[(0, 30); 40], 1);
        let split = Split::by_hash(&faces, 1, 0.2);
        let weights = folder.path().join("weights.safetensors");
        assert_eq!(split.is_that_of(&weights).unwrap(), None);
        split.write(&folder.path().join(SPLIT)).unwrap();
        assert_eq!(split.is_that_of(&weights).unwrap(), Some(true));
        assert_eq!(Split::by_hash(&faces, 2, 0.2).is_that_of(&weights).unwrap(), Some(false));
    }
}
