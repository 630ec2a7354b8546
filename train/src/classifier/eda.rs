//! What lies in a data folder: counts, plots and one page.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use anyhow::{Context, Result};
use mien::attributes::{AgeGroup, Gender, Mask};
use serde::Serialize;

use super::{
    dataset::picture_sizes,
    figures::class_name,
    labels::{Face, read_all},
    prediction::CLASSES,
};
use crate::plot;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// A folder of photos with labels, or a label table
    data: PathBuf,
    /// The folder to write eda.json, the plots and index.html into
    #[arg(long)]
    out: PathBuf,
}

/// What was counted.
#[derive(Debug, Serialize)]
struct Counts {
    photos: usize,
    persons: usize,
    /// Photos of each set.
    sets: BTreeMap<String, usize>,
    /// Photos of each of the 18 classes, and those that lack gender or age.
    classes: BTreeMap<String, usize>,
    unclassified: usize,
    mask: BTreeMap<&'static str, usize>,
    gender: BTreeMap<&'static str, usize>,
    age_group: BTreeMap<&'static str, usize>,
    gender_by_age_group: BTreeMap<String, usize>,
    race: BTreeMap<String, usize>,
    /// Photos by age in years, of exact ages.
    ages: BTreeMap<u8, usize>,
    /// Persons by how many photos there are of them.
    photos_per_person: BTreeMap<usize, usize>,
    /// Pictures by `width×height`.
    sizes: BTreeMap<String, usize>,
    unreadable: usize,
    imbalance: Imbalance,
}

/// How uneven the classes are.
#[derive(Debug, Serialize)]
struct Imbalance {
    /// Photos of the largest class over those of the smallest that is there.
    largest_over_smallest: f64,
    /// Entropy of the classes over its largest value, 0–1; 1 for even classes.
    evenness: f64,
    absent_classes: Vec<String>,
}

impl Imbalance {
    fn of(classes: &BTreeMap<String, usize>) -> Imbalance {
        let present: Vec<f64> = classes.values().filter(|&&n| n > 0).map(|&n| n as f64).collect();
        let total: f64 = present.iter().sum();
        let entropy: f64 = present.iter().map(|n| -(n / total) * (n / total).ln()).sum();
        let largest = present.iter().copied().fold(0.0, f64::max);
        let smallest = present.iter().copied().fold(f64::INFINITY, f64::min);
        let names = (0..CLASSES).map(class_name);
        Imbalance {
            largest_over_smallest: if present.is_empty() { 0.0 } else { largest / smallest },
            evenness: entropy / (CLASSES as f64).ln(),
            absent_classes: names.filter(|name| !classes.contains_key(name)).collect(),
        }
    }
}

fn tally<K: Ord>(keys: impl Iterator<Item = K>) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    keys.for_each(|key| *counts.entry(key).or_default() += 1);
    counts
}

impl Counts {
    fn of(faces: &[Face], sizes: BTreeMap<String, usize>, unreadable: usize) -> Counts {
        let mut photos: HashMap<_, usize> = HashMap::new();
        faces.iter().for_each(|face| *photos.entry((&face.set, &face.person)).or_default() += 1);
        let class = |face: &Face| face.class18(face.mask).map(usize::from);
        let classes = tally(faces.iter().filter_map(class).map(class_name));
        let both = faces.iter().filter_map(|face| Some((face.gender?, face.age_group()?)));
        Counts {
            photos: faces.len(),
            persons: photos.len(),
            sets: tally(faces.iter().map(|face| face.set.name().to_owned())),
            unclassified: faces.iter().filter(|face| class(face).is_none()).count(),
            mask: tally(faces.iter().map(|face| face.mask.name())),
            gender: tally(faces.iter().filter_map(|face| face.gender).map(Gender::name)),
            age_group: tally(faces.iter().filter_map(Face::age_group).map(AgeGroup::name)),
            gender_by_age_group: tally(both.map(|(g, a)| format!("{} {}", g.name(), a.name()))),
            race: tally(faces.iter().filter(|face| !face.race.is_empty()).map(|face| face.race.clone())),
            ages: tally(faces.iter().filter_map(|face| {
                face.age.as_ref().filter(|age| age.start() == age.end()).map(|age| *age.start())
            })),
            photos_per_person: tally(photos.into_values()),
            imbalance: Imbalance::of(&classes),
            classes,
            sizes,
            unreadable,
        }
    }

    /// File names and plots.
    fn plots(&self) -> Result<Vec<(&'static str, String)>> {
        fn values<K: ToString>(counts: &BTreeMap<K, usize>) -> Vec<(String, f64)> {
            counts.iter().map(|(key, &count)| (key.to_string(), count as f64)).collect()
        }
        let classes: Vec<(String, f64)> = (0..CLASSES)
            .map(|class| {
                (class_name(class), self.classes.get(&class_name(class)).copied().unwrap_or(0) as f64)
            })
            .collect();
        let masks: Vec<(String, f64)> = Mask::ALL
            .map(|mask| (mask.name().to_owned(), self.mask.get(mask.name()).copied().unwrap_or(0) as f64))
            .into();
        let ages: Vec<(u32, u32)> =
            self.ages.iter().map(|(&age, &count)| (age.into(), count as u32)).collect();
        let mut sizes = values(&self.sizes);
        sizes.sort_by(|a, b| b.1.total_cmp(&a.1));
        sizes.truncate(20);
        let mut plots = vec![
            ("classes", plot::bars("Photos of each class", &classes)?),
            ("masks", plot::bars("Photos by mask", &masks)?),
            ("groups", plot::bars("Photos by gender and age group", &values(&self.gender_by_age_group))?),
            ("sets", plot::bars("Photos of each set", &values(&self.sets))?),
            ("races", plot::bars("Photos by race", &values(&self.race))?),
            ("persons", plot::bars("Persons by their number of photos", &values(&self.photos_per_person))?),
            ("sizes", plot::bars("Commonest picture sizes", &sizes)?),
        ];
        if !ages.is_empty() {
            plots.insert(3, ("ages", plot::histogram("Photos by age", "years", &ages)?));
        }
        Ok(plots)
    }

    fn page(&self, plots: &[(&str, String)]) -> String {
        let imbalance = &self.imbalance;
        let facts = [
            format!("{} photos of {} persons", self.photos, self.persons),
            format!("{} photos lack gender or age and have no class", self.unclassified),
            format!("{} pictures cannot be read", self.unreadable),
            format!(
                "the largest class has {:.1} times the photos of the smallest; evenness {:.2} of 1",
                imbalance.largest_over_smallest, imbalance.evenness
            ),
            match imbalance.absent_classes.as_slice() {
                [] => "every class has photos".to_owned(),
                absent => format!("no photos at all: {}", escaped(&absent.join(", "))),
            },
        ];
        let facts: String = facts.iter().map(|fact| format!("<li>{fact}\n")).collect();
        let plots: String = plots.iter().map(|(_, svg)| format!("<figure>{svg}</figure>\n")).collect();
        format!(
            "<!doctype html>\n<meta charset=\"utf-8\">\n<title>Data</title>\n<style>body{{font:16px sans-serif;\
             margin:2em auto;max-width:760px}}figure{{margin:1em 0}}</style>\n<h1>Data</h1>\n<ul>\n{facts}</ul>\n{plots}"
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Counts what lies in a data folder and writes it as JSON, as plots, and as a page that holds them.
pub fn eda(options: &Options) -> Result<()> {
    let faces = read_all(&options.data)?;
    let (sizes, unreadable) = picture_sizes(&options.data, &faces)?;
    let counts = Counts::of(&faces, sizes, unreadable);
    let plots = counts.plots()?;
    std::fs::create_dir_all(&options.out)
        .with_context(|| format!("making the folder {}", options.out.display()))?;
    let write = |name: &str, text: &str| {
        let path = options.out.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    write("eda.json", &serde_json::to_string_pretty(&counts)?)?;
    for (name, svg) in &plots {
        write(&format!("{name}.svg"), svg)?;
    }
    write("index.html", &counts.page(&plots))?;
    println!(
        "{} photos of {} persons, {} unreadable; see {}",
        counts.photos,
        counts.persons,
        counts.unreadable,
        options.out.join("index.html").display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classifier::labels::tests_support::tree;

    #[test]
    fn a_competition_folder_is_counted_drawn_and_shown() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path(), 6);
        let out = folder.path().join("eda");
        eda(&Options { data: folder.path().to_owned(), out: out.clone() }).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(out.join("eda.json")).unwrap()).unwrap();
        assert_eq!((json["photos"].as_u64(), json["persons"].as_u64()), (Some(42), Some(6)));
        assert_eq!(json["photos_per_person"]["7"], 6);
        assert_eq!((&json["mask"]["worn"], &json["mask"]["wrong"]), (&30.into(), &6.into()));
        assert_eq!(json["sizes"]["24×32"], 42);
        assert_eq!(json["ages"]["19"], 14);
        // Persons are 19, 24 and 45 years old: nobody is 60.
        assert_eq!(json["imbalance"]["absent_classes"].as_array().unwrap().len(), 6);
        assert_eq!(json["imbalance"]["largest_over_smallest"], 10.0);
        let page = std::fs::read_to_string(out.join("index.html")).unwrap();
        assert_eq!(page.matches("<svg").count(), 8);
        assert!(page.contains("42 photos of 6 persons") && page.contains("worn male &gt;=60"));
        assert!(out.join("ages.svg").exists());
    }

    #[test]
    fn even_classes_are_even() {
        let classes: BTreeMap<String, usize> = (0..CLASSES).map(|class| (class_name(class), 3)).collect();
        let imbalance = Imbalance::of(&classes);
        assert!((imbalance.evenness - 1.0).abs() < 1e-9);
        assert_eq!(imbalance.largest_over_smallest, 1.0);
    }
}
