//! People drawn over a picture: a bracketed box, a label on a dark plate, the state of the mask in colour
//! and in words. Everything grows with the picture, so that a large one looks like a small one enlarged.

mod lettering;
mod paint;

use std::cell::RefCell;

use crate::{
    attributes::{AgeGroup, Gender, Mask},
    frame::Picture,
    geometry::Rect,
    track::Person,
};
use lettering::Lettering;
use paint::{Area, Colour, disc, fill};

/// Between the parts of a line of text.
const SEPARATOR: &str = " · ";

/// Height of a line of text in a picture whose shorter side is [`REFERENCE_SIDE`] pixels.
const TEXT_SIZE: f32 = 18.0;
const STATUS_SIZE: f32 = 14.0;
const NOTICE_SIZE: f32 = 32.0;
const REFERENCE_SIDE: f32 = 480.0;
/// Below this scale, letters could not be told apart.
const SMALLEST_SCALE: f32 = 0.6;

const WHITE: Colour = [255; 3];
const BLACK: Colour = [0; 3];
/// Opacity of a plate: white text on it keeps a contrast of 8:1 over a white picture.
const PLATE: u8 = 180;
/// Opacity of the shade over a picture that is no longer live.
const SHADE: u8 = 150;
/// Opacity of the dark rim that sets lines off from a bright picture.
const RIM: u8 = 140;

/// Draws people; holds what drawing needs between pictures.
#[derive(Debug, Default)]
pub struct Overlay {
    /// Draw the five landmarks as dots.
    pub landmarks: bool,
    /// Put the person's id before the label.
    pub ids: bool,
    lettering: RefCell<Lettering>,
}

impl Overlay {
    pub fn new() -> Self {
        Self::default()
    }

    /// Draws `people` and, small and top left, the `status` line over `picture`.
    /// Labels stay inside the picture and keep clear of each other and of faces where there is room.
    pub fn draw(&self, picture: &mut Picture, people: &[Person], status: Option<&str>) {
        let scale = scale_of(picture);
        for person in people {
            self.draw_face(picture, person, scale);
        }
        for plate in self.plates(picture.dimensions(), people, status) {
            self.draw_plate(picture, &plate, scale);
        }
    }

    /// Darkens `picture` and writes `title` and, smaller below it, `detail` in its middle.
    pub fn draw_notice(&self, picture: &mut Picture, title: &str, detail: &str) {
        let (width, height) = (picture.width() as i32, picture.height() as i32);
        fill(picture, Area::new(0, 0, width, height), BLACK, SHADE);
        let scale = scale_of(picture);
        let plates = [(title, NOTICE_SIZE), (detail, TEXT_SIZE)]
            .map(|(text, size)| self.plate(text, " ", None, size * scale, width));
        let mut top = (height - plates.iter().map(|plate| plate.area.height()).sum::<i32>()) / 2;
        for plate in plates {
            let plate = plate.clone().moved(((width - plate.area.width()) / 2, top));
            top = plate.area.y1;
            self.draw_plate(picture, &plate, scale);
        }
    }

    fn draw_face(&self, picture: &mut Picture, person: &Person, scale: f32) {
        let line = pixels(2.5 * scale);
        let bars = brackets(area_of(&person.face.rect), line);
        let rim = pixels(scale);
        for bar in bars {
            fill(picture, bar.grown(rim), BLACK, RIM);
        }
        for bar in bars {
            fill(picture, bar, colour_of(person.labels.mask), 255);
        }
        if self.landmarks {
            let radius = (2.0 * scale).min(person.face.rect.w / 24.0);
            for [x, y] in person.face.landmarks {
                disc(picture, (x, y), radius + rim as f32, BLACK);
                disc(picture, (x, y), radius, WHITE);
            }
        }
    }

    /// The status line's plate and one for each person, the nearest people first.
    fn plates(&self, (width, height): (u32, u32), people: &[Person], status: Option<&str>) -> Vec<Plate> {
        let scale = scale(width, height);
        let picture = Area::new(0, 0, width as i32, height as i32);
        let faces: Vec<Area> = people.iter().map(|person| area_of(&person.face.rect)).collect();
        let mut order: Vec<usize> = (0..people.len()).collect();
        order.sort_by(|&a, &b| people[b].face.rect.area().total_cmp(&people[a].face.rect.area()));

        let mut plates: Vec<Plate> = Vec::new();
        if let Some(status) = status {
            let plate = self.plate(status, SEPARATOR, None, STATUS_SIZE * scale, picture.width());
            let margin = pixels(4.0 * scale);
            plates.push(plate.moved((margin, margin)));
        }
        for i in order {
            let mut text = label(&people[i]);
            if let (true, Some(id)) = (self.ids, people[i].id) {
                text = format!("#{id} {text}");
            }
            let colour = colour_of(people[i].labels.mask);
            let plate = self.plate(&text, SEPARATOR, Some(colour), TEXT_SIZE * scale, picture.width());
            let place = place_label(&picture, &plate.area, faces[i], &faces, &plates, pixels(4.0 * scale));
            plates.push(plate.moved(place));
        }
        plates
    }

    /// A plate at the origin, its text in as many lines, parted at `joint`, as `room` pixels of width ask for.
    fn plate(&self, text: &str, joint: &str, stripe: Option<Colour>, size: f32, room: i32) -> Plate {
        let mut lettering = self.lettering.borrow_mut();
        let size = size.round() as u32;
        let (pad, stripe_width) = (pad_of(size), stripe.map_or(0, |_| pad_of(size)));
        let mut lines: Vec<String> = Vec::new();
        for part in text.split(joint) {
            if let Some(line) = lines.last_mut() {
                let longer = format!("{line}{joint}{part}");
                if lettering.width(&longer, size) + 2 * pad + stripe_width <= room {
                    *line = longer;
                    continue;
                }
            }
            lines.push(part.to_owned());
        }
        let text_width = lines.iter().map(|line| lettering.width(line, size)).max().unwrap_or(0);
        let height = lines.len() as i32 * size as i32 + pad;
        Plate { area: Area::new(0, 0, text_width + 2 * pad + stripe_width, height), lines, size, stripe }
    }

    fn draw_plate(&self, picture: &mut Picture, plate: &Plate, scale: f32) {
        let Area { x0, y0, .. } = plate.area;
        let pad = pad_of(plate.size);
        fill(picture, plate.area, BLACK, PLATE);
        let mut left = x0 + pad;
        if let Some(colour) = plate.stripe {
            let width = pad.max(pixels(2.0 * scale));
            fill(picture, Area { x1: x0 + width, ..plate.area }, colour, 255);
            left += width;
        }
        let mut lettering = self.lettering.borrow_mut();
        for (i, line) in plate.lines.iter().enumerate() {
            let top = y0 + pad / 2 + i as i32 * plate.size as i32;
            lettering.draw(picture, line, plate.size, (left, top), WHITE);
        }
    }
}

/// What is said of a person, such as `mask · woman · 30–59 · 87 %`.
///
/// An unsure part is named with a question mark (`mask · gender ? · 30–59`). The percentage is the least of the
/// probabilities of the labels that are given, at most 99; without any, the label is `unsure`.
pub fn label(person: &Person) -> String {
    let (labels, p) = (person.labels, person.attributes);
    let sure = [
        labels.mask.map(|mask| p.mask[mask as usize]),
        labels.gender.map(|gender| p.gender[gender as usize]),
        labels.age.map(|age| p.age[age as usize]),
    ];
    let Some(least) = sure.into_iter().flatten().min_by(f32::total_cmp) else {
        return "unsure".to_owned();
    };
    let mask = match labels.mask {
        Some(Mask::Worn) => "mask",
        Some(Mask::Wrong) => "mask worn wrongly",
        Some(Mask::None) => "no mask",
        None => "mask ?",
    };
    let gender = match labels.gender {
        Some(Gender::Male) => "man",
        Some(Gender::Female) => "woman",
        None => "gender ?",
    };
    let age = match labels.age {
        Some(AgeGroup::Under30) => "under 30",
        Some(AgeGroup::From30To59) => "30–59",
        Some(AgeGroup::From60) => "60+",
        None => "age ?",
    };
    let percent = format!("{:.0} %", (least * 100.0).min(99.0));
    [mask, gender, age, &percent].join(SEPARATOR)
}

/// Colours that are told apart with any kind of colour vision, after Okabe and Ito's palette,
/// each brighter than the one before so that grey is enough: none, worn, wrong; grey is unsure.
pub fn colour_of(mask: Option<Mask>) -> Colour {
    match mask {
        Some(Mask::Worn) => [20, 190, 140],
        Some(Mask::Wrong) => [255, 200, 40],
        Some(Mask::None) => [235, 85, 40],
        None => [225; 3],
    }
}

/// A dark plate with lines of text, and perhaps a stripe of colour at its left.
#[derive(Debug, Clone)]
struct Plate {
    area: Area,
    lines: Vec<String>,
    size: u32,
    stripe: Option<Colour>,
}

impl Plate {
    fn moved(self, (x, y): (i32, i32)) -> Plate {
        Plate { area: Area::new(x, y, self.area.width(), self.area.height()), ..self }
    }
}

/// Where a label goes: above its face, else below, right or left of it, wherever it covers least of the
/// other labels and of faces. It is pushed into the picture where it would stick out.
fn place_label(
    picture: &Area,
    label: &Area,
    face: Area,
    faces: &[Area],
    placed: &[Plate],
    gap: i32,
) -> (i32, i32) {
    let (w, h) = (label.width(), label.height());
    let inside =
        |(x, y): (i32, i32)| (x.min(picture.x1 - w).max(picture.x0), y.min(picture.y1 - h).max(picture.y0));
    let covered = |&(x, y): &(i32, i32)| -> i64 {
        let area = Area::new(x, y, w, h);
        let labels: i64 = placed.iter().map(|plate| plate.area.overlap(&area)).sum();
        let faces: i64 = faces.iter().map(|face| face.overlap(&area)).sum();
        3 * labels + faces
    };
    let above = inside((face.x0, face.y0 - gap - h));
    [(face.x0, face.y1 + gap), (face.x1 + gap, face.y0), (face.x0 - gap - w, face.y0)]
        .map(inside)
        .into_iter()
        .fold(above, |best, place| if covered(&place) < covered(&best) { place } else { best })
}

/// The eight bars of four corner brackets along the inside of a box.
fn brackets(face: Area, line: i32) -> [Area; 8] {
    let arm = (face.width().min(face.height()) / 4).max(line);
    let Area { x0, y0, x1, y1 } = face;
    [
        Area::new(x0, y0, arm, line),
        Area::new(x1 - arm, y0, arm, line),
        Area::new(x0, y1 - line, arm, line),
        Area::new(x1 - arm, y1 - line, arm, line),
        Area::new(x0, y0, line, arm),
        Area::new(x0, y1 - arm, line, arm),
        Area::new(x1 - line, y0, line, arm),
        Area::new(x1 - line, y1 - arm, line, arm),
    ]
}

/// The nearest whole pixels; coordinates that no picture has are brought nearer.
fn area_of(rect: &Rect) -> Area {
    let whole = |v: f32| v.round().clamp(-1e6, 1e6) as i32;
    Area { x0: whole(rect.x), y0: whole(rect.y), x1: whole(rect.right()), y1: whole(rect.bottom()) }
}

fn scale_of(picture: &Picture) -> f32 {
    scale(picture.width(), picture.height())
}

/// How much larger things are drawn than at [`REFERENCE_SIDE`].
fn scale(width: u32, height: u32) -> f32 {
    (width.min(height) as f32 / REFERENCE_SIDE).max(SMALLEST_SCALE)
}

/// A length in whole pixels, at least one.
fn pixels(length: f32) -> i32 {
    (length.round() as i32).max(1)
}

/// The margin around text of this size, and the width of the stripe.
fn pad_of(size: u32) -> i32 {
    pixels(size as f32 / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attributes::{Attributes, Thresholds},
        detect::Face,
    };

    fn person(x: f32, y: f32, w: f32, h: f32) -> Person {
        let at = |u: f32, v: f32| [x + u * w, y + v * h];
        let landmarks = [at(0.3, 0.4), at(0.7, 0.4), at(0.5, 0.6), at(0.35, 0.8), at(0.65, 0.8)];
        let attributes = Attributes {
            mask: [0.95, 0.03, 0.02],
            gender: [0.09, 0.91],
            age: [0.1, 0.87, 0.03],
            years: 44.0,
        };
        Person::new(
            Face { rect: Rect::new(x, y, w, h), landmarks, score: 0.9 },
            attributes,
            Thresholds::default(),
        )
    }

    fn busy(width: u32, height: u32) -> Picture {
        Picture::from_fn(width, height, |x, y| {
            let v = if (x / 3 + y / 3) % 2 == 0 { 255 } else { (x * 7 + y * 13) as u8 };
            image::Rgb([v, v.wrapping_mul(3), 255 - v])
        })
    }

    /// WCAG 2 contrast ratio.
    fn contrast(a: Colour, b: Colour) -> f32 {
        let luminance = |colour: Colour| {
            let [r, g, b] = colour.map(|v| {
                let v = f32::from(v) / 255.0;
                if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
            });
            0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05
        };
        let (a, b) = (luminance(a), luminance(b));
        a.max(b) / a.min(b)
    }

    #[test]
    fn labels_say_what_is_sure() {
        let mut sitter = person(0.0, 0.0, 10.0, 10.0);
        assert_eq!(label(&sitter), "mask · woman · 30–59 · 87 %");
        sitter.labels.age = None;
        assert_eq!(label(&sitter), "mask · woman · age ? · 91 %");
        sitter.labels.gender = None;
        sitter.labels.mask = Some(Mask::Wrong);
        sitter.attributes.mask = [0.0, 1.0, 0.0];
        assert_eq!(label(&sitter), "mask worn wrongly · gender ? · age ? · 99 %");
        sitter.labels.mask = None;
        assert_eq!(label(&sitter), "unsure");
    }

    #[test]
    fn text_can_be_read_on_any_picture() {
        let overlay = Overlay::new();
        for picture in
            [Picture::new(640, 480), Picture::from_pixel(640, 480, image::Rgb([255; 3])), busy(640, 480)]
        {
            for plate in overlay.plates((640, 480), &[person(200.0, 200.0, 100.0, 120.0)], Some("30 fps")) {
                let mut blank = picture.clone();
                overlay.draw_plate(
                    &mut blank,
                    &Plate { lines: Vec::new(), stripe: None, ..plate.clone() },
                    1.0,
                );
                let mut lettered = picture.clone();
                overlay.draw_plate(&mut lettered, &plate, 1.0);
                let (mut least, mut white) = (f32::MAX, 0);
                for y in plate.area.y0..plate.area.y1 {
                    for x in plate.area.x0..plate.area.x1 {
                        least = least.min(contrast(blank.get_pixel(x as u32, y as u32).0, WHITE));
                        white += u32::from(lettered.get_pixel(x as u32, y as u32).0 == WHITE);
                    }
                }
                assert!(least > 7.0, "contrast {least}");
                assert!(white > 40, "{white} white pixels in {plate:?}");
            }
        }
    }

    #[test]
    fn mask_states_differ_in_brightness() {
        let states = [Some(Mask::None), Some(Mask::Worn), Some(Mask::Wrong)].map(colour_of);
        assert!(contrast(states[0], states[1]) > 1.3);
        assert!(contrast(states[1], states[2]) > 1.3);
        assert!(states.iter().all(|&colour| contrast(colour, BLACK) > 4.5), "bright on the dark rim");
    }

    #[test]
    fn labels_stay_inside_the_picture() {
        let overlay = Overlay::new();
        for (x, y) in
            [(-40.0, -40.0), (600.0, -60.0), (-50.0, 440.0), (610.0, 470.0), (0.0, 0.0), (900.0, 900.0)]
        {
            for side in [30.0, 100.0, 700.0] {
                let plates = overlay.plates((640, 480), &[person(x, y, side, side)], None);
                let Area { x0, y0, x1, y1 } = plates[0].area;
                assert!(x0 >= 0 && y0 >= 0 && x1 <= 640 && y1 <= 480, "{plates:?}");
            }
        }
    }

    #[test]
    fn labels_of_neighbours_do_not_overlap() {
        let overlay = Overlay::new();
        let people = [person(200.0, 200.0, 80.0, 100.0), person(300.0, 205.0, 80.0, 100.0)];
        let plates = overlay.plates((640, 480), &people, Some("29.9 fps · 48 ms"));
        for (i, a) in plates.iter().enumerate() {
            for b in &plates[i + 1..] {
                assert_eq!(a.area.overlap(&b.area), 0, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn a_label_without_room_above_goes_below() {
        let plates = Overlay::new().plates((640, 480), &[person(200.0, 5.0, 100.0, 120.0)], None);
        assert!(plates[0].area.y0 >= 125, "{plates:?}");
    }

    #[test]
    fn everything_grows_with_the_picture() {
        let overlay = Overlay::new();
        let small = overlay.plates((640, 480), &[person(200.0, 200.0, 100.0, 120.0)], Some("30 fps"));
        let large = overlay.plates((2560, 1920), &[person(800.0, 800.0, 400.0, 480.0)], Some("30 fps"));
        for (small, large) in small.iter().zip(&large) {
            assert_eq!(large.size, 4 * small.size);
            assert!((large.area.width() - 4 * small.area.width()).abs() <= 12, "{small:?} {large:?}");
            assert!((large.area.y0 - 4 * small.area.y0).abs() <= 12, "{small:?} {large:?}");
        }
    }

    #[test]
    fn ids_come_first_on_request() {
        let overlay = Overlay { ids: true, ..Overlay::new() };
        let mut somebody = person(200.0, 200.0, 100.0, 120.0);
        somebody.id = Some(12);
        let plates = overlay.plates((640, 480), &[somebody], None);
        assert_eq!(plates[0].lines, ["#12 mask · woman · 30–59 · 87 %"]);
    }

    #[test]
    fn a_narrow_picture_breaks_the_label_into_lines() {
        let plates = Overlay::new().plates((120, 90), &[person(40.0, 30.0, 30.0, 40.0)], None);
        assert!(plates[0].lines.len() > 1 && plates[0].area.x1 <= 120, "{plates:?}");
    }

    #[test]
    fn a_notice_darkens_the_picture_and_stands_in_its_middle() {
        let overlay = Overlay::new();
        for (width, height) in [(640, 480), (160, 120), (1920, 1080)] {
            let mut picture = Picture::from_pixel(width, height, image::Rgb([200; 3]));
            overlay.draw_notice(
                &mut picture,
                "camera lost",
                "no picture for 2 s; waiting for it to come back",
            );
            let white: Vec<_> = picture.enumerate_pixels().filter(|p| p.2.0 == WHITE).collect();
            assert!(white.len() > 100, "{} white pixels", white.len());
            let mean = |of: fn((u32, u32)) -> u32| {
                white.iter().map(|&(x, y, _)| f64::from(of((x, y)))).sum::<f64>() / white.len() as f64
            };
            let (x, y) = (mean(|(x, _)| x) / f64::from(width), mean(|(_, y)| y) / f64::from(height));
            assert!((0.4..0.6).contains(&x) && (0.3..0.7).contains(&y), "{x} {y}");
            assert!(picture.get_pixel(1, 1).0[0] < 100);
        }
        for (width, height) in [(0, 0), (1, 1), (1, 300), (40, 2)] {
            overlay.draw_notice(&mut Picture::new(width, height), "camera lost", "why");
        }
    }

    #[test]
    fn tiny_and_empty_pictures_and_wild_boxes() {
        let overlay = Overlay { landmarks: true, ids: true, ..Overlay::new() };
        let mut wild = vec![person(0.0, 0.0, 1.0, 1.0), person(-1e30, 1e30, f32::MAX, 1e-30)];
        wild.push(person(f32::NAN, f32::INFINITY, f32::NAN, -5.0));
        for (width, height) in [(0, 0), (1, 1), (1, 300), (40, 2)] {
            overlay.draw(&mut Picture::new(width, height), &wild, Some("status"));
        }
    }

    #[test]
    fn boxes_and_landmarks_are_where_they_belong() {
        let mut overlay = Overlay::new();
        let sitter = person(200.0, 200.0, 100.0, 120.0);
        let mut picture = Picture::new(640, 480);
        overlay.draw(&mut picture, std::slice::from_ref(&sitter), None);
        let worn = colour_of(Some(Mask::Worn));
        for (x, y) in [(200, 200), (299, 200), (200, 319), (299, 319), (220, 201)] {
            assert_eq!(picture.get_pixel(x, y).0, worn, "{x} {y}");
        }
        assert_eq!(picture.get_pixel(250, 260).0, BLACK);
        assert_eq!(picture.get_pixel(230, 248).0, BLACK);
        overlay.landmarks = true;
        overlay.draw(&mut picture, &[sitter], None);
        assert_eq!(picture.get_pixel(230, 248).0, WHITE);
    }
}
