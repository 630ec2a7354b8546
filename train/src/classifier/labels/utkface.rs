//! Pictures whose labels are their file names: `[age]_[gender]_[race]_[date].jpg`, as UTKFace has them.

use std::path::Path;

use anyhow::Result;
use mien::attributes::{Gender, Mask};

use super::{Face, Set, pictures_in, within};

const RACES: [&str; 5] = ["White", "Black", "Asian", "Indian", "Other"];

/// The faces of all pictures in a folder that have such names.
pub fn read(folder: &Path) -> Result<Vec<Face>> {
    let pictures = pictures_in(folder)?;
    let faces: Vec<Face> = pictures.iter().filter_map(|path| face(&within(path, folder))).collect();
    if faces.len() < pictures.len() {
        log::warn!(
            "{}: {} of {} pictures have no label in their names (age_gender_race_date) and are left out",
            folder.display(),
            pictures.len() - faces.len(),
            pictures.len()
        );
    }
    Ok(faces)
}

/// The label that a file's name holds.
pub fn face(file: &str) -> Option<Face> {
    let mut parts = file.split('_');
    let age: u8 = parts.next()?.parse().ok()?;
    let gender = *Gender::ALL.get(parts.next()?.parse::<usize>().ok()?)?;
    let race = RACES.get(parts.next()?.parse::<usize>().ok()?)?;
    parts.next()?;
    Some(Face {
        set: Set::Other("utkface-files".into()),
        file: file.to_owned(),
        person: file.to_owned(),
        mask: Mask::None,
        synthetic: false,
        gender: Some(gender),
        age: Some(age..=age),
        race: (*race).to_owned(),
        size: None,
        source_side: 200.0,
        landmarks: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels() {
        let known = face("26_1_3_20170116174525125.jpg.chip.jpg").unwrap();
        assert_eq!((known.age, known.gender), (Some(26..=26), Some(Gender::Female)));
        assert_eq!(known.race, "Indian");
        // A few of the real set lack the race.
        assert_eq!(face("61_1_20170109142408075.jpg"), None);
        assert_eq!(face("holiday.jpg"), None);
    }

    #[test]
    fn a_folder_of_such_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["1_0_0_2017.jpg", "80_1_4_2017.PNG", ".80_1_4_2017.jpg", "notes.txt", "me.jpg"] {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        let files: Vec<String> = read(folder.path()).unwrap().into_iter().map(|face| face.file).collect();
        assert_eq!(files, ["1_0_0_2017.jpg", "80_1_4_2017.PNG"]);
    }
}
