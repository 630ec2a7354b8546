//! What a student is off from its teachers (Hinton et al. 2015, arXiv:1503.02531).

use tch::{Kind, Tensor};

/// Kullback–Leibler divergence `[N]` of the student from its teachers, each softened by `temperature`, times its square,
/// so that gradients stay as large as those of labels. `student` and `teacher` are logits or logarithms of
/// probabilities `[N, C]`.
pub fn divergence(student: &Tensor, teacher: &Tensor, temperature: f64) -> Tensor {
    let kind = if student.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let softened = |logits: &Tensor| (logits.to_kind(kind) / temperature).log_softmax(1, kind);
    let (student, teacher) = (softened(student), softened(teacher));
    let each = teacher.exp() * (&teacher - student);
    each.sum_dim_intlist(1, false, kind) * (temperature * temperature)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn student() -> Tensor {
        let values = [1.5, -0.5, 0.2, 0.1, 2.0, -1.0, -0.3, 0.4, 0.9f64];
        Tensor::from_slice(&values).view([3, 3])
    }

    fn teacher() -> Tensor {
        let values = [2.0, -1.0, 0.0, 1.0, 1.0, 1.0, -3.0, 0.5, 2.5f64];
        Tensor::from_slice(&values).view([3, 3])
    }

    /// Values for each sample and the gradient of the third one's logits, as train/scripts/loss_golden.py prints them.
    #[test]
    fn values_and_gradients_as_pytorch() {
        GOLDEN.iter().for_each(|&(temperature, values, slopes)| {
            let logits = student().set_requires_grad(true);
            let loss = divergence(&logits, &teacher(), temperature);
            loss.sum(None).backward();
            for i in 0..3 {
                let found = [loss.double_value(&[i]), logits.grad().double_value(&[2, i])];
                let expected = [values[i as usize], slopes[i as usize]];
                let near =
                    found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-10);
                assert!(near, "at {temperature}: {found:?}, not {expected:?}");
            }
        });
    }

    const GOLDEN: [(f64, [f64; 3], [f64; 3]); 2] = [
        (
            1.0,
            [0.050283121962, 0.716505530254, 0.321804302759],
            [0.154294662115, 0.199158655412, -0.353453317527],
        ),
        (
            4.0,
            [0.092225536267, 0.782676913748, 1.211123947376],
            [0.585665672556, 0.040812099906, -0.626477772462],
        ),
    ];

    #[test]
    fn gradients_are_finite_differences() {
        let logits = student().set_requires_grad(true);
        divergence(&logits, &teacher(), 3.0).sum(None).backward();
        let step = 1e-5;
        for (row, class) in (0..3).flat_map(|row| (0..3).map(move |class| (row, class))) {
            let at = |by: f64| {
                let moved = logits.detach().copy();
                let _ = moved.get(row).get(class).g_add_scalar_(by);
                divergence(&moved, &teacher(), 3.0).sum(None).double_value(&[])
            };
            let expected = (at(step) - at(-step)) / (2.0 * step);
            let found = logits.grad().double_value(&[row, class]);
            assert!((found - expected).abs() < 1e-8, "at {row}, {class}: {found}, not {expected}");
        }
    }

    #[test]
    fn a_student_that_says_the_same_is_off_by_nothing() {
        // Logits are the same up to a constant.
        let off = divergence(&(teacher() + 7.0), &teacher(), 2.0);
        assert!(off.abs().max().double_value(&[]) < 1e-12);
        // No probability at all, as of a teacher that is certain, is no NaN.
        let certain = Tensor::from_slice(&[0.0f64, -60000.0, -60000.0]).view([1, 3]);
        let off = divergence(&Tensor::zeros([1, 3], (Kind::Double, tch::Device::Cpu)), &certain, 1.0);
        assert!((off.double_value(&[0]) - 3f64.ln()).abs() < 1e-12);
    }
}
