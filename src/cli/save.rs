//! `--save DIR`: annotated pictures and `events.jsonl`.

use std::{fs::File, io::BufWriter, path::Path, time::Duration};

use anyhow::Context;
use mien::{
    overlay::Overlay,
    sink::{Outcome, Seen, Sink, SinkError, pictures::PictureWriter},
};

/// The least time between two saved pictures of a stream, by the stream's own clock.
const INTERVAL: Duration = Duration::from_millis(500);

/// Creates `events.jsonl` in `folder`, which is made where it is missing, and gives its path too.
pub fn event_file(folder: &Path) -> anyhow::Result<(BufWriter<File>, String)> {
    let path = folder.join("events.jsonl");
    let name = path.display().to_string();
    let file = std::fs::create_dir_all(folder).and_then(|()| File::create(&path)).with_context(|| {
        format!("--save: cannot create {name}; give a folder that this user can write to")
    })?;
    Ok((BufWriter::new(file), name))
}

/// Saves pictures with people drawn over them.
pub struct Album {
    writer: PictureWriter,
    overlay: Overlay,
    choice: Choice,
}

enum Choice {
    Every,
    /// Those with people, [`INTERVAL`] apart.
    Sparse {
        last: Option<Duration>,
    },
}

impl Album {
    /// Saves every picture.
    pub fn of_stills(folder: &Path, overlay: Overlay) -> anyhow::Result<Self> {
        Ok(Self { writer: PictureWriter::new(folder)?, overlay, choice: Choice::Every })
    }

    /// Saves pictures with people, at most two a second.
    pub fn of_stream(folder: &Path, overlay: Overlay) -> anyhow::Result<Self> {
        Ok(Self { choice: Choice::Sparse { last: None }, ..Self::of_stills(folder, overlay)? })
    }

    fn takes(&mut self, seen: &Seen) -> bool {
        let Choice::Sparse { last } = &mut self.choice else { return true };
        let time = seen.shot.time;
        let is_due = last.is_none_or(|last| time.saturating_sub(last) >= INTERVAL);
        let takes = is_due && !seen.people.is_empty();
        if takes {
            *last = Some(time);
        }
        takes
    }
}

impl Sink for Album {
    fn accept(&mut self, outcome: &Outcome) -> Result<(), SinkError> {
        match outcome {
            Outcome::Seen(seen) if self.takes(seen) => {
                let frame = &seen.shot.frame;
                let mut picture = frame.picture.as_ref().clone();
                self.overlay.draw(&mut picture, &seen.people, None);
                self.writer.write(&frame.name, &picture)?;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
