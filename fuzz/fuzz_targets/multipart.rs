//! A network camera's answer: four bytes for the sizes of its reads, a line that is its Content-Type, then its body.
//! Where all four are 255, the body is also repeated, to see how much memory and time a long one takes.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use mien::source::multipart::{MediaType, Part, Parts};
use mien_fuzz::{Pieces, Repeated, position, split, within};
use std::io::Read;

/// The longest part of the test of memory.
const LIMIT: usize = 64 << 10;
/// What is read at a time.
const READ: usize = 64 << 10;
/// Much more than the reader may hold in it.
const LONG: usize = 640 << 10;
/// A part and two reads of 64 KB, in a buffer that has doubled its size.
const BUDGET: usize = 2 * (LIMIT + 2 * READ);
/// Where the Content-Type names none.
const BOUNDARY: &str = "b";

/// Shows the parts, and counts them.
fn each(mut parts: Parts<impl Read>, mut see: impl FnMut(Part)) -> usize {
    let mut count = 0;
    while let Some(part) = parts.next_part().expect("the stream does not fail") {
        see(part);
        count += 1;
    }
    count
}

/// A part's media type and body.
type Whole = (Option<String>, Vec<u8>);

fn owned(parts: Parts<impl Read>) -> Vec<Result<Whole, &'static str>> {
    let mut all = Vec::new();
    each(parts, |part| {
        all.push(match part {
            Part::Whole { media_type, body } => Ok((media_type, body.to_vec())),
            Part::Broken(reason) => Err(reason),
        });
    });
    all
}

/// Small letters without parameters and without blanks around them.
fn check_essence(essence: &str) {
    assert_eq!(essence.trim().to_ascii_lowercase(), essence);
    assert!(!essence.contains(';'));
}

fn boundary(content_type: &str) -> Option<String> {
    let parsed = MediaType::parse(content_type);
    check_essence(&parsed.essence);
    let boundary = parsed.boundary.clone()?;
    assert!((1..=70).contains(&boundary.trim_start_matches("--").len()) && !boundary.contains(';'));
    let written = format!("{}; boundary=\"{boundary}\"", parsed.essence);
    assert_eq!(MediaType::parse(&written), parsed, "what is written does not read the same");
    Some(boundary)
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((steps, text)) = split(input) else { return Corpus::Reject };
    let end = text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len());
    let (content_type, body) = text.split_at(end);
    let boundary = boundary(&String::from_utf8_lossy(content_type)).unwrap_or(BOUNDARY.into());

    let all = owned(Parts::new(body, &boundary));
    let in_pieces = owned(Parts::new(Pieces::new(body, steps), &boundary));
    assert_eq!(in_pieces, all, "what is found depends on the reads");

    let delimiter = format!("--{}", boundary.trim_start_matches("--"));
    assert!(all.len() <= body.len() / delimiter.len(), "more parts than delimiters");
    let mut from = 0;
    for (media_type, part) in all.iter().flatten() {
        media_type.iter().for_each(|essence| check_essence(essence));
        let at = position(body, part, from).expect("parts come from the body, in its order");
        from = at + part.len();
    }

    // It takes long: only where the first four bytes ask for it.
    if steps != [255; 4] {
        return Corpus::Keep;
    }
    let again = Repeated::new(body, LONG);
    let count = within(BUDGET, || {
        each(Parts::with_limit(again, &boundary, LIMIT), |part| {
            if let Part::Whole { body, .. } = part {
                assert!(body.len() <= LIMIT + READ);
            }
        })
    });
    assert!(count <= (LONG + body.len()) / delimiter.len());
    Corpus::Keep
});
