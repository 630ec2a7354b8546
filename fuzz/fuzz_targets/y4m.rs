//! A Y4M stream: four bytes for the sizes of its reads, then the stream.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use mien::{
    frame::Picture,
    source::{Item, MAX_PIXELS, Pace, Source, SourceError, SourceOptions, y4m::Y4m},
};
use mien_fuzz::{Pieces, split, within};
use std::{
    io::{Cursor, Read},
    sync::Arc,
};

/// The samples of the largest picture, 4:4:4; the picture itself comes only when they have been read.
const BUDGET: usize = 3 * MAX_PIXELS as usize + (1 << 20);
const FRAME: usize = "FRAME\n".len();

/// The pictures, and how the stream ended.
#[derive(Debug, PartialEq)]
struct Seen {
    pictures: Vec<Arc<Picture>>,
    /// The pictures that could not be read.
    unreadable: usize,
    error: Option<String>,
}

fn play(stream: impl Read + Send + 'static) -> Result<Seen, SourceError> {
    let mut y4m = Y4m::new("fuzz", Box::new(stream), &SourceOptions::default())?;
    let Pace::Recorded(fps) = y4m.pace() else { panic!("a recording has a rate") };
    assert!(fps.is_finite() && fps > 0.0);
    let mut seen = Seen { pictures: Vec::new(), unreadable: 0, error: None };
    let mut latest = None;
    loop {
        match y4m.next() {
            Ok(Some(Item::Frame(frame))) => {
                assert_eq!(frame.sequence, (seen.pictures.len() + seen.unreadable) as u64);
                assert!(latest.is_none_or(|latest| latest <= frame.captured), "time goes backwards");
                latest = Some(frame.captured);
                let (width, height) = frame.picture.dimensions();
                assert!(y4m.describe().contains(&format!("{width}x{height}")));
                seen.pictures.push(frame.picture);
            }
            Ok(Some(Item::Unreadable { .. })) => seen.unreadable += 1,
            Ok(Some(other)) => panic!("a recording gave {other:?}"),
            Ok(None) => break,
            Err(error) => {
                seen.error = Some(error.to_string());
                break;
            }
        }
    }
    assert!(seen.error.is_some() || matches!(y4m.next(), Ok(None)), "it goes on after its end");
    Ok(seen)
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((steps, stream)) = split(input) else { return Corpus::Reject };
    let whole = Cursor::new(stream.to_vec());
    match within(BUDGET + 8 * stream.len(), || play(whole.clone())) {
        Ok(seen) => {
            assert!(seen.unreadable <= 1, "a stream is cut short only once");
            let bytes: usize = seen.pictures.iter().map(|picture| FRAME + picture.len() / 3).sum();
            assert!(bytes <= stream.len(), "more pixels than samples");
            let sizes = seen.pictures.windows(2).all(|two| two[0].dimensions() == two[1].dimensions());
            assert!(sizes, "the size changes in mid-stream");
            let again = play(Pieces::new(whole, steps)).expect("it was read before");
            assert_eq!(again, seen, "what is found depends on the reads");
        }
        Err(error) => assert!(!error.reason.is_empty()),
    }
    Corpus::Keep
});
