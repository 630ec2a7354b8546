//! What the other kernels are measured by: the window's sums, one after the other.

use super::{super::requantize, Kernel, Strip, Window};

pub(super) static KERNEL: Kernel =
    Kernel { widths: &[WIDTH], group: GROUP, group_bytes: GROUP, signed: false, order: |_, slot| slot, run };

const WIDTH: usize = 16;
const GROUP: usize = 4;

unsafe fn run(strip: &Strip, window: &Window, _width: usize) {
    let (side, rows, groups) = (window.side, window.rows(), window.groups(GROUP));
    for row in 0..rows {
        let output = strip.output[row];
        if output.is_null() {
            continue;
        }
        for column in 0..strip.output_columns {
            for channel in 0..strip.channels {
                // SAFETY: the caller promises that the strip's pointers reach as far as its fields say.
                unsafe {
                    let mut sum = *strip.bias.add(channel);
                    for across in 0..side {
                        let x = (column * window.step + across).checked_sub(strip.left);
                        let x = x.filter(|&x| x < strip.columns);
                        for down in 0..GROUP * groups {
                            let at = ((row * side + across) * groups + down / GROUP) * WIDTH + channel;
                            let weight = *strip.weights.add(GROUP * at + down % GROUP);
                            let value = x.map_or(strip.padding, |x| {
                                *strip.input[down].add(x * strip.steps[down] + channel)
                            });
                            sum += i32::from(value) * i32::from(weight);
                        }
                    }
                    let zero_point = strip.zero_point;
                    let value = requantize(sum, *strip.multipliers.add(channel), zero_point);
                    *output.add(column * strip.output_stride + channel) =
                        (value + i32::from(zero_point)) as u8;
                }
            }
        }
    }
}
