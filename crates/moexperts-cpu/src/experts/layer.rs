//! An experts layer in two halves with a barrier between them: into the experts,
//! `activation(gate(x), up(x))`, and out of them, the weighted down products. A backend chooses
//! which pairs go together.
//!
//! The pairs of an expert that fill panels go through panels, the others through dot products. The
//! results of the activation are stored in the form that the down product reads.

use std::ops::Range;

use moexperts_core::{Expert, Experts, Matrix, Result, checks};

use super::{
    RowsCall,
    groups::{ExpertPairs, Groups},
    outputs::Outputs,
};
use crate::{
    cpu::{Cpu, MIN_VALUES, NARROWEST},
    linear::chunks,
    operands::{Buffer, Operands},
    product::{BlockResults, Gathered, Inputs, Kernel, PANEL, Then},
    rows::{RowsMut, SharedOut},
    shared_rows::SharedRows,
    threads::{Grain, PerThread, Workspaces},
};

/// Which pairs of an expert pass its weights together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pairs {
    /// All of them, in the form that is faster.
    Together,
    /// Each alone, as dot products.
    Alone,
}

/// Buffers of one caller; they grow with the pairs, not with the experts.
#[derive(Debug, Default)]
struct Workspace {
    groups: Groups,
    inputs: Buffer,
    panels: Buffer,
    inner_rows: Buffer,
    inner_panels: Buffer,
    sums: Vec<f32>,
    threads: PerThread<ThreadWorkspace>,
}

/// Buffers of one thread, for gate and up.
#[derive(Debug, Default)]
struct ThreadWorkspace {
    products: [BlockResults; 2],
    gathered: [Gathered; 2],
}

/// A call whose shapes agree, its pairs ordered and its output zeroed.
pub(super) struct ExpertsLayer<'a> {
    cpu: &'a Cpu,
    experts: &'a Experts<Cpu>,
    kernel: Kernel,
    pairs: Pairs,
    groups: &'a Groups,
    tokens: usize,
    /// Hidden states, [T, H].
    inputs: Inputs<'a>,
    /// Hidden states of the pairs in panels, [panels, H, PANEL].
    panels: Operands<'a>,
    /// Results of the activation for the other pairs, [rows, I].
    inner_rows: Operands<'a>,
    /// Results of the activation for the pairs in panels, [panels, I, PANEL].
    inner_panels: Operands<'a>,
    workspaces: Workspaces<'a, ThreadWorkspace>,
    /// The sums of the pairs of each token, [T, H].
    out: SharedRows<'a, f32>,
    /// The rows that the sums are rounded into, if they are not `out`.
    rounded: Option<SharedOut<'a>>,
}

impl<'a> ExpertsLayer<'a> {
    /// Checks the call and orders its pairs by expert.
    ///
    /// # Errors
    /// If the shapes disagree or the experts are of a kind this crate does not run.
    pub(super) fn new(
        name: &str,
        pairs: Pairs,
        call: RowsCall<'a>,
        out: RowsMut<'a>,
    ) -> Result<Self> {
        let RowsCall { cpu, experts, x, routing, scratch } = call;
        let (spec, [tokens, _]) = (experts.spec(), x.shape());
        let routed = [routing.tokens(), routing.top_k()];
        checks::experts(spec, x.shape(), routed, out.shape())?;
        checks::backend(name, cpu, spec)?;
        let workspace = scratch.slot::<Workspace>();
        let Workspace { groups, inputs, panels, inner_rows, inner_panels, sums, threads } =
            workspace;
        let kernel = cpu.kernel(spec.format);
        groups.order(routing, spec.experts, |count| match pairs {
            Pairs::Together => kernel.in_panels(count),
            Pairs::Alone => (0, 0),
        });
        let count = groups.panels();
        let panel_len = |cols| kernel.panel_len(cols);
        let (sums, rounded) = out.sums(sums);
        sums[..tokens * spec.hidden].fill(0.0);
        let layer = Self {
            cpu,
            experts,
            kernel,
            pairs,
            tokens,
            inputs: inputs.prepare(cpu, &kernel, x),
            panels: panels.rows(&kernel, count, panel_len(spec.hidden)),
            inner_rows: inner_rows.rows(&kernel, groups.rows(), spec.intermediate),
            inner_panels: inner_panels.rows(&kernel, count, panel_len(spec.intermediate)),
            groups,
            workspaces: threads.of(cpu.threads()),
            out: SharedRows::new(sums, spec.hidden),
            rounded: rounded.map(RowsMut::shared),
        };
        Ok(layer)
    }

    /// The pairs of each expert that was hit, in ascending id.
    pub(super) fn groups(&self) -> &'a [ExpertPairs] {
        self.groups.all()
    }

    /// Rounds the sums to where they go, if they are not there.
    pub(super) fn finish(self) {
        let Self { cpu, out: sums, rounded: Some(rounded), tokens, .. } = self else { return };
        let hidden = self.experts.spec().hidden;
        cpu.threads().split(tokens, MIN_VALUES.div_ceil(hidden.max(1)), |rows| {
            for row in rows {
                // SAFETY: every `split` of `add` has returned, so nothing writes the sums, and this
                // one gives each row to one part.
                unsafe { rounded.store(cpu, row, 0, sums.row(row)) };
            }
        });
    }

    /// Computes the pairs of some experts and adds them to the output, in the order given.
    pub(super) fn add(&mut self, groups: &[ExpertPairs]) {
        let (layer, spec) = (&*self, self.experts.spec());
        let threads = self.cpu.threads();
        let panels = || groups.iter().flat_map(ExpertPairs::panels);
        threads.split(panels().count(), 1, |range| {
            for (panel, pairs) in panels().skip(range.start).take(range.len()) {
                // SAFETY: `&mut self` excludes other calls, and `split` gives each panel to one
                // part.
                unsafe {
                    let tokens = &layer.groups.tokens()[pairs];
                    layer.panels.pack(panel, layer.inputs, tokens, spec.hidden);
                }
            }
        });
        let pairs: usize = groups.iter().map(|group| group.pairs.len()).sum();
        let columns = self.cpu.grain(spec.intermediate, pairs * spec.hidden);
        let grain = Grain { columns, narrowest: NARROWEST };
        threads.split_grid(groups.len(), spec.intermediate, grain, |range, columns| {
            // SAFETY: once in this part of a `split`, which starts no other parallel work.
            let workspace = unsafe { layer.workspaces.own() };
            let groups = &groups[range];
            for (index, group) in groups.iter().enumerate() {
                let next = groups.get(index + 1);
                // SAFETY: `split_grid` gives each column of each expert to one part; the `split`
                // above has packed the panels.
                unsafe { layer.up(group, next, columns.clone(), workspace) };
            }
        });
        let grain = self.cpu.grain(spec.hidden, pairs * spec.intermediate);
        threads.split(spec.hidden, grain, |columns| {
            // SAFETY: once in this part of a `split`, which starts no other parallel work.
            let workspace = unsafe { layer.workspaces.own() };
            for (index, group) in groups.iter().enumerate() {
                let next = groups.get(index + 1);
                // SAFETY: `split` gives each column to one part; the `split_grid` above has
                // returned, and with it every `up`.
                unsafe { layer.down(group, next, columns.clone(), workspace) };
            }
        });
    }

    /// Columns of `activation(gate(x), up(x))` for the pairs of one expert.
    ///
    /// # Safety
    /// No other call in progress has the same expert and column; the panels are packed.
    unsafe fn up(
        &self,
        group: &ExpertPairs,
        next: Option<&ExpertPairs>,
        columns: Range<usize>,
        workspace: &mut ThreadWorkspace,
    ) {
        let ThreadWorkspace { products: [BlockResults(gate_out), BlockResults(up_out)], gathered } =
            workspace;
        let Expert { gate_proj, up_proj, .. } = self.experts.expert(group.expert);
        let first = |expert: &'a Expert<Matrix, Vec<f32>>| {
            &expert.gate_proj.as_ref().unwrap_or(&expert.up_proj).weight
        };
        let first_of = |group: &ExpertPairs| first(self.experts.expert(group.expert));
        let next = next.and_then(|next| Then::rows(first_of(next), columns.start));
        let end = columns.end;
        for columns in chunks(columns, self.outputs_at_once()) {
            let [gate_rows, up_rows] = &mut *gathered;
            let gate = gate_proj.as_ref().map(|gate| Outputs::of(gate, &columns, gate_rows));
            let up = Outputs::of(up_proj, &columns, up_rows);
            for panels in chunks(group.panels.clone(), self.kernel.block_panels()) {
                // SAFETY: the panels are packed, by this function's contract, and nothing writes
                // them before the next `add`.
                let inputs = unsafe { self.panels.read(panels.clone()) };
                let cells = panels.len() * columns.len() * PANEL;
                let product = |outputs: &Outputs<'_>, out: &mut [f32]| {
                    outputs.lanes(&self.kernel, inputs, out);
                };
                let (gate_out, up_out) = (&mut gate_out[..cells], &mut up_out[..cells]);
                self.activated(gate.as_ref(), &up, gate_out, up_out, product);
                for (panel, values) in panels.zip(up_out.chunks_exact(columns.len() * PANEL)) {
                    // SAFETY: no other call has these columns of this expert, by this function's
                    // contract, and the panel is the expert's. The first column is even, because
                    // `NARROWEST` and the number of outputs at once are.
                    unsafe {
                        self.inner_panels.store_panel(self.cpu, panel, columns.clone(), values);
                    }
                }
            }
            for rows in chunks(group.rows.clone(), self.rows_at_once()) {
                let tokens = &self.groups.tokens()[group.pairs_of_rows(&rows)];
                let cells = rows.len() * columns.len();
                // After the gate's rows come those of up, then the next block of the gate, or the
                // next expert.
                let product = |outputs: &Outputs<'_>, out: &mut [f32]| {
                    let then = if !std::ptr::eq(outputs, &raw const up) {
                        Then::rows(&up_proj.weight, columns.start)
                    } else if columns.end < end {
                        Then::rows(first_of(group), columns.end)
                    } else {
                        next
                    };
                    outputs.dot(self.cpu, &self.kernel, (self.inputs, tokens), then, out);
                };
                let (gate_out, up_out) = (&mut gate_out[..cells], &mut up_out[..cells]);
                self.activated(gate.as_ref(), &up, gate_out, up_out, product);
                for (row, values) in rows.zip(up_out.chunks_exact(columns.len())) {
                    // SAFETY: no other call has these columns of this expert, by this function's
                    // contract, and the row is the expert's.
                    unsafe { self.inner_rows.store(self.cpu, row, columns.clone(), values) };
                }
            }
        }
    }

    /// Adds columns of the weighted down products of the pairs of one expert to their tokens' rows.
    ///
    /// # Safety
    /// No other call in progress has the same column, or is an [`up`](Self::up).
    unsafe fn down(
        &self,
        group: &ExpertPairs,
        next: Option<&ExpertPairs>,
        columns: Range<usize>,
        workspace: &mut ThreadWorkspace,
    ) {
        let ThreadWorkspace { products: [BlockResults(product), _], gathered: [gathered, _] } =
            workspace;
        let Expert { down_proj, .. } = self.experts.expert(group.expert);
        let next = next.map(|next| &self.experts.expert(next.expert).down_proj.weight);
        let next = next.and_then(|next| Then::rows(next, columns.start));
        let end = columns.end;
        for columns in chunks(columns, self.outputs_at_once()) {
            let down = Outputs::of(down_proj, &columns, gathered);
            for panels in chunks(group.panels.clone(), self.kernel.block_panels()) {
                let product = &mut product[..panels.len() * columns.len() * PANEL];
                // SAFETY: only `up` writes these, and none is in progress, by this function's
                // contract.
                let inner = unsafe { self.inner_panels.read(panels.clone()) };
                down.lanes(&self.kernel, inner, product);
                for (panel, values) in panels.zip(product.chunks_exact(columns.len() * PANEL)) {
                    let pairs = &self.groups.pairs()[group.pairs_of_panel(panel)];
                    for (lane, pair) in pairs.iter().enumerate() {
                        // SAFETY: no other call has these columns, by this function's contract, and
                        // `out` ends with this turn.
                        let out = unsafe { self.out.part(pair.token as usize, columns.clone()) };
                        for (out, values) in out.iter_mut().zip(values.chunks_exact(PANEL)) {
                            *out += pair.weight * values[lane];
                        }
                    }
                }
            }
            for rows in chunks(group.rows.clone(), self.rows_at_once()) {
                let product = &mut product[..rows.len() * columns.len()];
                // SAFETY: only `up` writes these, and none is in progress, by this function's
                // contract.
                let inner = unsafe { self.inner_rows.read(rows.clone()) };
                let indices: [u32; PANEL] = std::array::from_fn(|row| row as u32);
                let further = || Then::rows(&down_proj.weight, columns.end);
                let then = if columns.end < end { further() } else { next };
                let rows_of_inner = (inner, &indices[..rows.len()]);
                down.dot(self.cpu, &self.kernel, rows_of_inner, then, product);
                let pairs = &self.groups.pairs()[group.pairs_of_rows(&rows)];
                for (pair, values) in pairs.iter().zip(product.chunks_exact(columns.len())) {
                    // SAFETY: no other call has these columns, by this function's contract, and
                    // `out` ends with this turn.
                    let out = unsafe { self.out.part(pair.token as usize, columns.clone()) };
                    self.cpu.elementwise().add_scaled(out, values, pair.weight);
                }
            }
        }
    }

    /// Gate and up products and the activation of both, in `up_out`.
    fn activated(
        &self,
        gate: Option<&Outputs<'_>>,
        up: &Outputs<'_>,
        gate_out: &mut [f32],
        up_out: &mut [f32],
        product: impl Fn(&Outputs<'_>, &mut [f32]),
    ) {
        let (elementwise, activation) = (self.cpu.elementwise(), self.experts.spec().activation);
        match gate {
            Some(gate) => {
                product(gate, gate_out);
                product(up, up_out);
                elementwise.activate_gated(activation, gate_out, up_out);
            }
            None => {
                product(up, up_out);
                elementwise.activate(activation, up_out);
            }
        }
    }

    /// Alone, every pair of an expert reads the block again: a quarter of it stays in the cache
    /// beside what the prefetches bring.
    fn outputs_at_once(&self) -> usize {
        match self.pairs {
            Pairs::Together => self.kernel.block_outputs(),
            Pairs::Alone => self.kernel.block_outputs() / 4,
        }
    }

    fn rows_at_once(&self) -> usize {
        match self.pairs {
            Pairs::Together => PANEL,
            Pairs::Alone => 1,
        }
    }
}
