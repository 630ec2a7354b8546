//! The competition's layout: seven photos of each person under `train/`, photos without labels under `eval/`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use mien::attributes::{Gender, Mask};
use serde::Deserialize;

use super::{Face, Set, pictures_in, within};

#[derive(Deserialize)]
struct Person {
    id: String,
    gender: String,
    race: String,
    age: u8,
    /// The person's folder in `train/images`.
    path: String,
}

/// The mask in a photo called `{stem}.jpg`.
fn mask(stem: &str) -> Option<Mask> {
    match stem {
        "mask1" | "mask2" | "mask3" | "mask4" | "mask5" => Some(Mask::Worn),
        "incorrect_mask" => Some(Mask::Wrong),
        "normal" => Some(Mask::None),
        _ => None,
    }
}

/// All photos of all persons in `train/train.csv`; files of other names are left out.
pub fn read(data: &Path) -> Result<Vec<Face>> {
    let table = data.join("train/train.csv");
    let named = || format!("reading {}", table.display());
    let mut faces = Vec::new();
    let mut missing = 0;
    for (i, row) in csv::Reader::from_path(&table).with_context(named)?.deserialize::<Person>().enumerate() {
        let person = row.with_context(named)?;
        let folder = data.join("train/images").join(&person.path);
        if !folder.is_dir() {
            missing += 1;
            continue;
        }
        let found = photos(data, &folder, &person).with_context(|| format!("{}: row {}", named(), i + 1))?;
        faces.extend(found);
    }
    if missing > 0 {
        log::warn!("{}: {missing} persons have no folder in train/images", table.display());
    }
    Ok(faces)
}

fn photos(data: &Path, folder: &Path, person: &Person) -> Result<Vec<Face>> {
    let Some(gender) = Gender::ALL.into_iter().find(|g| g.name() == person.gender.to_lowercase()) else {
        bail!("gender is {:?}; it must be male or female", person.gender);
    };
    let mut faces = Vec::new();
    for path in pictures_in(folder)? {
        let Some(mask) = path.file_stem().and_then(|stem| mask(&stem.to_string_lossy())) else {
            log::warn!(
                "{} is none of mask1 to mask5, incorrect_mask, normal; it is left out",
                path.display()
            );
            continue;
        };
        faces.push(Face {
            set: Set::Other("competition".into()),
            file: within(&path, data),
            person: person.id.clone(),
            mask,
            synthetic: false,
            gender: Some(gender),
            age: Some(person.age..=person.age),
            race: person.race.clone(),
            size: None,
            source_side: 384.0,
            landmarks: None,
        });
    }
    Ok(faces)
}

/// Photos to answer for, in the order of the answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eval {
    /// What each is called in the answer.
    pub ids: Vec<String>,
    pub paths: Vec<PathBuf>,
}

/// The photos that `info.csv` lists, from the folder `images` beside it; or all photos of a folder; or, of a folder
/// in the competition's layout, `eval/info.csv`.
pub fn read_eval(input: &Path) -> Result<Eval> {
    if input.is_dir() {
        for table in ["info.csv", "eval/info.csv"].map(|name| input.join(name)) {
            if table.exists() {
                return read_eval(&table);
            }
        }
        let paths = pictures_in(input)?;
        ensure!(
            !paths.is_empty(),
            "{} holds neither info.csv nor pictures (jpg, png, webp, bmp)",
            input.display()
        );
        return Ok(Eval { ids: paths.iter().map(|path| within(path, input)).collect(), paths });
    }
    #[derive(Deserialize)]
    struct Row {
        #[serde(rename = "ImageID")]
        id: String,
    }
    let named = || format!("reading {}; it must have a column ImageID", input.display());
    let rows = csv::Reader::from_path(input).with_context(named)?.into_deserialize::<Row>();
    let ids: Vec<String> =
        rows.map(|row| row.map(|row| row.id)).collect::<Result<_, _>>().with_context(named)?;
    let images = input.parent().unwrap_or(Path::new(".")).join("images");
    Ok(Eval { paths: ids.iter().map(|id| images.join(id)).collect(), ids })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::fs;

    /// A tree in the competition's layout: `persons` persons of seven photos of 24×32 pixels, and four photos to
    /// answer for. Endings are mixed, and hidden files lie about.
    pub fn tree(folder: &Path, persons: usize) {
        let mut table = "id,gender,race,age,path\n".to_owned();
        let write = |path: PathBuf, shade: usize| {
            let picture = mien::frame::Picture::from_fn(24, 32, |x, y| {
                image::Rgb([(shade * 40 % 256) as u8, (x * 8) as u8, (y * 7) as u8])
            });
            picture.save(path).unwrap();
        };
        for i in 0..persons {
            let gender = Gender::ALL[i % 2].name();
            let age = [19, 24, 45, 60, 38, 58][i / 2 % 6];
            let path = format!("{i:06}_{gender}_Asian_{age}");
            table += &format!("{i:06},{gender},Asian,{age},{path}\n");
            let images = folder.join("train/images").join(&path);
            fs::create_dir_all(&images).unwrap();
            for (k, stem) in
                ["mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal"].iter().enumerate()
            {
                let ending = ["jpg", "jpeg", "png"][(i + k) % 3];
                write(images.join(format!("{stem}.{ending}")), i + k);
            }
            fs::write(images.join("._mask1.jpg"), b"not a picture").unwrap();
        }
        fs::write(folder.join("train/train.csv"), table).unwrap();
        fs::create_dir_all(folder.join("eval/images")).unwrap();
        let mut info = "ImageID,ans\n".to_owned();
        for i in 0..4 {
            let name = format!("cbc5c6e168e63498590db46022617123f1fe126{i}.jpg");
            write(folder.join("eval/images").join(&name), i);
            info += &format!("{name},0\n");
        }
        fs::write(folder.join("eval/info.csv"), info).unwrap();
    }

    #[test]
    fn seven_photos_of_each_person() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path(), 5);
        let faces = read(folder.path()).unwrap();
        assert_eq!(faces.len(), 5 * 7);
        let of = |mask: Mask| faces.iter().filter(|face| face.mask == mask).count();
        assert_eq!((of(Mask::Worn), of(Mask::Wrong), of(Mask::None)), (25, 5, 5));
        let face = faces.iter().find(|face| face.person == "000003" && face.mask == Mask::None).unwrap();
        assert_eq!(face.class18(face.mask), Some(15));
        assert!(folder.path().join(&face.file).exists());
    }

    #[test]
    fn photos_to_answer_for_keep_the_tables_order() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path(), 1);
        let eval = read_eval(folder.path()).unwrap();
        assert_eq!(eval.ids.len(), 4);
        assert!(eval.paths.iter().all(|path| path.is_file()));
        assert_eq!(eval, read_eval(&folder.path().join("eval/info.csv")).unwrap());
        let loose = read_eval(&folder.path().join("eval/images")).unwrap();
        assert_eq!(loose.paths.len(), 4);
        let error = read_eval(&folder.path().join("train/train.csv")).unwrap_err();
        assert!(format!("{error:#}").contains("ImageID"), "{error:#}");
    }

    #[test]
    fn a_wrong_label_is_named() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path(), 2);
        let table = folder.path().join("train/train.csv");
        let text = fs::read_to_string(&table).unwrap().replace(",female,", ",woman,");
        fs::write(&table, text).unwrap();
        let error = format!("{:#}", read(folder.path()).unwrap_err());
        assert!(error.contains("row 2") && error.contains("woman"), "{error}");
    }
}
