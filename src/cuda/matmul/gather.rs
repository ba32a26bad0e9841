//! The geometry of convolutions and their transposes, as products whose left rows are gathered from pixels
//! (implicit GEMM). Output pixels are divided into classes by the remainders of their coordinates. Within a
//! class, the input pixels and the kernel positions that an output pixel reads are affine functions of its
//! coordinates and of the tap:
//!
//! - forward: one class;
//! - forward on an image upsampled by two: four classes, with a kernel whose neighbouring positions have been
//!   summed (`fold` of conv.cu); 4 of the 9 products of a 3x3 kernel are left;
//! - transpose with stride `s`: `s x s` classes, and each kernel position belongs to one of them;
//! - transpose on the upsampled image: one class, with the same folded kernel, at every other pixel of the
//!   cotangent.

use crate::backend::Conv;
use crate::tensor::Shape;

/// A linear map is a convolution with a kernel of one pixel.
pub const POINT: Conv = Conv { stride: 1, pad: [0; 4], upsample: false };

/// The output pixels `step_out g + out`, with `g` below `grid`; all pairs are (down, across).
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    pub grid: [usize; 2],
    pub out: [usize; 2],
    /// Offset of the input pixel of the first tap from `step_in g`.
    pub first: [isize; 2],
    pub taps: [usize; 2],
    /// Kernel position of the first tap.
    pub kernel: [usize; 2],
}

/// All classes of an operation, those with most taps first.
#[derive(Clone, Debug, PartialEq)]
pub struct Gather {
    pub step_out: usize,
    pub step_in: usize,
    /// Input pixels from one tap to the next: 1 or -1.
    pub dstep: isize,
    /// Kernel positions from one tap to the next.
    pub kernel_step: usize,
    pub classes: Vec<Class>,
}

/// One axis of a class: `(first, taps, kernel)`.
type Axis = (isize, usize, usize);

/// How many of `k`, `k + step`, ... are at most `last`.
fn count(k: usize, step: usize, last: usize) -> usize {
    if k > last { 0 } else { (last - k) / step + 1 }
}

/// Output pixel `2g + q` of an upsampling convolution reads input pixel `g + t` with the kernel positions `2t
/// + pad - q` and the next, whose sum is position `2t + pad - q + 1` of the folded kernel.
fn upsampled(kernel: usize, pad: usize, q: usize) -> Axis {
    let first = (q as isize - pad as isize).div_euclid(2);
    let k = (2 * first + pad as isize + 1 - q as isize) as usize;
    (first, count(k, 2, kernel), k)
}

/// Input pixel `s g + q` was read by output pixel `g + (q + pad - k) / s` where that is whole.
fn transposed(kernel: usize, pad: usize, q: usize, s: usize) -> Axis {
    let k = (q + pad) % s;
    (((q + pad - k) / s) as isize, (kernel + s - 1 - k) / s, k)
}

impl Gather {
    /// Of a convolution that makes `out`; `kernel` is the weight's own.
    #[track_caller]
    pub fn forward(out: Shape, kernel: [usize; 2], conv: Conv) -> Gather {
        assert!(!conv.upsample || conv.stride == 1, "a strided convolution of an upsampled image");
        let pad = [conv.pad[0], conv.pad[2]];
        if conv.upsample {
            return Gather::new(out, [2, 1], 1, 2, |i, q| upsampled(kernel[i], pad[i], q));
        }
        Gather::new(out, [1, conv.stride], 1, 1, |i, _| (-(pad[i] as isize), kernel[i], 0))
    }

    /// Of its transpose, which makes `dx`.
    pub fn transpose(dx: Shape, kernel: [usize; 2], conv: Conv) -> Gather {
        let pad = [conv.pad[0], conv.pad[2]];
        if conv.upsample {
            // Input pixel g stands at 2g and 2g + 1, read by outputs 2g + pad + 1 - k with position k of the
            // folded kernel.
            return Gather::new(dx, [1, 2], -1, 1, |i, _| (pad[i] as isize + 1, kernel[i] + 1, 0));
        }
        Gather::new(dx, [conv.stride, 1], -1, conv.stride, |i, q| {
            transposed(kernel[i], pad[i], q, conv.stride)
        })
    }

    /// Whether every pixel reads itself only.
    pub fn is_point(&self) -> bool {
        let [class] = &self.classes[..] else { return false };
        (self.step_out, self.step_in) == (1, 1) && class.taps == [1, 1] && class.first == [0, 0]
    }

    fn new(
        out: Shape,
        [step_out, step_in]: [usize; 2],
        dstep: isize,
        kernel_step: usize,
        axis: impl Fn(usize, usize) -> Axis,
    ) -> Gather {
        let sizes = [out.h, out.w];
        let class = |q: [usize; 2]| {
            let axes = [0, 1].map(|i| axis(i, q[i]));
            Class {
                grid: [0, 1].map(|i| sizes[i].saturating_sub(q[i]).div_ceil(step_out)),
                out: q,
                first: axes.map(|a| a.0),
                taps: axes.map(|a| a.1),
                kernel: axes.map(|a| a.2),
            }
        };
        let mut classes: Vec<_> =
            (0..step_out * step_out).map(|i| class([i / step_out, i % step_out])).collect();
        // The longest work starts first.
        classes.sort_by_key(|c| std::cmp::Reverse(c.taps[0] * c.taps[1]));
        Gather { step_out, step_in, dstep, kernel_step, classes }
    }
}

/// The gather of a linear map.
pub fn point(out: Shape) -> Gather {
    Gather::forward(out, [1, 1], POINT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_products_of_nine_are_left_on_an_upsampled_image() {
        let forward = Gather::forward(Shape::new(1, 8, 8, 1), [3, 3], Conv::UP3);
        assert_eq!(forward.classes.len(), 4);
        assert!(forward.classes.iter().all(|c| c.taps == [2, 2] && c.grid == [4, 4]));
        let transpose = Gather::transpose(Shape::new(1, 4, 4, 1), [3, 3], Conv::UP3);
        assert_eq!((transpose.classes.len(), transpose.classes[0].taps), (1, [4, 4]));
    }

    #[test]
    fn every_kernel_position_is_in_one_class_of_a_transpose() {
        for (stride, kernel) in [(1, 3), (2, 3), (3, 5), (4, 4), (3, 2)] {
            let conv = Conv { stride, pad: [1, 0, 2, 0], upsample: false };
            let gather = Gather::transpose(Shape::new(1, 9, 9, 1), [kernel, kernel], conv);
            let taps: usize = gather.classes.iter().map(|c| c.taps[0] * c.taps[1]).sum();
            assert_eq!(taps, kernel * kernel);
            let pixels: usize = gather.classes.iter().map(|c| c.grid[0] * c.grid[1]).sum();
            assert_eq!(pixels, 81);
        }
    }
}
