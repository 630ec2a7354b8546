//! ONNX in, tensors out.

use std::{collections::HashMap, fmt, io::Cursor, sync::Arc, time::Duration};

use tract_onnx::{
    pb::{ModelProto, ValueInfoProto, tensor_shape_proto, type_proto},
    prelude::*,
    tract_core::{
        internal::{SimpleState, ensure, format_err},
        ops::TypedOp,
    },
};

use kernels::InstructionSet;

pub mod int8;
pub mod kernels;
#[cfg(test)]
mod tests;

/// What runs the networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// tract with quantised layers in whole numbers.
    Int8,
    /// tract as it is: the reference.
    Tract,
}

impl Default for EngineKind {
    /// Whole numbers where this CPU has kernels for them: the portable ones are slower than plain tract, but for 32-bit
    /// ARM.
    fn default() -> Self {
        let portable = InstructionSet::best() == InstructionSet::Portable;
        if portable && !cfg!(target_arch = "arm") { Self::Tract } else { Self::Int8 }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineKind::Int8 => f.write_str("int8"),
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
    #[error(transparent)]
    Kernels(#[from] kernels::KernelChoiceError),
}

/// A routine of plain tract's for products of whole numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct TractRoutine {
    pub name: String,
    /// Whether this CPU can run it.
    pub runs_here: bool,
}

/// What plain tract multiplies whole numbers with, as far as this build holds it. tract leaves out without a word what
/// the assembler of the build didn't know.
pub fn tract_routines() -> Vec<TractRoutine> {
    let cpu = tract_linalg::isa::native();
    let routines = tract_linalg::mmm_routines::declared().map(|routine| (routine.make)());
    let integer = routines.filter(|routine| routine.built() && routine.internal_type() == DatumType::I32);
    let mut found: Vec<TractRoutine> = integer
        .map(|routine| TractRoutine { name: routine.name().to_owned(), runs_here: routine.runnable_on(&cpu) })
        .collect();
    found.sort();
    found
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
    origin: String,
    output_names: Vec<String>,
    input: Option<InputShape>,
    /// The layers that the int8 engine runs, if any.
    program: Option<Arc<int8::Program>>,
    /// What plain tract runs, if anything.
    rest: Option<Rest>,
    fates: Vec<(String, String, int8::Fate)>,
    plans: HashMap<InputShape, Plan>,
}

/// The part of a network that plain tract runs.
struct Rest {
    model: InferenceModel,
    /// Where each input comes from: an exit of the program, or the picture.
    inputs: Vec<Option<usize>>,
    outputs: Vec<String>,
}

/// A network made ready for one input shape.
struct Plan {
    /// The last pictures; written anew, unless tract should still hold them.
    pictures: Arc<Tensor>,
    program: Option<State>,
    rest: Option<State>,
}

type State = SimpleState<TypedFact, Box<dyn TypedOp>>;

impl Network {
    /// Loads ONNX with one input `image` (uint8, `[N, H, W, 3]`, RGB) and the outputs named.
    ///
    /// # Errors
    /// When the bytes are not ONNX that the engine can read, or the input or an output is missing.
    pub fn load(
        onnx: &[u8],
        origin: &str,
        output_names: &[&str],
        kind: EngineKind,
    ) -> Result<Self, EngineError> {
        Self::load_for(onnx, origin, output_names, kind, InstructionSet::chosen()?)
    }

    /// As [`Network::load`], for an instruction set of one's own choice; plain tract makes its own.
    ///
    /// # Errors
    /// As for [`Network::load`].
    ///
    /// # Panics
    /// When this CPU lacks the instruction set.
    pub fn load_for(
        onnx: &[u8],
        origin: &str,
        output_names: &[&str],
        kind: EngineKind,
        set: InstructionSet,
    ) -> Result<Self, EngineError> {
        let load_error =
            |e: TractError| EngineError::Load { origin: origin.into(), reason: format!("{e:#}") };
        let proto = tract_onnx::onnx().proto_model_for_read(&mut Cursor::new(onnx)).map_err(load_error)?;
        if proto.graph.as_ref().is_none_or(|graph| graph.node.is_empty()) {
            return Err(EngineError::Load {
                origin: origin.into(),
                reason: format!("{} bytes that hold no ONNX graph", onnx.len()),
            });
        }
        Self::new(proto, origin, output_names, kind, set)
    }

    fn new(
        proto: ModelProto,
        origin: &str,
        output_names: &[&str],
        kind: EngineKind,
        set: InstructionSet,
    ) -> Result<Self, EngineError> {
        assert!(set.is_supported(), "this CPU lacks {set}");
        let load_error =
            |e: TractError| EngineError::Load { origin: origin.into(), reason: format!("{e:#}") };
        let foreign = |found, expected: &str| EngineError::Foreign {
            origin: origin.into(),
            found,
            expected: expected.into(),
        };
        let graph = proto.graph.iter().flat_map(|graph| &graph.input);
        let inputs: Vec<&str> = graph.map(|input| input.name.as_str()).collect();
        if inputs != ["image"] {
            return Err(foreign(format!("it has the inputs {inputs:?}"), "one input named image"));
        }
        let input = proto.graph.iter().flat_map(|graph| &graph.input).find_map(declared_shape);
        let graph = proto.graph.iter().flat_map(|graph| &graph.output);
        let outputs: Vec<&str> = graph.map(|output| output.name.as_str()).collect();
        if let Some(missing) = output_names.iter().find(|name| !outputs.contains(name)) {
            return Err(foreign(format!("it has the outputs {outputs:?}"), missing));
        }

        let (program, rest, fates) = match kind {
            EngineKind::Tract => (None, Some(proto), Vec::new()),
            EngineKind::Int8 => {
                let recognized = int8::recognize(&proto, set).map_err(load_error)?;
                (recognized.program.map(Arc::new), recognized.rest, recognized.fates)
            }
        };
        let rest = rest.map(|rest| Rest::new(&rest, program.as_deref())).transpose().map_err(load_error)?;
        Ok(Self {
            origin: origin.into(),
            input,
            output_names: output_names.iter().map(|&name| name.to_owned()).collect(),
            program,
            rest,
            fates,
            plans: HashMap::new(),
        })
    }

    /// Where the model came from, for messages.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The input's shape that the file names, if it names all of it.
    pub fn input(&self) -> Option<InputShape> {
        self.input
    }

    /// The layers that the int8 engine runs.
    pub fn program(&self) -> Option<&int8::Program> {
        self.program.as_deref()
    }

    /// Name, operator and fate of each node of the ONNX graph; empty with [`EngineKind::Tract`].
    pub fn fates(&self) -> &[(String, String, int8::Fate)] {
        &self.fates
    }

    /// Runs the network on `N * H * W * 3` bytes of RGB; the outputs come in the order of the names at loading.
    ///
    /// # Errors
    /// When no plan can be made for the shape, or the run fails.
    pub fn run(&mut self, pixels: &[u8], shape: InputShape) -> Result<Vec<Output>, EngineError> {
        self.prepare(shape)?;
        let Self { plans, program, rest, output_names, origin, .. } = self;
        let Some(plan) = plans.get_mut(&shape) else { unreachable!("`prepare` has made it") };
        let run_error = |e: TractError| EngineError::Run { origin: origin.clone(), reason: format!("{e:#}") };
        let mut results: HashMap<&str, TValue> = HashMap::new();
        let mut run = || -> TractResult<()> {
            let mut plain = Arc::make_mut(&mut plan.pictures).try_as_plain_ram_mut()?;
            let place = plain.as_slice_mut::<u8>()?;
            ensure!(place.len() == pixels.len(), "{} bytes are no {shape:?} pictures", pixels.len());
            place.copy_from_slice(pixels);
            let picture = plan.pictures.clone().into_tvalue();
            let mut exits = TVec::new();
            if let (Some(state), Some(program)) = (&mut plan.program, program.as_deref()) {
                exits = state.run(tvec!(picture.clone()))?;
                let names = program.exits.iter().map(|exit| exit.name.as_str());
                results.extend(names.zip(exits.iter().cloned()));
            }
            if let (Some(state), Some(rest)) = (&mut plan.rest, rest.as_ref()) {
                let input = |from: &Option<usize>| from.map_or_else(|| picture.clone(), |n| exits[n].clone());
                let outputs = state.run(rest.inputs.iter().map(input).collect())?;
                results.extend(rest.outputs.iter().map(String::as_str).zip(outputs));
            }
            Ok(())
        };
        run().map_err(run_error)?;
        let output = |name: &String| {
            let tensor = results.get(name.as_str()).ok_or_else(|| EngineError::Foreign {
                origin: origin.clone(),
                found: format!("it gives only {:?}", results.keys()),
                expected: format!("the output {name}"),
            })?;
            let values = || -> TractResult<Vec<f32>> {
                Ok(tensor.cast_to::<f32>()?.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
            };
            Ok(Output { shape: tensor.shape().to_vec(), values: values().map_err(run_error)? })
        };
        output_names.iter().map(output).collect()
    }

    /// How long each layer of [`Network::program`] takes on such pixels, in its order; nothing without a program.
    ///
    /// # Errors
    /// When the pictures are too small for the network.
    pub fn profile(&self, pixels: &[u8], [n, h, w]: InputShape) -> Result<Vec<Duration>, EngineError> {
        let Some(program) = &self.program else { return Ok(Vec::new()) };
        let mut memory = program
            .memory(n, [h, w])
            .map_err(|e| EngineError::Run { origin: self.origin.clone(), reason: e.to_string() })?;
        Ok(program.profile(pixels, &mut memory))
    }

    /// Makes the plan for an input shape now, so that the first picture does not wait for it.
    ///
    /// # Errors
    /// As for [`Network::run`].
    pub fn prepare(&mut self, shape: InputShape) -> Result<(), EngineError> {
        if self.plans.contains_key(&shape) {
            return Ok(());
        }
        let [n, h, w] = shape;
        let plan = self.plan(shape).map_err(|e| EngineError::Load {
            origin: self.origin.clone(),
            reason: format!("at an input of {n}×{h}×{w}×3: {e:#}"),
        })?;
        self.plans.insert(shape, plan);
        Ok(())
    }

    fn plan(&self, [n, h, w]: InputShape) -> TractResult<Plan> {
        let picture = u8::fact([n, h, w, 3]);
        let mut exits = TVec::new();
        let program = match &self.program {
            Some(program) => {
                let mut model = TypedModel::default();
                let source = model.add_source("image", picture.clone())?;
                let operator = int8::operator::Int8::new(program.clone(), n, [h, w]);
                let outlets = model.wire_node("int8", operator, &[source])?;
                exits = outlets
                    .iter()
                    .map(|&outlet| model.outlet_fact(outlet).cloned())
                    .collect::<TractResult<_>>()?;
                model.select_output_outlets(&outlets)?;
                Some(model.into_runnable()?.spawn()?)
            }
            None => None,
        };
        let rest = match &self.rest {
            Some(rest) => {
                let mut model = rest.model.clone();
                for (n, from) in rest.inputs.iter().enumerate() {
                    let fact = from.map_or(&picture, |exit| &exits[exit]);
                    model = model.with_input_fact(n, fact.clone().into())?;
                }
                // The file's own output shapes hold for its own input shape only.
                for outlet in model.output_outlets()?.to_vec() {
                    model = model.with_outlet_fact(outlet, InferenceFact::default())?;
                }
                Some(model.into_optimized()?.into_runnable()?.spawn()?)
            }
            None => None,
        };
        Ok(Plan { pictures: Arc::new(Tensor::zero::<u8>(&[n, h, w, 3])?), program, rest })
    }
}

/// `[N, H, W]` of an input declared as `[N, H, W, 3]`.
fn declared_shape(input: &ValueInfoProto) -> Option<InputShape> {
    let Some(type_proto::Value::TensorType(tensor)) = &input.r#type.as_ref()?.value else { return None };
    let side = |dimension: &tensor_shape_proto::Dimension| match dimension.value {
        Some(tensor_shape_proto::dimension::Value::DimValue(side)) => usize::try_from(side).ok(),
        _ => None,
    };
    let sides: Option<Vec<usize>> = tensor.shape.as_ref()?.dim.iter().map(side).collect();
    match sides?[..] {
        [n, h, w, 3] => Some([n, h, w]),
        _ => None,
    }
}

impl Rest {
    fn new(proto: &ModelProto, program: Option<&int8::Program>) -> TractResult<Self> {
        let model = tract_onnx::onnx().model_for_proto_model(proto)?;
        let graph = proto.graph.as_ref().ok_or_else(|| format_err!("there is no graph"))?;
        let exit =
            |name: &str| program.and_then(|program| program.exits.iter().position(|exit| exit.name == name));
        let inputs = graph.input.iter().map(|input| exit(&input.name)).collect();
        let outputs = graph.output.iter().map(|output| output.name.clone()).collect();
        Ok(Self { model, inputs, outputs })
    }
}
