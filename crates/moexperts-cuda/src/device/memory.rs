//! The memory of the GPU: tensors, weights, routings and states.

use moexperts_core::{Matrix, Memory, Result, Routing, StateSpec, WeightFormat, checks};

use crate::{
    cuda::Cuda,
    runtime::memory::{CudaMatrix, CudaRouting, CudaTensor, CudaVector},
    state::State,
};

impl Memory for Cuda {
    type Matrix = CudaMatrix;
    type Vector = CudaVector;
    type Tensor = CudaTensor;
    type Routing = CudaRouting;
    type State = State;

    fn has_format(&self, format: WeightFormat) -> bool {
        format.dense().is_some()
    }

    fn load_matrix(&self, weight: Matrix) -> Result<CudaMatrix> {
        CudaMatrix::load(self, &weight)
    }

    fn load_vector(&self, values: Vec<f32>) -> Result<CudaVector> {
        CudaVector::load(self, &values)
    }

    fn new_tensor(&self, values: usize) -> Result<CudaTensor> {
        CudaTensor::with_capacity(self, values)
    }

    fn reset_tensor(&self, x: &mut CudaTensor, rows: usize, cols: usize) -> Result<()> {
        x.reset(self, rows, cols)
    }

    fn load_tensor(
        &self,
        rows: usize,
        cols: usize,
        values: &[f32],
        out: &mut CudaTensor,
    ) -> Result<()> {
        checks::tensor_data(values.len(), [rows, cols])?;
        out.load(self, rows, cols, values)
    }

    fn read_tensor(&self, tensor: &CudaTensor, out: &mut Vec<f32>) -> Result<()> {
        tensor.read(self, out)
    }

    fn new_routing(&self, pairs: usize) -> Result<CudaRouting> {
        let mut routing = CudaRouting::default();
        routing.reset(self, pairs, 1)?;
        routing.reset(self, 0, 0)?;
        Ok(routing)
    }

    fn load_routing(&self, routing: Routing) -> Result<CudaRouting> {
        CudaRouting::load(self, &routing)
    }

    fn read_routing(&self, routing: &CudaRouting) -> Result<Routing> {
        routing.to_host(self)
    }

    fn new_state(&self, layers: &[StateSpec], sequences: usize) -> Result<State> {
        State::new(layers, sequences)
    }

    fn reserve_positions(
        &self,
        state: &mut State,
        sequence: usize,
        positions: usize,
    ) -> Result<()> {
        state.reserve(self, sequence, positions)
    }

    fn can_cut(&self, state: &State, sequence: usize, position: usize) -> bool {
        state.can_cut(sequence, position)
    }

    fn state_bytes(&self, state: &State) -> usize {
        state.size_bytes()
    }
}
