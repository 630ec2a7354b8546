//! ONNX in, tensors out.

use std::{collections::HashMap, fmt, io::Cursor, sync::Arc};

use tract_onnx::prelude::*;

/// What runs the networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum EngineKind {
    /// tract as it is: the reference.
    #[default]
    Tract,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineKind::Tract => f.write_str("tract"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    #[error("model {origin} cannot be loaded: {reason}; give an ONNX file exported by mien-train")]
    Load { origin: String, reason: String },
    #[error("model {origin} is not one of ours: {found}, where {expected} is needed")]
    Foreign { origin: String, found: String, expected: String },
    #[error("model {origin} failed while running: {reason}")]
    Run { origin: String, reason: String },
}

/// Number of pictures, height and width of an input tensor; the channels are always 3.
pub type InputShape = [usize; 3];

/// A tensor that a network gave, f32, row-major.
pub struct Output {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// One network at any input shape; a plan is made for each shape when it is first seen, and kept.
pub struct Network {
    model: InferenceModel,
    origin: String,
    output_names: Vec<&'static str>,
    plans: HashMap<InputShape, Arc<TypedRunnableModel>>,
}

impl Network {
    /// Loads ONNX with one input `image` (uint8, `[N, H, W, 3]`, RGB) and the outputs named.
    ///
    /// # Errors
    /// When the bytes are not ONNX that the engine can read, or the input or an output is missing.
    pub fn load(
        onnx: &[u8],
        origin: &str,
        output_names: &[&'static str],
        kind: EngineKind,
    ) -> Result<Self, EngineError> {
        let EngineKind::Tract = kind;
        let load_error =
            |e: TractError| EngineError::Load { origin: origin.into(), reason: format!("{e:#}") };
        let foreign = |found, expected: &str| EngineError::Foreign {
            origin: origin.into(),
            found,
            expected: expected.into(),
        };
        let reader = tract_onnx::onnx();
        let proto = reader.proto_model_for_read(&mut Cursor::new(onnx)).map_err(load_error)?;
        let Some(graph) = proto.graph.as_ref().filter(|graph| !graph.node.is_empty()) else {
            return Err(EngineError::Load {
                origin: origin.into(),
                reason: format!("{} bytes that hold no ONNX graph", onnx.len()),
            });
        };
        let inputs: Vec<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
        if inputs != ["image"] {
            return Err(foreign(format!("it has the inputs {inputs:?}"), "one input named image"));
        }
        let outputs: Vec<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
        if let Some(missing) = output_names.iter().find(|name| !outputs.contains(name)) {
            return Err(foreign(format!("it has the outputs {outputs:?}"), missing));
        }
        let model = reader
            .model_for_proto_model(&proto)
            .and_then(|model| model.with_outputs_by_name(output_names))
            .map_err(load_error)?;
        Ok(Self { model, origin: origin.into(), output_names: output_names.to_vec(), plans: HashMap::new() })
    }

    /// Where the model came from, for messages.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Runs the network on `N * H * W * 3` bytes of RGB; the outputs come in the order of the names at loading.
    ///
    /// # Errors
    /// When no plan can be made for the shape, or the run fails.
    pub fn run(&mut self, pixels: &[u8], [n, h, w]: InputShape) -> Result<Vec<Output>, EngineError> {
        let plan = self.plan([n, h, w])?;
        let run = || -> TractResult<Vec<Output>> {
            let input = Tensor::from_shape(&[n, h, w, 3], pixels)?;
            let outputs = plan.run(tvec!(input.into_tvalue()))?;
            outputs
                .iter()
                .map(|tensor| {
                    let values = tensor.cast_to::<f32>()?;
                    let values = values.try_as_plain_ram()?.as_slice::<f32>()?.to_vec();
                    Ok(Output { shape: tensor.shape().to_vec(), values })
                })
                .collect()
        };
        run().map_err(|e| EngineError::Run { origin: self.origin.clone(), reason: format!("{e:#}") })
    }

    /// Makes the plan for an input shape now, so that the first picture does not wait for it.
    ///
    /// # Errors
    /// As for [`Network::run`].
    pub fn prepare(&mut self, shape: InputShape) -> Result<(), EngineError> {
        self.plan(shape).map(drop)
    }

    fn plan(&mut self, shape: InputShape) -> Result<Arc<TypedRunnableModel>, EngineError> {
        if let Some(plan) = self.plans.get(&shape) {
            return Ok(plan.clone());
        }
        let [n, h, w] = shape;
        let plan = self
            .model
            .clone()
            .with_input_fact(0, u8::fact([n, h, w, 3]).into())
            .and_then(|model| {
                // The file's own output shapes hold for its own input shape only.
                let outputs = model.output_outlets()?.to_vec();
                outputs
                    .into_iter()
                    .try_fold(model, |model, outlet| model.with_outlet_fact(outlet, InferenceFact::default()))
            })
            .and_then(|model| model.into_optimized()?.into_runnable())
            .map_err(|e| EngineError::Load {
                origin: self.origin.clone(),
                reason: format!("at an input of {n}×{h}×{w}×3: {e:#}"),
            })?;
        let outputs = plan.model().output_outlets().map_or(0, <[_]>::len);
        if outputs != self.output_names.len() {
            return Err(EngineError::Foreign {
                origin: self.origin.clone(),
                found: format!("it gives {outputs} outputs"),
                expected: format!("{:?}", self.output_names),
            });
        }
        self.plans.insert(shape, plan.clone());
        Ok(plan)
    }
}
