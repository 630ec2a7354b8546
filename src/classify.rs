//! Faces → attribute distributions.

use crate::{
    attributes::{Attributes, LOGITS, Thresholds},
    detect::Face,
    engine::{EngineError, EngineKind, Network},
    frame::Picture,
    geometry,
    models::{ClassifierSettings, Model},
};

/// The attribute classifier.
pub struct Classifier {
    network: Network,
    settings: ClassifierSettings,
}

impl Classifier {
    /// # Errors
    /// When the model is not a classifier of ours.
    pub fn new(model: &Model<ClassifierSettings>, engine: EngineKind) -> Result<Self, EngineError> {
        let settings = model.card.settings;
        let mut network = Network::load(&model.onnx, &model.origin, &["logits"], engine)?;
        let side = settings.input_size as usize;
        network.prepare([1, side, side])?;
        Ok(Self { network, settings })
    }

    /// Below which probability a label is "unsure".
    pub fn thresholds(&self) -> Thresholds {
        self.settings.thresholds
    }

    /// The attributes of each face, in the order given. An empty box counts as one pixel.
    ///
    /// # Errors
    /// When the network cannot run.
    pub fn classify(&mut self, picture: &Picture, faces: &[Face]) -> Result<Vec<Attributes>, EngineError> {
        faces
            .iter()
            .map(|face| {
                let crop = self.crop(picture, face);
                self.attributes(&crop)
            })
            .collect()
    }

    /// What the network sees of a face: a square of the card's input size.
    pub fn crop(&self, picture: &Picture, face: &Face) -> Picture {
        let mut square = geometry::crop_square(&face.rect, self.settings.crop);
        square.w = square.w.max(1.0);
        square.h = square.h.max(1.0);
        geometry::crop(picture, &square, self.settings.input_size)
    }

    /// The attributes of a face already cropped to the input size.
    ///
    /// # Errors
    /// When the network cannot run.
    pub fn attributes(&mut self, crop: &Picture) -> Result<Attributes, EngineError> {
        let (w, h) = (crop.width() as usize, crop.height() as usize);
        let outputs = self.network.run(crop.as_raw(), [1, h, w])?;
        let logits = &outputs[0];
        if logits.values.len() != LOGITS {
            return Err(EngineError::Foreign {
                origin: self.network.origin().into(),
                found: format!("its logits have the shape {:?}", logits.shape),
                expected: format!("[1, {LOGITS}]"),
            });
        }
        Ok(Attributes::from_logits(&logits.values, self.settings.temperatures))
    }
}
