//! A decoder as data (`spec`), its weights (`load`), and its forward (`decoder`), written
//! once for every family and every device.

mod decoder;
mod load;
mod rope;
mod spec;

pub use decoder::{Decoder, Forward, LogitsRows, Observer, Session, Stage};
pub use load::LoadReport;
pub use rope::{Rope, RopeScaling};
pub use spec::{
    AttentionShape, DecoderSpec, ExpertNames, LayerSpec, MlpSpec, MoeSpec, QkNorm, SharedExpertSpec,
};
