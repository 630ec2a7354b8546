//! Faces in memory: all pictures as one tensor of bytes, their labels beside it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    io::Cursor,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use image::{DynamicImage, ImageDecoder, ImageReader};
use mien::{
    attributes::{AgeGroup, Mask},
    detect::Detector,
    engine::EngineKind,
    frame::Picture,
    geometry::{Rect, crop, crop_square, resample},
    models::Model,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use super::{
    labels::{CROP, Face, Set, taught_age},
    objective::Labels,
};
use crate::archive::read_tar;

/// Pasted masks teach less than real ones.
const SYNTHETIC_WEIGHT: f32 = 0.5;
/// People of 60 and more are one in fourteen.
const OLD_WEIGHT: f32 = 1.5;

/// How a photo becomes a square picture. Pictures whose table has a face box are cut already, and stay whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Cut {
    /// Around the largest face that mien's detector finds, as the camera's faces are; the centre where it finds none
    Face,
    /// The largest square in the middle
    Centre,
    /// All of it, squeezed to a square
    Whole,
}

/// The side of a cut picture over the longer side of the face box: room for shifts, turns and wider crops.
const MARGIN: f32 = 1.3;

/// Which squares are kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    pub cut: Cut,
    /// Their side in pixels.
    pub side: u32,
}

/// Side of the data packs' pictures.
pub const PICTURE_SIDE: u32 = 128;

impl Framing {
    /// Squares with the pixels that a network with inputs of `size` can use of `faces`.
    pub fn of(faces: &[Face], cut: Cut, size: u32) -> Framing {
        let uncut = faces.iter().any(|face| face.size.is_none());
        let wanted = if uncut { (size as f32 * MARGIN / CROP).ceil() as u32 } else { 0 };
        Framing { cut, side: wanted.max(PICTURE_SIDE) }
    }
}

/// Square pictures of faces, whose boxes and landmarks are in pixels of them.
#[derive(Debug, Default)]
pub struct Pictures {
    pub faces: Vec<Face>,
    pub pictures: Vec<Picture>,
    /// Fingerprints of the photos: of their names and of their bytes as they are stored.
    pub photos: Vec<u64>,
    /// Pictures that were left out because they could not be read.
    pub unreadable: usize,
}

/// Reads and cuts the pictures of `faces` in `data`. Unreadable ones are named in the log and left out.
///
/// # Errors
/// When an archive is missing, or more than half of the pictures are unreadable.
pub fn read(data: &Path, faces: Vec<Face>, framing: Framing) -> Result<Pictures> {
    let stores = stores(data, &faces)?;
    let total = faces.len();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let parts: Vec<Result<Pictures>> = std::thread::scope(|scope| {
        let parts = faces.chunks(total.div_ceil(workers).max(1));
        let stores = &stores;
        let work = parts.map(|part| scope.spawn(move || Cutter::new(framing).cut_all(stores, part)));
        let work: Vec<_> = work.collect();
        work.into_iter()
            .map(|part| part.join().map_err(|_| anyhow::anyhow!("reading pictures stopped"))?)
            .collect()
    });
    let mut all = Pictures::default();
    for part in parts {
        let Pictures { faces, pictures, photos, unreadable } = part?;
        all.faces.extend(faces);
        all.pictures.extend(pictures);
        all.photos.extend(photos);
        all.unreadable += unreadable;
    }
    ensure!(
        all.unreadable * 2 <= total,
        "{} of {total} pictures in {} cannot be read; the log above names them",
        all.unreadable,
        data.display()
    );
    Ok(all)
}

/// The pictures of data packs' `faces`, in their order.
pub fn read_pictures(data: &Path, faces: &[Face]) -> Result<Vec<Picture>> {
    let read = read(data, faces.to_vec(), Framing::of(faces, Cut::Centre, PICTURE_SIDE))?;
    ensure!(read.unreadable == 0, "{} pictures in {} cannot be read", read.unreadable, data.display());
    Ok(read.pictures)
}

/// How many pictures there are of each size, `width×height`, and how many cannot be read.
pub fn picture_sizes(data: &Path, faces: &[Face]) -> Result<(BTreeMap<String, usize>, usize)> {
    let stores = stores(data, faces)?;
    let (mut sizes, mut unreadable) = (BTreeMap::new(), 0);
    for face in faces {
        let size = stores[&face.set].read(&face.file).and_then(|bytes| {
            Ok(ImageReader::new(Cursor::new(bytes)).with_guessed_format()?.into_dimensions()?)
        });
        match size {
            Ok((w, h)) => *sizes.entry(format!("{w}×{h}")).or_default() += 1,
            Err(error) => {
                log::warn!("{}: {error:#}", face.file);
                unreadable += 1;
            }
        }
    }
    Ok((sizes, unreadable))
}

fn stores(data: &Path, faces: &[Face]) -> Result<HashMap<Set, Store>> {
    let sets: BTreeSet<Set> = faces.iter().map(|face| face.set.clone()).collect();
    sets.into_iter().map(|set| Ok((set.clone(), Store::open(data, &set)?))).collect()
}

/// Where the pictures of a set are.
enum Store {
    Archive { path: PathBuf, files: HashMap<String, Vec<u8>> },
    Folder(PathBuf),
}

impl Store {
    /// Of a set without a name, files are paths from `data`.
    fn open(data: &Path, set: &Set) -> Result<Store> {
        if set.name().is_empty() {
            return Ok(Store::Folder(data.to_owned()));
        }
        let folder = if data.is_file() { data.parent().unwrap_or(Path::new(".")) } else { data };
        let path = folder.join(format!("{}.tar", set.name()));
        if path.exists() {
            return Ok(Store::Archive { files: read_tar(&path)?, path });
        }
        ensure!(
            matches!(set, Set::Other(_)) || folder.join(set.name()).is_dir(),
            "there is neither {} nor a folder {} beside it",
            path.display(),
            set.name()
        );
        let own = folder.join(set.name());
        Ok(Store::Folder(if own.is_dir() { own } else { folder.to_owned() }))
    }

    fn read(&self, file: &str) -> Result<Cow<'_, [u8]>> {
        match self {
            Store::Archive { path, files } => {
                let bytes = files.get(file).map(|bytes| Cow::Borrowed(bytes.as_slice()));
                bytes.with_context(|| format!("there is no {file} in {}", path.display()))
            }
            Store::Folder(folder) => {
                let path = folder.join(file);
                Ok(Cow::Owned(std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?))
            }
        }
    }
}

/// The first eight bytes of the SHA-256 of a photo's set, name and bytes.
fn fingerprint(face: &Face, bytes: &[u8]) -> u64 {
    let name = format!("{}/{}\n", face.set.name(), face.file);
    let digest = Sha256::new().chain_update(name).chain_update(bytes).finalize();
    u64::from_le_bytes(std::array::from_fn(|i| digest[i]))
}

/// A picture upright, as its EXIF orientation says.
pub fn decode(bytes: &[u8]) -> Result<Picture> {
    let mut decoder = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?.into_decoder()?;
    let orientation = decoder.orientation()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    ensure!(picture.width() > 0 && picture.height() > 0, "the picture is empty");
    Ok(picture.into_rgb8())
}

/// Makes squares of photos.
struct Cutter {
    framing: Framing,
    /// Loaded for the first photo that needs it.
    detector: Option<Detector>,
}

/// The longer side of a photo as the detector sees it.
const DETECT_SIDE: u32 = 320;

impl Cutter {
    fn new(framing: Framing) -> Cutter {
        Cutter { framing, detector: None }
    }

    /// The largest face in a photo.
    fn find(&mut self, photo: &Picture) -> Result<Option<mien::detect::Face>> {
        let detector = match &mut self.detector {
            Some(detector) => detector,
            none => {
                none.insert(Detector::new(&Model::face(None)?, EngineKind::default(), DETECT_SIDE, None)?)
            }
        };
        Ok(detector.detect(photo)?.into_iter().max_by(|a, b| a.rect.area().total_cmp(&b.rect.area())))
    }

    fn cut_all(&mut self, stores: &HashMap<Set, Store>, faces: &[Face]) -> Result<Pictures> {
        let mut all = Pictures::default();
        for face in faces {
            let photo = stores[&face.set].read(&face.file).and_then(|bytes| {
                let picture = decode(&bytes).with_context(|| face.file.clone())?;
                Ok((picture, fingerprint(face, &bytes)))
            });
            match photo {
                Ok((picture, photo)) => {
                    let mut face = face.clone();
                    all.pictures.push(self.cut(&picture, &mut face)?);
                    all.faces.push(face);
                    all.photos.push(photo);
                }
                Err(error) => {
                    log::warn!("left out: {error:#}");
                    all.unreadable += 1;
                }
            }
        }
        Ok(all)
    }

    /// The square of a photo; the face's box and landmarks move with it.
    fn cut(&mut self, photo: &Picture, face: &mut Face) -> Result<Picture> {
        let side = self.framing.side;
        let (w, h) = (photo.width() as f32, photo.height() as f32);
        let whole = Rect::new(0.0, 0.0, w, h);
        if face.size.is_some() {
            place(face, &whole, side);
            return Ok(if photo.dimensions() == (side, side) {
                photo.clone()
            } else {
                resample(photo, &whole, side, side)
            });
        }
        if self.framing.cut == Cut::Face
            && let Some(found) = self.find(photo)?
        {
            let square = crop_square(&found.rect, MARGIN);
            face.size = Some([found.rect.w, found.rect.h]);
            face.landmarks = face.landmarks.or(Some(found.landmarks));
            face.source_side = square.w;
            place(face, &square, side);
            return Ok(crop(photo, &square, side));
        }
        let part = match self.framing.cut {
            Cut::Whole => whole,
            Cut::Face | Cut::Centre => {
                let short = w.min(h);
                Rect::new((w - short) / 2.0, (h - short) / 2.0, short, short)
            }
        };
        face.source_side = part.w.min(part.h);
        place(face, &part, side);
        Ok(resample(photo, &part, side, side))
    }
}

/// Brings a face's box and landmarks from a photo to the picture of `side` pixels that is made of its `part`.
fn place(face: &mut Face, part: &Rect, side: u32) {
    let (kx, ky) = (side as f32 / part.w, side as f32 / part.h);
    face.size = face.size.map(|[w, h]| [w * kx, h * ky]);
    face.landmarks = face.landmarks.map(|points| points.map(|[x, y]| [(x - part.x) * kx, (y - part.y) * ky]));
}

/// Pictures and labels of many faces.
#[derive(Debug)]
pub struct Dataset {
    pub faces: Vec<Face>,
    /// `[N, side, side, 3]` bytes, in the CPU's memory.
    pub images: Tensor,
    pub labels: Labels,
    /// The longer side of each face box in pixels, `[N]`.
    pub sides: Tensor,
    /// As [`Pictures`] has them.
    pub photos: Vec<u64>,
    pub unreadable: usize,
}

impl Dataset {
    /// Reads the pictures of `faces`; labels go to `device`. `old_from` as for [`taught_age`].
    pub fn load(
        data: &Path,
        faces: Vec<Face>,
        framing: Framing,
        old_from: u8,
        device: Device,
    ) -> Result<Dataset> {
        let Pictures { faces, pictures, photos, unreadable } = read(data, faces, framing)?;
        let sides: Vec<f32> = faces.iter().map(|face| face.side(framing.side)).collect();
        Ok(Dataset {
            images: to_tensor(&pictures),
            labels: labels(&faces, old_from, device),
            sides: Tensor::from_slice(&sides).to_device(device),
            faces,
            photos,
            unreadable,
        })
    }
}

/// Square pictures of one size as bytes `[N, side, side, 3]`.
pub fn to_tensor(pictures: &[Picture]) -> Tensor {
    let side = pictures.first().map_or(0, |p| i64::from(p.width()));
    let images = Tensor::empty([pictures.len() as i64, side, side, 3], (Kind::Uint8, Device::Cpu));
    for (i, picture) in pictures.iter().enumerate() {
        images.get(i as i64).copy_(&Tensor::from_slice(picture.as_raw()).view([side, side, 3]));
    }
    images
}

/// Bytes `[N, H, W, 3]` as the network takes them: `[N, 3, H, W]`, channels last in memory, `(x − 128) / 128`.
pub fn normalise(images: &Tensor) -> Tensor {
    ((images.to_kind(Kind::Float) - 128.0) / 128.0).permute([0, 3, 1, 2])
}

/// Network inputs `[N, 3, side, side]` as pictures: the inverse of [`normalise`].
pub fn to_pictures(inputs: &Tensor) -> Result<Vec<Picture>> {
    let side = inputs.size()[3] as u32;
    let bytes = (inputs * 128.0 + 128.0).round().clamp(0.0, 255.0).to_kind(Kind::Uint8).permute([0, 2, 3, 1]);
    let pictures = (0..bytes.size()[0]).map(|i| {
        let bytes = Vec::<u8>::try_from(bytes.get(i).flatten(0, -1).to_device(Device::Cpu))?;
        Picture::from_raw(side, side, bytes).context("a picture has three bytes a pixel")
    });
    pictures.collect()
}

fn labels(faces: &[Face], old_from: u8, device: Device) -> Labels {
    let floats = |f: &dyn Fn(&Face) -> f32| {
        Tensor::from_slice(&faces.iter().map(f).collect::<Vec<_>>()).to_device(device)
    };
    let indices = |f: &dyn Fn(&Face) -> i64| {
        Tensor::from_slice(&faces.iter().map(f).collect::<Vec<_>>()).to_device(device)
    };
    let age = |face: &Face| face.age.as_ref().map(|age| taught_age(age, old_from));
    let group = move |face: &Face| age(face).map(|age| AgeGroup::of_years(f32::from(*age.start())));
    Labels {
        mask: indices(&|f| f.mask as i64),
        mask_weight: floats(&|f| if f.synthetic { SYNTHETIC_WEIGHT } else { 1.0 }),
        gender: indices(&|f| f.gender.map_or(0, |g| g as i64)),
        gender_weight: floats(&|f| f32::from(u8::from(f.gender.is_some()))),
        age_group: indices(&|f| group(f).map_or(0, |g| g as i64)),
        age_low: floats(&|f| age(f).map_or(0.0, |a| f32::from(*a.start()))),
        age_high: floats(&|f| age(f).map_or(0.0, |a| f32::from(*a.end()))),
        age_weight: floats(&|f| match group(f) {
            None => 0.0,
            Some(AgeGroup::From60) => OLD_WEIGHT,
            Some(_) => 1.0,
        }),
        soft: None,
    }
}

/// How often a face is shown per epoch: photos of masks are few, wrongly worn ones fewest.
pub fn repeats(face: &Face) -> usize {
    match (&face.set, face.mask) {
        (Set::Masks, Mask::Wrong) if !face.synthetic => 6,
        (Set::Masks, Mask::Worn) if !face.synthetic => 2,
        _ => 1,
    }
}

/// Whether a mask may be painted on a face: it is bare, and gender or age make the picture worth it.
pub fn paintable(face: &Face) -> bool {
    face.mask == Mask::None && face.landmarks.is_some() && (face.gender.is_some() || face.age.is_some())
}

#[cfg(test)]
mod tests {
    use super::{super::labels::read_all, *};
    use crate::classifier::labels::tests_support::{face, tree};

    #[test]
    fn inputs_are_scaled_as_the_network_expects() {
        let picture = Picture::from_fn(4, 4, |x, y| image::Rgb([(x * 60) as u8, 128, (y * 60) as u8]));
        let inputs = normalise(&to_tensor(std::slice::from_ref(&picture)));
        assert_eq!(inputs.size(), [1, 3, 4, 4]);
        assert_eq!(inputs.double_value(&[0, 1, 2, 2]), 0.0);
        assert_eq!(inputs.double_value(&[0, 0, 0, 0]), -1.0);
        assert_eq!(to_pictures(&inputs).unwrap(), [picture]);
    }

    #[test]
    fn unreadable_photos_are_left_out_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path(), 3);
        let faces = read_all(folder.path()).unwrap();
        std::fs::write(folder.path().join(&faces[4].file), b"no picture").unwrap();
        let framing = Framing { cut: Cut::Centre, side: 32 };
        let dataset = Dataset::load(folder.path(), faces.clone(), framing, 60, Device::Cpu).unwrap();
        assert_eq!((dataset.unreadable, dataset.faces.len()), (1, 20));
        assert_eq!(dataset.images.size(), [20, 32, 32, 3]);
        for face in &faces[..11] {
            std::fs::write(folder.path().join(&face.file), b"no picture").unwrap();
        }
        let error = read(folder.path(), faces, framing).unwrap_err().to_string();
        assert!(error.starts_with("11 of 21 pictures"), "{error}");
    }

    #[test]
    fn boxes_and_landmarks_move_with_the_cut() {
        let photo = Picture::from_fn(60, 100, |x, y| image::Rgb([x as u8, y as u8, 0]));
        let mut face = face(0, 30);
        face.landmarks = Some([[30.0, 50.0]; 5]);
        let mut cutter = Cutter::new(Framing { cut: Cut::Centre, side: 120 });
        let square = cutter.cut(&photo, &mut face).unwrap();
        assert_eq!(face.landmarks.unwrap()[0], [60.0, 60.0]);
        // The middle of the photo stays in the middle.
        assert!(
            square.get_pixel(60, 60).0[0].abs_diff(30) <= 1
                && square.get_pixel(60, 60).0[1].abs_diff(50) <= 1
        );

        let mut face = Face { size: Some([40.0, 50.0]), ..face };
        cutter.cut(&Picture::new(60, 60), &mut face).unwrap();
        assert_eq!(face.size, Some([80.0, 100.0]));
    }

    #[test]
    fn pictures_of_one_name_in_an_archive_keep_their_own_labels() {
        let folder = tempfile::tempdir().unwrap();
        let mut archive = tar::Builder::new(std::fs::File::create(folder.path().join("mine.tar")).unwrap());
        for brightness in [10, 200] {
            let mut png = Cursor::new(Vec::new());
            Picture::from_pixel(8, 8, image::Rgb([brightness; 3]))
                .write_to(&mut png, image::ImageFormat::Png)
                .unwrap();
            let mut header = tar::Header::new_gnu();
            header.set_size(png.get_ref().len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, "a.png", png.get_ref().as_slice()).unwrap();
        }
        archive.finish().unwrap();
        std::fs::write(folder.path().join("mine.csv"), "file,photo,mask\na.png,a,worn\na.png,a,none\n")
            .unwrap();

        let faces = read_all(folder.path()).unwrap();
        assert!(faces.iter().all(|face| face.person == "a"), "they must stay on one side of a split");
        let read = read(folder.path(), faces, Framing { cut: Cut::Whole, side: 8 }).unwrap();
        let shown = read.pictures.iter().map(|picture| picture.get_pixel(4, 4).0[0]);
        let seen: Vec<_> = read.faces.iter().map(|face| face.mask).zip(shown).collect();
        assert_eq!(seen, [(Mask::Worn, 10), (Mask::None, 200)]);
        assert_ne!(read.photos[0], read.photos[1]);
    }

    #[test]
    fn the_taught_age_group_follows_old_from() {
        let face = face(0, 58);
        let group =
            |old_from| labels(std::slice::from_ref(&face), old_from, Device::Cpu).age_group.int64_value(&[0]);
        assert_eq!((group(60), group(57)), (1, 2));
    }
}
