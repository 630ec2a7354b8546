//! The program as an operator of tract.

use std::sync::Arc;

use tract_onnx::{prelude::*, tract_core::internal::*};

use super::{Memory, Program};

/// Runs a [`Program`] on `[N, H, W, 3]` bytes of a fixed shape; gives its exits, f32.
#[derive(Clone)]
pub struct Int8 {
    program: Arc<Program>,
    pictures: usize,
    size: [usize; 2],
}

impl Int8 {
    pub fn new(program: Arc<Program>, pictures: usize, size: [usize; 2]) -> Self {
        Self { program, pictures, size }
    }

    /// # Errors
    /// When a picture of this size is too small.
    fn memory(&self) -> TractResult<Memory> {
        Ok(self.program.memory(self.pictures, self.size)?)
    }
}

impl std::fmt::Debug for Int8 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Int8({} layers, {})", self.program.layers.len(), self.program.set)
    }
}

impl PartialEq for Int8 {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.program, &other.program)
            && (self.pictures, self.size) == (other.pictures, other.size)
    }
}

impl Eq for Int8 {}

impl Op for Int8 {
    fn name(&self) -> StaticName {
        "Int8".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{self:?}")])
    }

    op_as_typed_op!();
}

impl EvalOp for Int8 {
    not_out_of_plan!();

    fn state(&self, _: &EvalContext) -> TractResult<Option<Box<dyn OpState>>> {
        let memory = self.memory()?;
        let exits = self
            .program
            .exits
            .iter()
            .map(|exit| Ok(Arc::new(Tensor::zero::<f32>(&memory.exit_shape(&self.program, exit))?)));
        let exits = exits.collect::<TractResult<_>>()?;
        Ok(Some(Box::new(State { memory, exits })))
    }
}

impl TypedOp for Int8 {
    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let memory = self.memory()?;
        let shapes = self.program.exits.iter().map(|exit| memory.exit_shape(&self.program, exit));
        Ok(shapes.map(f32::fact).collect())
    }

    as_op!();
}

/// The memory that the operator runs in.
#[derive(Debug, Clone)]
struct State {
    memory: Memory,
    /// What it gave last; written anew where nobody holds it any more.
    exits: Vec<Arc<Tensor>>,
}

impl OpState for State {
    fn eval(&mut self, _: &EvalContext, op: &dyn Op, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let Int8 { program, .. } = op.downcast_ref::<Int8>().context("the state of another operator")?;
        let input = args_1!(inputs);
        program.run(input.try_as_plain_ram()?.as_slice::<u8>()?, &mut self.memory);
        for (exit, tensor) in program.exits.iter().zip(&mut self.exits) {
            let mut plain = Arc::make_mut(tensor).try_as_plain_ram_mut()?;
            self.memory.exit(program, exit, plain.as_slice_mut::<f32>()?);
        }
        Ok(self.exits.iter().map(|exit| exit.clone().into_tvalue()).collect())
    }

    fn reset_lanes(&mut self, _: &[LaneId]) -> TractResult<()> {
        Ok(())
    }
}
