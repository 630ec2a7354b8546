//! What a graph's layers are called in a run's weights.

use anyhow::{Result, bail, ensure};
use mien::attributes::LOGITS;
use tch::{Device, nn};

use crate::{
    detector::network as detector,
    export::{
        graph::Graph,
        lower::{self, Variables},
    },
    network::{Architecture, Network, Regularisation},
};

/// A network that the camera runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Classifier,
    Detector,
}

/// A layer with weights.
#[derive(Debug)]
pub struct Layer {
    /// In the graph.
    pub name: String,
    /// The tensor of its weights.
    pub weight: String,
    pub after: After,
}

/// What follows the product with the weights.
#[derive(Debug)]
pub enum After {
    /// The batch norm of this name.
    Norm { name: String, epsilon: f64 },
    /// The tensor of the bias.
    Bias(String),
}

impl Kind {
    /// The network of a graph that the exporter called `name`.
    pub fn of(name: &str) -> Result<Kind> {
        Ok(match name {
            "attributes" => Kind::Classifier,
            "face" => Kind::Detector,
            _ => bail!("a graph called {name:?} is neither of mien's networks, \"attributes\" and \"face\""),
        })
    }

    /// Freshly initialised weights.
    pub fn fresh(self) -> Variables {
        let store = nn::VarStore::new(Device::Cpu);
        match self {
            Kind::Classifier => drop(Network::new(&store.root(), &lite0(), Regularisation::default())),
            Kind::Detector => drop(detector::Network::new(&store.root())),
        }
        store.variables()
    }

    /// The network with these weights as a graph for pictures of `size` (height, width).
    pub fn graph(self, variables: &Variables, size: [i64; 2]) -> Result<Graph> {
        match self {
            Kind::Classifier => {
                ensure!(size[0] == size[1], "the classifier's pictures are square, not {size:?}");
                lower::classifier(variables, &lite0(), size[0])
            }
            Kind::Detector => lower::detector(variables, size),
        }
    }

    /// The layers with weights, in the graph's order.
    pub fn layers(self) -> Vec<Layer> {
        match self {
            Kind::Classifier => classifier_layers(&lite0()),
            Kind::Detector => detector::layers().iter().filter_map(detector_layer).collect(),
        }
    }
}

fn lite0() -> Architecture {
    Architecture::lite0(LOGITS as i64)
}

fn classifier_layers(architecture: &Architecture) -> Vec<Layer> {
    let epsilon = architecture.convention.epsilon();
    let mut layers: Vec<Layer> = architecture
        .layers()
        .map(|layer| Layer {
            name: layer.conv.clone(),
            weight: format!("{}.weight", layer.conv),
            after: After::Norm { name: layer.bn.clone(), epsilon },
        })
        .collect();
    let name = architecture.classifier.clone();
    let after = After::Bias(format!("{name}.bias"));
    layers.push(Layer { weight: format!("{name}.weight"), name, after });
    layers
}

fn detector_layer(layer: &detector::Layer) -> Option<Layer> {
    let detector::Operation::Convolution(convolution) = layer.operation else { return None };
    let name = layer.name.clone();
    let after = match convolution.after {
        detector::After::NormRelu => {
            After::Norm { name: format!("{name}.bn"), epsilon: detector::NORM_EPSILON }
        }
        detector::After::Bias => After::Bias(format!("{name}.conv.bias")),
    };
    Some(Layer { weight: format!("{name}.conv.weight"), name, after })
}
