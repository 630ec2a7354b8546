//! JPEG: where one picture ends in a stream of bytes, and its pixels.

use super::PictureError;
use crate::frame::Picture;
use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::JpegDecoder;

/// How far a [`Scanner`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// The picture goes on after the bytes seen so far.
    Incomplete,
    /// The picture is the first so many bytes.
    Complete(usize),
    /// The bytes are not one whole picture.
    Broken(&'static str),
}

/// Finds the end of a JPEG by walking its markers (ITU-T T.81, annex B), so that an end marker inside a
/// segment, such as that of an Exif thumbnail, does not count.
#[derive(Debug)]
pub struct Scanner {
    at: usize,
    in_scan: bool,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { at: 2, in_scan: false }
    }
}

impl Scanner {
    /// Walks on through `bytes`, which start with the picture's SOI marker (`FF D8`). After
    /// [`Scan::Incomplete`], call again with the same bytes and more behind them.
    pub fn advance(&mut self, bytes: &[u8]) -> Scan {
        loop {
            if self.in_scan {
                let Some(data) = bytes.get(self.at..) else { return Scan::Incomplete };
                match data.iter().position(|&byte| byte == 0xFF) {
                    Some(offset) => self.at += offset,
                    None => {
                        self.at = bytes.len();
                        return Scan::Incomplete;
                    }
                }
            }
            let Some(&[prefix, code]) = bytes.get(self.at..self.at + 2) else { return Scan::Incomplete };
            if prefix != 0xFF {
                return Scan::Broken("bytes that belong to no segment");
            }
            match code {
                0xFF => self.at += 1,
                0x00 if self.in_scan => self.at += 2,
                0x00 => return Scan::Broken("a marker of code 0"),
                0x01 | 0xD0..=0xD7 => self.at += 2,
                0xD8 => return Scan::Broken("the next picture starts before this one has ended"),
                0xD9 => return Scan::Complete(self.at + 2),
                _ => {
                    let Some(&[high, low]) = bytes.get(self.at + 2..self.at + 4) else {
                        return Scan::Incomplete;
                    };
                    let length = usize::from(u16::from_be_bytes([high, low]));
                    if length < 2 {
                        return Scan::Broken("a segment shorter than its own length");
                    }
                    self.at += 2 + length;
                    self.in_scan = code == 0xDA;
                }
            }
        }
    }

    /// From where to look for the next picture after a broken one: past all that surely belongs to it.
    pub fn resume_at(&self) -> usize {
        if self.in_scan { self.at } else { 2 }
    }
}

/// The bytes of the JPEG at the start of `buffer`, without what follows it.
pub fn trim(buffer: &[u8]) -> Result<&[u8], PictureError> {
    if !buffer.starts_with(&[0xFF, 0xD8]) {
        return Err(PictureError::Damaged("it does not start with a JPEG marker".into()));
    }
    match Scanner::default().advance(buffer) {
        Scan::Complete(length) => Ok(&buffer[..length]),
        Scan::Incomplete => Err(PictureError::CutShort("the JPEG has no end marker")),
        Scan::Broken(reason) => Err(PictureError::Damaged(reason.into())),
    }
}

/// Decodes one whole JPEG, colour or grey, to RGB. A picture that is damaged inside is an error, not a
/// picture with grey parts.
pub fn decode(jpeg: &[u8]) -> Result<Picture, PictureError> {
    let damaged = |error: zune_jpeg::errors::DecodeErrors| PictureError::Damaged(error.to_string());
    let options = DecoderOptions::default()
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(jpeg), options);
    decoder.decode_headers().map_err(damaged)?;
    let (width, height) = decoder.dimensions().unwrap_or_default();
    PictureError::check_size(width as u64, height as u64)?;
    let pixels = decoder.decode().map_err(damaged)?;
    Picture::from_raw(width as u32, height as u32, pixels)
        .ok_or_else(|| PictureError::Damaged("fewer pixels than its size says".into()))
}
