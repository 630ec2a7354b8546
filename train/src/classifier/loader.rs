//! Batches, put together ahead of training.

use std::{
    sync::mpsc::{Receiver, RecvError, sync_channel},
    thread::{self, JoinHandle},
};

use mien::frame::Picture;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tch::{Device, Tensor};

use super::{
    config::Config,
    dataset::{Dataset, paintable, repeats},
    labels::Face,
    objective::Labels,
};
use crate::{
    device::{pin, upload, upload_pinned},
    mask_synthesis::{Wardrobe, Wear, put_on_any, softness},
};

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

/// Which masks are painted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Painting {
    /// Whatever is drawn.
    Any,
    /// On each face one of this many, always the same ones: those that teachers have seen ([`paint_view`]).
    Views(u8),
}

/// Paints the mask number `view`, from 1, of the photo whose fingerprint is `photo`.
pub fn paint_view(
    picture: &mut Picture,
    face: &Face,
    wardrobe: &Wardrobe,
    photo: u64,
    view: u8,
) -> Option<Wear> {
    let mut rng = StdRng::seed_from_u64(photo.wrapping_add(u64::from(view)));
    paint(picture, face, wardrobe, &mut rng)
}

/// Paints a mask drawn by lot, where the face has landmarks.
fn paint(picture: &mut Picture, face: &Face, wardrobe: &Wardrobe, rng: &mut StdRng) -> Option<Wear> {
    Some(put_on_any(picture, &face.landmarks?, wardrobe, softness(face.source_side), rng))
}

/// A row of a data set's images, `[side, side, 3]`, as a picture.
pub fn picture(row: &Tensor) -> Picture {
    let side = row.size()[0] as u32;
    let mut bytes = vec![0; row.numel()];
    row.copy_data(&mut bytes, row.numel());
    Picture::from_raw(side, side, bytes).expect("a pixel has three bytes")
}

/// A batch in the CPU's memory.
pub struct Batch {
    /// Faces of the data set.
    pub index: Vec<i64>,
    /// The mask that each shows, by [`Painting::Views`]; 0 for none.
    pub views: Vec<u8>,
    /// Bytes `[N, side, side, 3]`; in pinned memory where they go to a GPU.
    images: Tensor,
    /// Places in the batch with painted masks, and their labels.
    painted: Vec<i64>,
    masks: Vec<i64>,
}

impl Batch {
    /// Pictures, labels, and the longer sides of the face boxes, on the labels' device.
    pub fn gather(&self, dataset: &Dataset) -> (Tensor, Labels, Tensor) {
        let device = dataset.sides.device();
        let index = upload(&Tensor::from_slice(&self.index), device);
        let mut labels = dataset.labels.select(&index);
        if !self.painted.is_empty() {
            let at = upload(&Tensor::from_slice(&self.painted), device);
            labels.mask = labels.mask.index_copy(0, &at, &upload(&Tensor::from_slice(&self.masks), device));
            labels.mask_weight = labels.mask_weight.index_fill(0, &at, PAINTED_WEIGHT);
        }
        (upload_pinned(&self.images, device), labels, dataset.sides.index_select(0, &index))
    }
}

/// The threads that put batches together for a GPU; a CPU that trains is too slow to need more than one.
const GPU_WORKERS: u64 = 6;
/// Batches that each thread has ready.
const AHEAD: usize = 2;

/// Batches in their order.
pub struct Batches {
    receivers: Vec<Receiver<Batch>>,
    next: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Batches {
    /// Waits for the next one.
    ///
    /// # Errors
    /// When its thread is gone.
    pub fn recv(&mut self) -> Result<Batch, RecvError> {
        let batch = self.receivers[self.next].recv();
        self.next = (self.next + 1) % self.receivers.len();
        batch
    }
}

impl Drop for Batches {
    /// Waits for the threads: libtorch must not be used while the program ends.
    fn drop(&mut self) {
        self.receivers.clear();
        for thread in self.threads.drain(..) {
            // What went wrong there was said there.
            let _ = thread.join();
        }
    }
}

/// Chooses faces and paints masks ahead of training, on threads of its own.
pub struct Loader {
    images: Tensor,
    faces: Vec<Face>,
    order: Order,
    photos: Vec<u64>,
    painted: f64,
    painting: Painting,
    wardrobe: Wardrobe,
    seed: u64,
    device: Device,
}

impl Loader {
    fn new(dataset: &Dataset, order: Order, config: &Config, painting: Painting) -> Loader {
        Loader {
            images: dataset.images.shallow_clone(),
            faces: dataset.faces.clone(),
            photos: dataset.photos.clone(),
            order,
            painted: config.painted,
            painting,
            wardrobe: config.wardrobe,
            seed: config.seed,
            device: dataset.sides.device(),
        }
    }

    /// Batches from number `first` on, as the configuration orders and paints them.
    pub fn spawn(
        dataset: &Dataset,
        order: Order,
        first: u64,
        config: &Config,
        painting: Painting,
    ) -> Batches {
        let workers = if dataset.sides.device().is_cuda() { GPU_WORKERS } else { 1 };
        let spawn = |worker| {
            let (sender, receiver) = sync_channel(AHEAD);
            let loader = Loader::new(dataset, order.clone(), config, painting);
            // Ends when the receiver is dropped.
            let thread = thread::spawn(move || {
                let mut batches = loader.every(workers, first + worker);
                while sender.send(batches()).is_ok() {}
            });
            (receiver, thread)
        };
        let (receivers, threads) = (0..workers).map(spawn).unzip();
        Batches { receivers, next: 0, threads }
    }

    /// Gives the batches number `first`, `first + step` and so on.
    fn every(&self, step: u64, first: u64) -> impl FnMut() -> Batch {
        let batches = self.order.batches() as u64;
        let mut number = first;
        let (mut epoch, mut faces) = (first / batches, self.order.epoch(first / batches));
        move || {
            if number / batches != epoch {
                epoch = number / batches;
                faces = self.order.epoch(epoch);
            }
            let start = (number % batches) as usize * self.order.batch;
            let index = &faces[start..(start + self.order.batch).min(faces.len())];
            let batch = self.batch(index, number);
            number += step;
            batch
        }
    }

    fn batch(&self, index: &[i64], number: u64) -> Batch {
        let mut rng = StdRng::seed_from_u64(self.seed.wrapping_mul(1_000_033).wrapping_add(number));
        let images = self.images.index_select(0, &Tensor::from_slice(index));
        let (mut painted, mut masks) = (Vec::new(), Vec::new());
        let mut views = vec![0; index.len()];
        for (place, &i) in index.iter().enumerate() {
            let face = &self.faces[i as usize];
            if !paintable(face) || !rng.random_bool(self.painted) {
                continue;
            }
            let row = images.get(place as i64);
            let mut picture = picture(&row);
            let wear = match self.painting {
                Painting::Any => paint(&mut picture, face, &self.wardrobe, &mut rng),
                Painting::Views(count) => {
                    views[place] = rng.random_range(1..=count);
                    paint_view(&mut picture, face, &self.wardrobe, self.photos[i as usize], views[place])
                }
            };
            let Some(wear) = wear else { continue };
            row.shallow_clone().copy_(&Tensor::from_slice(picture.as_raw()).view_as(&row));
            painted.push(place as i64);
            masks.push(wear.label() as i64);
        }
        Batch { index: index.to_vec(), views, images: pin(&images, self.device), painted, masks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classifier::labels::{read_all, tests_support::tree};

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

    #[test]
    fn several_threads_give_the_batches_of_one() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path(), 3);
        let config = Config { data: folder.path().to_owned(), ..Config::default() };
        let faces = read_all(folder.path()).unwrap();
        let framing = config.framing(&faces);
        let dataset = Dataset::load(&config.data, faces, framing, 60, Device::Cpu).unwrap();
        let order = Order::new(&dataset.faces, 4, config.seed);
        let loader = Loader::new(&dataset, order, &config, Painting::Any);
        let mut one = loader.every(1, 2);
        let mut three: Vec<_> = (0..3).map(|worker| loader.every(3, 2 + worker)).collect();
        // Over the end of an epoch of five batches, and of another one.
        for number in 0..12 {
            let (expected, found) = (one(), three[number % 3]());
            assert_eq!(found.index, expected.index, "batch {number}");
            assert!(found.images.equal(&expected.images), "batch {number}");
        }
    }
}
