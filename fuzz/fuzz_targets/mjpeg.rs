//! A stream of JPEG pictures: four bytes for the sizes of its reads, then the stream. Where all four are 255, it is also
//! repeated, to see how much memory and time a long one takes.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use mien::source::{
    jpeg,
    mjpeg::{Found, Splitter},
};
use mien_fuzz::{Pieces, Repeated, position, split, within};
use std::io::Read;
use zune_jpeg::{JpegDecoder, zune_core::bytestream::ZCursor};

/// The longest picture of the test of memory.
const LIMIT: usize = 64 << 10;
/// What is read at a time.
const READ: usize = 64 << 10;
/// Much more than the splitter may hold in it.
const LONG: usize = 640 << 10;
/// A picture and two reads of 64 KB, in a buffer that has doubled its size.
const BUDGET: usize = 2 * (LIMIT + 2 * READ);
/// Larger pictures are not decoded: it would take too long.
const MOST_PIXELS: usize = 1 << 14;

/// Shows what a splitter finds, and counts it.
fn each(mut splitter: Splitter<impl Read>, mut see: impl FnMut(Found)) -> usize {
    let mut count = 0;
    while let Some(found) = splitter.next_picture().expect("the stream does not fail") {
        see(found);
        count += 1;
    }
    count
}

/// The pictures, and the reasons of what is none.
fn owned(splitter: Splitter<impl Read>) -> Vec<Result<Vec<u8>, &'static str>> {
    let mut all = Vec::new();
    each(splitter, |found| {
        all.push(match found {
            Found::Jpeg(bytes) => Ok(bytes.to_vec()),
            Found::Broken(reason) => Err(reason),
        });
    });
    all
}

fn is_small(picture: &[u8]) -> bool {
    let mut decoder = JpegDecoder::new(ZCursor::new(picture));
    let read = decoder.decode_headers();
    read.is_err() || decoder.dimensions().is_none_or(|(width, height)| width * height <= MOST_PIXELS)
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((steps, stream)) = split(input) else { return Corpus::Reject };
    let all = owned(Splitter::new(stream));
    assert_eq!(owned(Splitter::new(Pieces::new(stream, steps))), all, "what is found depends on the reads");

    assert!(all.len() <= stream.len() / 2, "more pictures than starts");
    let mut from = 0;
    for picture in all.iter().flatten() {
        let at = position(stream, picture, from).expect("pictures are parts of the stream, in its order");
        from = at + picture.len();
        assert!(picture.starts_with(&[0xFF, 0xD8, 0xFF]) && picture.ends_with(&[0xFF, 0xD9]));
        assert_eq!(jpeg::trim(picture).expect("it is whole"), picture);
        if is_small(picture) {
            let _ = jpeg::decode(picture);
        }
    }

    // It takes long: only where the first four bytes ask for it.
    if steps != [255; 4] {
        return Corpus::Keep;
    }
    let again = Repeated::new(stream, LONG);
    let count = within(BUDGET, || {
        each(Splitter::with_limit(again, LIMIT), |found| {
            if let Found::Jpeg(bytes) = found {
                assert!(bytes.len() <= LIMIT + READ);
            }
        })
    });
    assert!(count <= (LONG + stream.len()) / 2);
    Corpus::Keep
});
