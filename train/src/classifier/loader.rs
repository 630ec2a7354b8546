//! Batches, put together ahead of training.

use std::{
    sync::mpsc::{Receiver, sync_channel},
    thread,
};

use mien::frame::Picture;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tch::{Device, IndexOp, Tensor};

use super::{
    dataset::{Dataset, repeats, to_tensor},
    labels::{Face, PICTURE_SIDE, Set},
    loss::Labels,
};
use crate::mask_synthesis::{Wardrobe, put_on_any, softness};

/// Which faces make up each batch: a function of the seed and the batch's number, so that a run can resume.
#[derive(Debug, Clone)]
pub struct Order {
    pool: Vec<i64>,
    batch: usize,
    seed: u64,
}

impl Order {
    pub fn new(faces: &[Face], batch: usize, seed: u64) -> Order {
        let pool =
            faces.iter().enumerate().flat_map(|(i, face)| std::iter::repeat_n(i as i64, repeats(face)));
        Order { pool: pool.collect(), batch, seed }
    }

    fn batches(&self) -> usize {
        (self.pool.len() / self.batch).max(1)
    }

    /// Faces shown per epoch.
    pub fn epoch_len(&self) -> usize {
        self.batches() * self.batch.min(self.pool.len())
    }

    fn epoch(&self, epoch: u64) -> Vec<i64> {
        let mut pool = self.pool.clone();
        pool.shuffle(&mut StdRng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(epoch)));
        pool
    }
}

/// Painted masks teach the mask head less than photographed ones.
const PAINTED_WEIGHT: f64 = 0.5;

/// A batch before it is gathered on the device.
pub struct Batch {
    /// Faces of the data set.
    pub index: Vec<i64>,
    /// Places in the batch with painted masks, their labels, and the pictures `[P, 128, 128, 3]`.
    painted: Vec<i64>,
    masks: Vec<i64>,
    images: Tensor,
}

impl Batch {
    /// Pictures, labels, and the longer sides of the face boxes.
    pub fn gather(&self, dataset: &Dataset) -> (Tensor, Labels, Tensor) {
        let device = dataset.images.device();
        let index = Tensor::from_slice(&self.index).to_device(device);
        let mut images = dataset.images.index_select(0, &index);
        let mut labels = dataset.labels.select(&index);
        if !self.painted.is_empty() {
            let at = Tensor::from_slice(&self.painted).to_device(device);
            images = images.index_copy(0, &at, &self.images.to_device(device));
            labels.mask = labels.mask.index_copy(0, &at, &Tensor::from_slice(&self.masks).to_device(device));
            labels.mask_weight = labels.mask_weight.index_fill(0, &at, PAINTED_WEIGHT);
        }
        (images, labels, dataset.sides.index_select(0, &index))
    }
}

/// Chooses faces and paints masks ahead of training, on a thread of its own.
pub struct Loader {
    images: Tensor,
    faces: Vec<Face>,
    order: Order,
    painted: f64,
    seed: u64,
}

impl Loader {
    /// Batches from number `first` on; `painted` is the part of the bare faces that get a mask.
    pub fn spawn(dataset: &Dataset, order: Order, first: u64, painted: f64, seed: u64) -> Receiver<Batch> {
        let (sender, receiver) = sync_channel(2);
        let images = dataset.images.to_device(Device::Cpu);
        let loader = Loader { images, faces: dataset.faces.clone(), order, painted, seed };
        // Ends when the receiver is dropped.
        thread::spawn(move || {
            let batches = loader.order.batches();
            let mut skip = first as usize % batches;
            for epoch in first / batches as u64.. {
                let faces = loader.order.epoch(epoch);
                for (i, index) in faces.chunks(loader.order.batch).enumerate().take(batches).skip(skip) {
                    let number = epoch * batches as u64 + i as u64;
                    if sender.send(loader.batch(index, number)).is_err() {
                        return;
                    }
                }
                skip = 0;
            }
        });
        receiver
    }

    fn batch(&self, index: &[i64], number: u64) -> Batch {
        let mut rng = StdRng::seed_from_u64(self.seed.wrapping_mul(1_000_033).wrapping_add(number));
        let (mut painted, mut masks, mut pictures) = (Vec::new(), Vec::new(), Vec::new());
        for (place, &i) in index.iter().enumerate() {
            let face = &self.faces[i as usize];
            let Some(landmarks) = face.landmarks.filter(|_| face.set != Set::Masks) else {
                continue;
            };
            if !rng.random_bool(self.painted) {
                continue;
            }
            let mut picture = self.picture(i);
            let wear = put_on_any(
                &mut picture,
                &landmarks,
                &Wardrobe::default(),
                softness(face.source_side),
                &mut rng,
            );
            painted.push(place as i64);
            masks.push(wear.label() as i64);
            pictures.push(picture);
        }
        Batch { index: index.to_vec(), painted, masks, images: to_tensor(&pictures) }
    }

    fn picture(&self, i: i64) -> Picture {
        let mut bytes = vec![0; (PICTURE_SIDE * PICTURE_SIDE * 3) as usize];
        let length = bytes.len();
        self.images.i(i).copy_data(&mut bytes, length);
        Picture::from_raw(PICTURE_SIDE, PICTURE_SIDE, bytes)
            .expect("a picture of the data set has 128 × 128 pixels")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_show_every_face_in_another_order() {
        let order = Order { pool: (0..1000).collect(), batch: 64, seed: 3 };
        let (first, second) = (order.epoch(0), order.epoch(1));
        assert_ne!(first, second);
        assert_eq!(first, order.epoch(0));
        let mut sorted = second;
        sorted.sort_unstable();
        assert_eq!(sorted, order.pool);
        assert_eq!(order.epoch_len(), 15 * 64);
    }
}
