//! Annotated pictures in a folder.

use std::{
    fs,
    io::BufWriter,
    path::{Path, PathBuf},
};

use image::codecs::jpeg::JpegEncoder;

use crate::frame::Picture;

/// JPEG quality: the lettering stays free of visible blocks.
const QUALITY: u8 = 92;

/// A folder or a picture that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {reason}; choose a folder that this user can write to, with room on its disk")]
pub struct WriteError {
    pub path: PathBuf,
    pub reason: String,
}

/// Writes JPEG pictures named `000001-NAME.jpg`, numbered on from those already in the folder.
#[derive(Debug)]
pub struct PictureWriter {
    folder: PathBuf,
    last: u64,
}

impl PictureWriter {
    /// Makes the folder where it is missing.
    pub fn new(folder: &Path) -> Result<Self, WriteError> {
        let fail = |error: std::io::Error| WriteError { path: folder.to_owned(), reason: error.to_string() };
        fs::create_dir_all(folder).map_err(fail)?;
        let mut last = 0;
        for entry in fs::read_dir(folder).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            let number = name.to_string_lossy().split('-').next().and_then(|digits| digits.parse().ok());
            last = last.max(number.unwrap_or(0));
        }
        Ok(Self { folder: folder.to_owned(), last })
    }

    /// Writes one picture and gives its path. Of `name`, a file's path or any words, the file stem is used.
    /// The file appears under its name only when it is whole.
    pub fn write(&mut self, name: &str, picture: &Picture) -> Result<PathBuf, WriteError> {
        let number = self.last + 1;
        let path = self.folder.join(format!("{number:06}-{}.jpg", stem(name)));
        let part = path.with_extension("jpg.part");
        let fail = |reason: String| {
            // The partial file may not exist; the error that matters is the first.
            let _ = fs::remove_file(&part);
            WriteError { path: path.clone(), reason }
        };
        let file = fs::File::create(&part).map_err(|error| fail(error.to_string()))?;
        let mut out = BufWriter::new(file);
        let encoded = JpegEncoder::new_with_quality(&mut out, QUALITY).encode_image(picture);
        encoded.map_err(|error| fail(error.to_string()))?;
        out.into_inner().map_err(|error| fail(error.to_string()))?;
        fs::rename(&part, &path).map_err(|error| fail(error.to_string()))?;
        self.last = number;
        Ok(path)
    }
}

/// The last part of a path without its extension, in letters that every file system takes.
fn stem(name: &str) -> String {
    let stem = Path::new(name).file_stem().unwrap_or_default().to_string_lossy();
    let safe = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    match stem.chars().map(safe).take(60).collect::<String>() {
        empty if empty.is_empty() => "picture".to_owned(),
        stem => stem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_numbered_on_and_readable() {
        let folder = tempfile::tempdir().unwrap();
        let picture = Picture::from_pixel(40, 30, image::Rgb([10, 200, 90]));
        let dir = folder.path().join("new/deep");
        let mut writer = PictureWriter::new(&dir).unwrap();
        let first = writer.write("photos/a b.png", &picture).unwrap();
        assert_eq!(first, dir.join("000001-a_b.jpg"));
        assert_eq!(writer.write("demo", &picture).unwrap(), dir.join("000002-demo.jpg"));
        let mut later = PictureWriter::new(&dir).unwrap();
        assert_eq!(later.write("..", &picture).unwrap(), dir.join("000003-picture.jpg"));
        let back = image::open(first).unwrap().to_rgb8();
        assert_eq!(back.dimensions(), (40, 30));
        assert!(back.get_pixel(20, 15).0.iter().zip([10, 200, 90]).all(|(a, b)| a.abs_diff(b) < 6));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 3, "no partial files stay behind");
    }

    #[test]
    fn errors_name_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = PictureWriter::new(&file).unwrap_err();
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");

        let gone = folder.path().join("gone");
        let mut writer = PictureWriter::new(&gone).unwrap();
        fs::remove_dir(&gone).unwrap();
        let error = writer.write("a", &Picture::new(2, 2)).unwrap_err();
        assert!(error.to_string().contains("000001-a.jpg"), "{error}");
    }
}
