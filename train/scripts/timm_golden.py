"""Random weights of timm's networks and the logits that timm gives for them.

    pip install timm torch safetensors
    python timm_golden.py OUT_FOLDER NAME...

Writes OUT_FOLDER/NAME.safetensors, the weights, and NAME.answers.safetensors with `images` and `logits`.
"""

import pathlib
import sys

import timm
import torch
from safetensors.torch import save_file


def main() -> None:
    folder, names = pathlib.Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    for name in names:
        torch.manual_seed(7)
        model = timm.create_model(name, num_classes=18)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.rand_like(parameter) * 0.4 - 0.2)
            # Batch norm statistics as after training.
            model.train()
            for _ in range(3):
                model(torch.randn(4, 3, 64, 64))
            model.eval()
            images = torch.randn(2, 3, 64, 72)
            logits = model(images)
            # Logits of the size that trained weights give.
            model.classifier.weight.div_(logits.std())
            model.classifier.bias.zero_()
            logits = model(images)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / f"{name}.safetensors")
        save_file({"images": images, "logits": logits}, folder / f"{name}.answers.safetensors")


if __name__ == "__main__":
    main()
