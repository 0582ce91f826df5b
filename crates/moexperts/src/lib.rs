//! Runs Mixture-of-Experts models with swappable experts backends.
//!
//! ```no_run
//! use moexperts::{AutoModelForCausalLm, GenerateOptions, LoadOptions};
//!
//! let options = LoadOptions::new().experts_implementation("grouped_mm");
//! let model = AutoModelForCausalLm::from_pretrained("Qwen/Qwen1.5-MoE-A2.7B", options)?;
//! println!("{}", model.generate("The borrow checker", &GenerateOptions::default())?);
//!
//! model.set_experts_implementation("eager")?; // from the next forward on
//! # Ok::<(), moexperts::Error>(())
//! ```
//!
//! A model is found by [`AutoModelForCausalLm`], in a folder or on the hub; its weights are used
//! where they lie in the mapped files, or brought to the GPU if it is loaded on one. A backend is
//! written against [`ExpertsBackend`] and found by name through [`ExpertsInterface`], like the
//! built-in ones.
//!
//! # Features
//!
//! All are on by default; without any, a model is loaded from a folder and generates token ids.
//!
//! | feature | what it adds |
//! |---|---|
//! | `chat-template` | conversations, written as the template of a model says |
//! | `cuda` | NVIDIA GPUs; needs nothing to build |
//! | `hub` | downloads of models by their id |
//! | `images` | image files, decoded; without it images are RGB pixels |
//! | `tokenizer` | text to tokens and back |

#![deny(unsafe_code)]

mod any_device;
mod auto;
pub mod blocks;
mod chat_template;
pub mod checkpoint;
mod compile;
pub mod config;
mod disk;
mod error;
mod experts_implementation;
pub mod families;
pub mod files;
mod generate;
mod graph;
#[cfg(feature = "hub")]
pub mod hub;
mod image_processor;
pub mod inspect;
mod json;
mod language_model;
pub mod model;
mod multimodal;
mod progress;
mod prompt;
mod session;
mod special_tokens;
mod tokenizer;
pub mod units;
mod warnings;
pub mod weights;

pub use any_device::{AnyDevice, DeviceName};
pub use auto::{AutoModel, AutoModelForCausalLm, AutoModelForImageTextToText};
pub use chat_template::{ChatOptions, ChatTemplate, Message};
pub use compile::{
    Break, CompileMode, CompileOptions, CompileReport, Explanation, PlanExplanation,
    StepExplanation,
};
pub use error::{Error, Result};
pub use experts_implementation::ExpertsImplementation;
pub use generate::{
    Event, FinishReason, Generation, GenerationStats, TokenLogprobs, config::GenerationConfig,
    options::GenerateOptions,
};
pub use graph::{Observer, Stage, VisualFeatures};
pub use image_processor::{Image, PixelValues};
pub use language_model::{CompiledPlans, DeviceModel, LanguageModel, LoadOptions, LoadTarget};
pub use progress::{Amount, Progress};
pub use prompt::{Position, Prompt, Visual};
pub use session::Session;
pub use special_tokens::SpecialTokens;
pub use tokenizer::{Piece, Tokenizer};
pub use warnings::Warnings;

pub use moexperts_core::{
    Activation, DType, Device, ExpertsBackend, ExpertsCall, ExpertsInterface, ExpertsSpec,
};
pub use moexperts_cpu::{Cpu, CpuOptions};
#[cfg(feature = "cuda")]
pub use moexperts_cuda::{Cuda, CudaOptions};

/// What a backend or a device is written with.
pub mod core {
    pub use moexperts_core::{
        AttentionCall, AttentionSpec, Batch, DeviceKind, DeviceLinear, Element, Elements, Error,
        Execution, Expert, ExpertGroups, Experts, GateFunction, Knob, Linear, Matrix, MatrixLayout,
        Memory, Operation, Operations, PickOn, Result, RopePairing, RouteOperands, RouterSpec,
        Routing, Rows, Score, Scratch, SharedSlices, Span, StateSpec, Storage, Tensor, Tuning,
        TypedCache, Weight, WeightFormat, checks, made, positions, reference,
    };
}

/// The CPU: its backends, kernels and instruction sets.
pub mod cpu {
    pub use moexperts_cpu::{
        Architecture, BatchedMm, Eager, GroupedMm, HostThreads, ISA_VARIABLE, Isa, IsaError,
        PairsCall, Rows, RowsBackend, RowsCall, RowsMut, State, ValuesMut, elementwise,
        expert_linear, limits, product,
    };
}

/// NVIDIA GPUs: their backends, kernels and driver.
#[cfg(feature = "cuda")]
pub mod cuda {
    pub use moexperts_cuda::{
        BatchedMm, CudaMatrix, CudaRouting, CudaTensor, CudaVector, Eager, GroupedMm, Recording,
        Schedule, State, driver, kernels, limits,
    };
}

/// The pages of the documentation that are programs.
#[cfg(all(
    doctest,
    feature = "chat-template",
    feature = "cuda",
    feature = "images",
    feature = "tokenizer"
))]
mod documentation {
    #[doc = include_str!("../../../README.md")]
    struct Readme;

    #[doc = include_str!("../../../docs/adding-a-backend.md")]
    struct AddingABackend;

    #[doc = include_str!("../../../docs/compile.md")]
    struct Compile;
}
