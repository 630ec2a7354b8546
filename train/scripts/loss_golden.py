"""Prints PyTorch's losses: the golden values in train/src/loss/mod.rs and distillation.rs.

    pip install torch
    python loss_golden.py
"""

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, one_hot

LOGITS = torch.tensor(
    [[1.5, -0.5, 0.2], [0.1, 2.0, -1.0], [-0.3, 0.4, 0.9], [2.0, 1.0, 0.0], [0.0, 0.0, 3.0]],
    dtype=torch.float64,
    requires_grad=True,
)
TARGETS = torch.tensor([0, 1, 0, 2, 2])
SAMPLES = torch.tensor([1.0, 0.5, 1.0, 0.0, 2.0], dtype=torch.float64)
COUNTS = torch.tensor([100.0, 20.0, 5.0], dtype=torch.float64)


def soft_f1(samples):
    p = LOGITS.softmax(1) * samples[:, None]
    y = one_hot(TARGETS, 3) * samples[:, None]
    hits = (LOGITS.softmax(1) * y).sum(0)
    return 1 - (2 * hits / (p.sum(0) + y.sum(0))).mean()


def focal(gamma):
    p = LOGITS.softmax(1).gather(1, TARGETS[:, None])[:, 0]
    return ((1 - p) ** gamma * cross_entropy(LOGITS, TARGETS, reduction="none")).mean()


balanced = COUNTS.sum() / (3 * COUNTS)
effective = (1 - 0.99) / (1 - 0.99**COUNTS)
effective = effective * 3 / effective.sum()
each = cross_entropy(LOGITS, TARGETS, reduction="none")

VALUES = {
    "ce": cross_entropy(LOGITS, TARGETS),
    "ce, samples": (SAMPLES * each).sum() / SAMPLES.sum(),
    "weighted-ce": cross_entropy(LOGITS, TARGETS, weight=balanced),
    "effective-ce, beta 0.99": cross_entropy(LOGITS, TARGETS, weight=effective),
    "smooth, 0.1": cross_entropy(LOGITS, TARGETS, label_smoothing=0.1),
    "focal, gamma 2": focal(2),
    "f1": soft_f1(torch.ones(5, dtype=torch.float64)),
    "f1, samples": soft_f1(SAMPLES),
}
for name, value in VALUES.items():
    (gradient,) = torch.autograd.grad(value, LOGITS, retain_graph=True)
    print(f"{name}: {value.item():.12f}, gradient of the third row {[round(v, 12) for v in gradient[2].tolist()]}")

STUDENT = LOGITS[:3]
TEACHER = torch.tensor([[2.0, -1.0, 0.0], [1.0, 1.0, 1.0], [-3.0, 0.5, 2.5]], dtype=torch.float64)
for temperature in (1.0, 4.0):
    softened = [log_softmax(logits / temperature, 1) for logits in (STUDENT, TEACHER)]
    value = kl_div(*softened, reduction="none", log_target=True).sum(1) * temperature**2
    (gradient,) = torch.autograd.grad(value.sum(), LOGITS, retain_graph=True)
    rounded = [[round(v, 12) for v in values.tolist()] for values in (value, gradient[2])]
    print(f"distillation, temperature {temperature}: {rounded[0]}, gradient of the third row {rounded[1]}")
