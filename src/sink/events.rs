//! JSON lines: one object per picture, described in `docs/events.md`.

use std::{
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;

use crate::{
    attributes::Attributes,
    geometry::Landmarks,
    sink::{Outcome, Seen, Shot, Sink, SinkError},
    stats::{Summary, round},
    track::Person,
};

/// Raised when a field changes its meaning or goes away; new fields may come at any time.
pub const SCHEMA: u32 = 1;

/// A picture in which faces were looked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PictureEvent<'a> {
    pub schema: u32,
    /// The file's path, or the source's name.
    pub source: &'a str,
    /// Only of a stream.
    #[serde(flatten)]
    pub moment: Option<Moment>,
    /// Of the picture, in pixels.
    pub width: u32,
    pub height: u32,
    pub faces: Vec<FaceEvent>,
}

/// Where in a stream a picture stands.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Moment {
    /// Counts the source's pictures from 0; a gap means that some were skipped.
    pub frame: u64,
    /// Seconds since the stream began; in a recording, by the recording's own clock.
    pub time: f64,
    /// Milliseconds from the picture's capture to the writing of this line.
    pub age_ms: f64,
}

/// A face and what is said of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FaceEvent {
    /// The same person keeps the same number over a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// x, y, width and height in pixels of the picture, x to the right and y down.
    #[serde(rename = "box")]
    pub rect: [f64; 4],
    /// The detector's, 0–1.
    pub score: f64,
    /// Right eye, left eye, nose tip, right and left mouth corner, of the person.
    pub landmarks: [[f64; 2]; 5],
    pub mask: Choice<[f64; 3]>,
    pub gender: Choice<[f64; 2]>,
    pub age: Age,
    /// `mask * 6 + gender * 3 + age` of the likeliest values, 0–17.
    pub class18: u8,
}

/// A label and the probability of each value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice<P> {
    /// The value's name, or `unsure`.
    pub label: &'static str,
    /// In the order of the values, adding up to 1.
    pub p: P,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Age {
    /// The group's name, or `unsure`.
    pub label: &'static str,
    /// Expected age.
    pub years: f64,
    /// `<30`, `30-59`, `>=60`, adding up to 1.
    pub p: [f64; 3],
}

/// A picture that could not be read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UnreadableEvent<'a> {
    pub schema: u32,
    pub source: &'a str,
    /// What was found.
    pub error: &'a str,
}

/// A live source gives no more pictures; it is tried again until it is back.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LostEvent<'a> {
    pub schema: u32,
    pub source: &'a str,
    /// Seconds since the stream began.
    pub time: f64,
    /// Why.
    pub lost: &'a str,
}

/// A lost source gives pictures again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackEvent<'a> {
    pub schema: u32,
    pub source: &'a str,
    /// Seconds since the stream began.
    pub time: f64,
    /// For how many seconds it was away.
    pub back_after: f64,
}

/// The last line of a stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SummaryEvent<'a> {
    pub schema: u32,
    pub summary: &'a Summary,
}

impl From<&Person> for FaceEvent {
    fn from(person: &Person) -> Self {
        let Person { id, face, attributes, labels, .. } = person;
        let Attributes { mask, gender, age, years } = attributes;
        const UNSURE: &str = "unsure";
        FaceEvent {
            id: *id,
            rect: [face.rect.x, face.rect.y, face.rect.w, face.rect.h].map(pixels),
            score: probability(face.score),
            landmarks: Landmarks::map(face.landmarks, |point| point.map(pixels)),
            mask: Choice { label: labels.mask.map_or(UNSURE, |m| m.name()), p: mask.map(probability) },
            gender: Choice { label: labels.gender.map_or(UNSURE, |g| g.name()), p: gender.map(probability) },
            age: Age {
                label: labels.age.map_or(UNSURE, |a| a.name()),
                years: round(f64::from(*years), 1),
                p: age.map(probability),
            },
            class18: attributes.class18(),
        }
    }
}

fn seconds(value: Duration) -> f64 {
    round(value.as_secs_f64(), 3)
}

fn pixels(value: f32) -> f64 {
    round(f64::from(value), 2)
}

fn probability(value: f32) -> f64 {
    round(f64::from(value), 4)
}

/// Writes events, each line flushed so that a reader sees it at once. Give it a buffered `out`.
pub struct EventLines<W> {
    out: W,
    /// What `out` is, for messages.
    name: String,
    stream: bool,
}

impl<W: Write + Send> EventLines<W> {
    /// Events of unrelated pictures: without frame numbers and times.
    pub fn of_stills(out: W, name: impl Into<String>) -> Self {
        Self { out, name: name.into(), stream: false }
    }

    /// Events of a stream.
    pub fn of_stream(out: W, name: impl Into<String>) -> Self {
        Self { out, name: name.into(), stream: true }
    }

    /// Writes the closing line of a stream.
    pub fn summary(&mut self, summary: &Summary) -> Result<(), SinkError> {
        self.line(&SummaryEvent { schema: SCHEMA, summary })
    }

    fn picture(&mut self, seen: &Seen) -> Result<(), SinkError> {
        let Shot { frame, time } = &seen.shot;
        let moment = Moment {
            frame: frame.sequence,
            time: seconds(*time),
            age_ms: round(frame.captured.elapsed().as_secs_f64() * 1e3, 1),
        };
        self.line(&PictureEvent {
            schema: SCHEMA,
            source: &frame.name,
            moment: self.stream.then_some(moment),
            width: frame.picture.width(),
            height: frame.picture.height(),
            faces: seen.people.iter().map(FaceEvent::from).collect(),
        })
    }

    fn line(&mut self, event: &impl Serialize) -> Result<(), SinkError> {
        serde_json::to_writer(&mut self.out, event)
            .map_err(io::Error::from)
            .and_then(|()| self.out.write_all(b"\n"))
            .and_then(|()| self.out.flush())
            .map_err(|source| SinkError::Stream { what: self.name.clone(), source })
    }
}

impl<W: Write + Send> Sink for EventLines<W> {
    fn accept(&mut self, outcome: &Outcome) -> Result<(), SinkError> {
        match outcome {
            Outcome::Seen(seen) => self.picture(seen),
            Outcome::Unreadable { name, reason } => {
                self.line(&UnreadableEvent { schema: SCHEMA, source: name, error: reason })
            }
            Outcome::Lost { name, reason, time } => {
                self.line(&LostEvent { schema: SCHEMA, source: name, time: seconds(*time), lost: reason })
            }
            Outcome::Back { name, away, time } => {
                let (time, back_after) = (seconds(*time), seconds(*away));
                self.line(&BackEvent { schema: SCHEMA, source: name, time, back_after })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attributes::Thresholds,
        detect::Face,
        frame::{Frame, Picture},
        geometry::Rect,
    };
    use serde_json::{Value, json};
    use std::{sync::Arc, time::Instant};

    fn seen(people: Vec<Person>) -> Outcome {
        let frame = Frame {
            picture: Arc::new(Picture::new(640, 480)),
            captured: Instant::now(),
            sequence: 12,
            name: "a.jpg".into(),
        };
        Outcome::Seen(Seen { shot: Shot { frame, time: Duration::from_micros(400_400) }, people })
    }

    fn person() -> Person {
        let face = Face {
            rect: Rect::new(10.126, 20.0, 30.0, 40.5),
            landmarks: [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, 10.333_33]],
            score: 0.931_27,
        };
        let attributes =
            Attributes { mask: [0.05, 0.05, 0.9], gender: [0.52, 0.48], age: [0.2, 0.7, 0.1], years: 41.23 };
        Person::new(face, attributes, Thresholds { mask: 0.5, gender: 0.6, age: 0.45 })
    }

    fn lines_of(mut lines: EventLines<Vec<u8>>, outcomes: &[Outcome]) -> Vec<Value> {
        for outcome in outcomes {
            lines.accept(outcome).unwrap();
        }
        String::from_utf8(lines.out)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_still_is_as_the_schema_says() {
        let lines = lines_of(EventLines::of_stills(Vec::new(), "test"), &[seen(vec![person()])]);
        let expected = json!({
            "schema": 1, "source": "a.jpg", "width": 640, "height": 480,
            "faces": [{
                "box": [10.13, 20.0, 30.0, 40.5], "score": 0.9313,
                "landmarks": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, 10.33]],
                "mask": {"label": "none", "p": [0.05, 0.05, 0.9]},
                "gender": {"label": "unsure", "p": [0.52, 0.48]},
                "age": {"label": "30-59", "years": 41.2, "p": [0.2, 0.7, 0.1]},
                "class18": 13
            }]
        });
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn a_stream_adds_frame_time_age_and_id() {
        let mut person = person();
        person.id = Some(3);
        let line = lines_of(EventLines::of_stream(Vec::new(), "test"), &[seen(vec![person])]).remove(0);
        assert_eq!((&line["frame"], &line["time"]), (&json!(12), &json!(0.4)));
        assert!(line["age_ms"].as_f64().unwrap() < 10_000.0);
        assert_eq!(line["faces"][0]["id"], 3);
    }

    #[test]
    fn an_unreadable_picture_keeps_its_place() {
        let bad = Outcome::Unreadable { name: "b.jpg".into(), reason: "the file is empty".into() };
        let lines = lines_of(EventLines::of_stills(Vec::new(), "test"), &[bad, seen(Vec::new())]);
        assert_eq!(lines[0], json!({"schema": 1, "source": "b.jpg", "error": "the file is empty"}));
        assert_eq!(lines[1]["faces"], json!([]));
    }

    #[test]
    fn a_loss_and_a_return_are_lines_of_their_own() {
        let outcomes = [
            Outcome::Lost {
                name: "/dev/video0".into(),
                reason: "it was unplugged".into(),
                time: Duration::from_millis(12_300),
            },
            Outcome::Back {
                name: "/dev/video0".into(),
                away: Duration::from_millis(7_800),
                time: Duration::from_millis(20_100),
            },
        ];
        let lines = lines_of(EventLines::of_stream(Vec::new(), "test"), &outcomes);
        assert_eq!(
            lines,
            [
                json!({"schema": 1, "source": "/dev/video0", "time": 12.3, "lost": "it was unplugged"}),
                json!({"schema": 1, "source": "/dev/video0", "time": 20.1, "back_after": 7.8}),
            ]
        );
    }
}
