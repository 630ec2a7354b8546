"""Prints what PyTorch's and the authors' optimisers do: the golden values of train/src/optimizer/golden.rs.

    pip install torch madgrad
    python optimizer_golden.py
"""

import madgrad
import torch

# Minimises Σ curvature·(x − target)² from `start`, at a rate that falls from step to step.
START = torch.tensor([[1.0, -2.0, 0.5, 3.0]], dtype=torch.float64)
TARGET = torch.tensor([0.2, 0.4, -1.0, 2.5], dtype=torch.float64)
CURVATURE = torch.tensor([1.0, 0.1, 3.0, 0.5], dtype=torch.float64)
STEPS = 6

OPTIMIZERS = {
    "ADAMW": lambda x: torch.optim.AdamW([x], weight_decay=0.1),
    "SGD": lambda x: torch.optim.SGD([x], momentum=0.9, weight_decay=0.1),
    "SGD_NESTEROV": lambda x: torch.optim.SGD([x], momentum=0.9, nesterov=True, weight_decay=0.1),
    "MADGRAD": lambda x: madgrad.MADGRAD([x], momentum=0.9, weight_decay=0.1),
    "MADGRAD_PLAIN": lambda x: madgrad.MADGRAD([x], momentum=0.0, weight_decay=0.0),
}

for name, make in OPTIMIZERS.items():
    x = START.clone().requires_grad_()
    optimizer = make(x)
    print(f"pub const {name}: Golden = [")
    for step in range(STEPS):
        optimizer.zero_grad()
        (CURVATURE * (x - TARGET) ** 2).sum().backward()
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        optimizer.step()
        print("    [" + ", ".join(f"{v:.12f}" for v in x.detach()[0].tolist()) + "],")
    print("];")
