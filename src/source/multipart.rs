//! `multipart/x-mixed-replace`: the pictures of a network camera, one after the other in one HTTP response (RFC 2046).

use std::io::{self, Read};

use super::{
    lookahead::Lookahead,
    mjpeg::{MAX_JPEG, TOO_LONG},
};

/// The longest header of a part, in bytes.
const MAX_HEADER: usize = 16 << 10;
/// The longest boundary that RFC 2046 allows.
const MAX_BOUNDARY: usize = 70;

/// What [`Parts::next_part`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    Whole {
        /// Without parameters, in small letters; `None` if the part does not say.
        media_type: Option<String>,
        body: &'a [u8],
    },
    /// A part that cannot be read; the next one is looked for.
    Broken(&'static str),
}

/// Cuts a multipart body into its parts. A part ends where its `Content-Length` says, or else at the next boundary.
/// Holds at most one part and a read's worth of bytes.
pub struct Parts<R> {
    input: Lookahead<R>,
    /// `--` and the boundary.
    delimiter: Vec<u8>,
    limit: usize,
}

impl<R: Read> Parts<R> {
    /// `boundary` is the parameter of the response's `Content-Type`. Cameras differ in whether it already has the two
    /// hyphens that stand before it in the body: both are taken.
    pub fn new(input: R, boundary: &str) -> Self {
        Self::with_limit(input, boundary, MAX_JPEG)
    }

    /// As [`Parts::new`], but gives up on a part after `limit` bytes instead of [`MAX_JPEG`].
    pub fn with_limit(input: R, boundary: &str, limit: usize) -> Self {
        let delimiter = [b"--", boundary.trim_start_matches("--").as_bytes()].concat();
        Self { input: Lookahead::new(input), delimiter, limit }
    }

    /// The next part, or `None` at the end of the body.
    pub fn next_part(&mut self) -> io::Result<Option<Part<'_>>> {
        if !self.seek_delimiter()? {
            return Ok(None);
        }
        let (header, body) = match self.header()? {
            Ok(found) => found,
            Err(reason) => {
                // Other delimiters within what was looked at are not tried: that could take the square of its length.
                self.input.consume(self.delimiter.len() + MAX_HEADER);
                return Ok(Some(Part::Broken(reason)));
            }
        };
        if header.is_last {
            return Ok(None);
        }
        self.input.consume(body);
        let length = match header.content_length {
            Some(length) if length > self.limit => return Ok(Some(Part::Broken(TOO_LONG))),
            Some(length) => self.has(length)?.then_some(length),
            None => match self.find_delimiter()? {
                Found::At(end) => Some(end),
                Found::End => None,
                Found::TooFar => {
                    self.input.consume(self.limit);
                    return Ok(Some(Part::Broken(TOO_LONG)));
                }
            },
        };
        let Some(length) = length else {
            self.input.consume(usize::MAX);
            return Ok(Some(Part::Broken("the stream ends in the middle of it")));
        };
        let body = self.input.take(length);
        // The line break before a delimiter belongs to the delimiter.
        let body = if header.content_length.is_none() { without_line_break(body) } else { body };
        Ok(Some(Part::Whole { media_type: header.media_type, body }))
    }

    /// Moves to the next delimiter.
    fn seek_delimiter(&mut self) -> io::Result<bool> {
        loop {
            let bytes = self.input.bytes();
            if let Some(at) = position(bytes, &self.delimiter) {
                self.input.consume(at);
                return Ok(true);
            }
            self.input.consume(bytes.len().saturating_sub(self.delimiter.len() - 1));
            if !self.input.fill()? {
                return Ok(false);
            }
        }
    }

    /// The header of the part whose delimiter comes next, and where its body begins.
    fn header(&mut self) -> io::Result<Result<(Header, usize), &'static str>> {
        loop {
            let bytes = &self.input.bytes()[self.delimiter.len()..];
            if bytes.starts_with(b"--") {
                return Ok(Ok((Header { is_last: true, ..Header::default() }, 0)));
            }
            let bytes = &bytes[..bytes.len().min(MAX_HEADER)];
            if let Some(length) = header_length(bytes) {
                let header = Header::parse(&bytes[..length]);
                return Ok(Ok((header, self.delimiter.len() + length)));
            }
            if bytes.len() == MAX_HEADER {
                return Ok(Err("its header is longer than 16 KB"));
            }
            if !self.input.fill()? {
                return Ok(Err("the stream ends in its header"));
            }
        }
    }

    /// Reads on until there are so many bytes; false if the stream ends before.
    fn has(&mut self, length: usize) -> io::Result<bool> {
        while self.input.bytes().len() < length {
            if !self.input.fill()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Where the next delimiter begins.
    fn find_delimiter(&mut self) -> io::Result<Found> {
        let mut from = 0;
        loop {
            let bytes = self.input.bytes();
            if let Some(at) = position(&bytes[from..], &self.delimiter) {
                return Ok(Found::At(from + at));
            }
            if bytes.len() > self.limit {
                return Ok(Found::TooFar);
            }
            from = bytes.len().saturating_sub(self.delimiter.len());
            if !self.input.fill()? {
                return Ok(Found::End);
            }
        }
    }
}

enum Found {
    At(usize),
    End,
    TooFar,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Header {
    is_last: bool,
    media_type: Option<String>,
    content_length: Option<usize>,
}

impl Header {
    fn parse(bytes: &[u8]) -> Self {
        let mut header = Header::default();
        for line in String::from_utf8_lossy(bytes).lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            match name.trim().to_ascii_lowercase().as_str() {
                "content-type" => header.media_type = Some(MediaType::parse(value).essence),
                // More than there can be is too long all the same.
                "content-length" => {
                    let length = value.trim().parse::<u64>().ok();
                    header.content_length =
                        length.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
                }
                _ => {}
            }
        }
        header
    }
}

/// The length of a header with the empty line that ends it. The rest of the delimiter's line counts as its first.
fn header_length(bytes: &[u8]) -> Option<usize> {
    let mut line_start = None;
    for (at, _) in bytes.iter().enumerate().filter(|&(_, &byte)| byte == b'\n') {
        if line_start.is_some_and(|start| without_line_break(&bytes[start..=at]).is_empty()) {
            return Some(at + 1);
        }
        line_start = Some(at + 1);
    }
    None
}

fn without_line_break(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// A `Content-Type`: `multipart/x-mixed-replace; boundary=frame`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    /// Without parameters, in small letters.
    pub essence: String,
    pub boundary: Option<String>,
}

impl MediaType {
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split(';');
        let essence = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
        let boundary = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            let value = value.trim().trim_matches('"');
            let fits = (1..=MAX_BOUNDARY).contains(&value.trim_start_matches("--").len());
            (name.trim().eq_ignore_ascii_case("boundary") && fits).then(|| value.to_owned())
        });
        Self { essence, boundary }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    /// Hands out at most `step` bytes a read, as a connection may.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let step = self.1.min(buffer.len());
            (&mut self.0).take(step as u64).read(buffer)
        }
    }

    /// The bodies of the parts, with `None` for a broken one.
    fn bodies(stream: &[u8], boundary: &str, step: usize) -> Vec<Option<Vec<u8>>> {
        let mut parts = Parts::new(Trickle(stream, step), boundary);
        let mut bodies = Vec::new();
        while let Some(part) = parts.next_part().unwrap() {
            bodies.push(match part {
                Part::Whole { body, .. } => Some(body.to_vec()),
                Part::Broken(_) => None,
            });
        }
        bodies
    }

    #[test]
    fn parts_with_and_without_a_length() {
        let stream = b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: 4\r\n\r\na\r\nb\r\n\
                       --b\r\nContent-Type: image/jpeg\r\n\r\ncd\r\n\
                       --b\n\nef\n--b--\r\nafter the end --b\r\n\r\nnothing";
        for step in [1, 2, 3, 7, 1000] {
            let found = bodies(stream, "b", step);
            assert_eq!(found, [Some(b"a\r\nb".to_vec()), Some(b"cd".to_vec()), Some(b"ef".to_vec())]);
        }
    }

    #[test]
    fn a_boundary_may_be_given_with_its_hyphens() {
        for boundary in ["frame", "--frame"] {
            assert_eq!(bodies(b"--frame\r\n\r\nx\r\n--frame--", boundary, 5), [Some(b"x".to_vec())]);
            assert_eq!(bodies(b"----frame\r\n\r\nx\r\n----frame--", boundary, 5).len(), 1);
        }
    }

    #[test]
    fn a_part_says_what_it_is() {
        let mut parts =
            Parts::new(&b"--b\r\ncontent-TYPE: Image/JPEG; x=1\r\n\r\n..\r\n--b\r\n\r\n.--b"[..], "b");
        for expected in [Some("image/jpeg"), None] {
            match parts.next_part().unwrap() {
                Some(Part::Whole { media_type, .. }) => assert_eq!(media_type.as_deref(), expected),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_cut_stream_ends_in_a_broken_part() {
        assert_eq!(bodies(b"--b\r\nContent-Length: 10\r\n\r\nabc", "b", 4), [None]);
        assert_eq!(bodies(b"--b\r\n\r\nabc", "b", 4), [None]);
        assert_eq!(bodies(b"--b\r\nContent-", "b", 4), [None]);
        assert!(bodies(b"no boundary at all", "b", 4).is_empty());
        assert!(bodies(b"", "b", 4).is_empty());
    }

    #[test]
    fn a_wrong_length_costs_at_most_its_neighbour() {
        let stream = b"--b\r\nContent-Length: 1\r\n\r\nabc\r\n--b\r\nContent-Length: 2\r\n\r\nde\r\n--b--";
        assert_eq!(bodies(stream, "b", 9), [Some(b"a".to_vec()), Some(b"de".to_vec())]);
        let stream = b"--b\r\nContent-Length: x\r\n\r\nabc\r\n--b\r\n\r\nde\r\n--b--";
        assert_eq!(bodies(stream, "b", 9), [Some(b"abc".to_vec()), Some(b"de".to_vec())]);
    }

    #[test]
    fn memory_is_bounded() {
        let endless = [&b"--b\r\n\r\n"[..], &vec![b'.'; 1 << 20], b"\r\n--b\r\n\r\nx\r\n--b--"].concat();
        let mut parts = Parts::with_limit(&endless[..], "b", 100_000);
        assert!(matches!(parts.next_part().unwrap(), Some(Part::Broken(_))));
        assert!(matches!(parts.next_part().unwrap(), Some(Part::Whole { body: b"x", .. })));
        assert!(parts.input.capacity() < 600_000, "{}", parts.input.capacity());
        let long = b"--b\r\nContent-Length: 99999999999\r\n\r\nx\r\n--b\r\n\r\ny\r\n--b--";
        assert_eq!(bodies(long, "b", 9), [None, Some(b"y".to_vec())]);
        let header = [&b"--b\r\n"[..], &vec![b'h'; 1 << 17], b"\r\n\r\nx--b\r\n\r\ny\r\n--b--"].concat();
        assert_eq!(bodies(&header, "b", 9000), [None, Some(b"y".to_vec())]);
    }

    /// Found by fuzzing: each delimiter was tried as the start of a part, and all that follows read for each.
    #[test]
    fn delimiters_without_headers_are_passed_over() {
        let stream = b"--b\n".repeat(1 << 18);
        assert!(bodies(&stream, "b", usize::MAX).len() <= 1 + stream.len() / MAX_HEADER);
    }

    #[test]
    fn media_types() {
        let parsed = MediaType::parse("Multipart/X-Mixed-Replace; charset=x; Boundary=\"--my boundary\"");
        assert_eq!(parsed.essence, "multipart/x-mixed-replace");
        assert_eq!(parsed.boundary.as_deref(), Some("--my boundary"));
        assert_eq!(MediaType::parse("image/jpeg").boundary, None);
        assert_eq!(MediaType::parse("multipart/x; boundary=--").boundary, None);
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            pictures in vec(vec(any::<u8>(), 0..200), 0..8),
            lengths in vec(any::<bool>(), 8),
            step in 1_usize..500,
        ) {
            let mut stream = Vec::new();
            for (picture, with_length) in pictures.iter().zip(lengths) {
                stream.extend_from_slice(b"--0123456789abcdef\r\nContent-Type: image/jpeg\r\n");
                if with_length {
                    stream.extend_from_slice(format!("Content-Length: {}\r\n", picture.len()).as_bytes());
                }
                stream.extend_from_slice(b"\r\n");
                stream.extend_from_slice(picture);
                stream.extend_from_slice(b"\r\n");
            }
            stream.extend_from_slice(b"--0123456789abcdef--");
            let expected: Vec<_> = pictures.into_iter().map(Some).collect();
            prop_assert_eq!(bodies(&stream, "0123456789abcdef", step), expected);
        }

        #[test]
        fn any_bytes_come_to_an_end(
            pieces in vec(prop_oneof![
                vec(any::<u8>(), 0..40),
                Just(b"--b".to_vec()),
                Just(b"\r\n".to_vec()),
                Just(b"\r\n\r\n".to_vec()),
                Just(b"Content-Length: 7\r\n".to_vec()),
            ], 0..60),
            step in 1_usize..200,
        ) {
            let stream = pieces.concat();
            prop_assert!(bodies(&stream, "b", step).len() <= stream.len());
        }
    }
}
