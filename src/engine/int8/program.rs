//! A network as a list of layers, and the memory that it runs in at one input size.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use super::super::kernels::{
    Aligned, InstructionSet,
    addition::add,
    depthwise::Depthwise,
    pointwise::{self, Addition, Pointwise, Target, Windows},
    requantize, stride,
};

/// What a u8 stands for: `scale × (q − zero_point)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantization {
    pub scale: f32,
    pub zero_point: u8,
}

/// A tensor, by its place in [`Program::channels`]; [`PICTURE`] is the first.
pub type TensorId = usize;

/// The input: `[N, H, W, 3]` bytes, three to a pixel.
pub const PICTURE: TensorId = 0;

/// Layers whose inputs and outputs of all pictures are larger than this, in bytes, see one picture after the other: they
/// would leave the second-level cache, and their weights are small.
const CACHE: usize = 600 << 10;

/// One step of a network.
pub struct Layer {
    pub name: String,
    pub operation: Operation,
    pub inputs: Vec<TensorId>,
    pub output: TensorId,
}

pub enum Operation {
    /// A convolution with a window.
    Dense {
        window: Patch,
        product: Pointwise,
    },
    Pointwise(Pointwise),
    /// A pointwise convolution whose result is added to the second input.
    PointwiseAdd(Pointwise, Addition),
    Depthwise {
        kernel: Depthwise,
        geometry: Geometry,
    },
    /// The first input's zero point comes from its own quantisation.
    Add {
        addition: Addition,
        a_zero_point: u8,
    },
    /// The largest of 2×2 pixels.
    MaxPool,
    /// Nearest-neighbour enlargement by 2.
    Upsample,
    /// The mean of all pixels: `multiplier` is for their mean without zero points.
    Pool {
        multiplier: f32,
        input_zero_point: u8,
        zero_point: u8,
    },
}

impl Operation {
    /// What people call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dense { .. } => "convolution",
            Self::Pointwise(_) => "pointwise",
            Self::PointwiseAdd(..) => "pointwise + add",
            Self::Depthwise { .. } => "depthwise",
            Self::Add { .. } => "add",
            Self::MaxPool => "maximum",
            Self::Upsample => "upsample",
            Self::Pool { .. } => "pool",
        }
    }
}

/// How a window moves over a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    pub side: usize,
    pub step: usize,
    /// Padding: above, left, below, right.
    pub padding: [usize; 4],
}

impl Geometry {
    /// Height and width of the result; 0 where the window doesn't fit.
    pub fn output(&self, [h, w]: [usize; 2]) -> [usize; 2] {
        let Self { side, step, padding: [above, left, below, right] } = *self;
        let count = |length: usize| length.checked_sub(side).map_or(0, |rest| rest / step + 1);
        [count(h + above + below), count(w + left + right)]
    }
}

/// The window of a dense convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    pub geometry: Geometry,
    pub channels: usize,
    /// The input's zero point, which is what lies outside.
    pub padding: u8,
}

/// A result that leaves the program.
#[derive(Debug, Clone, PartialEq)]
pub struct Exit {
    /// Its name in the ONNX graph.
    pub name: String,
    pub tensor: TensorId,
    /// How to make f32 of a quantised tensor; none for one that is f32 already.
    pub quantization: Option<Quantization>,
    /// Without height and width, `[N, C]`, rather than `[N, C, H, W]`.
    pub flat: bool,
}

/// The layers of a network, packed for one instruction set, at any input size.
pub struct Program {
    pub set: InstructionSet,
    pub layers: Vec<Layer>,
    /// Of each tensor.
    pub channels: Vec<usize>,
    /// Which tensors hold f32.
    pub real: Vec<bool>,
    pub exits: Vec<Exit>,
}

/// A shape that a network can't take.
#[derive(Debug, Clone, thiserror::Error)]
#[error("layer {layer} is left with nothing of a {height}×{width} picture")]
pub struct TooSmall {
    layer: String,
    height: usize,
    width: usize,
}

/// Buffers for a program at one input shape, planned once: running allocates nothing.
#[derive(Debug, Clone)]
pub struct Memory {
    pictures: usize,
    /// The first layer that runs on all pictures at once; those before it run on one picture after the other.
    together: usize,
    /// Height and width of each tensor.
    sizes: Vec<[usize; 2]>,
    /// Bytes of each quantised tensor from one picture to the next; 0 where there is room for one only, and for f32.
    picture_bytes: Vec<usize>,
    /// The buffer of each quantised tensor but the picture.
    slots: Vec<usize>,
    buffers: Vec<Aligned<u8>>,
    /// f32 tensors, empty for the others.
    reals: Vec<Vec<f32>>,
    scratch: Aligned<u8>,
}

impl Memory {
    /// The shape of an exit, as the graph's other operators expect it: `[N, C, H, W]` or `[N, C]`.
    pub fn exit_shape(&self, program: &Program, exit: &Exit) -> Vec<usize> {
        let (channels, [h, w]) = (program.channels[exit.tensor], self.sizes[exit.tensor]);
        if exit.flat { vec![self.pictures, channels] } else { vec![self.pictures, channels, h, w] }
    }

    /// Writes what left there in the last run, of [`Memory::exit_shape`].
    ///
    /// # Panics
    /// When there is no room for so many values.
    pub fn exit(&self, program: &Program, exit: &Exit, values: &mut [f32]) {
        let channels = program.channels[exit.tensor];
        let [h, w] = self.sizes[exit.tensor];
        let pixels = h * w;
        let values = &mut values[..self.pictures * channels * pixels];
        for (picture, values) in values.chunks_exact_mut((channels * pixels).max(1)).enumerate() {
            match exit.quantization {
                None => {
                    let from = &self.reals[exit.tensor][picture * channels * pixels..];
                    for (pixel, from) in from.chunks_exact(channels).take(pixels).enumerate() {
                        for (channel, &value) in from.iter().enumerate() {
                            values[channel * pixels + pixel] = value;
                        }
                    }
                }
                Some(Quantization { scale, zero_point }) => {
                    let step = stride(channels);
                    let from = &self.buffers[self.slots[exit.tensor]][picture * pixels * step..];
                    for (pixel, from) in from.chunks_exact(step).take(pixels).enumerate() {
                        for (channel, &value) in from[..channels].iter().enumerate() {
                            values[channel * pixels + pixel] =
                                (i32::from(value) - i32::from(zero_point)) as f32 * scale;
                        }
                    }
                }
            }
        }
    }
}

impl Program {
    /// Plans the memory for `pictures` pictures of this height and width.
    ///
    /// # Errors
    /// When a picture is too small for the network's windows.
    pub fn memory(&self, pictures: usize, size: [usize; 2]) -> Result<Memory, TooSmall> {
        let mut sizes = vec![[0, 0]; self.channels.len()];
        sizes[PICTURE] = size;
        let mut scratch = 0;
        for layer in &self.layers {
            let input = sizes[layer.inputs[0]];
            let output = match &layer.operation {
                Operation::Dense { window, .. } => {
                    let output = window.geometry.output(input);
                    scratch = scratch.max(window.scratch(input[1]));
                    output
                }
                Operation::Depthwise { kernel, geometry } => {
                    let output = geometry.output(input);
                    if output[1] > 0 {
                        scratch = scratch.max(kernel.scratch(input[1], output[1]));
                    }
                    output
                }
                Operation::Pointwise(_) | Operation::PointwiseAdd(..) | Operation::Add { .. } => input,
                Operation::MaxPool => [input[0] / 2, input[1] / 2],
                Operation::Upsample => [2 * input[0], 2 * input[1]],
                Operation::Pool { .. } => [1, 1],
            };
            if output.contains(&0) || input.contains(&0) {
                let [height, width] = size;
                return Err(TooSmall { layer: layer.name.clone(), height, width });
            }
            sizes[layer.output] = output;
        }

        let last_use = |tensor: TensorId| {
            let kept = self.exits.iter().any(|exit| exit.tensor == tensor);
            let read = self.layers.iter().rposition(|layer| layer.inputs.contains(&tensor));
            if kept { usize::MAX } else { read.unwrap_or(0) }
        };
        let bytes = |tensor: TensorId| sizes[tensor][0] * sizes[tensor][1] * stride(self.channels[tensor]);
        let too_large = |layer: &Layer| {
            pictures * (bytes(layer.inputs[0]) + bytes(layer.output)) > CACHE || layer.inputs[0] == PICTURE
        };
        let together = match pictures {
            1 => 0,
            _ => self.layers.iter().rposition(too_large).map_or(0, |last| last + 1),
        };
        let mut memory = Memory {
            pictures,
            together,
            picture_bytes: (0..self.channels.len()).map(bytes).collect(),
            slots: vec![usize::MAX; self.channels.len()],
            buffers: Vec::new(),
            reals: vec![Vec::new(); self.channels.len()],
            scratch: vec![0; scratch].into(),
            sizes,
        };
        // The buffer freed last is taken first: it is the one most likely to be in the cache.
        let mut free: Vec<usize> = Vec::new();
        let mut lengths: Vec<usize> = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let tensor = layer.output;
            let [h, w] = memory.sizes[tensor];
            let pixels = pictures * h * w;
            if self.real[tensor] {
                memory.reals[tensor] = vec![0.0; pixels * self.channels[tensor]];
                memory.picture_bytes[tensor] = 0;
            } else {
                // What waits for the other pictures keeps its memory for itself.
                let waits = index < together && last_use(tensor) >= together;
                let slot = if waits { None } else { free.pop() };
                let slot = slot.unwrap_or_else(|| {
                    lengths.push(0);
                    lengths.len() - 1
                });
                let alone = index < together && !waits;
                let length = memory.picture_bytes[tensor] * if alone { 1 } else { pictures };
                if alone {
                    memory.picture_bytes[tensor] = 0;
                }
                lengths[slot] = lengths[slot].max(length);
                memory.slots[tensor] = slot;
            }
            for &input in &layer.inputs {
                if input != PICTURE && last_use(input) == index && !free.contains(&memory.slots[input]) {
                    free.push(memory.slots[input]);
                }
            }
        }
        memory.buffers = lengths.into_iter().map(|length| vec![0; length].into()).collect();
        Ok(memory)
    }

    /// Runs all layers on `pixels`, `[N, H, W, 3]` of the memory's shape; the results stay in the memory.
    ///
    /// # Panics
    /// When there are not so many pixels.
    pub fn run(&self, pixels: &[u8], memory: &mut Memory) {
        self.run_with(pixels, memory, |_| {});
    }

    /// As [`Program::run`]; gives the time of each layer.
    pub fn profile(&self, pixels: &[u8], memory: &mut Memory) -> Vec<Duration> {
        let mut times = vec![Duration::ZERO; self.layers.len()];
        let mut started = Instant::now();
        self.run_with(pixels, memory, |layer| {
            times[layer] += started.elapsed();
            started = Instant::now();
        });
        times
    }

    /// Tells which layer was run, each time.
    fn run_with(&self, pixels: &[u8], memory: &mut Memory, mut done: impl FnMut(usize)) {
        let (pictures, together) = (memory.pictures, memory.together);
        for picture in 0..pictures {
            for (index, layer) in self.layers[..together].iter().enumerate() {
                self.step(layer, pixels, memory, picture..picture + 1);
                done(index);
            }
        }
        for (index, layer) in self.layers.iter().enumerate().skip(together) {
            self.step(layer, pixels, memory, 0..pictures);
            done(index);
        }
    }

    fn step(&self, layer: &Layer, pixels: &[u8], memory: &mut Memory, pictures: Range<usize>) {
        let Memory { sizes, picture_bytes, slots, buffers, reals, scratch, .. } = memory;
        let (first, pictures) = (pictures.start, pictures.len());
        let ([h, w], [oh, ow]) = (sizes[layer.inputs[0]], sizes[layer.output]);
        let channels = self.channels[layer.inputs[0]];
        // Taken out while it is written to, so that the inputs' buffers can be read.
        let mut buffer = match slots[layer.output] {
            usize::MAX => Aligned::default(),
            slot => std::mem::take(&mut buffers[slot]),
        };
        let written = &mut buffer[first * picture_bytes[layer.output]..];
        let read = |n: usize| match layer.inputs[n] {
            PICTURE => &pixels[first * h * w * self.channels[PICTURE]..],
            tensor => &buffers[slots[tensor]][first * picture_bytes[tensor]..],
        };
        let real = match self.real[layer.output] {
            true => &mut reals[layer.output][first * oh * ow * self.channels[layer.output]..],
            false => &mut [][..],
        };
        match &layer.operation {
            Operation::Pointwise(product) => {
                let target =
                    if self.real[layer.output] { Target::Real(real) } else { Target::Quantized(written) };
                product.run(read(0), pictures * h * w, target);
            }
            Operation::PointwiseAdd(product, addition) => {
                let target = Target::Added { to: written, other: read(1), addition: *addition };
                product.run(read(0), pictures * h * w, target);
            }
            Operation::Dense { window, product } => {
                let (from_step, to_step) =
                    (pixel_bytes(layer.inputs[0], channels), stride(product.outputs()));
                for picture in 0..pictures {
                    let from = &read(0)[picture * h * w * from_step..][..h * w * from_step];
                    for row in 0..oh {
                        let windows = window.lines(from, [h, w], from_step, row, scratch);
                        let at = (picture * oh + row) * ow;
                        let target = if self.real[layer.output] {
                            Target::Real(&mut real[at * product.outputs()..])
                        } else {
                            Target::Quantized(&mut written[at * to_step..])
                        };
                        product.run_windows(&windows, ow, target);
                    }
                }
            }
            Operation::Depthwise { kernel, .. } => {
                let step = stride(channels);
                for picture in 0..pictures {
                    let from = &read(0)[picture * h * w * step..];
                    let to = &mut written[picture * oh * ow * step..];
                    kernel.run(from, [h, w], to, [oh, ow], scratch);
                }
            }
            Operation::Add { addition, a_zero_point } => {
                let length = pictures * h * w * stride(channels);
                add(self.set, &read(0)[..length], *a_zero_point, &read(1)[..length], *addition, written);
            }
            Operation::MaxPool => {
                let step = stride(channels);
                for picture in 0..pictures {
                    let from = &read(0)[picture * h * w * step..][..h * w * step];
                    let to = &mut written[picture * oh * ow * step..][..oh * ow * step];
                    for (rows, to) in from.chunks_exact(2 * w * step).zip(to.chunks_exact_mut(ow * step)) {
                        let (above, below) = rows.split_at(w * step);
                        max_pool(above, below, step, to);
                    }
                }
            }
            Operation::Upsample => {
                let step = stride(channels);
                let rows = read(0)[..pictures * h * w * step].chunks_exact(w * step);
                for (row, to) in rows.zip(written.chunks_exact_mut(2 * ow * step)) {
                    let (first, second) = to.split_at_mut(ow * step);
                    for (pixel, to) in row.chunks_exact(step).zip(first.chunks_exact_mut(2 * step)) {
                        let (left, right) = to.split_at_mut(step);
                        left.copy_from_slice(pixel);
                        right.copy_from_slice(pixel);
                    }
                    second.copy_from_slice(first);
                }
            }
            Operation::Pool { multiplier, input_zero_point, zero_point } => {
                let step = stride(channels);
                let multiplier = multiplier / (h * w) as f32;
                let bias = -((h * w) as i32) * i32::from(*input_zero_point);
                for picture in 0..pictures {
                    let from = &read(0)[picture * h * w * step..][..h * w * step];
                    pool(from, bias, multiplier, *zero_point, &mut written[picture * step..][..step]);
                }
            }
        }
        if let slot @ 0..usize::MAX = slots[layer.output] {
            buffers[slot] = buffer;
        }
    }
}

/// Bytes from one pixel of a tensor to the next.
fn pixel_bytes(tensor: TensorId, channels: usize) -> usize {
    if tensor == PICTURE { channels } else { stride(channels) }
}

impl Patch {
    /// Bytes of a line of the picture with its padding.
    fn line(&self, columns: usize) -> usize {
        let [_, left, _, right] = self.geometry.padding;
        (left + columns + right) * self.channels
    }

    /// Bytes of scratch memory for a picture with so many columns.
    fn scratch(&self, columns: usize) -> usize {
        self.geometry.side * self.line(columns) + pointwise::SLACK
    }

    /// The lines of the picture under a row of windows, with what pads them. `pixel` is the number of bytes from one
    /// pixel of the picture to the next.
    fn lines<'s>(
        &self,
        from: &[u8],
        [h, w]: [usize; 2],
        pixel: usize,
        row: usize,
        scratch: &'s mut [u8],
    ) -> Windows<'s> {
        let Geometry { step, padding: [above, left, ..], .. } = self.geometry;
        let (channels, line_stride) = (self.channels, self.line(w));
        let lines = &mut scratch[..self.scratch(w)];
        for (down, to) in lines.chunks_exact_mut(line_stride).take(self.geometry.side).enumerate() {
            to.fill(self.padding);
            let Some(y) = (row * step + down).checked_sub(above).filter(|&y| y < h) else { continue };
            let (from, to) =
                (&from[y * w * pixel..][..w * pixel], &mut to[left * channels..][..w * channels]);
            if pixel == channels {
                to.copy_from_slice(from);
            } else {
                for (from, to) in from.chunks_exact(pixel).zip(to.chunks_exact_mut(channels)) {
                    to.copy_from_slice(&from[..channels]);
                }
            }
        }
        Windows { lines, line_stride, step: step * channels }
    }
}

/// A line of the largest values of 2×2 pixels, `step` bytes each, in two lines.
fn max_pool(above: &[u8], below: &[u8], step: usize, to: &mut [u8]) {
    let pairs = above.chunks_exact(2 * step).zip(below.chunks_exact(2 * step));
    for ((above, below), to) in pairs.zip(to.chunks_exact_mut(step)) {
        let ((a, b), (c, d)) = (above.split_at(step), below.split_at(step));
        for ((((&a, &b), &c), &d), to) in a.iter().zip(b).zip(c).zip(d).zip(to) {
            *to = a.max(b).max(c.max(d));
        }
    }
}

/// The sum of all pixels, scaled.
fn pool(from: &[u8], bias: i32, multiplier: f32, zero_point: u8, to: &mut [u8]) {
    const CHUNK: usize = 64;
    let step = to.len();
    for (first, to) in to.chunks_mut(CHUNK).enumerate().map(|(n, to)| (n * CHUNK, to)) {
        let mut sums = [bias; CHUNK];
        for pixel in from.chunks_exact(step) {
            for (sum, &value) in sums.iter_mut().zip(&pixel[first..first + to.len()]) {
                *sum += i32::from(value);
            }
        }
        for (to, sum) in to.iter_mut().zip(sums) {
            *to = (requantize(sum, multiplier, zero_point) + i32::from(zero_point)) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_fit_as_often_as_they_should() {
        let geometry = Geometry { side: 3, step: 2, padding: [0, 0, 1, 1] };
        assert_eq!(geometry.output([112, 5]), [56, 2]);
        assert_eq!(geometry.output([1, 2]), [0, 1]);
    }

    #[test]
    fn a_row_of_windows_has_padding_where_the_picture_ends() {
        let geometry = Geometry { side: 3, step: 2, padding: [1, 1, 1, 1] };
        let window = Patch { geometry, channels: 1, padding: 9 };
        let mut scratch = vec![0; window.scratch(3)];
        let Windows { lines, line_stride, step } =
            window.lines(&[1, 2, 3, 4, 5, 6], [2, 3], 1, 0, &mut scratch);
        assert_eq!((line_stride, step), (5, 2));
        assert_eq!(lines[..15], [9, 9, 9, 9, 9, 9, 1, 2, 3, 9, 9, 4, 5, 6, 9]);
    }
}
