//! Soft labels as a file: safetensors with the tensors
//!
//! - `photos` `[N]`, U64: a fingerprint of each photo's name and bytes;
//! - `views` `[N]`, U8: how many rows each has, the first of the bare photo, the others with a painted mask each;
//! - `labels` `[rows, 39]`, F16: [`super::head_log_p`], photo after photo;
//!
//! and in its metadata, as JSON, `about`.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result, ensure};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{COLUMNS, YEARS};
use crate::{
    classifier::{
        config::Config,
        dataset::{Dataset, paintable},
        loader::Batch,
        split::Split,
    },
    mask_synthesis::Wardrobe,
};

/// What teachers say of photos.
#[derive(Debug)]
pub struct SoftLabels {
    pub about: About,
    pub photos: Vec<u64>,
    pub views: Vec<u8>,
    /// `[rows, COLUMNS]`, half precision.
    pub labels: Tensor,
}

/// How soft labels were made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Files of weights and their SHA-256.
    pub teachers: Vec<(String, String)>,
    /// [`Split::hash`] of what the teachers have not seen.
    pub split: String,
    /// What masks are drawn from.
    pub wardrobe: Wardrobe,
    /// Masks painted on each face that can have one.
    pub painted_views: u8,
    /// Years that share a column.
    pub years: usize,
}

impl SoftLabels {
    /// Bytes of a file for so many photos and rows, its header left out.
    pub fn bytes(photos: usize, rows: usize) -> usize {
        rows * COLUMNS * 2 + photos * 9
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let named = || format!("writing the soft labels {}", path.display());
        let photos: Vec<u8> = self.photos.iter().flat_map(|photo| photo.to_le_bytes()).collect();
        let rows = self.labels.size()[0] as usize;
        let mut labels = vec![0; rows * COLUMNS * 2];
        self.labels.to_kind(Kind::Half).contiguous().copy_data_u8(&mut labels, rows * COLUMNS);
        let tensors = [
            ("photos", TensorView::new(Dtype::U64, vec![self.photos.len()], &photos)?),
            ("views", TensorView::new(Dtype::U8, vec![self.views.len()], &self.views)?),
            ("labels", TensorView::new(Dtype::F16, vec![rows, COLUMNS], &labels)?),
        ];
        let about = HashMap::from([("about".to_owned(), serde_json::to_string(&self.about)?)]);
        let bytes = safetensors::serialize(tensors, Some(about)).with_context(named)?;
        // A stopped run leaves no half file.
        let partial = path.with_extension("partial");
        std::fs::write(&partial, bytes).with_context(named)?;
        std::fs::rename(&partial, path).with_context(named)
    }

    pub fn read(path: &Path) -> Result<SoftLabels> {
        let named = || {
            format!("reading the soft labels {}; mien-train soft-labels writes such a file", path.display())
        };
        let bytes = std::fs::read(path).with_context(named)?;
        let tensors = SafeTensors::deserialize(&bytes).with_context(named)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).with_context(named)?;
        let about = header.metadata().as_ref().and_then(|metadata| metadata.get("about"));
        let about: About =
            serde_json::from_str(about.context("it says nothing about itself").with_context(named)?)
                .with_context(named)?;
        let tensor = |name: &str, dtype: Dtype| -> Result<TensorView> {
            let tensor = tensors.tensor(name).with_context(named)?;
            ensure!(tensor.dtype() == dtype, "{}: {name} is {:?}, not {dtype:?}", named(), tensor.dtype());
            Ok(tensor)
        };
        let photos = tensor("photos", Dtype::U64)?.data().as_chunks().0;
        let photos: Vec<u64> = photos.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let views = tensor("views", Dtype::U8)?.data().to_vec();
        let labels = tensor("labels", Dtype::F16)?;
        let rows = views.iter().map(|&rows| usize::from(rows)).sum::<usize>();
        ensure!(
            views.len() == photos.len() && labels.shape() == [rows, COLUMNS] && about.years == YEARS,
            "{}: {} photos, rows for {}, labels {:?} in columns of {} years; {rows} rows of {COLUMNS} in columns of \
             {YEARS} are read",
            named(),
            photos.len(),
            views.len(),
            labels.shape(),
            about.years
        );
        let labels = Tensor::from_data_size(labels.data(), &[rows as i64, COLUMNS as i64], Kind::Half);
        Ok(SoftLabels { about, photos, views, labels })
    }

    /// The labels of a run's training photos; every one must have its own, of teachers that have not seen what the run
    /// keeps from training. `path` names the file in errors.
    pub fn aligned(self, path: &Path, config: &Config, split: &Split, dataset: &Dataset) -> Result<Aligned> {
        let About { split: theirs, wardrobe, painted_views, .. } = &self.about;
        let path = path.display();
        ensure!(
            *theirs == split.hash(),
            "{path}: the teachers kept other photos from training ({theirs}) than this run does ({}); give both the same \
             --split, or --seed and --holdout",
            split.hash()
        );
        let paints = config.painted > 0.0 && dataset.faces.iter().any(paintable);
        ensure!(
            !paints || *painted_views > 0,
            "{path} has no labels with painted masks; set painted=0, or write it with --painted-views 2"
        );
        ensure!(
            !paints || *wardrobe == config.wardrobe,
            "{path} has labels for masks of another wardrobe than this run's: {wardrobe:?}"
        );
        let mut rows = HashMap::new();
        let mut row = 0;
        for (&photo, &views) in self.photos.iter().zip(&self.views) {
            rows.insert(photo, (row, views));
            row += i64::from(views);
        }
        let (mut first, mut unknown) = (Vec::with_capacity(dataset.photos.len()), Vec::new());
        for (photo, face) in dataset.photos.iter().zip(&dataset.faces) {
            let wanted = if paints && paintable(face) { 1 + *painted_views } else { 1 };
            match rows.get(photo).filter(|(_, views)| *views >= wanted) {
                Some(&(row, _)) => first.push(row),
                None => unknown.push(format!("{}/{}", face.set.name(), face.file)),
            }
        }
        ensure!(
            unknown.is_empty(),
            "{path} has no labels for {} of the {} training photos in {} as they are now, the first being {}; write it \
             for this data",
            unknown.len(),
            dataset.photos.len(),
            config.data.display(),
            unknown.first().map_or("", String::as_str)
        );
        Ok(Aligned { labels: self.labels, first, views: *painted_views })
    }
}

/// Soft labels by the faces of a data set.
#[derive(Debug)]
pub struct Aligned {
    labels: Tensor,
    /// Each face's first row.
    first: Vec<i64>,
    /// Masks that each paintable face has labels for.
    pub views: u8,
}

impl Aligned {
    /// `[N, COLUMNS]`, f32, in the CPU's memory.
    pub fn of(&self, batch: &Batch) -> Tensor {
        let row = |(&face, &view): (&i64, &u8)| self.first[face as usize] + i64::from(view);
        let rows: Vec<i64> = batch.index.iter().zip(&batch.views).map(row).collect();
        self.labels.index_select(0, &Tensor::from_slice(&rows)).to_kind(Kind::Float)
    }
}
