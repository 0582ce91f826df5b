//! A layer of a decoder: two blocks, and the norms around them.

use moexperts_core::{Device, StateSpec};

use super::{attention::Attention, context::Context, dense::Dense, moe::Moe};
use crate::{
    error::Result,
    graph::{Builder, StageKind, Value},
    weights::{Tensors, Weights},
};

/// One layer of a decoder: a token mixer and a feed-forward block, each added to the residual stream.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LayerSpec {
    /// What moves information between tokens.
    pub mixer: Mixer,
    /// What each token passes alone.
    pub feed_forward: FeedForward,
    /// The norms around the two.
    pub norms: LayerNorms,
    /// Factor on what each of the two adds to the residual stream.
    pub residual_multiplier: f32,
}

/// A token mixer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Mixer {
    /// Grouped-query attention.
    Attention(Attention),
}

/// A feed-forward block.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum FeedForward {
    /// The same weights for every token.
    Dense(Dense),
    /// A router and experts.
    Moe(Moe),
}

/// The modules of a layer's RMS norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerNorms {
    /// Of the mixer.
    pub mixer: BranchNorms,
    /// Of the feed-forward block.
    pub feed_forward: BranchNorms,
}

/// The norms of one branch of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BranchNorms {
    /// On what the branch reads.
    pub before: Option<&'static str>,
    /// On what it gives, before that is added to the residual stream.
    pub after: Option<&'static str>,
}

impl LayerNorms {
    /// One norm before each branch, as Llama names them.
    pub const PRE: Self = Self {
        mixer: BranchNorms { before: Some("input_layernorm"), after: None },
        feed_forward: BranchNorms { before: Some("post_attention_layernorm"), after: None },
    };
}

impl LayerSpec {
    /// A layer with a norm before each branch.
    pub fn pre_norm(mixer: Mixer, feed_forward: FeedForward) -> Self {
        Self { mixer, feed_forward, norms: LayerNorms::PRE, residual_multiplier: 1.0 }
    }

    /// Lists the tensors of the layer, which is module `module`.
    pub(crate) fn tensors(&self, context: Context, module: &str, list: &mut Tensors<'_>) {
        let mut norm = |name: Option<&str>| {
            if let Some(name) = name {
                list.norm(&format!("{module}.{name}"), context.hidden_size);
            }
        };
        let LayerNorms { mixer, feed_forward } = self.norms;
        for name in [mixer.before, mixer.after, feed_forward.before, feed_forward.after] {
            norm(name);
        }
        match &self.mixer {
            Mixer::Attention(attention) => attention.tensors(context, module, list),
        }
        match &self.feed_forward {
            FeedForward::Dense(dense) => dense.tensors(context, module, list),
            FeedForward::Moe(moe) => moe.tensors(context, module, list),
        }
    }

    /// What the layer keeps of each sequence.
    pub fn state(&self) -> StateSpec {
        match &self.mixer {
            Mixer::Attention(attention) => attention.state(),
        }
    }

    /// Adds layer `index` to a graph, in which it changes the residual stream `x`.
    pub(crate) fn build<D: Device>(
        &self,
        context: Context,
        index: usize,
        module: &str,
        weights: &mut Weights<'_, D>,
        graph: &mut Builder<D>,
        x: Value,
    ) -> Result<()> {
        let LayerNorms { mixer, feed_forward } = self.norms;
        let branch = Branch { context, module, scale: self.residual_multiplier };

        let normed = branch.norm(mixer.before, weights, graph, x)?;
        let mixed = match &self.mixer {
            Mixer::Attention(attention) => {
                attention.build(context, index, module, weights, graph, normed)?
            }
        };
        branch.join(mixer.after, weights, graph, x, mixed)?;

        let normed = branch.norm(feed_forward.before, weights, graph, x)?;
        let fed = match &self.feed_forward {
            FeedForward::Dense(dense) => dense.build(module, weights, graph, normed)?,
            FeedForward::Moe(moe) => moe.build(context, module, weights, graph, normed)?,
        };
        branch.join(feed_forward.after, weights, graph, x, fed)?;
        graph.show(StageKind::BlockOutput);
        Ok(())
    }
}

/// What the branches of a layer have in common.
#[derive(Clone, Copy)]
struct Branch<'m> {
    context: Context,
    module: &'m str,
    scale: f32,
}

impl Branch<'_> {
    /// `x` through a norm, if there is one.
    fn norm<D: Device>(
        self,
        name: Option<&'static str>,
        weights: &mut Weights<'_, D>,
        graph: &mut Builder<D>,
        x: Value,
    ) -> Result<Value> {
        let Some(name) = name else { return Ok(x) };
        let weight = weights.norm(&format!("{}.{name}", self.module))?;
        Ok(graph.rms_norm(name, x, weight, self.context.rms_norm_eps))
    }

    /// Adds what a branch gives to the residual stream.
    fn join<D: Device>(
        self,
        norm: Option<&'static str>,
        weights: &mut Weights<'_, D>,
        graph: &mut Builder<D>,
        x: Value,
        y: Value,
    ) -> Result<()> {
        let y = self.norm(norm, weights, graph, y)?;
        graph.add("residual", x, y, self.scale);
        Ok(())
    }
}
