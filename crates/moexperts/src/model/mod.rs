//! A decoder as data (`spec`), its weights (`load`), and its forward (`decoder`), written once for
//! every family and every device; `vision`, which gives it pictures to read; and `prompt`, what it
//! reads and where each token stands.

mod decoder;
mod inputs;
mod load;
mod ops;
mod prompt;
mod rope;
mod spec;
mod vision;
mod weights;

pub use decoder::{Decoder, Forward, Input, LogitsRows, Observer, Session, Stage};
pub(crate) use ops::Ops;
pub use prompt::{Position, Prompt, Visual};
pub use rope::{Rope, RopeScaling};
pub use spec::{
    AttentionShape, DecoderSpec, ExpertNames, LayerSpec, MlpSpec, ModelSpec, MoeSpec, QkNorm,
    SharedExpertSpec,
};
pub use vision::{VisionSpec, VisionTokens, VisionTower, VisualFeatures, VisualRows};
pub use weights::{LoadReport, Weights};
