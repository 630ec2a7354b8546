"""Other forms of a quantised network (QDQ), for programs that run those faster."""

import numpy as np
import onnx
from onnx import helper, numpy_helper


def as_float(model):
    """The same network in f32: weights as the numbers they stand for, activations limited as quantising does."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes, new, real = [], [], set()
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero = constants[node.input[1]], int(constants[node.input[2]])
            for name, level in (("low", 0), ("high", 255)):
                new.append(numpy_helper.from_array(np.float32((level - zero) * scale), f"{node.output[0]}/{name}"))
            limits = [f"{node.output[0]}/low", f"{node.output[0]}/high"]
            nodes.append(helper.make_node("Clip", [node.input[0], *limits], [node.output[0]]))
            real.add(node.output[0])
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            whole, scale = constants[node.input[0]].astype(np.float32), constants[node.input[1]]
            shape = (-1,) + (1,) * (whole.ndim - 1)
            new.append(numpy_helper.from_array(whole * scale.reshape(shape), node.output[0]))
        elif node.op_type == "DequantizeLinear" and node.input[0] in real:
            nodes.append(helper.make_node("Identity", [node.input[0]], [node.output[0]]))
        else:
            if node.op_type in ("Flatten", "Resize") and node.input[0] in real:
                real.add(node.output[0])
            nodes.append(node)
    return rebuilt(model, nodes, new)


def as_qlinear(model):
    """The same network with QLinearConv in place of DequantizeLinear, Conv, QuantizeLinear."""
    graph = model.graph
    makers = {node.output[0]: node for node in graph.node}
    readers = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    nodes, gone = [], set()
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        after = readers.get(node.output[0], [])
        if len(after) != 1 or after[0].op_type != "QuantizeLinear":
            continue
        x, w, b = (makers[name] for name in node.input)
        inputs = [*x.input, *w.input, *after[0].input[1:], b.input[0]]
        fused = helper.make_node("QLinearConv", inputs, [after[0].output[0]])
        fused.attribute.extend(node.attribute)
        nodes.append((after[0].output[0], fused))
        gone.update((node.output[0], after[0].output[0]))
    fused = dict(nodes)
    kept = []
    for node in graph.node:
        if node.output[0] in fused:
            kept.append(fused[node.output[0]])
        elif node.output[0] not in gone:
            kept.append(node)
    return rebuilt(model, kept, [])


def rebuilt(model, nodes, new):
    """A copy with these nodes, without what nobody reads."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    outputs = {output.name for output in copy.graph.output}
    while True:
        read = {name for node in nodes for name in node.input} | outputs
        alive = [node for node in nodes if read & set(node.output)]
        if len(alive) == len(nodes):
            break
        nodes = alive
    tensors = [tensor for tensor in [*copy.graph.initializer, *new] if tensor.name in read]
    del copy.graph.node[:], copy.graph.initializer[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(tensors)
    onnx.checker.check_model(copy)
    return copy
