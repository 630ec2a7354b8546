//! YUV pixels as cameras and Y4M files deliver them, converted to RGB with the ITU-R BT.601 matrix.

use crate::frame::Picture;

/// The conversion of one sample triple, in 16-bit fixed point.
#[derive(Debug, Clone, Copy)]
pub struct Matrix {
    black: i32,
    luma: i32,
    red_v: i32,
    green_u: i32,
    green_v: i32,
    blue_u: i32,
}

/// BT.601 where luma runs from 16 to 235 and chroma from 16 to 240.
pub const LIMITED: Matrix =
    Matrix { black: 16, luma: 76_309, red_v: 104_597, green_u: -25_675, green_v: -53_279, blue_u: 132_201 };
/// BT.601 where all samples run from 0 to 255, as in JPEG.
pub const FULL: Matrix =
    Matrix { black: 0, luma: 65_536, red_v: 91_881, green_u: -22_554, green_v: -46_802, blue_u: 116_130 };

impl Matrix {
    #[inline]
    fn rgb(&self, y: u8, u: u8, v: u8) -> [u8; 3] {
        let luma = (i32::from(y) - self.black) * self.luma + (1 << 15);
        let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
        [luma + self.red_v * v, luma + self.green_u * u + self.green_v * v, luma + self.blue_u * u]
            .map(|channel| (channel >> 16).clamp(0, 255) as u8)
    }
}

/// Three planes, chroma halved `subsampling.0` times across and `subsampling.1` times down; the chroma of
/// an odd last column or row is kept. Planes hold at least `width * height` samples, or their share of it.
pub fn from_planes(
    width: u32,
    height: u32,
    [y, u, v]: [&[u8]; 3],
    subsampling: (u32, u32),
    matrix: Matrix,
) -> Picture {
    let (across, down) = subsampling;
    let chroma_width = width.div_ceil(1 << across) as usize;
    let mut picture = Picture::new(width, height);
    let rows = picture.chunks_exact_mut(3 * width as usize).zip(y.chunks_exact(width as usize));
    for (row, (rgb, y)) in rows.enumerate() {
        let chroma = (row >> down) * chroma_width;
        let (u, v) = (&u[chroma..][..chroma_width], &v[chroma..][..chroma_width]);
        for (x, (pixel, &y)) in rgb.chunks_exact_mut(3).zip(y).enumerate() {
            pixel.copy_from_slice(&matrix.rgb(y, u[x >> across], v[x >> across]));
        }
    }
    picture
}

/// Luma alone.
pub fn from_luma(width: u32, height: u32, y: &[u8], matrix: Matrix) -> Picture {
    let mut picture = Picture::new(width, height);
    for (pixel, &y) in picture.chunks_exact_mut(3).zip(y) {
        pixel.copy_from_slice(&matrix.rgb(y, 128, 128));
    }
    picture
}

/// Packed 4:2:2, `Y0 U Y1 V`. `None` if there are fewer than `2 * width * height` bytes or `width` is odd.
pub fn from_yuyv(width: u32, height: u32, bytes: &[u8]) -> Option<Picture> {
    from_packed(width, height, bytes, |[y0, u, y1, v]| [y0, u, y1, v])
}

/// Packed 4:2:2, `U Y0 V Y1`. `None` if there are fewer than `2 * width * height` bytes or `width` is odd.
pub fn from_uyvy(width: u32, height: u32, bytes: &[u8]) -> Option<Picture> {
    from_packed(width, height, bytes, |[u, y0, v, y1]| [y0, u, y1, v])
}

/// `order` brings four bytes into the order `Y0 U Y1 V`.
fn from_packed(width: u32, height: u32, bytes: &[u8], order: impl Fn([u8; 4]) -> [u8; 4]) -> Option<Picture> {
    if !width.is_multiple_of(2) {
        return None;
    }
    let bytes = bytes.get(..2 * width as usize * height as usize)?;
    let mut picture = Picture::new(width, height);
    for (pixels, group) in picture.chunks_exact_mut(6).zip(bytes.chunks_exact(4)) {
        let [y0, u, y1, v] = order([group[0], group[1], group[2], group[3]]);
        pixels[..3].copy_from_slice(&LIMITED.rgb(y0, u, v));
        pixels[3..].copy_from_slice(&LIMITED.rgb(y1, u, v));
    }
    Some(picture)
}

/// 4:2:0 in three planes. `None` if there are too few bytes.
pub fn from_yu12(width: u32, height: u32, bytes: &[u8]) -> Option<Picture> {
    let luma_size = width as usize * height as usize;
    let chroma_size = width.div_ceil(2) as usize * height.div_ceil(2) as usize;
    let (y, chroma) = bytes.get(..luma_size + 2 * chroma_size)?.split_at(luma_size);
    let (u, v) = chroma.split_at(chroma_size);
    Some(from_planes(width, height, [y, u, v], (1, 1), LIMITED))
}

/// 4:2:0 with the luma plane first and then U and V in turn. `None` if there are too few bytes or a side
/// is odd.
pub fn from_nv12(width: u32, height: u32, bytes: &[u8]) -> Option<Picture> {
    if !width.is_multiple_of(2) || !height.is_multiple_of(2) {
        return None;
    }
    let row = width as usize;
    let luma_size = row * height as usize;
    let (luma, chroma) = bytes.get(..luma_size + luma_size / 2)?.split_at(luma_size);
    let mut picture = Picture::new(width, height);
    for (index, (rgb, y)) in picture.chunks_exact_mut(3 * row).zip(luma.chunks_exact(row)).enumerate() {
        let uv = &chroma[index / 2 * row..][..row];
        for ((pixels, y), uv) in rgb.chunks_exact_mut(6).zip(y.chunks_exact(2)).zip(uv.chunks_exact(2)) {
            pixels[..3].copy_from_slice(&LIMITED.rgb(y[0], uv[0], uv[1]));
            pixels[3..].copy_from_slice(&LIMITED.rgb(y[1], uv[0], uv[1]));
        }
    }
    Some(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 % colour bars, from ITU-R BT.601 and BT.801.
    const BARS: [([u8; 3], [u8; 3]); 8] = [
        ([235, 128, 128], [255, 255, 255]),
        ([210, 16, 146], [255, 255, 0]),
        ([170, 166, 16], [0, 255, 255]),
        ([145, 54, 34], [0, 255, 0]),
        ([106, 202, 222], [255, 0, 255]),
        ([81, 90, 240], [255, 0, 0]),
        ([41, 240, 110], [0, 0, 255]),
        ([16, 128, 128], [0, 0, 0]),
    ];

    fn assert_near(found: [u8; 3], expected: [u8; 3]) {
        let near = found.iter().zip(expected).all(|(&a, b)| a.abs_diff(b) <= 2);
        assert!(near, "{found:?} is not near {expected:?}");
    }

    #[test]
    fn colour_bars_come_out_in_their_colours() {
        for ([y, u, v], rgb) in BARS {
            assert_near(LIMITED.rgb(y, u, v), rgb);
        }
    }

    #[test]
    fn full_range_keeps_black_and_white() {
        assert_eq!(FULL.rgb(0, 128, 128), [0, 0, 0]);
        assert_eq!(FULL.rgb(255, 128, 128), [255, 255, 255]);
        assert_near(FULL.rgb(76, 85, 255), [255, 0, 0]);
    }

    #[test]
    fn every_layout_puts_pixels_in_their_place() {
        let [red, blue] = [BARS[5].0, BARS[6].0];
        let is_red_then_blue = |picture: &Picture| {
            for (x, _, pixel) in picture.enumerate_pixels() {
                assert_near(pixel.0, if x < 2 { [255, 0, 0] } else { [0, 0, 255] });
            }
        };
        let [ry, ru, rv] = red;
        let [by, bu, bv] = blue;
        let luma = [ry, ry, by, by, ry, ry, by, by];
        is_red_then_blue(&from_planes(4, 2, [&luma, &[ru, bu], &[rv, bv]], (1, 1), LIMITED));
        is_red_then_blue(&from_planes(4, 2, [&luma, &[ru, bu, ru, bu], &[rv, bv, rv, bv]], (1, 0), LIMITED));
        let nv12 = [&luma[..], &[ru, rv, bu, bv]].concat();
        is_red_then_blue(&from_nv12(4, 2, &nv12).unwrap());
        let yuyv = [ry, ru, ry, rv, by, bu, by, bv].repeat(2);
        is_red_then_blue(&from_yuyv(4, 2, &yuyv).unwrap());
        let uyvy = [ru, ry, rv, ry, bu, by, bv, by].repeat(2);
        is_red_then_blue(&from_uyvy(4, 2, &uyvy).unwrap());
        let yu12 = [&luma[..], &[ru, bu], &[rv, bv]].concat();
        is_red_then_blue(&from_yu12(4, 2, &yu12).unwrap());
    }

    #[test]
    fn too_few_bytes_give_no_picture() {
        assert!(from_yuyv(4, 2, &[0; 15]).is_none());
        assert!(from_nv12(4, 2, &[0; 11]).is_none());
        assert!(from_yuyv(4, 2, &[0; 20]).is_some());
    }

    #[test]
    fn odd_sizes_keep_their_last_column_and_row() {
        let picture = from_planes(3, 3, [&[235; 9], &[128; 4], &[128; 4]], (1, 1), LIMITED);
        assert!(picture.pixels().all(|pixel| pixel.0 == [255, 255, 255]));
    }
}
