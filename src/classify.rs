//! Faces → attribute distributions.

use crate::{
    attributes::{Attributes, LOGITS, Thresholds},
    detect::Face,
    engine::{EngineError, EngineKind, Network},
    frame::Picture,
    geometry,
    models::{ClassifierSettings, Model},
};

/// The most faces that the network sees at once.
const BATCH: usize = 8;
/// The name of the network's output.
pub const OUTPUT: &str = "logits";

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
        let mut network = Network::load(&model.onnx, &model.origin, &[OUTPUT], engine)?;
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
        self.attributes_of(&self.crops(picture, faces))
    }

    /// First step of [`Classifier::classify`]: what the network sees of each face, `[faces, side, side, 3]`.
    pub fn crops(&self, picture: &Picture, faces: &[Face]) -> Vec<u8> {
        let crops: Vec<Picture> = faces.iter().map(|face| self.crop(picture, face)).collect();
        crops.iter().map(|crop| crop.as_raw().as_slice()).collect::<Vec<_>>().concat()
    }

    /// Second step: the attributes of faces already cropped.
    ///
    /// # Errors
    /// When the network cannot run.
    ///
    /// # Panics
    /// When these are not whole crops.
    pub fn attributes_of(&mut self, crops: &[u8]) -> Result<Vec<Attributes>, EngineError> {
        let side = self.settings.input_size as usize;
        let face = side * side * 3;
        let mut attributes = Vec::with_capacity(crops.len() / face);
        let mut rest = crops;
        while !rest.is_empty() {
            // Plain tract takes long to make a plan for each number of faces, and gains nothing.
            let most = if self.network.program().is_some() { BATCH } else { 1 };
            let count = (rest.len() / face).clamp(1, most);
            let (batch, later) = rest.split_at(count * face);
            attributes.extend(self.run(batch, count)?);
            rest = later;
        }
        Ok(attributes)
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
        Ok(self.run(crop.as_raw(), 1)?.remove(0))
    }

    fn run(&mut self, crops: &[u8], count: usize) -> Result<Vec<Attributes>, EngineError> {
        let side = self.settings.input_size as usize;
        let outputs = self.network.run(crops, [count, side, side])?;
        let logits = &outputs[0];
        if logits.values.len() != count * LOGITS {
            return Err(EngineError::Foreign {
                origin: self.network.origin().into(),
                found: format!("its logits have the shape {:?}", logits.shape),
                expected: format!("[{count}, {LOGITS}]"),
            });
        }
        let temperatures = self.settings.temperatures;
        Ok(logits.values.chunks_exact(LOGITS).map(|of| Attributes::from_logits(of, temperatures)).collect())
    }
}
