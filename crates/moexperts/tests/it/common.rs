//! What the tests share: where the data lies, and the goldens made by transformers.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use moexperts::{
    AnyDevice, AutoModel, AutoModelForCausalLm, Cpu, CpuOptions, DType, DeviceModel,
    GenerateOptions, LanguageModel, LoadOptions, files::ModelFiles,
};
use safetensors::{Dtype, SafeTensors};

/// Every tiny checkpoint.
pub(crate) const CASES: [&str; 10] = [
    "qwen2_moe",
    "qwen2_moe_window",
    "qwen3_moe",
    "qwen3_moe_fused",
    "olmoe",
    "mixtral",
    "gpt_oss",
    "gpt_oss_hub",
    "granitemoe",
    "minimax_m2",
];

/// The backends that come with the CPU.
pub(crate) const BACKENDS: [&str; 3] = ["eager", "batched_mm", "grouped_mm"];

/// A folder of the tests' data, which `MOEXPERTS_TESTDATA` says for tests that run elsewhere.
pub(crate) fn data(name: &str) -> PathBuf {
    let all = env::var_os("MOEXPERTS_TESTDATA").map(PathBuf::from);
    let here = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    all.unwrap_or_else(here).join(name)
}

pub(crate) fn load(case: &str, options: LoadOptions) -> LanguageModel {
    AutoModelForCausalLm::from_pretrained(data(case).to_str().unwrap(), options).unwrap()
}

/// A model that tests only read, loaded once for all of them; `None` is the stored dtype.
pub(crate) fn shared(case: &'static str, dtype: Option<DType>) -> &'static LanguageModel {
    type Models = BTreeMap<(&'static str, Option<&'static str>), &'static LanguageModel>;
    static MODELS: Mutex<Models> = Mutex::new(BTreeMap::new());
    // One that cannot be loaded fails its test, and no other.
    let mut models = MODELS.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (case, dtype.map(DType::name));
    models.entry(key).or_insert_with(|| {
        let model = load(case, LoadOptions::new().dtype(dtype));
        Box::leak(Box::new(model))
    })
}

/// A model on a CPU with these options.
pub(crate) fn load_on(case: &str, cpu: CpuOptions, dtype: DType) -> LanguageModel {
    let files = ModelFiles::open(&data(case)).unwrap();
    let cpu = AnyDevice::from(Cpu::new(cpu).unwrap());
    AutoModel::from_files_on(cpu, files, LoadOptions::new().dtype(dtype)).unwrap()
}

/// What of a model depends on the type of its device.
pub(crate) fn on_cpu(model: &LanguageModel) -> &DeviceModel<Cpu> {
    model.on().unwrap()
}

/// The tensors of a file, widened to f64.
#[derive(Debug)]
pub(crate) struct Golden(BTreeMap<String, Vec<f64>>);

impl Golden {
    /// The golden stages of a case.
    pub(crate) fn open(case: &str) -> Self {
        Self::read(&data(case).join("golden.safetensors"))
    }

    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let widen = |(name, tensor): (String, safetensors::tensor::TensorView<'_>)| {
            let data = tensor.data();
            let values = match tensor.dtype() {
                Dtype::F32 => chunks(data).map(|b| f64::from(f32::from_le_bytes(b))).collect(),
                Dtype::F64 => chunks(data).map(f64::from_le_bytes).collect(),
                Dtype::U8 => data.iter().map(|&byte| f64::from(byte)).collect(),
                Dtype::I64 => chunks(data).map(|b| i64::from_le_bytes(b) as f64).collect(),
                other => panic!("{name} has dtype {other:?}"),
            };
            (name, values)
        };
        Self(tensors.tensors().into_iter().map(widen).collect())
    }

    pub(crate) fn values(&self, name: &str) -> &[f64] {
        self.0.get(name).unwrap_or_else(|| panic!("no golden `{name}`"))
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn ids(&self, name: &str) -> Vec<u32> {
        self.values(name).iter().map(|&id| id as u32).collect()
    }
}

fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.chunks_exact(N).map(|chunk| chunk.try_into().unwrap())
}

/// The most likely token each time, whatever the model's files say.
pub(crate) fn greedy(max_new_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        do_sample: Some(false),
        repetition_penalty: Some(1.0),
        ignore_eos: true,
        max_new_tokens: Some(max_new_tokens),
        ..GenerateOptions::default()
    }
}

/// Fails unless all values are within `relative` of the largest expected magnitude.
pub(crate) fn assert_close(what: &str, got: &[f32], expected: &[f64], relative: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: number of values");
    let scale = expected.iter().fold(0.0_f64, |max, value| max.max(value.abs()));
    for (index, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs();
        assert!(
            error <= relative * scale,
            "{what} at {index}: {got} against {expected}, allowed {:e}",
            relative * scale
        );
    }
}

/// Root mean square of the differences.
pub(crate) fn rms(a: impl IntoIterator<Item = f64>, b: &[f64]) -> f64 {
    let squares: f64 = a.into_iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    (squares / b.len() as f64).sqrt()
}
