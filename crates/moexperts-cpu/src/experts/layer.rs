//! An experts layer in two halves with a barrier between them: into the experts, `activation(gate(x),
//! up(x))`, and out of them, the weighted down products. A backend chooses which pairs go together.
//!
//! Of an expert's pairs, as many as fill panels go through them, and the rest through dot products;
//! what leaves the activation is already in the form the down product reads.

use std::ops::Range;

use moexperts_core::{Expert, Experts, ExpertsCall, Linear, Matrix, Result, Tensor};

use super::groups::{Group, Groups};
use crate::{
    cpu::{Cpu, NARROWEST},
    linear::chunks,
    operands::{Buffer, Operands},
    product::{Block, Inputs, Kernel, PANEL, Then},
    shared_rows::SharedRows,
    threads::{PerThread, Rooms},
};

/// Which pairs of an expert pass its weights together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pairs {
    /// All of them, in whichever form is faster.
    Together,
    /// Each on its own, as dot products.
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
    threads: PerThread<[Block; 2]>,
}

/// A call whose shapes agree, its pairs ordered and its output zeroed.
pub(super) struct Layer<'a> {
    cpu: &'a Cpu,
    experts: &'a Experts<Cpu>,
    kernel: Kernel,
    pairs: Pairs,
    groups: &'a Groups,
    /// Hidden states, [T, H].
    inputs: Inputs<'a>,
    /// Hidden states of the pairs in panels, [panels, H, PANEL].
    panels: Operands<'a>,
    /// What leaves the activation for the other pairs, [rows, I].
    inner_rows: Operands<'a>,
    /// What leaves the activation for the pairs in panels, [panels, I, PANEL].
    inner_panels: Operands<'a>,
    rooms: Rooms<'a, [Block; 2]>,
    out: SharedRows<'a, f32>,
}

impl<'a> Layer<'a> {
    /// Checks the call and orders its pairs by expert.
    ///
    /// # Errors
    /// If the shapes disagree or the experts are of a kind this crate does not run.
    pub(super) fn new(
        name: &str,
        pairs: Pairs,
        call: ExpertsCall<'a, Cpu>,
        out: &'a mut Tensor,
    ) -> Result<Self> {
        call.check_shapes(out)?;
        let ExpertsCall { device: cpu, experts, x, routing, scratch } = call;
        super::check(name, experts.spec())?;
        let (spec, workspace) = (experts.spec(), scratch.slot::<Workspace>());
        let Workspace { groups, inputs, panels, inner_rows, inner_panels, threads } = workspace;
        let kernel = cpu.kernel(spec.dtype);
        groups.order(routing, spec.experts, |count| match pairs {
            Pairs::Together => kernel.in_panels(count),
            Pairs::Alone => (0, 0),
        });
        let count = groups.panels();
        let panel_len = |cols| kernel.panel_len(cols);
        let layer = Self {
            cpu,
            experts,
            kernel,
            pairs,
            inputs: inputs.prepare(cpu, &kernel, x.data(), spec.hidden),
            panels: panels.rows(&kernel, count, panel_len(spec.hidden)),
            inner_rows: inner_rows.rows(&kernel, groups.rows(), spec.intermediate),
            inner_panels: inner_panels.rows(&kernel, count, panel_len(spec.intermediate)),
            groups,
            rooms: threads.rooms(cpu.threads()),
            out: {
                out.data_mut().fill(0.0);
                SharedRows::new(out.data_mut(), spec.hidden)
            },
        };
        Ok(layer)
    }

    /// The pairs of each expert that was hit, in ascending id.
    pub(super) fn groups(&self) -> &'a [Group] {
        self.groups.all()
    }

    /// Computes the pairs of some experts and adds them to the output, in the order given.
    pub(super) fn add(&mut self, groups: &[Group]) {
        let (layer, spec) = (&*self, self.experts.spec());
        let threads = self.cpu.threads();
        let panels = || groups.iter().flat_map(Group::panels);
        threads.split(panels().count(), 1, |range| {
            for (panel, pairs) in panels().skip(range.start).take(range.len()) {
                // SAFETY: `&mut self` keeps other calls out, and the threads divide the panels.
                unsafe {
                    let tokens = &layer.groups.tokens()[pairs];
                    layer.panels.pack(panel, layer.inputs, tokens, spec.hidden);
                }
            }
        });
        let pairs: usize = groups.iter().map(|group| group.pairs.len()).sum();
        let grain = [self.cpu.grain(spec.intermediate, pairs * spec.hidden), NARROWEST];
        threads.split_grid(groups.len(), spec.intermediate, grain, |range, columns| {
            // SAFETY: once a part, which does nothing else.
            let blocks = unsafe { layer.rooms.own() };
            let groups = &groups[range];
            for (index, group) in groups.iter().enumerate() {
                let next = groups.get(index + 1);
                // SAFETY: as above, but of the columns and experts; every panel is packed.
                unsafe { layer.up(group, next, columns.clone(), blocks) };
            }
        });
        let grain = self.cpu.grain(spec.hidden, pairs * spec.intermediate);
        threads.split(spec.hidden, grain, |columns| {
            // SAFETY: once a part, which does nothing else.
            let [Block(block), _] = unsafe { layer.rooms.own() };
            for (index, group) in groups.iter().enumerate() {
                let next = groups.get(index + 1);
                // SAFETY: as above, and every `up` has returned.
                unsafe { layer.down(group, next, columns.clone(), block) };
            }
        });
    }

    /// Columns of `activation(gate(x), up(x))` for the pairs of one expert.
    ///
    /// # Safety
    /// No other call in progress has the same expert and column; the panels are packed.
    unsafe fn up(
        &self,
        group: &Group,
        next: Option<&Group>,
        columns: Range<usize>,
        blocks: &mut [Block; 2],
    ) {
        let expert = self.experts.expert(group.expert);
        let first = |expert: &'a Expert<Matrix, Vec<f32>>| {
            &expert.gate_proj.as_ref().unwrap_or(&expert.up_proj).weight
        };
        let next = next.map(|next| Then {
            weights: first(self.experts.expert(next.expert)).into(),
            row: columns.start,
        });
        let end = columns.end;
        for columns in chunks(columns, self.outputs_at_once()) {
            for panels in chunks(group.panels.clone(), self.kernel.block_panels()) {
                // SAFETY: nobody writes the panels any more.
                let inputs = unsafe { self.panels.read(panels.clone()) };
                let [Block(gate), Block(up)] = &mut *blocks;
                let cells = panels.len() * columns.len() * PANEL;
                let product = |linear: &Linear<Matrix, Vec<f32>>, out: &mut [f32]| {
                    self.kernel.lanes(inputs, (&linear.weight).into(), columns.clone(), out);
                    if let Some(bias) = &linear.bias {
                        for out in out.chunks_exact_mut(columns.len() * PANEL) {
                            add_to_columns(&bias[columns.clone()], out);
                        }
                    }
                };
                let up = self.activated(expert, &mut gate[..cells], &mut up[..cells], product);
                for (panel, values) in panels.zip(up.chunks_exact(columns.len() * PANEL)) {
                    // SAFETY: the caller owes that nobody else writes these columns.
                    unsafe { self.inner_panels.store_panel(panel, columns.clone(), values) };
                }
            }
            for rows in chunks(group.rows.clone(), self.rows_at_once()) {
                let tokens = &self.groups.tokens()[group.pairs_of_rows(&rows)];
                let [Block(gate), Block(up)] = &mut *blocks;
                let cells = rows.len() * columns.len();
                // After the gate's rows come those of up, then the next block of the gate, or the
                // next expert.
                let product = |linear: &Linear<Matrix, Vec<f32>>, out: &mut [f32]| {
                    let then = if !std::ptr::eq(linear, &raw const expert.up_proj) {
                        Some(Then { weights: (&expert.up_proj.weight).into(), row: columns.start })
                    } else if columns.end < end {
                        Some(Then { weights: first(expert).into(), row: columns.end })
                    } else {
                        next
                    };
                    let weights = (&linear.weight).into();
                    self.kernel.dot(self.inputs, tokens, weights, columns.clone(), then, out);
                    self.add_bias(linear, &columns, out);
                };
                let up = self.activated(expert, &mut gate[..cells], &mut up[..cells], product);
                for (row, values) in rows.zip(up.chunks_exact(columns.len())) {
                    // SAFETY: the caller owes that nobody else writes these columns.
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
        group: &Group,
        next: Option<&Group>,
        columns: Range<usize>,
        block: &mut [f32],
    ) {
        let Expert { down_proj, .. } = self.experts.expert(group.expert);
        let weights = (&down_proj.weight).into();
        let next = next.map(|next| Then {
            weights: (&self.experts.expert(next.expert).down_proj.weight).into(),
            row: columns.start,
        });
        let end = columns.end;
        for columns in chunks(columns, self.outputs_at_once()) {
            for panels in chunks(group.panels.clone(), self.kernel.block_panels()) {
                let product = &mut block[..panels.len() * columns.len() * PANEL];
                // SAFETY: no `up` is in progress, as the caller owes.
                let inner = unsafe { self.inner_panels.read(panels.clone()) };
                self.kernel.lanes(inner, weights, columns.clone(), product);
                for (panel, values) in panels.zip(product.chunks_exact_mut(columns.len() * PANEL)) {
                    if let Some(bias) = &down_proj.bias {
                        add_to_columns(&bias[columns.clone()], values);
                    }
                    let pairs = &self.groups.pairs()[group.pairs_of_panel(panel)];
                    for (lane, pair) in pairs.iter().enumerate() {
                        // SAFETY: the caller owes that nobody else writes these columns.
                        let out = unsafe { self.out.part(pair.token as usize, columns.clone()) };
                        for (out, values) in out.iter_mut().zip(values.chunks_exact(PANEL)) {
                            *out += pair.weight * values[lane];
                        }
                    }
                }
            }
            for rows in chunks(group.rows.clone(), self.rows_at_once()) {
                let product = &mut block[..rows.len() * columns.len()];
                // SAFETY: no `up` is in progress, as the caller owes.
                let inner = unsafe { self.inner_rows.read(rows.clone()) };
                let indices: [u32; PANEL] = std::array::from_fn(|row| row as u32);
                let indices = &indices[..rows.len()];
                let then = Then { weights, row: columns.end };
                let then = if columns.end < end { Some(then) } else { next };
                self.kernel.dot(inner, indices, weights, columns.clone(), then, product);
                self.add_bias(down_proj, &columns, product);
                let pairs = &self.groups.pairs()[group.pairs_of_rows(&rows)];
                for (pair, values) in pairs.iter().zip(product.chunks_exact(columns.len())) {
                    // SAFETY: the caller owes that nobody else writes these columns.
                    let out = unsafe { self.out.part(pair.token as usize, columns.clone()) };
                    self.cpu.elementwise().add_scaled(out, values, pair.weight);
                }
            }
        }
    }

    /// Gate and up products and the activation of both, in `up`.
    fn activated<'b>(
        &self,
        expert: &Expert<Matrix, Vec<f32>>,
        gate: &mut [f32],
        up: &'b mut [f32],
        product: impl Fn(&Linear<Matrix, Vec<f32>>, &mut [f32]),
    ) -> &'b [f32] {
        let (elementwise, activation) = (self.cpu.elementwise(), self.experts.spec().activation);
        if let Some(gate_proj) = &expert.gate_proj {
            product(gate_proj, gate);
            product(&expert.up_proj, up);
            elementwise.activate_gated(activation, gate, up);
        } else {
            product(&expert.up_proj, up);
            elementwise.activate(activation, up);
        }
        up
    }

    fn add_bias(&self, linear: &Linear<Matrix, Vec<f32>>, columns: &Range<usize>, out: &mut [f32]) {
        if let Some(bias) = &linear.bias {
            for row in out.chunks_exact_mut(columns.len()) {
                self.cpu.elementwise().add_scaled(row, &bias[columns.clone()], 1.0);
            }
        }
    }

    /// Alone, every pair of an expert reads the block again, so it has to be near.
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

/// Adds a bias to a panel of results: a value for each column.
fn add_to_columns(bias: &[f32], panel: &mut [f32]) {
    for (bias, column) in bias.iter().zip(panel.chunks_exact_mut(PANEL)) {
        for value in column {
            *value += bias;
        }
    }
}
