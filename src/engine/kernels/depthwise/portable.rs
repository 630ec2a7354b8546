//! What the other kernels are measured by: a tap after the other, straight from the input.

use super::{super::requantize, Kernel, Strip, Window};

pub(super) static KERNEL: Kernel =
    Kernel { widths: &[WIDTH], group: 1, group_bytes: 0, signed: false, order: |_, slot| slot, run };

const WIDTH: usize = 16;

unsafe fn run(strip: &Strip, window: &Window, _width: usize) {
    let Window { side, step } = *window;
    // SAFETY: the caller promises that the strip's pointers reach as far as its fields say.
    let (bias, multipliers, weights) = unsafe {
        (
            std::slice::from_raw_parts(strip.bias, WIDTH),
            std::slice::from_raw_parts(strip.multipliers, WIDTH),
            // Those of the first row of the output serve the second one too.
            std::slice::from_raw_parts(strip.weights, side * window.groups(1) * WIDTH),
        )
    };
    let padding = [strip.padding; WIDTH];
    let outputs = strip.output.iter().enumerate().filter(|(_, output)| !output.is_null());
    for (row, &output) in outputs {
        for column in 0..strip.output_columns {
            let mut sums = [0; WIDTH];
            sums.copy_from_slice(bias);
            for across in 0..side {
                let x = (column * step + across).checked_sub(strip.left).filter(|&x| x < strip.columns);
                for down in 0..side {
                    let at = row * step + down;
                    let values = match x {
                        // SAFETY: as above.
                        Some(x) => unsafe {
                            let pixel = strip.input[at].add(x * strip.steps[at]);
                            std::slice::from_raw_parts(pixel, strip.channels)
                        },
                        None => &padding[..strip.channels],
                    };
                    let weights = &weights[(across * window.groups(1) + down) * WIDTH..][..WIDTH];
                    for ((sum, &value), &weight) in sums.iter_mut().zip(values).zip(weights) {
                        *sum += i32::from(value) * i32::from(weight);
                    }
                }
            }
            for channel in 0..strip.channels {
                let value = requantize(sums[channel], multipliers[channel], strip.zero_point);
                // SAFETY: as above.
                unsafe {
                    *output.add(column * strip.output_stride + channel) =
                        (value + i32::from(strip.zero_point)) as u8;
                }
            }
        }
    }
}
