//! Lines for people to read.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use crate::{
    attributes::Labels,
    sink::{Outcome, Seen, Sink, SinkError},
    track::Person,
};

/// Of unrelated pictures, a line for each face; of a stream, a line when somebody appears or a label changes.
/// Unreadable pictures are left to the log.
pub struct TextLines<W> {
    out: W,
    /// What `out` is, for messages.
    name: String,
    is_stream: bool,
    /// What was last said of the people in view.
    said: BTreeMap<u64, Labels>,
}

impl<W: Write + Send> TextLines<W> {
    pub fn of_stills(out: W, name: impl Into<String>) -> Self {
        Self { out, name: name.into(), is_stream: false, said: BTreeMap::new() }
    }

    pub fn of_stream(out: W, name: impl Into<String>) -> Self {
        Self { is_stream: true, ..Self::of_stills(out, name) }
    }

    fn still(&mut self, seen: &Seen) -> io::Result<()> {
        let name = &seen.shot.frame.name;
        if seen.people.is_empty() {
            writeln!(self.out, "{name}: no face")?;
        }
        for person in &seen.people {
            let rect = person.face.rect;
            writeln!(
                self.out,
                "{name}: face {:.0}x{:.0} at {:.0},{:.0}: {}",
                rect.w,
                rect.h,
                rect.x,
                rect.y,
                in_words(person)
            )?;
        }
        self.out.flush()
    }

    fn stream(&mut self, seen: &Seen) -> io::Result<()> {
        let in_view: BTreeMap<u64, Labels> =
            seen.people.iter().filter_map(|p| Some((p.id?, p.labels))).collect();
        for person in &seen.people {
            let Some(id) = person.id else { continue };
            if self.said.get(&id) != Some(&person.labels) {
                let seconds = seen.shot.time.as_secs_f64();
                writeln!(self.out, "{seconds:7.1} s  person {id}: {}", in_words(person))?;
            }
        }
        self.said = in_view;
        self.out.flush()
    }
}

impl<W: Write + Send> Sink for TextLines<W> {
    fn accept(&mut self, outcome: &Outcome) -> Result<(), SinkError> {
        let Outcome::Seen(seen) = outcome else { return Ok(()) };
        let written = if self.is_stream { self.stream(seen) } else { self.still(seen) };
        written.map_err(|source| SinkError::Stream { what: self.name.clone(), source })
    }
}

/// `mask worn 97 %, female 88 %, 30-59 71 %, about 41 years`
fn in_words(person: &Person) -> String {
    let (attributes, labels) = (&person.attributes, &person.labels);
    let percent = |p: f32| format!("{:.0} %", p * 100.0);
    let mask = labels.mask.map(|m| format!("mask {} {}", m.name(), percent(attributes.mask[m as usize])));
    let gender = labels.gender.map(|g| format!("{} {}", g.name(), percent(attributes.gender[g as usize])));
    let age = labels.age.map(|a| format!("{} {}", a.name(), percent(attributes.age[a as usize])));
    format!(
        "{}, {}, {}, about {:.0} years",
        mask.unwrap_or_else(|| "mask unsure".into()),
        gender.unwrap_or_else(|| "gender unsure".into()),
        age.unwrap_or_else(|| "age unsure".into()),
        attributes.years
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attributes::{Attributes, Mask, Thresholds},
        detect::Face,
        frame::{Frame, Picture},
        geometry::Rect,
        sink::Shot,
    };
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    fn seen(millis: u64, people: Vec<Person>) -> Outcome {
        let frame = Frame {
            picture: Arc::new(Picture::new(64, 48)),
            captured: Instant::now(),
            sequence: 0,
            name: "a.jpg".into(),
        };
        Outcome::Seen(Seen { shot: Shot { frame, time: Duration::from_millis(millis) }, people })
    }

    fn person(id: Option<u64>) -> Person {
        let face = Face { rect: Rect::new(10.0, 20.0, 30.0, 40.0), landmarks: [[0.0; 2]; 5], score: 0.9 };
        let attributes =
            Attributes { mask: [0.9, 0.1, 0.0], gender: [0.5, 0.5], age: [0.2, 0.7, 0.1], years: 41.2 };
        let mut person = Person::new(face, attributes, Thresholds::default());
        person.id = id;
        person
    }

    fn text_of(mut lines: TextLines<Vec<u8>>, outcomes: &[Outcome]) -> String {
        for outcome in outcomes {
            lines.accept(outcome).unwrap();
        }
        String::from_utf8(lines.out).unwrap()
    }

    #[test]
    fn a_line_for_each_face_of_a_still() {
        let outcomes = [seen(0, vec![person(None)]), seen(0, Vec::new())];
        assert_eq!(
            text_of(TextLines::of_stills(Vec::new(), "test"), &outcomes),
            "a.jpg: face 30x40 at 10,20: mask worn 90 %, gender unsure, 30-59 70 %, about 41 years\n\
             a.jpg: no face\n"
        );
    }

    #[test]
    fn a_stream_speaks_only_of_changes() {
        let mut taken_off = person(Some(1));
        taken_off.labels.mask = Some(Mask::None);
        let outcomes = [
            seen(0, Vec::new()),
            seen(100, vec![person(Some(1))]),
            seen(200, vec![person(Some(1))]),
            seen(300, vec![taken_off, person(Some(2))]),
        ];
        let text = text_of(TextLines::of_stream(Vec::new(), "test"), &outcomes);
        let heads: Vec<&str> = text.lines().map(|line| &line[..20]).collect();
        assert_eq!(heads, ["    0.1 s  person 1:", "    0.3 s  person 1:", "    0.3 s  person 2:"]);
    }
}
