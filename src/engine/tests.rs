//! The int8 engine against plain tract, on the shipped networks and on graphs that it knows only in part.

use tract_onnx::pb::{ModelProto, NodeProto, ValueInfoProto};

use super::{int8::Fate, *};
use crate::{classify, detect, geometry, models::Model};

const FACE: [usize; 3] = [1, 96, 128];
const CROP: [usize; 3] = [1, 112, 112];

fn proto(onnx: &[u8]) -> ModelProto {
    tract_onnx::onnx().proto_model_for_read(&mut Cursor::new(onnx)).unwrap()
}

fn classifier() -> ModelProto {
    proto(&Model::attributes(None).unwrap().onnx)
}

fn detector() -> ModelProto {
    proto(&Model::face(None).unwrap().onnx)
}

fn network(proto: &ModelProto, outputs: &[&str], kind: EngineKind, set: InstructionSet) -> Network {
    Network::new(proto.clone(), "test", outputs, kind, set).unwrap()
}

fn portrait() -> crate::frame::Picture {
    let bytes = include_bytes!("../../assets/demo/none.jpg");
    image::load_from_memory(bytes).unwrap().into_rgb8()
}

/// The portrait's face at different sizes.
fn faces(count: usize) -> Vec<u8> {
    let portrait = portrait();
    let face = |n: usize| {
        let side = 90.0 + 25.0 * n as f32;
        let square = geometry::Rect::new(224.0 - side / 2.0, 118.0 - side / 2.0, side, side);
        geometry::crop(&portrait, &square, CROP[1] as u32).into_raw()
    };
    (0..count).flat_map(face).collect()
}

fn picture([_, h, w]: InputShape) -> Vec<u8> {
    geometry::resample(&portrait(), &geometry::Rect::new(100.0, 20.0, 240.0, 180.0), w as u32, h as u32)
        .into_raw()
}

fn difference(a: &[Output], b: &[Output]) -> f32 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b).flat_map(|(a, b)| {
        assert_eq!(a.shape, b.shape);
        a.values.iter().zip(&b.values)
    });
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn deviation(outputs: &[Output]) -> f32 {
    let values: Vec<f32> = outputs.iter().flat_map(|output| output.values.iter().copied()).collect();
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt()
}

/// Both engines on the same graph: steps of the last quantisation may differ, more may not.
fn assert_like_tract(proto: &ModelProto, outputs: &[&str], pixels: &[u8], shape: InputShape) {
    let expected =
        network(proto, outputs, EngineKind::Tract, InstructionSet::Portable).run(pixels, shape).unwrap();
    let mut first: Option<Vec<Output>> = None;
    for set in InstructionSet::supported() {
        let found = network(proto, outputs, EngineKind::Int8, set).run(pixels, shape).unwrap();
        let (off, deviation) = (difference(&found, &expected), deviation(&expected));
        assert!(deviation > 0.1 && off < 0.25 * deviation, "{set}: {off} of {deviation}");
        match &first {
            None => first = Some(found),
            Some(first) => {
                assert_eq!(difference(first, &found), 0.0, "{set} is not like the portable kernels")
            }
        }
    }
}

#[test]
fn the_shipped_networks_run_in_whole_numbers_and_as_in_tract() {
    let classifier = classifier();
    assert_like_tract(&classifier, &[classify::OUTPUT], &faces(1), CROP);
    assert_like_tract(&detector(), &detect::OUTPUTS, &picture(FACE), FACE);
    for (proto, outputs) in [(classifier, [classify::OUTPUT].as_slice()), (detector(), &detect::OUTPUTS)] {
        let network = network(&proto, outputs, EngineKind::Int8, InstructionSet::best());
        assert!(network.rest.is_none() && network.program().is_some());
        assert!(network.fates().iter().all(|(.., fate)| !matches!(fate, Fate::Plain(_))));
    }
}

#[test]
fn faces_in_a_batch_are_seen_as_one_by_one() {
    let mut network = network(&classifier(), &[classify::OUTPUT], EngineKind::Int8, InstructionSet::best());
    let faces = faces(3);
    let together = network.run(&faces, [3, 112, 112]).unwrap().remove(0);
    assert_eq!(together.shape, [3, 106]);
    for (face, logits) in faces.chunks_exact(faces.len() / 3).zip(together.values.chunks_exact(106)) {
        assert_eq!(network.run(face, CROP).unwrap()[0].values, logits);
    }
}

/// So large that layers with results of the network run on one picture after the other.
#[test]
fn large_pictures_in_a_batch_are_seen_as_one_by_one() {
    let mut network = network(&detector(), &detect::OUTPUTS, EngineKind::Int8, InstructionSet::best());
    let one = picture([1, 256, 320]);
    let pictures: Vec<u8> =
        (0..8).flat_map(|n| one.iter().map(move |value| value.wrapping_add(20 * n))).collect();
    let together = network.run(&pictures, [8, 256, 320]).unwrap();
    for (n, picture) in pictures.chunks_exact(one.len()).enumerate() {
        let alone = network.run(picture, [1, 256, 320]).unwrap();
        for (together, alone) in together.iter().zip(alone) {
            let length = alone.values.len();
            assert_eq!(together.values[n * length..][..length], alone.values);
        }
    }
}

#[test]
fn a_network_runs_at_any_size_it_fits() {
    let mut network = network(&detector(), &detect::OUTPUTS, EngineKind::Int8, InstructionSet::best());
    for shape in [[1, 32, 32], [2, 64, 96], [1, 96, 128]] {
        let pixels = vec![90; shape.iter().product::<usize>() * 3];
        let outputs = network.run(&pixels, shape).unwrap();
        for (output, stride) in outputs.iter().zip(detect::STRIDES) {
            assert_eq!(output.shape, [shape[0], 15, shape[1] / stride, shape[2] / stride]);
        }
    }
    assert!(network.run(&[], [1, 0, 0]).is_err());
}

fn node(operator: &str, input: &str, output: &str) -> NodeProto {
    NodeProto {
        name: output.into(),
        op_type: operator.into(),
        input: vec![input.into()],
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

#[test]
fn what_follows_an_unknown_operator_stays_in_tract() {
    // In the middle of the network, where the values are limited to what ReLU6 gives: changes nothing.
    let mut proto = classifier();
    let graph = proto.graph.as_mut().unwrap();
    let name = "blocks.3.0.conv_pw/out/real";
    let at = graph.node.iter().position(|node| node.output[0] == name).unwrap();
    for node in &mut graph.node {
        for input in node.input.iter_mut().filter(|input| *input == name) {
            *input = "absolute".into();
        }
    }
    graph.node.insert(at + 1, node("Abs", name, "absolute"));
    assert_like_tract(&proto, &[classify::OUTPUT], &faces(1), CROP);
    let network = network(&proto, &[classify::OUTPUT], EngineKind::Int8, InstructionSet::best());
    assert!(network.program().unwrap().layers.len() > 5 && network.rest.is_some());
    let fate = |name: &str| network.fates().iter().find(|fate| fate.0 == name).unwrap().2.clone();
    assert_eq!(fate("absolute"), Fate::Plain("Abs has no int8 operator".into()));
    assert!(matches!(fate("conv_head/f32"), Fate::Plain(_)));
    assert_eq!(fate("conv_stem/f32"), Fate::Layer("conv_stem".into()));
}

#[test]
fn a_maximum_of_other_than_two_by_two_pixels_stays_in_tract() {
    let mut proto = detector();
    let graph = proto.graph.as_mut().unwrap();
    let pool = graph.node.iter_mut().find(|node| node.op_type == "MaxPool").unwrap();
    let name = pool.output[0].clone();
    for attribute in pool.attribute.iter_mut().filter(|attribute| attribute.name == "kernel_shape") {
        attribute.ints = vec![1, 1];
    }
    assert_like_tract(&proto, &detect::OUTPUTS, &picture(FACE), FACE);
    let network = network(&proto, &detect::OUTPUTS, EngineKind::Int8, InstructionSet::best());
    let fate = network.fates().iter().find(|fate| fate.0 == name).unwrap().2.clone();
    assert_eq!(fate, Fate::Plain("only the largest of 2×2 pixels is known".into()));
}

#[test]
fn an_operator_on_a_result_reads_it_from_the_program() {
    let mut proto = detector();
    let graph = proto.graph.as_mut().unwrap();
    graph.node.push(node("Sigmoid", "stride8", "score"));
    graph.output.push(ValueInfoProto { name: "score".into(), ..graph.output[0].clone() });
    let outputs = ["stride8", "score", "stride32"];
    let mut network = network(&proto, &outputs, EngineKind::Int8, InstructionSet::best());
    let found = network.run(&picture(FACE), FACE).unwrap();
    let expected: Vec<f32> = found[0].values.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
    let most = found[1].values.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(most < 1e-3, "{most}");
    assert_eq!(network.program().unwrap().exits.len(), 3);
}

#[test]
fn a_graph_of_floats_stays_in_tract() {
    let mut proto = detector();
    let graph = proto.graph.as_mut().unwrap();
    // Real numbers from the picture on: nothing is quantised where the first layer reads.
    let name = "image/nchw/real";
    for node in &mut graph.node {
        for input in node.input.iter_mut().filter(|input| *input == name) {
            *input = "negative".into();
        }
    }
    let at = graph.node.iter().position(|node| node.output[0] == name).unwrap();
    graph.node.insert(at + 1, node("Neg", name, "negative"));
    assert_like_tract(&proto, &detect::OUTPUTS, &picture(FACE), FACE);
    let network = network(&proto, &detect::OUTPUTS, EngineKind::Int8, InstructionSet::best());
    assert!(network.program().is_none() && network.profile(&[], FACE).unwrap().is_empty());
}
