//! Finds the faces in a picture and says of each whether a mask is worn, worn wrongly or absent, the gender, and
//! the age group, fast enough for a live camera on a small ARM board. Nothing leaves the device.
//!
//! # A picture
//!
//! The two networks are built in, each with a card that says how to run it ([`models`]). [`detect`] finds the
//! faces, [`classify`] gives each its probabilities ([`attributes`]), and [`overlay`] draws them:
//!
//! ```no_run
//! use mien::{classify::Classifier, detect::Detector, engine::EngineKind, models::Model};
//! use mien::{overlay::Overlay, source::still::read_picture, track::Person};
//!
//! let mut detector = Detector::new(&Model::face(None)?, EngineKind::Tract, 320, None)?;
//! let mut classifier = Classifier::new(&Model::attributes(None)?, EngineKind::Tract)?;
//!
//! let mut picture = read_picture("family.jpg".as_ref())?;
//! let faces = detector.detect(&picture)?;
//! let attributes = classifier.classify(&picture, &faces)?;
//! let people: Vec<Person> = std::iter::zip(faces, attributes)
//!     .map(|(face, attributes)| Person::new(face, attributes, classifier.thresholds()))
//!     .collect();
//! Overlay::new().draw(&mut picture, &people, None);
//! picture.save("labelled.jpg")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A live stream
//!
//! A [`source`] gives [`frame`]s; [`pipeline::run`] analyses the newest one while it shows every one. [`track`]
//! follows people from frame to frame, so that their labels hold still, and a [`sink`] takes what was found.
//! [`stats`] measures how old the picture is when it is seen.
//!
//! # Adding to it
//!
//! Training lives in the package `mien-train`, which uses this crate's [`attributes`], [`geometry`] and decoding, so
//! that the networks see the same pixels here as there. [`engine`] runs ONNX files and is the only module that knows
//! how.

pub mod attributes;
pub mod classify;
pub mod config;
pub mod detect;
pub mod engine;
pub mod frame;
pub mod geometry;
pub mod models;
pub mod overlay;
pub mod pipeline;
pub mod sink;
pub mod source;
pub mod stats;
pub mod track;
