//! Faces → attribute distributions.

use image::imageops::flip_horizontal;

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

    /// The attributes of each face, in the order given, from two looks at it: as it is and mirrored. An empty box counts as
    /// one pixel.
    ///
    /// # Errors
    /// When the network cannot run.
    pub fn classify(&mut self, picture: &Picture, faces: &[Face]) -> Result<Vec<Attributes>, EngineError> {
        let crops: Vec<Picture> = faces.iter().map(|face| self.crop(picture, face)).collect();
        self.look_twice(&crops)
    }

    /// The same from one look at each face, for whoever sees it again in the next picture: with `mirrored` every other
    /// time, the mean of what is said over some pictures is as good as that of two looks at each.
    ///
    /// # Errors
    /// When the network cannot run.
    pub fn glance(
        &mut self,
        picture: &Picture,
        faces: &[Face],
        mirrored: bool,
    ) -> Result<Vec<Attributes>, EngineError> {
        let look = |face| {
            let crop = self.crop(picture, face);
            if mirrored { flip_horizontal(&crop) } else { crop }
        };
        let looks: Vec<Picture> = faces.iter().map(look).collect();
        self.attributes_of(&joined(&looks))
    }

    /// What the network sees of each face, `[faces, side, side, 3]`.
    pub fn crops(&self, picture: &Picture, faces: &[Face]) -> Vec<u8> {
        joined(&faces.iter().map(|face| self.crop(picture, face)).collect::<Vec<_>>())
    }

    /// The attributes of faces already cropped, from one look at each.
    ///
    /// # Errors
    /// When the network cannot run.
    ///
    /// # Panics
    /// When these are not whole crops.
    pub fn attributes_of(&mut self, crops: &[u8]) -> Result<Vec<Attributes>, EngineError> {
        let logits = self.logits(crops)?;
        Ok(self.attributes_by(&logits))
    }

    /// The attributes of a face already cropped to the input size, from two looks.
    ///
    /// # Errors
    /// When the network cannot run.
    pub fn attributes(&mut self, crop: &Picture) -> Result<Attributes, EngineError> {
        Ok(self.look_twice(std::slice::from_ref(crop))?.remove(0))
    }

    /// The mean of both looks' logits is the geometric mean of what they make the odds.
    fn look_twice(&mut self, crops: &[Picture]) -> Result<Vec<Attributes>, EngineError> {
        let mirrored: Vec<Picture> = crops.iter().map(flip_horizontal).collect();
        let (mut logits, other) = (self.logits(&joined(crops))?, self.logits(&joined(&mirrored))?);
        for (logit, other) in logits.iter_mut().zip(other) {
            *logit = (*logit + other) / 2.0;
        }
        Ok(self.attributes_by(&logits))
    }

    fn attributes_by(&self, logits: &[f32]) -> Vec<Attributes> {
        let temperatures = self.settings.temperatures;
        logits.chunks_exact(LOGITS).map(|of| Attributes::from_logits(of, temperatures)).collect()
    }

    /// The logits of faces already cropped, [`LOGITS`] of each.
    fn logits(&mut self, crops: &[u8]) -> Result<Vec<f32>, EngineError> {
        let side = self.settings.input_size as usize;
        let face = side * side * 3;
        let mut logits = Vec::with_capacity(crops.len() / face * LOGITS);
        let mut rest = crops;
        while !rest.is_empty() {
            // Plain tract takes long to make a plan for each number of faces, and gains nothing.
            let most = if self.network.program().is_some() { BATCH } else { 1 };
            let count = (rest.len() / face).clamp(1, most);
            let (batch, later) = rest.split_at(count * face);
            logits.extend(self.run(batch, count)?);
            rest = later;
        }
        Ok(logits)
    }

    /// What the network sees of a face: a square of the card's input size.
    pub fn crop(&self, picture: &Picture, face: &Face) -> Picture {
        let mut square = geometry::crop_square(&face.rect, self.settings.crop);
        square.w = square.w.max(1.0);
        square.h = square.h.max(1.0);
        geometry::crop(picture, &square, self.settings.input_size)
    }

    fn run(&mut self, crops: &[u8], count: usize) -> Result<Vec<f32>, EngineError> {
        let side = self.settings.input_size as usize;
        let logits = self.network.run(crops, [count, side, side])?.remove(0);
        if logits.values.len() != count * LOGITS {
            return Err(EngineError::Foreign {
                origin: self.network.origin().into(),
                found: format!("its logits have the shape {:?}", logits.shape),
                expected: format!("[{count}, {LOGITS}]"),
            });
        }
        Ok(logits.values)
    }
}

/// Crops one after the other in memory.
fn joined(crops: &[Picture]) -> Vec<u8> {
    crops.iter().map(|crop| crop.as_raw().as_slice()).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{detect::Detector, source::jpeg};

    #[test]
    fn two_looks_are_the_mean_of_a_glance_and_one_in_the_mirror() {
        let picture = jpeg::decode(include_bytes!("../assets/demo/worn.jpg")).unwrap();
        let mut detector = Detector::new(&Model::face(None).unwrap(), EngineKind::Tract, 320, None).unwrap();
        let faces = detector.detect(&picture).unwrap();
        let mut classifier = Classifier::new(&Model::attributes(None).unwrap(), EngineKind::Tract).unwrap();
        let both = classifier.classify(&picture, &faces).unwrap();
        let [plain, mirrored] = [false, true].map(|m| classifier.glance(&picture, &faces, m).unwrap());
        assert!(!faces.is_empty() && plain != mirrored);
        let odds = |attributes: &Attributes| (attributes.gender[0] / attributes.gender[1]).ln();
        for ((both, plain), mirrored) in both.iter().zip(&plain).zip(&mirrored) {
            assert!((odds(both) - (odds(plain) + odds(mirrored)) / 2.0).abs() < 1e-3);
        }
        // To two looks a mirror image is the same face.
        let crop = classifier.crop(&picture, &faces[0]);
        assert_eq!(classifier.attributes(&crop).unwrap(), both[0]);
        assert_eq!(classifier.attributes(&flip_horizontal(&crop)).unwrap(), both[0]);
    }
}
