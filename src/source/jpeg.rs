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
                match memchr::memchr(0xFF, data) {
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

/// Decodes one whole JPEG, colour or grey, to RGB. Where the decoder notices damage, that is an error, not a
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

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ExtendedColorType, codecs::jpeg::JpegEncoder};
    use proptest::prelude::*;

    fn jpeg() -> Vec<u8> {
        let picture = Picture::from_fn(40, 24, |x, y| image::Rgb([6 * x as u8, 10 * y as u8, 90]));
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, 90).encode_image(&picture).unwrap();
        bytes
    }

    /// A JPEG with `segment` as its first APP1 segment.
    fn with_app1(jpeg: &[u8], segment: &[u8]) -> Vec<u8> {
        let length = (segment.len() as u16 + 2).to_be_bytes();
        [&jpeg[..2], &[0xFF, 0xE1], &length, segment, &jpeg[2..]].concat()
    }

    #[test]
    fn finds_the_end_whole_or_byte_by_byte() {
        let jpeg = jpeg();
        let more = [&jpeg[..], &jpeg[..50]].concat();
        assert_eq!(Scanner::default().advance(&more), Scan::Complete(jpeg.len()));
        let mut scanner = Scanner::default();
        for end in 2..jpeg.len() {
            assert_eq!(scanner.advance(&jpeg[..end]), Scan::Incomplete, "after {end} bytes");
        }
        assert_eq!(scanner.advance(&jpeg), Scan::Complete(jpeg.len()));
    }

    #[test]
    fn an_end_marker_inside_a_thumbnail_does_not_count() {
        let nested = with_app1(&jpeg(), &jpeg());
        assert_eq!(Scanner::default().advance(&nested), Scan::Complete(nested.len()));
        assert_eq!(decode(&nested).unwrap().dimensions(), (40, 24));
    }

    #[test]
    fn a_start_marker_in_the_image_data_means_that_the_picture_was_cut() {
        let jpeg = jpeg();
        let cut = [&jpeg[..jpeg.len() - 30], &jpeg[..]].concat();
        let mut scanner = Scanner::default();
        assert!(matches!(scanner.advance(&cut), Scan::Broken(_)));
        assert_eq!(scanner.resume_at(), jpeg.len() - 30);
    }

    #[test]
    fn decodes_colour_and_grey() {
        let picture = decode(&jpeg()).unwrap();
        assert_eq!(picture.dimensions(), (40, 24));
        assert!(picture.get_pixel(38, 2).0[0] > 200);
        let mut grey = Vec::new();
        JpegEncoder::new(&mut grey).encode(&[77; 64], 8, 8, ExtendedColorType::L8).unwrap();
        assert!(decode(&grey).unwrap().pixels().all(|pixel| pixel.0 == [77; 3]));
    }

    #[test]
    fn a_cut_picture_is_an_error() {
        let jpeg = jpeg();
        assert!(matches!(trim(&jpeg[..jpeg.len() - 2]), Err(PictureError::CutShort(_))));
        assert!(matches!(trim(b"text"), Err(PictureError::Damaged(_))));
        assert!(decode(&jpeg[..jpeg.len() * 4 / 5]).is_err());
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in 2_usize..600, value: u8, cut in 0_usize..900) {
            let mut jpeg = jpeg();
            let length = jpeg.len();
            jpeg[at % length] = value;
            jpeg.truncate(length - cut % length);
            let _ = decode(&jpeg);
            let _ = trim(&jpeg);
        }
    }
}
