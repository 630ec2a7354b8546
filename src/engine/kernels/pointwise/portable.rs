//! What the other kernels are measured by.

use super::{super::requantize, Kernel, Output, Tile, Tiles};

pub(super) static KERNEL: Kernel = Kernel {
    lanes: LANES,
    vectors: 1,
    pixels: &[1],
    group: 1,
    overlap: false,
    signed: false,
    order: |_, _, lane| lane,
    run,
};

const LANES: usize = 16;

unsafe fn run(tiles: &Tiles, pixels: usize, _vectors: usize) {
    // SAFETY: the caller promises that the tiles' pointers reach as far as their fields say.
    tiles.for_each(pixels, |tile| unsafe { product(tile, pixels) });
}

unsafe fn product(tile: &Tile, pixels: usize) {
    // SAFETY: the caller promises that the tile's pointers reach as far as its fields say.
    let (bias, multipliers, weights) = unsafe {
        (
            std::slice::from_raw_parts(tile.bias, LANES),
            std::slice::from_raw_parts(tile.multipliers, LANES),
            std::slice::from_raw_parts(tile.weights, tile.lines * tile.inputs * LANES),
        )
    };
    for pixel in 0..pixels {
        let mut sums = [0; LANES];
        for (line, weights) in weights.chunks_exact(tile.inputs * LANES).enumerate() {
            let offset = pixel * tile.input_stride + line * tile.line_stride;
            // SAFETY: as above.
            let input = unsafe { std::slice::from_raw_parts(tile.input.add(offset), tile.inputs) };
            for (&input, weights) in input.iter().zip(weights.as_chunks::<LANES>().0) {
                sums = std::array::from_fn(|lane| sums[lane] + i32::from(input) * i32::from(weights[lane]));
            }
        }
        for channel in 0..tile.channels {
            let (sum, multiplier, offset) =
                (bias[channel] + sums[channel], multipliers[channel], pixel * tile.output_stride + channel);
            // SAFETY: as above.
            unsafe {
                match tile.output {
                    Output::Quantized { to, zero_point, .. } => {
                        *to.add(offset) =
                            (requantize(sum, multiplier, zero_point) + i32::from(zero_point)) as u8;
                    }
                    Output::Added { to, zero_point, other, other_stride, addition } => {
                        let other = *other.add(pixel * other_stride + channel);
                        *to.add(offset) = addition.of(requantize(sum, multiplier, zero_point), other);
                    }
                    Output::Real(to) => *to.add(offset) = sum as f32 * multiplier,
                }
            }
        }
    }
}
