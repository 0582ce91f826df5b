//! The inventory of a model's weights.
//!
//! A block lists its tensors once. What loads a checkpoint, makes random models, estimates memory or
//! compares a checkpoint with what is expected reads that list.

/// A tensor of a model, or that of each expert of a layer: its name in the checkpoint, its shape and
/// its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorSpec {
    /// Its name in the checkpoint; for a tensor of each expert, with `{}` for the expert's number.
    pub name: String,
    /// Its shape in the checkpoint.
    pub shape: Vec<usize>,
    /// For a tensor of each expert, how many experts there are.
    pub experts: Option<usize>,
    /// Its kind.
    pub kind: TensorKind,
    /// How much of it a token reads.
    pub share: Share,
    /// How its matrices are stored.
    pub orientation: Orientation,
}

/// Which axis of a stored projection comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Orientation {
    /// `[out, in]`: a row holds the weights of one output.
    OutIn,
    /// `[in, out]`, which is brought to `[out, in]` when it is loaded.
    InOut,
}

/// What a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TensorKind {
    /// A row for each token of the vocabulary, or for each position.
    Embedding,
    /// A matrix that activations are multiplied with, or a stack of them.
    Matrix,
    /// What a normalised value is multiplied with.
    Norm,
    /// What is added: of a projection, a norm, a router.
    Bias,
}

/// How much of a tensor one token reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Share {
    /// All of it.
    All,
    /// A row, as of an embedding.
    Row,
    /// The part of K of the E experts that it holds, alone or with others'.
    Routed {
        /// K: experts per token.
        top_k: usize,
        /// E: experts of the layer.
        experts: usize,
    },
}

impl TensorSpec {
    /// How many tensors of the checkpoint it stands for.
    pub fn count(&self) -> usize {
        self.experts.unwrap_or(1)
    }

    /// The names in the checkpoint.
    pub fn names(&self) -> impl Iterator<Item = String> {
        (0..self.count()).map(|expert| name_of(&self.name, self.experts.map(|_| expert)))
    }

    /// Elements of all tensors it stands for; wide, because a description may be larger than any
    /// memory.
    pub fn elements(&self) -> u128 {
        let one = self.shape.iter().fold(1, |len: u128, &size| len.saturating_mul(size as u128));
        one.saturating_mul(self.count() as u128)
    }

    /// Whether it is counted as a weight, as models' sizes are told: a matrix or an embedding.
    pub fn is_weight(&self) -> bool {
        matches!(self.kind, TensorKind::Embedding | TensorKind::Matrix)
    }

    /// The elements that one token reads; those of an embedding's row left out.
    pub fn active_elements(&self) -> u128 {
        match self.share {
            Share::All => self.elements(),
            Share::Row => 0,
            Share::Routed { top_k, experts } => {
                self.elements().saturating_mul(top_k as u128) / experts.max(1) as u128
            }
        }
    }
}

/// The name of a tensor, of one expert if `name` is that of each.
pub(crate) fn name_of(name: &str, expert: Option<usize>) -> String {
    match expert {
        Some(expert) => name.replacen("{}", &expert.to_string(), 1),
        None => name.to_owned(),
    }
}

/// What is known of a checkpoint while its tensors are listed: families have several dialects, and
/// what is stored says which one a checkpoint is written in.
pub trait Stored {
    /// The shape of a tensor, if there is one of this name.
    fn shape(&self, name: &str) -> Option<&[usize]>;

    /// Whether there is a tensor of this name.
    fn contains(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }
}

/// No checkpoint: a model as its publishers write it.
#[derive(Debug, Clone, Copy)]
pub struct AsPublished;

impl Stored for AsPublished {
    fn shape(&self, _name: &str) -> Option<&[usize]> {
        None
    }
}

/// Tensors, listed by blocks.
pub(crate) struct Tensors<'s> {
    stored: &'s dyn Stored,
    list: Vec<TensorSpec>,
}

impl std::fmt::Debug for Tensors<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tensors").field("list", &self.list).finish_non_exhaustive()
    }
}

impl<'s> Tensors<'s> {
    pub(crate) fn new(stored: &'s dyn Stored) -> Self {
        Self { stored, list: Vec::new() }
    }

    pub(crate) fn stored(&self) -> &'s dyn Stored {
        self.stored
    }

    pub(crate) fn finish(self) -> Vec<TensorSpec> {
        self.list
    }

    pub(crate) fn push(&mut self, name: String, shape: &[usize], kind: TensorKind, share: Share) {
        let (shape, orientation, experts) = (shape.to_vec(), Orientation::OutIn, None);
        self.list.push(TensorSpec { name, shape, experts, kind, share, orientation });
    }

    /// `name` [n, out, in], stored [n, in, out] if `exchanged`: the projections of n experts.
    pub(crate) fn stack(
        &mut self,
        name: String,
        [n, outputs, inputs]: [usize; 3],
        exchanged: bool,
        share: Share,
    ) {
        let (shape, orientation) = match exchanged {
            true => (vec![n, inputs, outputs], Orientation::InOut),
            false => (vec![n, outputs, inputs], Orientation::OutIn),
        };
        let (kind, experts) = (TensorKind::Matrix, None);
        self.list.push(TensorSpec { name, shape, experts, kind, share, orientation });
    }

    /// `{name}.weight` [out, in], and `{name}.bias` `[out]` if it has one.
    pub(crate) fn linear(&mut self, name: &str, shape: [usize; 2], bias: bool) {
        self.push(format!("{name}.weight"), &shape, TensorKind::Matrix, Share::All);
        if bias {
            self.push(format!("{name}.bias"), &shape[..1], TensorKind::Bias, Share::All);
        }
    }

    /// [`linear`](Self::linear) of each of a layer's experts; `name` has `{}` for their number.
    pub(crate) fn expert_linear(
        &mut self,
        name: &str,
        shape: [usize; 2],
        bias: bool,
        experts: usize,
        share: Share,
    ) {
        let first = self.list.len();
        self.linear(name, shape, bias);
        for tensor in &mut self.list[first..] {
            tensor.experts = Some(experts);
            tensor.share = share;
        }
    }

    /// `{name}.weight` `[len]`.
    pub(crate) fn norm(&mut self, name: &str, len: usize) {
        self.push(format!("{name}.weight"), &[len], TensorKind::Norm, Share::All);
    }

    /// `name` `[len]`.
    pub(crate) fn bias(&mut self, name: String, len: usize) {
        self.push(name, &[len], TensorKind::Bias, Share::All);
    }
}
