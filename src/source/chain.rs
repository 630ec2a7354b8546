//! Several recordings, or several sets of pictures, one after the other.

use std::{
    collections::VecDeque,
    mem::discriminant,
    time::{Duration, Instant},
};

use super::{Extent, Item, Pace, Source, SourceError, SourceOptions, http::shown, open};

/// The time between two recordings: long enough for nobody of the first to be taken for somebody of the second.
const GAP: Duration = Duration::from_millis(3500);

/// Plays its sources in turn, as one stream whose time and sequence numbers go on from one to the next.
pub struct Chain {
    sources: VecDeque<Box<dyn Source>>,
    description: String,
    pace: Pace,
    /// Time and number of the newest picture.
    newest: Option<(Instant, u64)>,
    /// What is added to the time and the numbers of the source that plays.
    shift: (Duration, u64),
}

impl Chain {
    /// Opens every one of `specs`, of which there must be at least one.
    ///
    /// # Errors
    /// When one cannot be opened, is live, or is of another kind than the first.
    pub fn open(specs: &[String], options: &SourceOptions) -> Result<Self, SourceError> {
        let sources: VecDeque<_> = specs.iter().map(|spec| open(spec, options)).collect::<Result<_, _>>()?;
        let Some(pace) = sources.front().map(|source| source.pace()) else {
            return Err(SourceError::new("--source", "nothing is named", "name at least one source"));
        };
        for (spec, source) in specs.iter().zip(&sources) {
            if source.pace() == Pace::Live || discriminant(&source.pace()) != discriminant(&pace) {
                return Err(SourceError::new(
                    shown(spec),
                    "it cannot be played together with the others",
                    "give several recordings, or several pictures and folders, or one live source alone",
                ));
            }
        }
        let description = specs.join(", then ");
        Ok(Self { sources, description, pace, newest: None, shift: (Duration::ZERO, 0) })
    }

    fn shifted(&mut self, item: Item) -> Item {
        let Item::Frame(mut frame) = item else { return item };
        frame.captured += self.shift.0;
        frame.sequence += self.shift.1;
        self.newest = Some((frame.captured, frame.sequence));
        Item::Frame(frame)
    }
}

impl Source for Chain {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn extent(&self) -> Extent {
        Extent::Ends
    }

    fn pace(&self) -> Pace {
        self.pace
    }

    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        while let Some(source) = self.sources.front_mut() {
            if let Some(item) = source.next()? {
                return Ok(Some(self.shifted(item)));
            }
            self.sources.pop_front();
            if let Some((captured, sequence)) = self.newest {
                // The next source counts its time from when its first picture is asked for, which is now.
                self.shift = ((captured + GAP).saturating_duration_since(Instant::now()), sequence + 1);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use image::{Frame as GifFrame, RgbaImage, codecs::gif::GifEncoder};

    use super::*;

    fn gif(path: &Path, frames: usize) -> String {
        let mut encoder = GifEncoder::new(std::fs::File::create(path).unwrap());
        encoder.encode_frames((0..frames).map(|_| GifFrame::new(RgbaImage::new(8, 8)))).unwrap();
        path.display().to_string()
    }

    #[test]
    fn recordings_follow_each_other_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let specs = [gif(&folder.path().join("a.gif"), 3), gif(&folder.path().join("b.gif"), 2)];
        let mut chain = Chain::open(&specs, &SourceOptions::default()).unwrap();
        let mut frames = Vec::new();
        while let Some(Item::Frame(frame)) = chain.next().unwrap() {
            frames.push(frame);
        }
        assert_eq!(frames.iter().map(|f| f.sequence).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(&*frames[3].name, specs[1]);
        assert!(frames[3].captured - frames[2].captured >= GAP - Duration::from_millis(1));
        assert!(frames.is_sorted_by_key(|f| f.captured));
    }

    #[test]
    fn kinds_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let specs = [gif(&folder.path().join("a.gif"), 3), "demo".to_owned()];
        let error = Chain::open(&specs, &SourceOptions::default()).err().unwrap().to_string();
        assert!(error.starts_with("demo: it cannot be played together"), "{error}");
    }
}
