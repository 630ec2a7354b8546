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
/// A face whose score exceeds the least by the first is a person at once; by the second, when it is seen again. A weaker
/// one only continues a person ("ByteTrack", Zhang et al. 2022).
const SURE: f32 = 0.2;
const LIKELY: f32 = 0.15;
/// However high the least score is, a face of this one is a person.
const MOST_SCORE: f32 = 0.9;

/// How far a face may be from its predicted place, in widths: at once, more per second unseen, and at most.
const REACH: f32 = 0.5;
const REACH_PER_SECOND: f32 = 4.0;
const REACH_MOST: f32 = 1.5;
/// How much a face may grow or shrink between two sightings.
const RESIZE_MOST: f32 = 2.0;

/// Time constants in seconds of position, and of size and landmarks, for a face at rest.
const PLACE_SECONDS: f32 = 0.4;
const SHAPE_SECONDS: f32 = 0.3;
/// Changes of so many widths are taken for noise; the time constants shrink with what exceeds it.
const NOISE: f32 = 0.05;
const BRISKNESS: f32 = 40.0;

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
    min_score: f32,
    tracks: Vec<Track>,
    people_seen: u64,
    latest: Option<Instant>,
}

impl Tracker {
    /// `min_score` is the least score of the faces that [`Tracker::update`] is given, 0–1.
    pub fn new(thresholds: Thresholds, min_score: f32) -> Self {
        Self { thresholds, min_score, tracks: Vec::new(), people_seen: 0, latest: None }
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
            let margin = if track.hits > 1 { LIKELY } else { SURE };
            if track.id.is_none() && track.face.score >= (self.min_score + margin).min(MOST_SCORE) {
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
    born: Instant,
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
            born: now,
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
        // A young track has no motion yet worth keeping.
        let lifetime = now.saturating_duration_since(self.born).as_secs_f32().max(1e-3);
        let memory = |time_constant: f32, change: f32| {
            let briskness = 1.0 + BRISKNESS * (change - NOISE).max(0.0);
            (-seconds * briskness / time_constant.min(lifetime)).exp()
        };

        let theta = memory(PLACE_SECONDS, distance(centre, seen_centre) / size(&place));
        let (g, h) = (1.0 - theta * theta, (1.0 - theta) * (1.0 - theta));
        let mut smooth_centre = centre;
        for axis in 0..2 {
            let residual = seen_centre[axis] - centre[axis];
            smooth_centre[axis] += g * residual;
            self.velocity[axis] += h * residual / seconds;
        }
        let keep = memory(SHAPE_SECONDS, (size(&face.rect) / size(&place)).ln().abs());
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BAREFACED: Attributes =
        Attributes { mask: [0.05, 0.05, 0.9], gender: [0.9, 0.1], age: [0.2, 0.7, 0.1], years: 41.0 };

    fn face(x: f32, y: f32, side: f32, score: f32) -> Face {
        let landmarks = [[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]
            .map(|[u, v]| [x + u * side, y + v * side]);
        Face { rect: Rect::new(x, y, side, side), landmarks, score }
    }

    fn masked(mask: [f32; 3]) -> Attributes {
        Attributes { mask, ..BAREFACED }
    }

    fn tracker() -> Tracker {
        Tracker::new(Thresholds::default(), 0.55)
    }

    /// A clock that tells the time of frame `n` at 30 a second.
    fn clock() -> impl Fn(u64) -> Instant {
        let start = Instant::now();
        move |n| start + Duration::from_micros(n * 33_333)
    }

    fn ids(people: &[Person]) -> Vec<u64> {
        people.iter().filter_map(|person| person.id).collect()
    }

    #[test]
    fn crossing_people_keep_their_ids() {
        let (mut tracker, time) = (tracker(), clock());
        let mut people = Vec::new();
        for n in 0..90 {
            let far = face(100.0 + 4.0 * n as f32, 100.0, 80.0, 0.9);
            let near = face(460.0 - 4.0 * n as f32, 110.0, 100.0, 0.95);
            let mut found = vec![(near, BAREFACED), (far, BAREFACED)];
            if near.rect.iou(&far.rect) > 0.3 {
                found.pop();
            }
            if n % 2 == 1 {
                found.reverse();
            }
            people = tracker.update(time(n), &found);
        }
        assert_eq!(ids(&people), [1, 2]);
        assert!(people[0].face.rect.x < 200.0 && people[1].face.rect.x > 400.0, "{people:?}");
        assert_eq!(tracker.people_seen(), 2);
    }

    #[test]
    fn a_missed_detection_keeps_the_id_and_the_box_goes_on() {
        let (mut tracker, time) = (tracker(), clock());
        for n in 0..15 {
            tracker.update(time(n), &[(face(50.0 + 6.0 * n as f32, 80.0, 60.0, 0.9), BAREFACED)]);
        }
        for n in 15..20 {
            let people = tracker.update(time(n), &[]);
            assert_eq!(ids(&people), [1]);
            assert!(
                (people[0].face.rect.x - (50.0 + 6.0 * n as f32)).abs() < 6.0,
                "{n}: {:?}",
                people[0].face
            );
        }
        let back = tracker.update(time(20), &[(face(170.0, 80.0, 60.0, 0.9), BAREFACED)]);
        assert_eq!(ids(&back), [1]);
    }

    #[test]
    fn the_unseen_are_hidden_then_forgotten() {
        let (mut tracker, time) = (tracker(), clock());
        let found = [(face(50.0, 80.0, 60.0, 0.9), BAREFACED)];
        tracker.update(time(0), &found);
        assert_eq!(tracker.update(time(8), &[]).len(), 1, "0.27 s");
        assert_eq!(tracker.update(time(10), &[]).len(), 0, "0.33 s");
        assert_eq!(ids(&tracker.update(time(20), &found)), [1], "0.67 s");
        tracker.update(time(21), &[]);
        assert_eq!(ids(&tracker.update(time(60), &found)), [2], "1.3 s");
    }

    #[test]
    fn rare_updates_keep_the_id() {
        let (mut tracker, start) = (tracker(), Instant::now());
        for n in 0..5 {
            let found = [(face(50.0 + 20.0 * n as f32, 80.0, 60.0, 0.9), BAREFACED)];
            let people = tracker.update(start + Duration::from_secs(2 * n), &found);
            assert_eq!(ids(&people), [1]);
        }
        assert!(tracker.update(start + Duration::from_secs(10), &[]).is_empty());
    }

    #[test]
    fn fast_motion_at_few_pictures_a_second_keeps_the_id() {
        let (mut tracker, start) = (tracker(), Instant::now());
        for n in 0..6 {
            let found = [(face(90.0 * n as f32, 80.0, 80.0, 0.9), BAREFACED)];
            let people = tracker.update(start + Duration::from_millis(200 * n), &found);
            assert_eq!(ids(&people), [1], "update {n}");
        }
    }

    #[test]
    fn a_jump_across_the_picture_is_somebody_else() {
        let (mut tracker, time) = (tracker(), clock());
        tracker.update(time(0), &[(face(0.0, 0.0, 60.0, 0.9), BAREFACED)]);
        let people = tracker.update(time(1), &[(face(400.0, 300.0, 60.0, 0.9), BAREFACED)]);
        assert_eq!(ids(&people), [1, 2]);
    }

    #[test]
    fn a_likely_face_must_be_seen_twice_and_a_weak_one_starts_nobody() {
        let (mut tracker, time) = (tracker(), clock());
        let seen = |score| [(face(50.0, 80.0, 60.0, score), BAREFACED)];
        for n in 0..4 {
            assert!(tracker.update(time(n), &seen(0.68)).is_empty());
        }
        assert_eq!(tracker.people_seen(), 0);
        assert_eq!(ids(&tracker.update(time(4), &seen(0.71))), [1]);
        assert_eq!(ids(&tracker.update(time(5), &seen(0.6))), [1]);
        let (mut tracker, time) = (self::tracker(), clock());
        assert!(tracker.update(time(0), &seen(0.71)).is_empty());
        assert_eq!(ids(&tracker.update(time(1), &seen(0.71))), [1]);
        // Who asks for weaker faces gets weaker people; who asks for none but sure ones loses nobody.
        let (mut tracker, time) = (Tracker::new(Thresholds::default(), 0.3), clock());
        assert!(tracker.update(time(0), &seen(0.46)).is_empty());
        assert_eq!(ids(&tracker.update(time(1), &seen(0.46))), [1]);
        let (mut tracker, time) = (Tracker::new(Thresholds::default(), 0.95), clock());
        assert_eq!(ids(&tracker.update(time(0), &seen(0.96))), [1]);
    }

    #[test]
    fn still_boxes_are_steady_and_moving_ones_do_not_lag() {
        let (mut tracker, time) = (tracker(), clock());
        let mut spread = (f32::MAX, f32::MIN);
        for n in 0..60 {
            let jitter = [1.5, -1.0, 0.5, -1.5, 0.0, 1.0][n as usize % 6];
            let people = tracker
                .update(time(n), &[(face(100.0 + jitter, 80.0 - jitter, 60.0 + jitter, 0.9), BAREFACED)]);
            if n > 20 {
                let x = people[0].face.rect.centre()[0];
                spread = (spread.0.min(x), spread.1.max(x));
            }
        }
        assert!(spread.1 - spread.0 < 1.5, "of 4.5 pixels of jitter: {spread:?}");

        let mut lag = 0.0;
        for n in 60..120 {
            let x = 100.0 + 8.0 * (n - 60) as f32;
            let people = tracker.update(time(n), &[(face(x, 80.0, 60.0, 0.9), BAREFACED)]);
            if n > 90 {
                lag = f32::max(lag, (people[0].face.rect.x - x).abs());
                let later = people[0].at(Duration::from_micros(33_333)).face;
                assert!((later.rect.x - x - 8.0).abs() < 3.0, "{later:?} after {x}");
                assert!((later.landmarks[0][0] - x - 8.0 - 18.0).abs() < 4.0, "{later:?} after {x}");
            }
        }
        assert!(lag < 3.0, "{lag} pixels behind at 240 pixels a second");
    }

    #[test]
    fn motion_is_carried_for_a_while_only() {
        let (mut tracker, time) = (tracker(), clock());
        let mut people = Vec::new();
        for n in 0..30 {
            people = tracker.update(time(n), &[(face(10.0 * n as f32, 80.0, 60.0, 0.9), BAREFACED)]);
        }
        let carried = |ms| people[0].at(Duration::from_millis(ms)).face.rect.x - people[0].face.rect.x;
        assert!((carried(100) - 30.0).abs() < 5.0, "{}", carried(100));
        assert_eq!(carried(300), carried(5000));
        let twice = people[0].at(Duration::from_millis(200)).at(Duration::from_millis(200));
        assert!((twice.face.rect.x - people[0].face.rect.x - carried(5000)).abs() < 0.01);
        let still = Person::new(face(5.0, 5.0, 20.0, 0.9), BAREFACED, Thresholds::default());
        assert_eq!(still.at(Duration::from_secs(1)), still);
    }

    #[test]
    fn the_label_does_not_flicker() {
        let (mut tracker, time) = (tracker(), clock());
        let mut shown = Vec::new();
        for n in 0..120 {
            let mask = if n % 2 == 0 { [0.65, 0.3, 0.05] } else { [0.3, 0.65, 0.05] };
            let people = tracker.update(time(n), &[(face(50.0, 80.0, 60.0, 0.9), masked(mask))]);
            shown.push(people[0].labels.mask);
        }
        shown.dedup();
        assert_eq!(shown, [Some(Mask::Worn)]);
    }

    #[test]
    fn the_label_follows_a_mask_put_on_within_half_a_second() {
        let (mut tracker, time) = (tracker(), clock());
        let mut shown = None;
        for n in 0..60 {
            let people = tracker.update(time(n), &[(face(50.0, 80.0, 60.0, 0.9), BAREFACED)]);
            shown = people[0].labels.mask;
        }
        assert_eq!(shown, Some(Mask::None));
        for n in 60..76 {
            let found = [(face(50.0, 80.0, 60.0, 0.9), masked([0.9, 0.05, 0.05]))];
            shown = tracker.update(time(n), &found)[0].labels.mask;
        }
        assert_eq!(shown, Some(Mask::Worn));
    }

    #[test]
    fn one_wrong_picture_does_not_change_gender_or_age() {
        let (mut tracker, time) = (tracker(), clock());
        let wrong = Attributes { gender: [0.05, 0.95], age: [0.9, 0.05, 0.05], years: 20.0, ..BAREFACED };
        for n in 0..100 {
            let seen = if n % 10 == 9 { wrong } else { BAREFACED };
            let people = tracker.update(time(n), &[(face(50.0, 80.0, 60.0, 0.9), seen)]);
            assert_eq!(people[0].labels.gender, Some(Gender::Male));
            assert_eq!(people[0].labels.age, Some(AgeGroup::From30To59));
            assert!((35.0..=41.1).contains(&people[0].attributes.years));
        }
    }

    #[test]
    fn a_large_clear_face_outweighs_a_small_weak_one() {
        let (mut tracker, time) = (tracker(), clock());
        let other = Attributes { gender: [0.1, 0.9], ..BAREFACED };
        let mut people = Vec::new();
        for n in 0..40 {
            let found = if n < 20 {
                (face(50.0, 80.0, 20.0, 0.4), other)
            } else {
                (face(45.0, 75.0, 30.0, 1.0), BAREFACED)
            };
            people = tracker.update(time(n), &[found]);
        }
        assert_eq!(ids(&people), [1]);
        assert!(people[0].attributes.gender[0] > 0.6, "{:?}", people[0].attributes);
    }

    #[test]
    fn a_face_that_cannot_be_told_is_unsure() {
        let (mut tracker, time) = (tracker(), clock());
        let vague =
            Attributes { mask: [0.4, 0.3, 0.3], gender: [0.5, 0.5], age: [0.4, 0.3, 0.3], years: 40.0 };
        let mut labels = None;
        for n in 0..90 {
            let seen = if n < 30 { BAREFACED } else { vague };
            labels = Some(tracker.update(time(n), &[(face(50.0, 80.0, 60.0, 0.9), seen)])[0].labels);
        }
        let labels = labels.unwrap();
        assert_eq!(labels.mask, None);
        assert_eq!(labels.gender, Some(Gender::Male), "gender is remembered for longer");
    }

    #[test]
    fn times_may_repeat_or_run_backwards() {
        let (mut tracker, time) = (tracker(), clock());
        for n in [5, 5, 3, 6, 0, 6] {
            let people = tracker.update(time(n), &[(face(50.0 + n as f32, 80.0, 60.0, 0.9), BAREFACED)]);
            assert_eq!(ids(&people), [1]);
            assert!(people[0].face.rect.x.is_finite() && people[0].attributes.mask[2] > 0.85);
        }
    }

    fn any_attributes() -> impl Strategy<Value = Attributes> {
        (prop::array::uniform3(0.0..1.0_f32), 0.0..1.0_f32, prop::array::uniform3(any::<f32>()), any::<f32>())
            .prop_map(|(mask, male, age, years)| Attributes { mask, gender: [male, 1.0 - male], age, years })
    }

    fn any_face() -> impl Strategy<Value = Face> {
        let coordinate = || prop_oneof![9 => -100.0..800.0_f32, 1 => any::<f32>()];
        let side = || prop_oneof![9 => 1.0..300.0_f32, 1 => any::<f32>()];
        (coordinate(), coordinate(), side(), side(), 0.0..1.0_f32)
            .prop_map(|(x, y, w, h, score)| Face { rect: Rect::new(x, y, w, h), ..face(x, y, w, score) })
    }

    proptest! {
        #[test]
        fn any_faces_at_any_times(updates in prop::collection::vec(
            (0_u64..3000, prop::collection::vec((any_face(), any_attributes()), 0..6)), 0..30)) {
            let start = Instant::now();
            let mut tracker = tracker();
            for (ms, found) in updates {
                let people = tracker.update(start + Duration::from_millis(ms), &found);
                let ids = ids(&people);
                prop_assert_eq!(ids.len(), people.len());
                prop_assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", ids);
                prop_assert!(ids.iter().all(|&id| (1..=tracker.people_seen()).contains(&id)));
                for person in people.iter().map(|person| person.at(Duration::from_millis(ms))) {
                    let Rect { x, y, w, h } = person.face.rect;
                    prop_assert!([x, y, w, h].iter().all(|v| v.is_finite()) && w > 0.0 && h > 0.0, "{:?}", person);
                    prop_assert!(person.attributes.mask.iter().all(|p| (0.0..=1.0).contains(p)));
                }
            }
        }
    }
}
