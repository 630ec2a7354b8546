//! Faces over time → people with steady boxes and labels.
//!
//! Each detection is given to the track whose predicted box it fits best, best pairs first, by distance-IoU
//! (Zheng et al., "Distance-IoU Loss", 2020), which still orders boxes that no longer overlap. Greedy choice
//! is enough here: faces seldom overlap, so that rivals for one detection are rare. Centres follow a
//! critically damped g–h filter (Brookner, "Tracking and Kalman Filtering Made Easy", 1998), which lags
//! behind no steady motion; as in the one-euro filter (Casiez et al., 2012), it smooths small
//! changes strongly and large ones hardly at all.

use std::time::{Duration, Instant};

use crate::{
    attributes::{AgeGroup, Attributes, Gender, Labels, Mask, Thresholds, argmax},
    detect::Face,
    geometry::{Landmarks, Point, Rect},
};

/// A track that has not been seen for so long is dropped, unless updates themselves are rarer.
const KEPT: Duration = Duration::from_millis(700);
/// Between rare updates a track is kept so long.
const KEPT_BETWEEN_UPDATES: Duration = Duration::from_secs(3);
/// A person who has not been seen for so long is no longer shown.
const SHOWN: Duration = Duration::from_millis(300);
/// Motion is carried forward at most so many seconds.
const CARRIED: f32 = 0.3;
/// A face of this score is a person at once; a weaker one when it is seen again.
const SURE_SCORE: f32 = 0.7;

/// How far a face may be from its predicted place, in widths: at once, more per second unseen, and at most.
const REACH: f32 = 0.5;
const REACH_PER_SECOND: f32 = 4.0;
const REACH_MOST: f32 = 1.5;
/// How much a face may grow or shrink between two sightings.
const RESIZE_MOST: f32 = 2.0;

/// Time constants of position, size and landmarks in seconds, for a face at rest.
const PLACE_SECONDS: f32 = 0.2;
const SHAPE_SECONDS: f32 = 0.3;
/// How fast the time constants shrink with the surprise, in widths.
const BRISKNESS: f32 = 20.0;

/// Time constant in seconds of what changes while one watches, and of what does not.
const MASK_SECONDS: f32 = 0.35;
const LASTING_SECONDS: f32 = 8.0;
/// A face this wide in pixels counts fully towards its person's averages, a smaller one less.
const FULL_WIDTH: f32 = 64.0;

/// A label changes when another leads by this probability, or leads at all for so many seconds.
const LEAD: f32 = 0.2;
const LEAD_SECONDS: f32 = 1.0;
/// A label stays until its probability is this far below the threshold at which it appears.
const SLACK: f32 = 0.05;

/// Somebody in view.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// Counts people from 1 in the order in which they appeared; `None` in a still picture.
    pub id: Option<u64>,
    /// Box and landmarks in pixels, smoothed over time when the person is tracked.
    pub face: Face,
    /// Averaged over time when the person is tracked.
    pub attributes: Attributes,
    /// What to show. In a tracked person these change less readily than `attributes`.
    pub labels: Labels,
    /// Pixels per second.
    velocity: Point,
    /// Seconds for which the velocity may still be followed.
    carry: f32,
}

impl Person {
    /// A person in a still picture.
    pub fn new(face: Face, attributes: Attributes, thresholds: Thresholds) -> Person {
        let labels = attributes.labels(thresholds);
        Person { id: None, face, attributes, labels, velocity: [0.0; 2], carry: 0.0 }
    }

    /// Where the person will be `elapsed` after the picture in which they were found: box and landmarks
    /// carried forward by the motion, for at most 0.3 s in all.
    pub fn at(&self, elapsed: Duration) -> Person {
        let seconds = elapsed.as_secs_f32().min(self.carry);
        let [dx, dy] = self.velocity.map(|v| v * seconds);
        let face = Face {
            rect: self.face.rect.shifted(dx, dy),
            landmarks: self.face.landmarks.map(|[x, y]| [x + dx, y + dy]),
            ..self.face
        };
        Person { face, carry: self.carry - seconds, ..self.clone() }
    }
}

/// Follows people through the pictures of one source.
#[derive(Debug)]
pub struct Tracker {
    thresholds: Thresholds,
    tracks: Vec<Track>,
    people_seen: u64,
    latest: Option<Instant>,
}

impl Tracker {
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, tracks: Vec::new(), people_seen: 0, latest: None }
    }

    /// Takes the faces found in the picture captured at `captured` and gives the people in view, by id.
    /// Someone missed in this picture is still given, carried forward, for 0.3 s, and known again for 0.7 s.
    /// A time before that of an earlier picture counts as that picture's time.
    pub fn update(&mut self, captured: Instant, found: &[(Face, Attributes)]) -> Vec<Person> {
        let now = self.latest.map_or(captured, |latest| latest.max(captured));
        self.latest = Some(now);
        self.tracks.retain(|track| track.is_kept(now));
        let found: Vec<_> = found.iter().filter(|(face, _)| is_usable(&face.rect)).collect();

        let owners = self.assign(now, &found);
        for track in &mut self.tracks {
            track.missed += 1;
        }
        for (&(face, attributes), owner) in found.iter().zip(owners) {
            match owner {
                Some(track) => self.tracks[track].follow(now, face, attributes, self.thresholds),
                None => self.tracks.push(Track::new(now, *face, attributes, self.thresholds)),
            }
        }
        for track in &mut self.tracks {
            if track.id.is_none() && (track.hits > 1 || track.face.score >= SURE_SCORE) {
                self.people_seen += 1;
                track.id = Some(self.people_seen);
            }
        }
        let mut people: Vec<Person> = self.tracks.iter().filter_map(|track| track.person(now)).collect();
        people.sort_by_key(|person| person.id);
        people
    }

    /// How many people have been given an id so far.
    pub fn people_seen(&self) -> u64 {
        self.people_seen
    }

    /// For each face, the index of the track that it continues.
    fn assign(&self, now: Instant, found: &[&(Face, Attributes)]) -> Vec<Option<usize>> {
        let mut pairs = Vec::new();
        for (t, track) in self.tracks.iter().enumerate() {
            let place = track.predicted(now);
            for (f, (face, _)) in found.iter().enumerate() {
                if track.may_reach(now, &place, &face.rect) {
                    pairs.push((distance_iou(&place, &face.rect), t, f));
                }
            }
        }
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut owners = vec![None; found.len()];
        let mut taken = vec![false; self.tracks.len()];
        for (_, t, f) in pairs {
            if !taken[t] && owners[f].is_none() {
                taken[t] = true;
                owners[f] = Some(t);
            }
        }
        owners
    }
}

/// One person as the tracker knows them.
#[derive(Debug)]
struct Track {
    /// Given when the face is sure to be one.
    id: Option<u64>,
    face: Face,
    velocity: Point,
    seen: Instant,
    hits: u32,
    /// Updates since it was seen.
    missed: u32,
    mask: Head<3>,
    gender: Head<2>,
    age: Head<3>,
    years: Average<1>,
}

impl Track {
    fn new(now: Instant, face: Face, attributes: &Attributes, thresholds: Thresholds) -> Self {
        let mut track = Self {
            id: None,
            face,
            velocity: [0.0; 2],
            seen: now,
            hits: 1,
            missed: 0,
            mask: Head::new(MASK_SECONDS),
            gender: Head::new(LASTING_SECONDS),
            age: Head::new(LASTING_SECONDS),
            years: Average::new(LASTING_SECONDS),
        };
        track.average(0.0, &face, attributes, thresholds);
        track
    }

    fn is_kept(&self, now: Instant) -> bool {
        let unseen = now.saturating_duration_since(self.seen);
        unseen <= KEPT || (self.missed == 0 && unseen <= KEPT_BETWEEN_UPDATES)
    }

    /// Where the face should be at `now`.
    fn predicted(&self, now: Instant) -> Rect {
        let seconds = self.unseen(now).min(CARRIED);
        self.face.rect.shifted(self.velocity[0] * seconds, self.velocity[1] * seconds)
    }

    /// Seconds since the face was seen.
    fn unseen(&self, now: Instant) -> f32 {
        now.saturating_duration_since(self.seen).as_secs_f32()
    }

    fn may_reach(&self, now: Instant, place: &Rect, found: &Rect) -> bool {
        let reach = (REACH + REACH_PER_SECOND * self.unseen(now)).min(REACH_MOST);
        let (a, b) = (size(place), size(found));
        distance(place.centre(), found.centre()) <= reach * a.max(b) && a.max(b) <= RESIZE_MOST * a.min(b)
    }

    /// Moves the track to a face that continues it.
    fn follow(&mut self, now: Instant, face: &Face, attributes: &Attributes, thresholds: Thresholds) {
        let place = self.predicted(now);
        let seconds = self.unseen(now).max(1e-3);
        let (centre, seen_centre) = (place.centre(), face.rect.centre());
        let width = size(&place);
        let surprise = distance(centre, seen_centre) / width + (size(&face.rect) / width).ln().abs();
        let memory = |time_constant: f32| (-seconds * (1.0 + BRISKNESS * surprise) / time_constant).exp();

        let theta = memory(PLACE_SECONDS);
        let (g, h) = (1.0 - theta * theta, (1.0 - theta) * (1.0 - theta));
        let mut smooth_centre = centre;
        for axis in 0..2 {
            let residual = seen_centre[axis] - centre[axis];
            smooth_centre[axis] += g * residual;
            self.velocity[axis] += h * residual / seconds;
        }
        let keep = memory(SHAPE_SECONDS);
        let landmarks = blend_landmarks(&relative(&self.face), &relative(face), keep);
        let (w, h) = (blend(place.w, face.rect.w, keep), blend(place.h, face.rect.h, keep));
        let rect = Rect::new(smooth_centre[0] - w / 2.0, smooth_centre[1] - h / 2.0, w, h);
        self.face = Face {
            rect,
            landmarks: landmarks.map(|[x, y]| [smooth_centre[0] + x * w, smooth_centre[1] + y * h]),
            score: face.score,
        };
        self.seen = now;
        self.hits += 1;
        self.missed = 0;
        self.average(seconds, face, attributes, thresholds);
    }

    /// Adds one picture's attributes, weighted by how well the face was seen.
    fn average(&mut self, seconds: f32, face: &Face, attributes: &Attributes, thresholds: Thresholds) {
        let weight = face.score.clamp(0.05, 1.0) * (size(&face.rect) / FULL_WIDTH).clamp(0.1, 1.0);
        self.mask.add(seconds, weight, attributes.mask, thresholds.mask);
        self.gender.add(seconds, weight, attributes.gender, thresholds.gender);
        self.age.add(seconds, weight, attributes.age, thresholds.age);
        self.years.add(seconds, weight, [attributes.years]);
    }

    /// The person to show at `now`, if they are sure to be one and were seen lately.
    fn person(&self, now: Instant) -> Option<Person> {
        let unseen = now.saturating_duration_since(self.seen);
        if unseen > SHOWN {
            return None;
        }
        let person = Person {
            id: Some(self.id?),
            face: self.face,
            attributes: Attributes {
                mask: self.mask.average.value(),
                gender: self.gender.average.value(),
                age: self.age.average.value(),
                years: self.years.value()[0],
            },
            labels: Labels {
                mask: self.mask.shown.map(|i| Mask::ALL[i]),
                gender: self.gender.shown.map(|i| Gender::ALL[i]),
                age: self.age.shown.map(|i| AgeGroup::ALL[i]),
            },
            velocity: self.velocity,
            carry: CARRIED,
        };
        Some(person.at(unseen))
    }
}

/// An exponentially forgetting weighted mean of probabilities.
#[derive(Debug)]
struct Average<const N: usize> {
    time_constant: f32,
    sums: [f32; N],
    weight: f32,
}

impl<const N: usize> Average<N> {
    fn new(time_constant: f32) -> Self {
        Self { time_constant, sums: [0.0; N], weight: 0.0 }
    }

    /// Adds `values`, `seconds` after the values before; what is not finite is left out.
    fn add(&mut self, seconds: f32, weight: f32, values: [f32; N]) {
        if !values.iter().all(|value| value.is_finite()) {
            return;
        }
        let keep = (-seconds / self.time_constant).exp();
        for (sum, value) in self.sums.iter_mut().zip(values) {
            *sum = *sum * keep + weight * value;
        }
        self.weight = self.weight * keep + weight;
    }

    fn value(&self) -> [f32; N] {
        if self.weight > 0.0 { self.sums.map(|sum| sum / self.weight) } else { [0.0; N] }
    }
}

/// One head's average and the label shown for it.
#[derive(Debug)]
struct Head<const N: usize> {
    average: Average<N>,
    shown: Option<usize>,
    /// Seconds for which another label has led.
    rival_led: f32,
}

impl<const N: usize> Head<N> {
    fn new(time_constant: f32) -> Self {
        Self { average: Average::new(time_constant), shown: None, rival_led: 0.0 }
    }

    fn add(&mut self, seconds: f32, weight: f32, values: [f32; N], threshold: f32) {
        self.average.add(seconds, weight, values);
        let p = self.average.value();
        let best = argmax(&p);
        let is_sure = p[best] >= threshold;
        let Some(shown) = self.shown else {
            self.shown = is_sure.then_some(best);
            return;
        };
        self.rival_led = if best == shown { 0.0 } else { self.rival_led + seconds };
        if is_sure && best != shown && (p[best] >= p[shown] + LEAD || self.rival_led >= LEAD_SECONDS) {
            self.shown = Some(best);
            self.rival_led = 0.0;
        } else if p[shown] < threshold - SLACK && !is_sure {
            self.shown = None;
            self.rival_led = 0.0;
        }
    }
}

/// A box that a picture can hold: finite, with an area.
fn is_usable(rect: &Rect) -> bool {
    const FAR: f32 = 1e6;
    let inside = |v: f32| v.abs() <= FAR;
    inside(rect.x) && inside(rect.y) && inside(rect.w) && inside(rect.h) && rect.w > 0.1 && rect.h > 0.1
}

/// IoU less the squared distance of the centres over the squared diagonal of both, −1 to 1.
fn distance_iou(a: &Rect, b: &Rect) -> f32 {
    let w = a.right().max(b.right()) - a.x.min(b.x);
    let h = a.bottom().max(b.bottom()) - a.y.min(b.y);
    a.iou(b) - (distance(a.centre(), b.centre()) / w.hypot(h)).powi(2)
}

fn distance(a: Point, b: Point) -> f32 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

/// The side of the square with the box's area.
fn size(rect: &Rect) -> f32 {
    rect.area().sqrt()
}

fn blend(old: f32, new: f32, keep: f32) -> f32 {
    keep * old + (1.0 - keep) * new
}

fn blend_landmarks(old: &Landmarks, new: &Landmarks, keep: f32) -> Landmarks {
    std::array::from_fn(|i| [blend(old[i][0], new[i][0], keep), blend(old[i][1], new[i][1], keep)])
}

/// Landmarks from the box centre, in widths and heights.
fn relative(face: &Face) -> Landmarks {
    let [cx, cy] = face.rect.centre();
    face.landmarks.map(|[x, y]| [(x - cx) / face.rect.w, (y - cy) / face.rect.h])
}
