//! Still pictures: files, folders and globs.

use super::{Extent, Item, Pace, PictureError, Source, SourceError, jpeg};
use crate::frame::{Frame, Picture};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::{
    fs::{self, File},
    io::{Cursor, Read},
    path::{Path, PathBuf},
    time::Instant,
};

/// Files of a folder with other extensions are passed over.
const EXTENSIONS: [&str; 10] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "ppm", "pgm", "pbm", "pnm"];

/// The largest picture file, in bytes.
const MAX_FILE: u64 = 1 << 30;

/// The most memory that a decoder may take, in bytes: four channels for the largest picture.
const MAX_DECODER_MEMORY: u64 = 4 * super::MAX_PIXELS;

/// Reads a JPEG, PNG, WebP, GIF (its first picture), BMP or PNM file and turns it upright as its Exif
/// orientation says. What the file is follows from its content; its name does not matter. Transparency is
/// dropped.
pub fn read_picture(path: &Path) -> Result<Picture, PictureError> {
    let bytes = read_file(path)?;
    if bytes.is_empty() {
        return Err(PictureError::Empty);
    }
    let format = image::guess_format(&bytes)
        .ok()
        .filter(ImageFormat::reading_enabled)
        .ok_or_else(|| PictureError::NotAPicture { start: start_of(&bytes) })?;
    if format == ImageFormat::Jpeg
        && let Err(error @ PictureError::CutShort(_)) = jpeg::trim(&bytes)
    {
        return Err(error);
    }
    let damaged = |error: image::ImageError| PictureError::Damaged(error.to_string());
    let mut reader = ImageReader::with_format(Cursor::new(&bytes), format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODER_MEMORY);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    PictureError::check_size(width.into(), height.into())?;
    let orientation = decoder.orientation().map_err(damaged)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    picture.apply_orientation(orientation);
    Ok(picture.into_rgb8())
}

fn read_file(path: &Path) -> Result<Vec<u8>, PictureError> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > MAX_FILE {
        return Err(PictureError::FileTooLarge { megabytes: length >> 20, limit: MAX_FILE >> 20 });
    }
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The first bytes of a file, as text for a message.
fn start_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(16)]).into_owned()
}

/// The pictures that `path` names: the file itself; the pictures directly in a folder; or, where no such
/// file exists, the pictures that match it as a glob (`*`, `?`, `[…]`, `**`). Sorted by name; a file that
/// is named by its full path is taken whatever its extension.
pub fn expand(path: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let name = || path.display().to_string();
    if path.is_dir() {
        let entries = fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>())
            .map_err(|error| SourceError::new(name(), error, "give a readable folder"))?;
        let found = entries.len();
        let pictures = sorted_pictures(entries);
        return match pictures.is_empty() {
            true if found == 0 => {
                Err(SourceError::new(name(), "the folder is empty", "give a folder of pictures"))
            }
            true => Err(SourceError::new(
                name(),
                format!("none of the {found} entries of the folder is a picture"),
                format!(
                    "give a folder of {} files, or a glob such as '{}/**/*.jpg'",
                    EXTENSIONS.join(", "),
                    name()
                ),
            )),
            false => Ok(pictures),
        };
    }
    if path.exists() {
        return Ok(vec![path.to_path_buf()]);
    }
    if let Some(pattern) = path.to_str().filter(|pattern| pattern.contains(['*', '?', '['])) {
        let matches = glob::glob(pattern)
            .map_err(|error| SourceError::new(name(), error, "correct the glob, or quote it"))?;
        let pictures = sorted_pictures(matches.filter_map(Result::ok).collect());
        return match pictures.is_empty() {
            true => Err(SourceError::new(name(), "no picture matches", "give a glob that matches pictures")),
            false => Ok(pictures),
        };
    }
    Err(SourceError::new(
        name(),
        "no such file",
        "give a picture, a folder, a quoted glob, a GIF, FILE.y4m, mjpeg:FILE, y4m:FILE (or - for standard \
         input), camera[:N], rpicam, nvargus, http://…, 'exec:COMMAND', or demo",
    ))
}

fn sorted_pictures(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    paths.retain(|path| {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        EXTENSIONS.contains(&extension.as_str()) && path.is_file()
    });
    paths.sort();
    paths
}

/// Unrelated pictures, one after the other.
pub struct Stills {
    name: String,
    paths: Box<dyn Iterator<Item = PathBuf> + Send>,
    count: u64,
}

impl Stills {
    /// `name` is what the user called the pictures together. A path is asked for when its picture is due.
    pub fn new(
        name: impl Into<String>,
        paths: impl IntoIterator<Item = PathBuf, IntoIter: Send + 'static>,
    ) -> Self {
        Self { name: name.into(), paths: Box::new(paths.into_iter()), count: 0 }
    }
}

impl Source for Stills {
    fn describe(&self) -> String {
        match self.paths.size_hint() {
            (left, Some(most)) if left == most && left > 1 => format!("{}, {left} pictures", self.name),
            _ => self.name.clone(),
        }
    }

    fn extent(&self) -> Extent {
        Extent::Ends
    }

    fn pace(&self) -> Pace {
        Pace::Stills
    }

    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        let Some(path) = self.paths.next() else { return Ok(None) };
        let sequence = self.count;
        self.count += 1;
        let name = path.display().to_string();
        let captured = Instant::now();
        Ok(Some(match read_picture(&path) {
            Ok(picture) => {
                Item::Frame(Frame { picture: picture.into(), captured, sequence, name: name.into() })
            }
            Err(error) => Item::Unreadable { name, reason: error.to_string() },
        }))
    }
}
