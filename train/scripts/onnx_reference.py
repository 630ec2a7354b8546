"""What onnxruntime makes of every quantised tensor of a network.

usage: onnx_reference.py MODEL PICTURES OUT FEW

PICTURES holds raw uint8 pictures of the model's input size. Writes into the folder OUT: tapped.onnx, the network with
all its dequantised tensors as outputs; tensors.json, their names and scales; tensors.f32, their values for each of the
first FEW pictures, in that order; logits.f32, the network's own output for all pictures.
"""

import json, pathlib, sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

model, pictures, out, few = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), int(sys.argv[4])
network = onnx.load(model)
(given,) = network.graph.input
shape = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
pictures = np.fromfile(pictures, np.uint8).reshape(-1, *shape)
options = ort.SessionOptions()
options.log_severity_level = 3


def session(model):
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


plain = session(network)
np.concatenate([plain.run(None, {given.name: picture})[0] for picture in pictures]).astype(np.float32).tofile(out / "logits.f32")

constants = {tensor.name: tensor for tensor in network.graph.initializer}
taps = [
    (node.output[0], float(numpy_helper.to_array(constants[node.input[1]])))
    for node in network.graph.node
    if node.op_type == "DequantizeLinear" and node.input[0] not in constants and "image" not in node.input[0]
]
for name, _ in taps:
    network.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
onnx.save(network, out / "tapped.onnx")
(out / "tensors.json").write_text(json.dumps(taps))
tapped = session(network)
with open(out / "tensors.f32", "wb") as file:
    for picture in pictures[:few]:
        for values in tapped.run([name for name, _ in taps], {given.name: picture}):
            file.write(values.astype(np.float32).tobytes())
