"""Checks an ONNX file and runs it in onnxruntime.

usage: run_onnx.py MODEL INPUT OUTPUT

INPUT holds the model's one input, uint8, row by row; OUTPUT gets all outputs, f32, one after the other.
"""

import sys

import numpy
import onnx
import onnxruntime

model, source, destination = sys.argv[1:]
onnx.checker.check_model(model, full_check=True)
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
(picture,) = session.get_inputs()
pixels = numpy.fromfile(source, numpy.uint8).reshape(picture.shape)
outputs = session.run(None, {picture.name: pixels})
numpy.concatenate([output.astype(numpy.float32).ravel() for output in outputs]).tofile(destination)
