//! The operations of the CPU.

use moexperts_core::{
    Activation, AttentionCall, AttentionSpec, DeviceLinear, GateFunction, Matrix, Operations,
    Result, RopePairing, RouteOperands, RouterSpec, Routing, Scratch, Tensor, checks,
};

use crate::{
    attention,
    cpu::Cpu,
    elementwise::{
        self,
        portable::{at_least, at_most, gate_factor, sigmoid},
    },
    linear, routing,
    shared_rows::SharedRows,
};

impl Operations for Cpu {
    fn has_activation(&self, activation: Activation) -> bool {
        elementwise::has_activation(activation)
    }

    fn embed(&self, table: &Matrix, ids: &[u32], out: &mut Tensor) -> Result<()> {
        checks::indices("token id", ids.iter().map(|&id| id as usize), table.rows())?;
        out.reset(ids.len(), table.cols());
        for (token, &id) in ids.iter().enumerate() {
            table.row(id as usize).write_f32(out.row_mut(token));
        }
        Ok(())
    }

    fn embedding_bag(
        &self,
        table: &Matrix,
        rows: &[u32],
        weights: &[f32],
        taps: usize,
        out: &mut Tensor,
    ) -> Result<()> {
        let bags = checks::bags(rows, weights, taps, table.rows())?;
        out.reset(bags, table.cols());
        out.data_mut().fill(0.0);
        self.for_each_row(out.data_mut(), table.cols(), |bag, out| {
            let bag = bag * taps..(bag + 1) * taps;
            for (&row, &weight) in rows[bag.clone()].iter().zip(&weights[bag]) {
                self.elementwise().add_scaled(out, &table.row(row as usize).to_f32(), weight);
            }
        });
        Ok(())
    }

    fn reshape(&self, x: Tensor, cols: usize) -> Result<Tensor> {
        let rows = checks::reshape(x.shape(), cols)?;
        Tensor::from_vec(rows, cols, x.into_vec())
    }

    fn select_rows(&self, x: &Tensor, rows: &[usize], out: &mut Tensor) -> Result<()> {
        checks::indices("row", rows.iter().copied(), x.rows())?;
        out.reset(rows.len(), x.cols());
        for (place, &index) in rows.iter().enumerate() {
            out.row_mut(place).copy_from_slice(x.row(index));
        }
        Ok(())
    }

    fn put_rows(&self, x: &mut Tensor, rows: &[usize], y: &Tensor) -> Result<()> {
        checks::rows_of(x.shape(), rows, y.shape())?;
        for (index, &row) in rows.iter().enumerate() {
            x.row_mut(row).copy_from_slice(y.row(index));
        }
        Ok(())
    }

    fn add_rows(&self, x: &mut Tensor, rows: &[usize], y: &Tensor) -> Result<()> {
        checks::rows_of(x.shape(), rows, y.shape())?;
        for (index, &row) in rows.iter().enumerate() {
            self.elementwise().add_scaled(x.row_mut(row), y.row(index), 1.0);
        }
        Ok(())
    }

    fn layer_norm(
        &self,
        x: &Tensor,
        weight: &Vec<f32>,
        bias: &Vec<f32>,
        eps: f32,
        out: &mut Tensor,
    ) -> Result<()> {
        checks::layer_norm(x.shape(), weight.len(), bias.len())?;
        out.reset(x.rows(), x.cols());
        self.for_each_row(out.data_mut(), x.cols(), |row, out| {
            self.elementwise().layer_norm(x.row(row), [weight, bias], eps, out);
        });
        Ok(())
    }

    fn rms_norm(&self, x: &Tensor, weight: &Vec<f32>, eps: f32, out: &mut Tensor) -> Result<()> {
        checks::rms_norm(x.shape(), weight.len())?;
        out.reset(x.rows(), x.cols());
        self.for_each_row(out.data_mut(), x.cols(), |row, out| {
            let heads = x.row(row).chunks_exact(weight.len());
            for (x, out) in heads.zip(out.chunks_exact_mut(weight.len())) {
                self.elementwise().rms_norm(x, weight, eps, out);
            }
        });
        Ok(())
    }

    fn add_rms_norm(
        &self,
        x: &mut Tensor,
        y: &Tensor,
        scale: f32,
        weight: &Vec<f32>,
        eps: f32,
        out: &mut Tensor,
    ) -> Result<()> {
        checks::shape("summand", y.shape(), x.shape())?;
        checks::rms_norm(x.shape(), weight.len())?;
        let cols = x.cols();
        out.reset(x.rows(), cols);
        let out = SharedRows::new(out.data_mut(), cols);
        self.for_each_row(x.data_mut(), cols, |row, x| {
            self.elementwise().add_scaled(x, y.row(row), scale);
            // SAFETY: `for_each_row` gives each row to one part.
            let out = unsafe { out.row(row) };
            for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
                self.elementwise().rms_norm(x, weight, eps, out);
            }
        });
        Ok(())
    }

    fn linear(
        &self,
        x: &Tensor,
        linears: &[&DeviceLinear<Self>],
        scratch: &mut Scratch,
        outs: &mut [Tensor],
    ) -> Result<()> {
        linear::linear(self, x, linears, scratch, outs)
    }

    fn rope(
        &self,
        x: &mut Tensor,
        head_dim: usize,
        pairing: RopePairing,
        cos: &Tensor,
        sin: &Tensor,
    ) -> Result<()> {
        checks::rope(x.shape(), head_dim, cos.shape(), sin.shape())?;
        let (cols, half) = (x.cols(), cos.cols());
        self.for_each_row(x.data_mut(), cols, |row, values| {
            let angles = || cos.row(row).iter().zip(sin.row(row));
            for head in values.chunks_exact_mut(head_dim) {
                let turned = &mut head[..2 * half];
                let turn = |a: &mut f32, b: &mut f32, (cos, sin): (&f32, &f32)| {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                };
                match pairing {
                    RopePairing::Halves => {
                        let (first, second) = turned.split_at_mut(half);
                        for ((a, b), angle) in first.iter_mut().zip(second).zip(angles()) {
                            turn(a, b, angle);
                        }
                    }
                    RopePairing::Neighbours => {
                        for ([a, b], angle) in turned.as_chunks_mut().0.iter_mut().zip(angles()) {
                            turn(a, b, angle);
                        }
                    }
                }
            }
        });
        Ok(())
    }

    fn attention(&self, call: AttentionCall<'_, Self>, out: &mut Tensor) -> Result<()> {
        attention::causal(self, call, out)
    }

    fn full_attention(
        &self,
        qkv: [&Tensor; 3],
        segments: &[usize],
        spec: &AttentionSpec,
        out: &mut Tensor,
    ) -> Result<()> {
        attention::full(self, qkv, segments, spec, out)
    }

    fn route(
        &self,
        logits: &Tensor,
        spec: &RouterSpec,
        operands: RouteOperands<'_, Self>,
        out: &mut Routing,
    ) -> Result<()> {
        routing::route(self, logits, spec, operands, out)
    }

    fn route_all(&self, tokens: usize, out: &mut Routing) -> Result<()> {
        let (index, weights) = out.reset(tokens, 1);
        index.fill(0);
        weights.fill(1.0);
        Ok(())
    }

    fn activate(
        &self,
        activation: Activation,
        gate: Option<&Tensor>,
        up: &mut Tensor,
    ) -> Result<()> {
        checks::activation(self, activation)?;
        if let Some(gate) = gate {
            checks::shape("gate", gate.shape(), up.shape())?;
        }
        let cols = up.cols();
        self.for_each_row(up.data_mut(), cols, |row, up| match gate {
            Some(gate) => self.elementwise().activate_gated(activation, gate.row(row), up),
            None => self.elementwise().activate(activation, up),
        });
        Ok(())
    }

    fn add(&self, x: &mut Tensor, y: &Tensor, scale: f32) -> Result<()> {
        checks::shape("summand", y.shape(), x.shape())?;
        let cols = x.cols();
        self.for_each_row(x.data_mut(), cols, |row, x| {
            self.elementwise().add_scaled(x, y.row(row), scale);
        });
        Ok(())
    }

    fn add_gated(&self, x: &mut Tensor, y: &Tensor, gate: &Tensor) -> Result<()> {
        checks::shape("summand", y.shape(), x.shape())?;
        checks::shape("gate", gate.shape(), [x.rows(), 1])?;
        let cols = x.cols();
        self.for_each_row(x.data_mut(), cols, |row, x| {
            self.elementwise().add_scaled(x, y.row(row), sigmoid(gate.row(row)[0]));
        });
        Ok(())
    }

    fn gate(&self, x: &mut Tensor, gate: &Tensor, function: GateFunction) -> Result<()> {
        checks::gate(x.shape(), gate.shape())?;
        let cols = x.cols();
        let width = cols.checked_div(gate.cols()).unwrap_or(0).max(1);
        self.for_each_row(x.data_mut(), cols, |row, x| {
            for (x, &gate) in x.chunks_exact_mut(width).zip(gate.row(row)) {
                let factor = gate_factor(function, gate);
                x.iter_mut().for_each(|value| *value *= factor);
            }
        });
        Ok(())
    }

    fn scale(&self, x: &mut Tensor, factor: f32) -> Result<()> {
        let cols = x.cols();
        self.for_each_row(x.data_mut(), cols, |_, x| {
            x.iter_mut().for_each(|value| *value *= factor);
        });
        Ok(())
    }

    fn clamp(&self, x: &mut Tensor, limit: f32) -> Result<()> {
        for value in x.data_mut() {
            *value = at_least(at_most(*value, limit), -limit);
        }
        Ok(())
    }
}
