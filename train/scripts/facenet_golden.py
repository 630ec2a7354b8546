"""Random weights of facenet-pytorch's network and the logits that it gives with them.

    pip install torch safetensors requests tqdm torchvision && pip install --no-deps facenet-pytorch==2.6.0
    python facenet_golden.py OUT_FOLDER

Writes OUT_FOLDER/inception_resnet_v1.safetensors, the weights, and inception_resnet_v1.answers.safetensors with `images`
and `logits`: pictures are standardised one by one, and a linear layer follows the mean over all pixels.
"""

import pathlib
import sys

import torch
from facenet_pytorch import InceptionResnetV1
from safetensors.torch import save_file


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(7)
    model = InceptionResnetV1()
    classifier = torch.nn.Linear(1792, 18)
    features = []
    model.avgpool_1a.register_forward_hook(lambda module, inputs, output: features.append(output.flatten(1)))

    def logits_of(images: torch.Tensor) -> torch.Tensor:
        axes = (1, 2, 3)
        features.clear()
        deviation = images.std(axes, correction=0, keepdim=True)
        model((images - images.mean(axes, keepdim=True)) / deviation)
        return classifier(features[0])

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.rand_like(parameter) * 0.4 - 0.2)
        # Batch norm statistics as after training.
        model.train()
        for _ in range(3):
            logits_of(torch.randn(4, 3, 96, 96))
        model.eval()
        images = 0.3 * torch.randn(2, 3, 96, 112) + 0.1
        logits = logits_of(images)
        # Logits of the size that trained weights give.
        classifier.weight.div_(logits.std())
        classifier.bias.zero_()
        logits = logits_of(images)
    state = model.state_dict() | {f"classifier.{k}": v for k, v in classifier.state_dict().items()}
    state = {k: v.contiguous() for k, v in state.items() if not k.startswith(("last_", "logits."))}
    save_file(state, folder / "inception_resnet_v1.safetensors")
    save_file({"images": images, "logits": logits}, folder / "inception_resnet_v1.answers.safetensors")


if __name__ == "__main__":
    main()
