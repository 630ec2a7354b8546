//! Figures of merit of predictions: over all faces, by class, by head, and by group of people.

use std::collections::BTreeMap;

use mien::attributes::{Mask, from_class18};
use serde::{Deserialize, Serialize};

use super::{
    labels::Face,
    prediction::{CLASSES, Prediction},
};
use crate::metrics::{Calibration, ClassFigures, Confusion, Mean};

/// Figures of one head.
#[derive(Debug, Clone, Serialize)]
pub struct HeadFigures {
    pub accuracy: f64,
    pub macro_f1: f64,
    /// Expected calibration error, 0–1.
    pub calibration_error: f64,
    pub faces: u32,
    pub classes: BTreeMap<&'static str, ClassFigures>,
}

/// Figures of a set of faces, or of a group within it.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    pub faces: u32,
    /// Of the 18 classes, over the faces of which mask, gender and age are known.
    pub accuracy: f64,
    pub macro_f1: f64,
    pub calibration_error: f64,
    /// Faces that have a class.
    pub classified: u32,
    /// By class, as `wrong male 30-59`.
    pub classes: BTreeMap<String, ClassFigures>,
    /// `[truth][answer]`.
    pub confusion: Confusion<CLASSES>,
    pub mask: HeadFigures,
    pub gender: HeadFigures,
    pub age: HeadFigures,
    /// Mean absolute error of the expected age in years, over faces of exact age.
    pub age_mae: Option<f64>,
    /// By gender, age group and race, then by value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<&'static str, BTreeMap<String, Figures>>,
}

/// The few figures that a log line has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub accuracy: f64,
    pub macro_f1: f64,
    pub calibration_error: f64,
    pub mask_f1: f64,
    pub gender_accuracy: f64,
    pub age_f1: f64,
    pub age_mae: Option<f64>,
}

impl Summary {
    /// By TensorBoard's tags.
    pub fn scalars(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let always = [
            ("validation/accuracy", self.accuracy),
            ("validation/macro_f1", self.macro_f1),
            ("validation/calibration_error", self.calibration_error),
            ("validation/mask_f1", self.mask_f1),
            ("validation/gender_accuracy", self.gender_accuracy),
            ("validation/age_f1", self.age_f1),
        ];
        always.into_iter().chain(self.age_mae.map(|years| ("validation/age_mae", years)))
    }
}

impl Figures {
    /// Of `predictions` for `faces` with these masks on.
    pub fn of<'a>(rows: impl Iterator<Item = (&'a Face, Mask, &'a Prediction)>) -> Figures {
        let mut all = Tally::default();
        let mut groups: BTreeMap<&'static str, BTreeMap<String, Tally>> = BTreeMap::new();
        for (face, mask, prediction) in rows {
            all.add(face, mask, prediction);
            for (by, value) in face.groups() {
                groups.entry(by).or_default().entry(value).or_default().add(face, mask, prediction);
            }
        }
        let figures = |tallies: BTreeMap<String, Tally>| {
            tallies.into_iter().map(|(value, tally)| (value, tally.figures())).collect()
        };
        let groups = groups.into_iter().map(|(by, tallies)| (by, figures(tallies))).collect();
        Figures { groups, ..all.figures() }
    }

    pub fn summary(&self) -> Summary {
        Summary {
            accuracy: self.accuracy,
            macro_f1: self.macro_f1,
            calibration_error: self.calibration_error,
            mask_f1: self.mask.macro_f1,
            gender_accuracy: self.gender.accuracy,
            age_f1: self.age.macro_f1,
            age_mae: self.age_mae,
        }
    }
}

/// What a class is called.
pub fn class_name(class: usize) -> String {
    from_class18(class as u8)
        .map(|(mask, gender, age)| format!("{} {} {}", mask.name(), gender.name(), age.name()))
        .unwrap_or_default()
}

/// Counts from which figures come.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    faces: u32,
    class: (Confusion<CLASSES>, Calibration),
    pub mask: (Confusion<3>, Calibration),
    pub gender: (Confusion<2>, Calibration),
    pub age: (Confusion<3>, Calibration),
    pub years: Mean,
}

impl Tally {
    pub fn add(&mut self, face: &Face, mask: Mask, prediction: &Prediction) {
        let heads = prediction.heads();
        let (said_mask, said_gender, said_age) = prediction.answer();
        self.faces += 1;
        count(&mut self.mask, mask as usize, said_mask as usize, &heads.mask);
        if let Some(gender) = face.gender {
            count(&mut self.gender, gender as usize, said_gender as usize, &heads.gender);
        }
        if let Some(age) = face.age_group() {
            count(&mut self.age, age as usize, said_age as usize, &heads.age);
        }
        if let Some(class) = face.class18(mask) {
            count(&mut self.class, usize::from(class), prediction.class, &prediction.classes);
        }
        if let (Some(age), Some(years)) =
            (face.age.as_ref().filter(|age| age.start() == age.end()), prediction.years)
        {
            self.years.add(f64::from((years - f32::from(*age.start())).abs()));
        }
    }

    fn figures(self) -> Figures {
        let classes = self.class.0.classes().into_iter().enumerate().filter(|(_, figures)| figures.faces > 0);
        Figures {
            faces: self.faces,
            accuracy: self.class.0.accuracy(),
            macro_f1: self.class.0.macro_f1(),
            calibration_error: self.class.1.error(),
            classified: self.class.0.total(),
            classes: classes.map(|(class, figures)| (class_name(class), figures)).collect(),
            mask: head(&self.mask, ["worn", "wrong", "none"]),
            gender: head(&self.gender, ["male", "female"]),
            age: head(&self.age, ["<30", "30-59", ">=60"]),
            age_mae: self.years.value(),
            confusion: self.class.0,
            groups: BTreeMap::new(),
        }
    }
}

fn count<const N: usize>(
    (confusion, calibration): &mut (Confusion<N>, Calibration),
    truth: usize,
    answer: usize,
    probabilities: &[f32],
) {
    confusion.add(truth, answer);
    calibration.add(probabilities[answer], truth == answer);
}

fn head<const N: usize>(
    (confusion, calibration): &(Confusion<N>, Calibration),
    names: [&'static str; N],
) -> HeadFigures {
    HeadFigures {
        accuracy: confusion.accuracy(),
        macro_f1: confusion.macro_f1(),
        calibration_error: calibration.error(),
        faces: confusion.total(),
        classes: names.into_iter().zip(confusion.classes()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classifier::labels::{Set, tests_support::face};
    use mien::attributes::Attributes;

    /// Sure of `mask`, male, under 30, and of `years`.
    fn says(mask: Mask, years: f32) -> Prediction {
        let mut heads = Attributes { mask: [0.05; 3], gender: [0.8, 0.2], age: [0.9, 0.05, 0.05], years };
        heads.mask[mask as usize] = 0.9;
        Prediction::from_heads(&heads)
    }

    #[test]
    fn figures_by_hand_and_by_group() {
        let young = Face { race: "A".into(), ..face(0, 25) };
        let old = Face { race: "B".into(), ..face(1, 70) };
        let unknown = Face { gender: None, age: None, race: String::new(), set: Set::Masks, ..face(0, 1) };
        let predictions = [says(Mask::Worn, 24.0), says(Mask::None, 64.0), says(Mask::Worn, 3.0)];
        let rows = [(&young, Mask::Worn), (&old, Mask::None), (&unknown, Mask::Wrong)];
        let figures =
            Figures::of(rows.into_iter().zip(&predictions).map(|((face, mask), p)| (face, mask, p)));
        assert_eq!((figures.faces, figures.classified), (3, 2));
        assert_eq!((figures.accuracy, figures.gender.accuracy), (0.5, 0.5));
        assert!((figures.mask.accuracy - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!(figures.age_mae, Some(3.5));
        assert_eq!(figures.classes["worn male <30"].f1, 1.0);
        assert_eq!(figures.groups["race"]["A"].accuracy, 1.0);
        assert_eq!(figures.groups["race"]["B"].accuracy, 0.0);
        assert_eq!(figures.groups["race"].len(), 2);
        assert_eq!(figures.groups["age"][">=60"].faces, 1);
    }
}
