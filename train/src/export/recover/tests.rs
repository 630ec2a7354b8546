use std::path::Path;

use tch::{Device, nn};

use super::*;
use crate::{
    detector::network::{Network as Detector, normalise},
    export::{
        onnx::encode,
        quantize::quantize,
        tests::{Forward, classifier, detector, flat, largest_difference, noise, pictures},
    },
    network::{Architecture, Network, Regularisation},
};

/// From normalised pictures, and whether batch norms use the batch's own statistics, to outputs.
type Trainable = Box<dyn Fn(&Tensor, bool) -> Vec<Tensor>>;

fn parse(onnx: &[u8]) -> Result<File> {
    File::parse(file::graph(onnx)?)
}

/// A network with the weights that were recovered from a file.
fn recovered(onnx: &[u8], batches: &[Tensor]) -> Trainable {
    let file = parse(onnx).unwrap();
    let kind = Kind::of(&file.name).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("start.safetensors");
    checkpoint::write(&path, &weights(file.graph(kind).unwrap(), kind, batches).unwrap()).unwrap();
    let mut store = nn::VarStore::new(Device::Cpu);
    match kind {
        Kind::Classifier => {
            let architecture = Architecture::lite0(mien::attributes::LOGITS as i64);
            let regularisation = Regularisation { dropout: 0.0, drop_path: 0.0, frozen_blocks: 0 };
            let network = Network::new(&store.root(), &architecture, regularisation);
            let loaded = checkpoint::load_pretrained(&path, &mut store, &architecture).unwrap();
            assert_eq!(loaded, checkpoint::Loaded::default());
            Box::new(move |image, train| vec![network.forward(image, train)])
        }
        Kind::Detector => {
            let network = Detector::new(&store.root());
            store.load(&path).unwrap();
            Box::new(move |image, train| network.forward(image, train).into())
        }
    }
}

fn float_file_gives_the_network_back((graph, forward): (Graph, Forward)) {
    let batch = normalise(&pictures(8, graph.size));
    let network = recovered(&encode(&graph, None), &[batch.shallow_clone()]);
    let others = normalise(&pictures(2, graph.size));
    for image in [&batch, &others] {
        let off = largest_difference(&flat(&forward(image)), &flat(&network(image, false)));
        assert!(off < 1e-3, "{off}");
    }
    // The statistics are those of the pictures, so a batch of them is normalised alike.
    let off = noise(&flat(&forward(&batch)), &flat(&network(&batch, true)));
    assert!(off < 1e-2, "{off}");
}

#[test]
fn float_classifier_comes_back() {
    no_grad(|| float_file_gives_the_network_back(classifier()));
}

#[test]
fn float_detector_comes_back() {
    no_grad(|| float_file_gives_the_network_back(detector()));
}

fn int8_file_gives_the_rounded_network_back(mut graph: Graph) {
    let batches = [(); 3].map(|()| normalise(&pictures(4, graph.size)));
    let quantized = quantize(&mut graph, &batches).unwrap();
    let network = recovered(&encode(&graph, Some(&quantized)), &batches);
    let image = normalise(&pictures(4, graph.size));
    let off = noise(&flat(&quantized.run(&graph, &image)), &flat(&network(&image, false)));
    assert!(off < 0.05, "{off}");
}

#[test]
fn int8_classifier_comes_back() {
    no_grad(|| int8_file_gives_the_rounded_network_back(classifier().0));
}

#[test]
fn int8_detector_comes_back() {
    no_grad(|| int8_file_gives_the_rounded_network_back(detector().0));
}

#[test]
fn channels_are_alike_again() {
    no_grad(|| {
        let (mut graph, _) = detector();
        let image = normalise(&pictures(4, graph.size));
        super::super::equalize::equalize(&mut graph, &image);
        let graph = parse(&encode(&graph, None)).unwrap().graph(Kind::Detector).unwrap();
        let weights: Variables = weights(graph, Kind::Detector, &[image]).unwrap().into_iter().collect();
        // The scale of a norm in front of a ReLU that only convolutions read.
        let scale = &weights["down8.0.depthwise.bn.weight"];
        assert!((scale - 1.0).abs().max().double_value(&[]) < 0.01, "{scale:?}");
        let rows = row_norms(&weights["down8.1.pointwise.conv.weight"]);
        assert!(((rows.max() - rows.min()) / rows.mean(None)).double_value(&[]) < 1e-3);
    });
}

#[test]
fn the_shipped_files_are_read_whole() {
    no_grad(|| {
        for (name, size) in [("attributes", [112, 112]), ("face", [320, 320])] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../models/{name}.onnx"));
            let file = parse(&std::fs::read(path).unwrap()).unwrap();
            assert_eq!(file.size, size);
            let kind = Kind::of(&file.name).unwrap();
            let image = normalise(&pictures(2, [96, 96]));
            let graph = file.graph(kind).unwrap();
            assert_eq!(weights(graph, kind, &[image]).unwrap().len(), kind.fresh().len());
        }
    });
}

#[test]
fn a_file_of_another_network_is_refused() {
    let (graph, _) = no_grad(detector);
    let renamed = Graph { name: "attributes".into(), ..graph };
    let mut file = parse(&no_grad(|| encode(&renamed, None))).unwrap();
    file.size = [96; 2];
    let error = file.graph(Kind::Classifier).unwrap_err().to_string();
    assert!(error.contains("conv_stem/weight"), "{error}");
    assert!(Kind::of("other").unwrap_err().to_string().contains("\"other\""));
}
