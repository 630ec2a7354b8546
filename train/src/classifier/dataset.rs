//! Faces in memory: all pictures as one tensor of bytes on the training device, their labels beside it.

use std::path::Path;

use anyhow::{Context, Result};
use mien::{
    attributes::{AgeGroup, Mask},
    frame::Picture,
};
use tch::{Device, Kind, Tensor};

use super::{
    labels::{Face, PICTURE_SIDE, Set},
    loss::Labels,
};
use crate::archive::read_tar;

/// Pasted masks teach less than real ones.
const SYNTHETIC_WEIGHT: f32 = 0.5;
/// People of 60 and more are one in fourteen.
const OLD_WEIGHT: f32 = 1.5;

/// Pictures and labels of many faces.
#[derive(Debug)]
pub struct Dataset {
    pub faces: Vec<Face>,
    /// `[N, 128, 128, 3]` bytes.
    pub images: Tensor,
    pub labels: Labels,
    /// The longer side of each face box in pixels, `[N]`.
    pub sides: Tensor,
}

impl Dataset {
    /// Decodes the pictures of `faces` from the archives in `folder`.
    pub fn load(folder: &Path, faces: Vec<Face>, device: Device) -> Result<Dataset> {
        let images = to_tensor(&read_pictures(folder, &faces)?);
        let sides: Vec<f32> = faces.iter().map(Face::side).collect();
        Ok(Dataset {
            images: images.to_device(device),
            labels: labels(&faces, device),
            sides: Tensor::from_slice(&sides).to_device(device),
            faces,
        })
    }
}

/// The pictures of `faces`, in their order.
pub fn read_pictures(folder: &Path, faces: &[Face]) -> Result<Vec<Picture>> {
    let mut pictures = vec![Picture::default(); faces.len()];
    for set in Set::ALL {
        if !faces.iter().any(|f| f.set == set) {
            continue;
        }
        let path = folder.join(format!("{}.tar", set.name()));
        let mut files = read_tar(&path)?;
        for (face, picture) in faces.iter().zip(&mut pictures).filter(|(f, _)| f.set == set) {
            let named = || format!("{} in {}", face.file, path.display());
            let bytes = files.remove(&face.file).with_context(|| format!("there is no {}", named()))?;
            *picture = image::load_from_memory(&bytes).with_context(named)?.into_rgb8();
            let size = picture.dimensions();
            anyhow::ensure!(
                size == (PICTURE_SIDE, PICTURE_SIDE),
                "{} is {}×{}; it must be {PICTURE_SIDE}×{PICTURE_SIDE}",
                named(),
                size.0,
                size.1
            );
        }
    }
    Ok(pictures)
}

/// Square pictures of one size as bytes `[N, side, side, 3]`.
pub fn to_tensor(pictures: &[Picture]) -> Tensor {
    let side = pictures.first().map_or(0, |p| i64::from(p.width()));
    let images = Tensor::empty([pictures.len() as i64, side, side, 3], (Kind::Uint8, Device::Cpu));
    for (i, picture) in pictures.iter().enumerate() {
        images.get(i as i64).copy_(&Tensor::from_slice(picture.as_raw()).view([side, side, 3]));
    }
    images
}

/// Bytes `[N, H, W, 3]` as the network takes them: `[N, 3, H, W]`, channels last in memory, `(x − 128) / 128`.
pub fn normalise(images: &Tensor) -> Tensor {
    ((images.to_kind(Kind::Float) - 128.0) / 128.0).permute([0, 3, 1, 2])
}

/// Network inputs `[N, 3, side, side]` as pictures: the inverse of [`normalise`].
pub fn to_pictures(inputs: &Tensor) -> Result<Vec<Picture>> {
    let side = inputs.size()[3] as u32;
    let bytes = (inputs * 128.0 + 128.0).round().clamp(0.0, 255.0).to_kind(Kind::Uint8).permute([0, 2, 3, 1]);
    let pictures = (0..bytes.size()[0]).map(|i| {
        let bytes = Vec::<u8>::try_from(bytes.get(i).flatten(0, -1).to_device(Device::Cpu))?;
        Picture::from_raw(side, side, bytes).context("a picture has three bytes a pixel")
    });
    pictures.collect()
}

fn labels(faces: &[Face], device: Device) -> Labels {
    let floats = |f: &dyn Fn(&Face) -> f32| {
        Tensor::from_slice(&faces.iter().map(f).collect::<Vec<_>>()).to_device(device)
    };
    let indices = |f: &dyn Fn(&Face) -> i64| {
        Tensor::from_slice(&faces.iter().map(f).collect::<Vec<_>>()).to_device(device)
    };
    Labels {
        mask: indices(&|f| f.mask as i64),
        mask_weight: floats(&|f| if f.synthetic { SYNTHETIC_WEIGHT } else { 1.0 }),
        gender: indices(&|f| f.gender.map_or(0, |g| g as i64)),
        gender_weight: floats(&|f| f32::from(u8::from(f.gender.is_some()))),
        age_low: floats(&|f| f.age.as_ref().map_or(0.0, |a| f32::from(*a.start()))),
        age_high: floats(&|f| f.age.as_ref().map_or(0.0, |a| f32::from(*a.end()))),
        age_weight: floats(&|f| match &f.age {
            None => 0.0,
            Some(age) if AgeGroup::of_years(f32::from(*age.start())) == AgeGroup::From60 => OLD_WEIGHT,
            Some(_) => 1.0,
        }),
    }
}

/// How often a face is shown per epoch: photos of masks are few, wrongly worn ones fewest.
pub fn repeats(face: &Face) -> usize {
    match (face.set, face.mask) {
        (Set::Masks, Mask::Wrong) if !face.synthetic => 6,
        (Set::Masks, Mask::Worn) if !face.synthetic => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_scaled_as_the_network_expects() {
        let picture = Picture::from_fn(4, 4, |x, y| image::Rgb([(x * 60) as u8, 128, (y * 60) as u8]));
        let inputs = normalise(&to_tensor(std::slice::from_ref(&picture)));
        assert_eq!(inputs.size(), [1, 3, 4, 4]);
        assert_eq!(inputs.double_value(&[0, 1, 2, 2]), 0.0);
        assert_eq!(inputs.double_value(&[0, 0, 0, 0]), -1.0);
        assert_eq!(to_pictures(&inputs).unwrap(), [picture]);
    }
}
