//! The memory of the CPU: what lies there and how it gets there.

use moexperts_core::{Matrix, Memory, Result, Routing, StateSpec, Tensor, WeightFormat, checks};

use crate::{cpu::Cpu, product::Kernel, state::State};

impl Memory for Cpu {
    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type Tensor = Tensor;
    type Routing = Routing;
    type State = State;

    fn has_format(&self, format: WeightFormat) -> bool {
        Kernel::select(self.isa(), format).is_some()
    }

    fn load_matrix(&self, weight: Matrix) -> Result<Matrix> {
        checks::format(self, weight.format())?;
        Ok(weight)
    }

    fn load_vector(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }

    fn new_tensor(&self, values: usize) -> Result<Tensor> {
        Ok(Tensor::with_capacity(values))
    }

    fn reset_tensor(&self, x: &mut Tensor, rows: usize, cols: usize) -> Result<()> {
        x.reset(rows, cols);
        Ok(())
    }

    fn load_tensor(
        &self,
        rows: usize,
        cols: usize,
        values: &[f32],
        out: &mut Tensor,
    ) -> Result<()> {
        checks::tensor_data(values.len(), [rows, cols])?;
        out.reset(rows, cols);
        out.data_mut().copy_from_slice(values);
        Ok(())
    }

    fn read_tensor(&self, tensor: &Tensor, out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        out.extend_from_slice(tensor.data());
        Ok(())
    }

    fn new_routing(&self, pairs: usize) -> Result<Routing> {
        Ok(Routing::with_capacity(pairs))
    }

    fn load_routing(&self, routing: Routing) -> Result<Routing> {
        Ok(routing)
    }

    fn read_routing(&self, routing: &Routing) -> Result<Routing> {
        Ok(routing.clone())
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
        state.reserve(sequence, positions)
    }

    fn can_cut(&self, state: &State, sequence: usize, position: usize) -> bool {
        state.can_cut(sequence, position)
    }

    fn state_bytes(&self, state: &State) -> usize {
        state.size_bytes()
    }
}
