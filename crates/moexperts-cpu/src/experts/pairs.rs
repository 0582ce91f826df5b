//! One projection of the experts, for each (token, expert) pair: the caller computes what stands
//! between two projections.

use std::ops::Range;

use moexperts_core::{Error, Linear, Matrix, Result, Routing, Scratch, checks};

use super::{
    groups::{ExpertPairs, Groups},
    outputs::Outputs,
};
use crate::{
    cpu::{Cpu, NARROWEST},
    linear::chunks,
    operands::{Buffer, Operands},
    product::{BlockResults, Gathered, Inputs, Kernel, PANEL},
    rows::{Rows, RowsMut, SharedOut},
    threads::{Grain, PerThread, Workspaces},
};

/// The arguments of [`expert_linear`].
#[derive(Debug)]
pub struct PairsCall<'a> {
    /// Where to compute.
    pub cpu: &'a Cpu,
    /// The projection of each expert, all of one shape and format.
    pub experts: &'a [Linear<Matrix, Vec<f32>>],
    /// A row for each token [T, in], or one for each pair [T · K, in].
    pub x: Rows<'a>,
    /// top_k_index [T, K]; the weights are not used.
    pub routing: &'a Routing,
    /// The caller's buffers, kept from call to call.
    pub scratch: &'a mut Scratch,
}

/// Buffers of one caller.
#[derive(Debug, Default)]
struct Workspace {
    /// The pairs, each as a separate token.
    pairs: Routing,
    groups: Groups,
    /// Input row of each ordered pair.
    input_rows: Vec<u32>,
    inputs: Buffer,
    panels: Buffer,
    threads: PerThread<ThreadWorkspace>,
}

/// Buffers of one thread.
#[derive(Debug, Default)]
struct ThreadWorkspace {
    product: BlockResults,
    gathered: Gathered,
    row: Vec<f32>,
}

/// `out[t · K + k] = experts[ids[t, k]](x[t])`, or of `x[t · K + k]`: [T · K, out], rounded once.
/// The rows of sentinels are 0.
///
/// # Errors
/// [`Error::Shape`] or [`Error::Format`] that names what does not agree, [`Error::Device`] if there
/// are no kernels for the weights.
pub fn expert_linear(call: PairsCall<'_>, out: RowsMut<'_>) -> Result<()> {
    let PairsCall { cpu, experts, x, routing, scratch } = call;
    let outputs = check(experts, &x, routing, out.shape())?;
    let count = routing.top_k_index().len();
    let Workspace { pairs, groups, input_rows, inputs, panels, threads } = scratch.slot();
    pairs.reset(count, 1).0.copy_from_slice(routing.top_k_index());
    let Some(first) = experts.first() else { return Ok(()) };
    checks::format(cpu, first.weight.format())?;
    let kernel = cpu.kernel(first.weight.format());
    groups.order(pairs, experts.len(), |rows| kernel.in_panels(rows));
    // There is a row for each pair, or for each K pairs of a token.
    let per_row = count.checked_div(x.shape()[0]).unwrap_or(1).max(1) as u32;
    input_rows.clear();
    input_rows.extend(groups.tokens().iter().map(|pair| pair / per_row));
    let [_, cols] = x.shape();
    let products = Products {
        cpu,
        kernel,
        experts,
        groups,
        input_rows,
        inputs: inputs.prepare(cpu, &kernel, x),
        panels: panels.rows(&kernel, groups.panels(), kernel.panel_len(cols)),
        workspaces: threads.of(cpu.threads()),
        out: out.shared(),
    };
    products.clear_sentinels(routing, outputs);
    products.run([cols, outputs]);
    Ok(())
}

/// Outputs of the projection, if everything agrees.
fn check(
    experts: &[Linear<Matrix, Vec<f32>>],
    x: &Rows<'_>,
    routing: &Routing,
    out: [usize; 2],
) -> Result<usize> {
    let [rows, cols] = x.shape();
    let pairs = routing.top_k_index().len();
    let outputs = experts.first().map_or(out[1], |first| first.weight.rows());
    let shape = |what: &str, expected: [usize; 2], got: [usize; 2]| {
        if expected == got { Ok(()) } else { Err(Error::shape(what, expected, got)) }
    };
    if rows != pairs && rows != routing.tokens() {
        return Err(Error::Shape {
            what: "input of the projection".into(),
            expected: format!("[{}, {cols}] or [{pairs}, {cols}]", routing.tokens()),
            got: format!("[{rows}, {cols}]"),
        });
    }
    shape("output of the projection", [pairs, outputs], out)?;
    for (index, Linear { weight, bias }) in experts.iter().enumerate() {
        let what = || format!("projection of expert {index}");
        shape(&what(), [outputs, cols], [weight.rows(), weight.cols()])?;
        let expected = experts[0].weight.format();
        if weight.format() != expected {
            return Err(Error::Format { what: what(), expected, got: weight.format() });
        }
        if bias.as_ref().is_some_and(|bias| bias.len() != outputs) {
            let got = bias.as_ref().map_or(0, Vec::len);
            return Err(Error::Shape {
                what: format!("bias of the {}", what()),
                expected: format!("[{outputs}]"),
                got: format!("[{got}]"),
            });
        }
    }
    Ok(outputs)
}

/// A call whose arguments agree.
struct Products<'a> {
    cpu: &'a Cpu,
    kernel: Kernel,
    experts: &'a [Linear<Matrix, Vec<f32>>],
    groups: &'a Groups,
    input_rows: &'a [u32],
    inputs: Inputs<'a>,
    panels: Operands<'a>,
    workspaces: Workspaces<'a, ThreadWorkspace>,
    out: SharedOut<'a>,
}

impl Products<'_> {
    /// Writes 0 for the pairs that go to no expert.
    fn clear_sentinels(&self, routing: &Routing, outputs: usize) {
        let zeros = vec![0.0; outputs];
        for (pair, &id) in routing.top_k_index().iter().enumerate() {
            if id as usize >= self.experts.len() {
                // SAFETY: this runs before `run`, on one thread.
                unsafe { self.out.store(self.cpu, pair, 0, &zeros) };
            }
        }
    }

    fn run(&self, [cols, outputs]: [usize; 2]) {
        let threads = self.cpu.threads();
        let groups = self.groups.all();
        let panels = || groups.iter().flat_map(ExpertPairs::panels);
        threads.split(panels().count(), 1, |range| {
            for (panel, pairs) in panels().skip(range.start).take(range.len()) {
                // SAFETY: `split` gives each panel to one part.
                unsafe { self.panels.pack(panel, self.inputs, &self.input_rows[pairs], cols) };
            }
        });
        let pairs: usize = groups.iter().map(|group| group.pairs.len()).sum();
        let columns = self.cpu.grain(outputs, pairs * cols);
        let grain = Grain { columns, narrowest: NARROWEST };
        threads.split_grid(groups.len(), outputs, grain, |range, columns| {
            // SAFETY: once in this part of a `split`, which starts no other parallel work.
            let workspace = unsafe { self.workspaces.own() };
            for group in &groups[range] {
                // SAFETY: `split_grid` gives each column of each group to one part; the `split`
                // above has packed the panels.
                unsafe { self.product(group, columns.clone(), workspace) };
            }
        });
    }

    /// Columns of the products of the pairs of one expert.
    ///
    /// # Safety
    /// No other call in progress has the same group and column; the panels are packed.
    unsafe fn product(
        &self,
        group: &ExpertPairs,
        columns: Range<usize>,
        workspace: &mut ThreadWorkspace,
    ) {
        let ThreadWorkspace { product: BlockResults(product), gathered, row } = workspace;
        let linear = &self.experts[group.expert];
        for columns in chunks(columns, self.kernel.block_outputs()) {
            let outputs = Outputs::of(linear, &columns, gathered);
            for panels in chunks(group.panels.clone(), self.kernel.block_panels()) {
                // SAFETY: the panels are packed, by this function's contract, and nothing writes
                // them after that.
                let inputs = unsafe { self.panels.read(panels.clone()) };
                let product = &mut product[..panels.len() * columns.len() * PANEL];
                outputs.lanes(&self.kernel, inputs, product);
                for (panel, values) in panels.zip(product.chunks_exact(columns.len() * PANEL)) {
                    let pairs = &self.groups.tokens()[group.pairs_of_panel(panel)];
                    for (lane, &pair) in pairs.iter().enumerate() {
                        row.clear();
                        row.extend(values.chunks_exact(PANEL).map(|values| values[lane]));
                        // SAFETY: no other call has these columns of this group, by this function's
                        // contract, and each pair is in one group.
                        unsafe { self.out.store(self.cpu, pair as usize, columns.start, row) };
                    }
                }
            }
            for rows in chunks(group.rows.clone(), PANEL) {
                let pairs = group.pairs_of_rows(&rows);
                let product = &mut product[..rows.len() * columns.len()];
                let inputs = (self.inputs, &self.input_rows[pairs.clone()]);
                outputs.dot(self.cpu, &self.kernel, inputs, None, product);
                let pairs = &self.groups.tokens()[pairs];
                for (&pair, values) in pairs.iter().zip(product.chunks_exact(columns.len())) {
                    // SAFETY: no other call has these columns of this group, by this function's
                    // contract, and each pair is in one group.
                    unsafe { self.out.store(self.cpu, pair as usize, columns.start, values) };
                }
            }
        }
    }
}
