use moexperts::{
    AnyDevice, AutoModel, Cpu, CpuOptions, GenerateOptions, LanguageModel, LoadOptions, Stage,
    blocks::{Attention, Mixer, Moe, QkNorm},
    core::Storage as _,
};
use moexperts_cuda_emulator::{EmulatorOptions, test_devices};
use safetensors::SafeTensors;

use super::*;
use crate::{
    args::Shapes,
    pool::{ALIGNMENT, filling_threads},
    random::Random,
};

const AMPLE: FreeMemory = FreeMemory { machine: Some(1 << 30), own: None };

/// Shapes whose models can be loaded.
const NAMED: [&str; 4] = ["qwen1.5-moe", "olmoe", "qwen3-30b", "mixtral"];

fn shape(text: &str) -> LayerShape {
    text.parse::<Shapes>().unwrap().0.remove(0)
}

fn model(text: &str, layers: usize, dtype: DType) -> RandomModel {
    RandomModel::new(&shape(text), layers, dtype).unwrap()
}

/// A model of the family of a named shape, with small numbers.
fn small(name: &str, dtype: DType) -> RandomModel {
    let mut config = config::of(&shape(name), 2).unwrap();
    for (key, small) in [
        ("hidden_size", 24),
        ("intermediate_size", 12),
        ("moe_intermediate_size", 10),
        ("shared_expert_intermediate_size", 14),
        ("head_dim", 6),
        ("num_attention_heads", 4),
        ("num_key_value_heads", 2),
        ("num_experts", 6),
        ("num_local_experts", 6),
        ("num_experts_per_tok", 2),
        ("vocab_size", 64),
    ] {
        if config.get(key).is_some() {
            config[key] = small.into();
        }
    }
    RandomModel::described(name.to_owned(), &config, dtype).unwrap()
}

fn load(model: RandomModel, seed: u64) -> LanguageModel {
    load_on(Cpu::new(CpuOptions::default()).unwrap().into(), model, seed)
}

fn load_on(device: AnyDevice, model: RandomModel, seed: u64) -> LanguageModel {
    let files = model.files(seed, AMPLE, filling_threads(&device)).unwrap();
    AutoModel::from_files_on(device, files, LoadOptions::new()).unwrap()
}

/// What two prompts are continued with.
fn tokens(model: &LanguageModel, backend: &str) -> Vec<Vec<u32>> {
    model.set_experts_implementation(backend).unwrap();
    let options = GenerateOptions {
        max_new_tokens: Some(6),
        do_sample: Some(false),
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let prompts = vec![vec![5, 3, 8, 1], vec![7]];
    let mut generation = model.generate_tokens(prompts, &options).unwrap();
    for event in generation.by_ref() {
        event.unwrap();
    }
    (0..2).map(|sequence| generation.tokens(sequence).to_vec()).collect()
}

fn only_moe(spec: &DecoderSpec) -> &Moe {
    let all: Vec<_> = spec.moe_layers().collect();
    assert_eq!(all.len(), spec.layers.len());
    assert!(all.iter().all(|moe| *moe == all[0]));
    all[0]
}

/// The attentions of all layers.
fn attentions(spec: &DecoderSpec) -> impl Iterator<Item = &Attention> {
    spec.layers.iter().map(|layer| match &layer.mixer {
        Mixer::Attention(attention) => attention,
        other => panic!("{other:?}"),
    })
}

fn heads(attention: &Attention) -> [usize; 3] {
    [attention.heads, attention.kv_heads, attention.head_dim]
}

#[test]
fn named_models_have_the_numbers_of_their_configs() {
    struct Expected {
        name: &'static str,
        model_type: &'static str,
        /// H, I, E, K.
        experts: [usize; 4],
        /// Query heads, key/value heads, their width.
        heads: [usize; 3],
        vocabulary: usize,
        context: usize,
        theta: f64,
        eps: f32,
        shared: Option<usize>,
        norm_topk_prob: bool,
        qk_norm: QkNorm,
        qkv_bias: bool,
        /// Weights of the whole model, with all its layers.
        weights: (usize, f64),
    }
    let expected = [
        Expected {
            name: "qwen1.5-moe",
            model_type: "qwen2_moe",
            experts: [2048, 1408, 60, 4],
            heads: [16, 16, 128],
            vocabulary: 151_936,
            context: 8192,
            theta: 1e6,
            eps: 1e-6,
            shared: Some(5632),
            norm_topk_prob: false,
            qk_norm: QkNorm::None,
            qkv_bias: true,
            weights: (24, 14.3e9),
        },
        Expected {
            name: "olmoe",
            model_type: "olmoe",
            experts: [2048, 1024, 64, 8],
            heads: [16, 16, 128],
            vocabulary: 50304,
            context: 4096,
            theta: 1e4,
            eps: 1e-5,
            shared: None,
            norm_topk_prob: false,
            qk_norm: QkNorm::Whole,
            qkv_bias: false,
            weights: (16, 6.9e9),
        },
        Expected {
            name: "qwen3-30b",
            model_type: "qwen3_moe",
            experts: [2048, 768, 128, 8],
            heads: [32, 4, 128],
            vocabulary: 151_936,
            context: 40960,
            theta: 1e6,
            eps: 1e-6,
            shared: None,
            norm_topk_prob: true,
            qk_norm: QkNorm::PerHead,
            qkv_bias: false,
            weights: (48, 30.5e9),
        },
        Expected {
            name: "mixtral",
            model_type: "mixtral",
            experts: [4096, 14336, 8, 2],
            heads: [32, 8, 128],
            vocabulary: 32000,
            context: 32768,
            theta: 1e6,
            eps: 1e-5,
            shared: None,
            norm_topk_prob: true,
            qk_norm: QkNorm::None,
            qkv_bias: false,
            weights: (32, 46.7e9),
        },
    ];
    assert_eq!(expected.each_ref().map(|expected| expected.name), NAMED);
    for expected in expected {
        let model = model(expected.name, 3, DType::Bf16);
        let spec = &model.spec;
        assert_eq!(spec.layers.len(), 3);
        assert_eq!(spec.model_type, expected.model_type);
        let moe = only_moe(spec);
        let [_, inner, experts, top_k] = expected.experts;
        assert_eq!([moe.moe_intermediate_size, moe.num_experts], [inner, experts]);
        assert_eq!([spec.hidden_size, moe.router.top_k], [expected.experts[0], top_k]);
        assert_eq!(spec.vocab_size, expected.vocabulary);
        assert_eq!(spec.max_position_embeddings, expected.context);
        assert_eq!((spec.ropes[0].rope_theta, spec.rms_norm_eps), (expected.theta, expected.eps));
        assert_eq!(moe.shared_expert.map(|shared| shared.mlp.intermediate_size), expected.shared);
        assert_eq!(moe.router.normalise.is_some(), expected.norm_topk_prob);
        for layer in attentions(spec) {
            assert_eq!(heads(layer), expected.heads);
            assert_eq!((layer.qk_norm, layer.qkv_bias), (expected.qk_norm, expected.qkv_bias));
            assert_eq!((layer.o_bias, layer.sliding_window, layer.clip_qkv), (false, None, None));
        }
        assert!(!spec.tie_word_embeddings);

        let (layers, weights) = expected.weights;
        let whole = self::model(expected.name, layers, DType::Bf16);
        let got = whole.spec.total_weights() as f64;
        assert!((got / weights - 1.0).abs() < 0.01, "{}: {got}", expected.name);
    }
}

#[test]
fn numbers_make_layers_with_heads_of_one_width() {
    for (text, query_heads, kv_heads) in [
        ("1,1,1,1", 1, 1),
        ("128,1,4,2", 1, 1),
        ("129,64,4,2", 2, 2),
        ("2048,1024,64,8", 16, 4),
        ("1048576,1048576,1048576,8", 8192, 2048),
    ] {
        let spec = model(text, 2, DType::Bf16).spec;
        assert_eq!(spec.model_type, "qwen3_moe");
        for layer in attentions(&spec) {
            assert_eq!(heads(layer), [query_heads, kv_heads, config::HEAD_DIM], "{text}");
        }
        assert_eq!(spec.vocab_size, config::VOCABULARY);
        let moe = only_moe(&spec);
        let numbers = [spec.hidden_size, moe.moe_intermediate_size, moe.num_experts];
        let [h, i, e] = numbers.map(|number| number.to_string());
        assert_eq!([h, i, e, moe.router.top_k.to_string()].join(","), text);
    }
}

#[test]
fn what_cannot_be_loaded_says_what_can() {
    let name = "deepseek-v3";
    let error = RandomModel::new(&shape(name), 1, DType::Bf16).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "shape `{name}` is of no model family that can be loaded, expected one of \
             `qwen1.5-moe`, `olmoe`, `qwen3-30b`, `mixtral`, `gpt-oss-20b` or four numbers H,I,E,K"
        )
    );
    assert_eq!(
        error.hint().unwrap(),
        format!("`moexperts bench layer --shape {name}` measures the layer alone")
    );
    let error = RandomModel::new(&shape("olmoe"), 0, DType::Bf16).unwrap_err();
    assert_eq!(
        error.to_string(),
        "olmoe, 0 layers, random weights: key `num_hidden_layers` is 0, expected 1 to 16384"
    );
}

#[test]
fn more_than_half_the_memory_is_refused() {
    let refused = |model: RandomModel, free| model.files(0, free, 1).unwrap_err();
    let free = FreeMemory { machine: Some(8 << 30), own: None };
    let error = refused(model("qwen1.5-moe", 4, DType::Bf16), free);
    assert_eq!(
        error.to_string(),
        "the model (qwen1.5-moe, 4 layers, random weights) takes 5.81 GB, expected at most 4.29 GB, \
         half the available memory"
    );
    assert_eq!(error.hint().unwrap(), "take fewer layers, or a shape of smaller numbers");
    let gpu = FreeMemory { machine: None, own: Some(2 << 20) };
    let error = refused(model("64,32,8,2", 1, DType::F32), gpu);
    assert!(error.to_string().contains("expected at most 1.05 MB"), "{error}");
    // Beyond 64 bits; and few weights, but many tensors.
    for (text, layers) in [("1048576,1048576,1048576,8", 16384), ("1,1,1048576,1", 4)] {
        assert!(matches!(
            refused(model(text, layers, DType::F32), AMPLE),
            BenchError::Memory { .. }
        ));
    }
}

#[test]
fn every_family_finds_all_its_weights_in_place() {
    for name in NAMED {
        for dtype in DType::ALL {
            let expected = small(name, dtype).spec.total_weights() * dtype.size_bytes();
            let model = load(small(name, dtype), 0);
            let report = model.load_report();
            assert_eq!((report.in_place_bytes, report.converted_bytes), (expected, 0), "{name}");
            assert_eq!((model.dtype(), model.origin()), (Some(dtype), name));
            assert_eq!(tokens(&model, "grouped_mm").concat().len(), 2 * 6 + 5);
        }
        let model = load(small(name, DType::F32), 0);
        let eager = tokens(&model, "eager");
        assert_eq!(tokens(&model, "batched_mm"), eager, "{name}");
        assert_eq!(tokens(&model, "grouped_mm"), eager, "{name}");
    }
}

#[test]
fn a_seed_repeats_the_model() {
    let made = |seed| tokens(&load(model("40,24,6,2", 2, DType::F32), seed), "eager");
    let first = made(7);
    assert_eq!(first, made(7));
    assert_ne!(first, made(8));
}

#[test]
fn the_smallest_and_odd_numbers_run() {
    for text in ["1,1,1,1", "3,5,7,2"] {
        let model = load(model(text, 1, DType::Bf16), 0);
        assert_eq!(model.origin(), format!("{text}, 1 layer, random weights"));
        for backend in ["eager", "batched_mm", "grouped_mm"] {
            assert_eq!(tokens(&model, backend)[1].len(), 7);
        }
    }
}

#[test]
fn a_gpu_says_the_same() {
    let (_, gpu) = test_devices(&[EmulatorOptions::default()]).pop().unwrap();
    let on_gpu = load_on(gpu.into(), small("qwen1.5-moe", DType::F32), 0);
    let on_cpu = load(small("qwen1.5-moe", DType::F32), 0);
    assert_eq!(tokens(&on_gpu, "grouped_mm"), tokens(&on_cpu, "grouped_mm"));
}

#[test]
fn the_image_is_a_safetensors_file_with_aligned_data() {
    let spec = small("qwen1.5-moe", DType::Bf16).spec;
    let tensors = tensors::of(&spec);
    let image = image::of(&tensors, DType::Bf16, 0, 1);
    let (header, _) = SafeTensors::read_metadata(image.bytes()).unwrap();
    assert!((size_of::<u64>() + header).is_multiple_of(ALIGNMENT));
    let read = SafeTensors::deserialize(image.bytes()).unwrap();
    assert_eq!(read.len(), tensors.len());
    let one = 1.0_f32.to_bits().to_le_bytes();
    for tensor in tensors {
        let view = read.tensor(&tensor.name).unwrap();
        assert_eq!(view.shape(), tensor.shape);
        let all = |expected: [u8; 2]| view.data().as_chunks::<2>().0.iter().all(|x| *x == expected);
        match tensor.name {
            name if name.contains("norm") => assert!(all([one[2], one[3]]), "{name}"),
            name if name.ends_with("bias") => assert!(all([0, 0]), "{name}"),
            name => assert!(!all([0, 0]), "{name}"),
        }
    }
}

#[test]
fn experts_are_hit_about_alike_in_every_layer() {
    let model = load(model("256,32,8,2", 3, DType::Bf16), 0);
    let mut random = Random::new(0, &[]);
    let ids: Vec<u32> = (0..1000).map(|_| random.below(config::VOCABULARY) as u32).collect();
    let mut hits = [[0; 8]; 3];
    let mut observe = |layer: usize, stage: Stage<'_, Cpu>| {
        if let Stage::Routing(routing) = stage {
            routing.top_k_index().iter().for_each(|&expert| hits[layer][expert as usize] += 1);
        }
    };
    model.on::<Cpu>().unwrap().logits_observed(ids, &mut observe).unwrap();
    // 250 each, if it were exact.
    assert!(hits.as_flattened().iter().all(|hits| (150..350).contains(hits)), "{hits:?}");
}
