//! An experts layer in two halves with a barrier between them: into the experts, `activation(gate(x),
//! up(x))`, and out of them, the weighted down products. A backend chooses which pairs go together.
//!
//! Of an expert's pairs, as many as fill panels go through them, and the rest through dot products;
//! what leaves the activation is already in the form the down product reads.

use std::ops::Range;

use moexperts_core::{Expert, Experts, Matrix, Result, checks};

use super::{
    RowsCall,
    groups::{Group, Groups},
    outputs::Outputs,
};
use crate::{
    cpu::{Cpu, MIN_VALUES, NARROWEST},
    linear::chunks,
    operands::{Buffer, Operands},
    product::{Block, Gathered, Inputs, Kernel, PANEL, Then},
    rows::{RowsMut, SharedOut},
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
    sums: Vec<f32>,
    threads: PerThread<ThreadRoom>,
}

/// Room of one thread, for gate and up.
#[derive(Debug, Default)]
struct ThreadRoom {
    products: [Block; 2],
    gathered: [Gathered; 2],
}

/// A call whose shapes agree, its pairs ordered and its output zeroed.
pub(super) struct Layer<'a> {
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
    /// What leaves the activation for the other pairs, [rows, I].
    inner_rows: Operands<'a>,
    /// What leaves the activation for the pairs in panels, [panels, I, PANEL].
    inner_panels: Operands<'a>,
    rooms: Rooms<'a, ThreadRoom>,
    /// The sums of the pairs of each token, [T, H].
    out: SharedRows<'a, f32>,
    /// Where the sums go in the end, if not where they are added up.
    rounded: Option<SharedOut<'a>>,
}

impl<'a> Layer<'a> {
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
            rooms: threads.rooms(cpu.threads()),
            out: SharedRows::new(sums, spec.hidden),
            rounded: rounded.map(RowsMut::shared),
        };
        Ok(layer)
    }

    /// The pairs of each expert that was hit, in ascending id.
    pub(super) fn groups(&self) -> &'a [Group] {
        self.groups.all()
    }

    /// Rounds the sums to where they go, if they are not there.
    pub(super) fn finish(self) {
        let Self { cpu, out: sums, rounded: Some(rounded), tokens, .. } = self else { return };
        let hidden = self.experts.spec().hidden;
        cpu.threads().split(tokens, MIN_VALUES.div_ceil(hidden.max(1)), |rows| {
            for row in rows {
                // SAFETY: nothing is added any more, and the threads divide the rows.
                unsafe { rounded.store(cpu, row, 0, sums.row(row)) };
            }
        });
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
            let room = unsafe { layer.rooms.own() };
            let groups = &groups[range];
            for (index, group) in groups.iter().enumerate() {
                let next = groups.get(index + 1);
                // SAFETY: as above, but of the columns and experts; every panel is packed.
                unsafe { layer.up(group, next, columns.clone(), room) };
            }
        });
        let grain = self.cpu.grain(spec.hidden, pairs * spec.intermediate);
        threads.split(spec.hidden, grain, |columns| {
            // SAFETY: once a part, which does nothing else.
            let room = unsafe { layer.rooms.own() };
            for (index, group) in groups.iter().enumerate() {
                let next = groups.get(index + 1);
                // SAFETY: as above, and every `up` has returned.
                unsafe { layer.down(group, next, columns.clone(), room) };
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
        room: &mut ThreadRoom,
    ) {
        let ThreadRoom { products: [Block(gate_out), Block(up_out)], gathered } = room;
        let Expert { gate_proj, up_proj, .. } = self.experts.expert(group.expert);
        let first = |expert: &'a Expert<Matrix, Vec<f32>>| {
            &expert.gate_proj.as_ref().unwrap_or(&expert.up_proj).weight
        };
        let first_of = |group: &Group| first(self.experts.expert(group.expert));
        let next = next.and_then(|next| Then::rows(first_of(next), columns.start));
        let end = columns.end;
        for columns in chunks(columns, self.outputs_at_once()) {
            let [gate_rows, up_rows] = &mut *gathered;
            let gate = gate_proj.as_ref().map(|gate| Outputs::of(gate, &columns, gate_rows));
            let up = Outputs::of(up_proj, &columns, up_rows);
            for panels in chunks(group.panels.clone(), self.kernel.block_panels()) {
                // SAFETY: nobody writes the panels any more.
                let inputs = unsafe { self.panels.read(panels.clone()) };
                let cells = panels.len() * columns.len() * PANEL;
                let product = |outputs: &Outputs<'_>, out: &mut [f32]| {
                    outputs.lanes(&self.kernel, inputs, out);
                };
                let (gate_out, up_out) = (&mut gate_out[..cells], &mut up_out[..cells]);
                self.activated(gate.as_ref(), &up, gate_out, up_out, product);
                for (panel, values) in panels.zip(up_out.chunks_exact(columns.len() * PANEL)) {
                    // SAFETY: the caller owes that nobody else writes these columns.
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
        room: &mut ThreadRoom,
    ) {
        let ThreadRoom { products: [Block(product), _], gathered: [gathered, _] } = room;
        let Expert { down_proj, .. } = self.experts.expert(group.expert);
        let next = next.map(|next| &self.experts.expert(next.expert).down_proj.weight);
        let next = next.and_then(|next| Then::rows(next, columns.start));
        let end = columns.end;
        for columns in chunks(columns, self.outputs_at_once()) {
            let down = Outputs::of(down_proj, &columns, gathered);
            for panels in chunks(group.panels.clone(), self.kernel.block_panels()) {
                let product = &mut product[..panels.len() * columns.len() * PANEL];
                // SAFETY: no `up` is in progress, as the caller owes.
                let inner = unsafe { self.inner_panels.read(panels.clone()) };
                down.lanes(&self.kernel, inner, product);
                for (panel, values) in panels.zip(product.chunks_exact(columns.len() * PANEL)) {
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
                let product = &mut product[..rows.len() * columns.len()];
                // SAFETY: no `up` is in progress, as the caller owes.
                let inner = unsafe { self.inner_rows.read(rows.clone()) };
                let indices: [u32; PANEL] = std::array::from_fn(|row| row as u32);
                let further = || Then::rows(&down_proj.weight, columns.end);
                let then = if columns.end < end { further() } else { next };
                let rows_of_inner = (inner, &indices[..rows.len()]);
                down.dot(self.cpu, &self.kernel, rows_of_inner, then, product);
                let pairs = &self.groups.pairs()[group.pairs_of_rows(&rows)];
                for (pair, values) in pairs.iter().zip(product.chunks_exact(columns.len())) {
                    // SAFETY: the caller owes that nobody else writes these columns.
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
