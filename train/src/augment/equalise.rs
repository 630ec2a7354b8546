//! Histogram equalisation of the luminance of whole batches, as OpenCV's `equalizeHist` and `CLAHE` do it.

use tch::{Kind, Tensor};

use crate::device::upload;

use super::{Augmentation, Equalisation, colour::LUMA, sometimes};

const LEVELS: i64 = 256;
/// Tiles along each side, and how much taller than an even histogram a tile's may be.
const TILES: i64 = 4;
const CLIP: f64 = 2.0;

impl Augmentation {
    /// `x` `[N, 3, H, W]`, 0–1; all pictures by `always`, the others by lot.
    pub(super) fn equalise(&self, x: &Tensor, always: Equalisation) -> Tensor {
        match always {
            Equalisation::Plain => plain(x),
            Equalisation::Clahe => clahe(x),
            Equalisation::Off => sometimes(&sometimes(x, self.equalise, plain), self.clahe, clahe),
        }
    }
}

/// Levels 0–255 of the luminance, `[N, H, W]` integers.
fn levels(x: &Tensor) -> Tensor {
    let luma = upload(&Tensor::from_slice(&LUMA), x.device()).view([1, 3, 1, 1]);
    let y = (x * luma).sum_dim_intlist(1, false, Kind::Float);
    (y * 255.0).round().clamp(0.0, 255.0).to_kind(Kind::Int64)
}

/// Moves every pixel's luminance from level to level, its colour kept.
fn moved(x: &Tensor, from: &Tensor, to: &Tensor) -> Tensor {
    (x + ((to - from) / 255.0).unsqueeze(1)).clamp(0.0, 1.0)
}

/// How often each of `bins` is in the rows of `index` `[N, M]`: `[N, bins]`.
fn histogram(index: &Tensor, bins: i64) -> Tensor {
    let zeros = Tensor::zeros([index.size()[0], bins], (Kind::Float, index.device()));
    zeros.scatter_add(1, index, &index.ones_like().to_kind(Kind::Float))
}

fn plain(x: &Tensor) -> Tensor {
    let from = levels(x);
    moved(x, &from, &plain_levels(&from))
}

/// New levels of `levels` `[N, H, W]`.
fn plain_levels(levels: &Tensor) -> Tensor {
    let flat = levels.flatten(1, -1);
    let pixels = flat.size()[1] as f64;
    let counts = histogram(&flat, LEVELS);
    let below = counts.cumsum(1, Kind::Float);
    // The darkest level that there is becomes 0.
    let darkest = below.masked_fill(&counts.le(0.0), pixels).amin([1i64].as_slice(), true);
    let table = ((below - &darkest) * 255.0 / (-&darkest + pixels)).clamp(0.0, 255.0).round();
    let even = darkest.ge(pixels).expand_as(&flat);
    let equalised = table.gather(1, &flat, false);
    flat.to_kind(Kind::Float).where_self(&even, &equalised).view_as(levels)
}

fn clahe(x: &Tensor) -> Tensor {
    let from = levels(x);
    moved(x, &from, &clahe_levels(&from, TILES, CLIP))
}

/// New levels of `levels` `[N, H, W]` with `tiles` along each side and histograms clipped at `clip` times their mean.
fn clahe_levels(levels: &Tensor, tiles: i64, clip: f64) -> Tensor {
    let (n, h, w) = levels.size3().expect("levels are [N, H, W]");
    let device = levels.device();
    let short = |length: i64| (tiles - length % tiles) % tiles;
    let padded = levels.to_kind(Kind::Float).unsqueeze(1).reflection_pad2d([0, short(w), 0, short(h)]);
    let padded = padded.squeeze_dim(1).to_kind(Kind::Int64);
    let (high, wide) = (padded.size()[1] / tiles, padded.size()[2] / tiles);
    let area = (high * wide) as f64;

    let axis = |length: i64| Tensor::arange(length, (Kind::Int64, device));
    let tile_of =
        |length: i64, side: i64| axis(length).divide_scalar_mode(side, "floor").to_kind(Kind::Int64);
    let rows = tile_of(padded.size()[1], high).unsqueeze(1);
    let columns = tile_of(padded.size()[2], wide).unsqueeze(0);
    let index: Tensor = (rows * tiles + columns) * LEVELS + &padded;
    let counts = histogram(&index.flatten(1, -1), tiles * tiles * LEVELS).view([n, tiles * tiles, LEVELS]);

    // What is clipped goes to all levels alike, and the rest of that division to levels evenly apart.
    let limit = (clip * area / LEVELS as f64).floor().max(1.0);
    let excess = (&counts - limit).clamp_min(0.0).sum_dim_intlist(2, true, Kind::Float);
    let share = (&excess / LEVELS as f64).floor();
    let rest: Tensor = &excess - &share * LEVELS as f64;
    let step = (rest.clamp_min(1.0).reciprocal() * LEVELS as f64).floor().clamp_min(1.0);
    let level = axis(LEVELS).to_kind(Kind::Float).view([1, 1, LEVELS]);
    let on_step = level.remainder_tensor(&step).eq(0.0);
    let extra = on_step.logical_and(&(&level / &step).lt_tensor(&rest)).to_kind(Kind::Float);
    let counts = counts.clamp_max(limit) + share + extra;
    let tables = (counts.cumsum(2, Kind::Float) * (255.0 / area)).round().clamp(0.0, 255.0);
    let tables = tables.view([n, tiles * tiles * LEVELS]);

    // Each pixel's level is interpolated between the tables of the four tiles around it.
    let place = |length: i64, side: i64| {
        let at = axis(length).to_kind(Kind::Float) / side as f64 - 0.5;
        let first = at.floor();
        let part: Tensor = at - &first;
        let near = first.clamp(0.0, (tiles - 1) as f64).to_kind(Kind::Int64);
        let far = (first + 1.0).clamp(0.0, (tiles - 1) as f64).to_kind(Kind::Int64);
        (near, far, part)
    };
    let (top, bottom, down) = place(h, high);
    let (left, right, across) = place(w, wide);
    let look_up = |row: &Tensor, column: &Tensor| {
        let index: Tensor = (row.unsqueeze(1) * tiles + column.unsqueeze(0)) * LEVELS + levels;
        tables.gather(1, &index.flatten(1, -1), false).view([n, h, w])
    };
    let (across, down) = (across.unsqueeze(0), down.unsqueeze(1));
    let between =
        |row: &Tensor| look_up(row, &left).lerp_tensor(&look_up(row, &right), &across.expand([h, w], false));
    between(&top).lerp_tensor(&between(&bottom), &down.expand([h, w], false)).round()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// The picture of train/scripts/equalise_golden.py.
    fn picture(side: i64) -> Tensor {
        let axis = Tensor::arange(side, (Kind::Int64, Device::Cpu));
        let (x, y) = (axis.unsqueeze(0), axis.unsqueeze(1));
        let sum: Tensor = &x * &x * 7 + &y * 13 + &x * &y;
        (sum.remainder(97) + 60).unsqueeze(0)
    }

    fn row(levels: &Tensor, row: i64) -> Vec<f32> {
        Vec::try_from(levels.get(0).get(row)).unwrap()
    }

    const PLAIN: [f32; 20] = [
        171.0, 206.0, 14.0, 125.0, 8.0, 190.0, 150.0, 148.0, 181.0, 252.0, 104.0, 248.0, 175.0, 141.0, 141.0,
        175.0, 248.0, 104.0, 252.0, 181.0,
    ];
    const CLAHE_2: [f32; 20] = [
        82.0, 122.0, 173.0, 254.0, 141.0, 56.0, 255.0, 245.0, 21.0, 88.0, 168.0, 76.0, 225.0, 213.0, 194.0,
        224.0, 45.0, 153.0, 20.0, 204.0,
    ];
    const CLAHE_11: [f32; 20] = [
        118.0, 156.0, 252.0, 110.0, 35.0, 218.0, 190.0, 216.0, 17.0, 95.0, 212.0, 122.0, 76.0, 46.0, 58.0,
        110.0, 199.0, 63.0, 229.0, 178.0,
    ];
    const CLAHE_ODD: [f32; 22] = [
        170.0, 229.0, 101.0, 222.0, 156.0, 127.0, 129.0, 153.0, 218.0, 99.0, 222.0, 159.0, 135.0, 139.0,
        160.0, 33.0, 124.0, 51.0, 176.0, 150.0, 157.0, 180.0,
    ];

    #[test]
    fn plain_levels_are_opencvs() {
        assert_eq!(row(&plain_levels(&picture(20)), 5), PLAIN);
    }

    #[test]
    fn clahe_levels_are_opencvs() {
        for (line, expected) in [(2, CLAHE_2), (11, CLAHE_11)] {
            let found = row(&clahe_levels(&picture(20), 4, 3.0), line);
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() <= 1.0, "row {line}: {found}, not {expected}");
            }
        }
        // 22 is no multiple of 4: the edge is mirrored.
        let found = row(&clahe_levels(&picture(22), 4, 3.0), 20);
        for (found, expected) in found.iter().zip(CLAHE_ODD) {
            assert!((found - expected).abs() <= 1.0, "{found}, not {expected}");
        }
    }

    #[test]
    fn an_even_picture_stays() {
        let flat = Tensor::full([2, 8, 8], 77, (Kind::Int64, Device::Cpu));
        assert_eq!(plain_levels(&flat), flat.to_kind(Kind::Float));
    }

    #[test]
    fn pictures_of_a_batch_do_not_touch_each_other() {
        tch::manual_seed(2);
        let x = Tensor::rand([3, 3, 24, 24], (Kind::Float, Device::Cpu));
        for equalise in [plain, clahe] {
            let (all, one) = (equalise(&x), equalise(&x.narrow(0, 1, 1)));
            assert!((all.narrow(0, 1, 1) - one).abs().max().double_value(&[]) < 1e-6);
        }
    }
}
