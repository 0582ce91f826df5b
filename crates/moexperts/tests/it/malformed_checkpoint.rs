//! Every way in which the files of a model can be wrong, and what is said about it.

use std::{
    fmt::Debug,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use moexperts::{Error, Result, checkpoint::Checkpoint, files::ModelFiles};
use moexperts_core::{DType, Storage};
use proptest::prelude::*;
use tempfile::TempDir;

const INDEX: &str = "model.safetensors.index.json";
const ONE_TENSOR: &str = r#"{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;

#[derive(Debug)]
struct Bytes(Vec<u8>);

impl Storage for Bytes {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A safetensors file of this header, its length as it should be.
fn safetensors(json: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.extend(data);
    bytes
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).expect("a writable folder");
    }
    folder
}

/// What opening a folder that holds this `model.safetensors` says.
fn problem_of(file: &[u8]) -> String {
    checkpoint_problem(Checkpoint::open(folder(&[("model.safetensors", file)]).path()))
}

fn checkpoint_problem<T: Debug>(result: Result<T>) -> String {
    let error = result.expect_err("a malformed checkpoint");
    assert!(matches!(error, Error::Checkpoint { .. }), "{error:?}");
    error.to_string()
}

/// The path an I/O error names, and what the system said.
fn io_problem<T: Debug>(result: Result<T>) -> (PathBuf, String) {
    match result.expect_err("an unreadable file") {
        Error::Io { path, source } => (path, source.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_path_that_is_not_a_directory() {
    let folder = folder(&[("file", b"")]);
    let path = folder.path().join("file");
    let expected = (path.clone(), "not a directory".to_owned());
    assert_eq!(io_problem(Checkpoint::open(&path)), expected);
    assert_eq!(io_problem(ModelFiles::open(&path)), expected);
    let error = ModelFiles::open(&path).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot read `{}`", path.display()));
}

#[test]
fn a_path_that_does_not_exist() {
    let folder = folder(&[]);
    let path = folder.path().join("absent");
    assert_eq!(io_problem(Checkpoint::open(&path)).0, path);
    assert_eq!(io_problem(ModelFiles::open(&path)).0, path);
}

#[test]
fn a_folder_without_weights() {
    let empty = folder(&[]);
    let path = empty.path().display();
    assert_eq!(
        checkpoint_problem(Checkpoint::open(empty.path())),
        format!("{path}: no weights, neither `model.safetensors` nor `{INDEX}` is there")
    );
    let other = folder(&[("pytorch_model.bin", b""), ("training.log", b"")]);
    let path = other.path().display();
    assert_eq!(
        checkpoint_problem(Checkpoint::open(other.path())),
        format!(
            "{path}: no weights, neither `model.safetensors` nor `{INDEX}` is there; \
             `pytorch_model.bin` is of another format, only safetensors are read"
        )
    );
}

#[test]
fn a_missing_config() {
    let folder = folder(&[("model.safetensors", &safetensors("{}", b""))]);
    let expected = (folder.path().join("config.json"), "no such file".to_owned());
    assert_eq!(io_problem(ModelFiles::open(folder.path())), expected);
}

#[test]
fn a_broken_config() {
    let folder = folder(&[("config.json", b"{\"hidden_size\": 8,\n}")]);
    let error = ModelFiles::open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error:?}");
    let expected = "config.json: broken JSON: trailing comma at line 2 column 1";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_config_that_is_not_utf_8() {
    let folder = folder(&[("config.json", b"{\"\xff\"}")]);
    assert_eq!(
        ModelFiles::open(folder.path()).unwrap_err().to_string(),
        "config.json: is not UTF-8 from byte 2 on, expected UTF-8 without a byte-order mark: save it so"
    );
}

#[test]
fn a_missing_config_key() {
    let weights = safetensors("{}", b"");
    let folder = folder(&[("config.json", b"{}"), ("model.safetensors", &weights)]);
    let files = ModelFiles::open(folder.path()).unwrap();
    let error = files.config.required::<usize>("hidden_size").unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error:?}");
    assert_eq!(error.to_string(), "config.json: missing key `hidden_size`");
}

#[test]
fn a_missing_tensor() {
    let json = r#"{"model.norm.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let folder = folder(&[("model.safetensors", &safetensors(json, &[0; 4]))]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(
        checkpoint_problem(checkpoint.matrix("lm_head.weight", [1, 1])),
        "model.safetensors: missing tensor `lm_head.weight`"
    );
    assert_eq!(
        checkpoint_problem(checkpoint.vector("model.final_norm.weight", 1)),
        "model.safetensors: missing tensor `model.final_norm.weight`, similar names are \
         `model.norm.weight`"
    );
}

#[test]
fn a_wrong_shape() {
    let folder = folder(&[("model.safetensors", &safetensors(ONE_TENSOR, &[0; 16]))]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(
        checkpoint_problem(checkpoint.matrix("w", [4, 1])),
        "model.safetensors: tensor `w` has shape [2, 2], expected [4, 1]"
    );
}

#[test]
fn an_unsupported_dtype() {
    let json = r#"{"a":{"dtype":"I64","shape":[1,1],"data_offsets":[0,8]},
                   "b":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[8,12]}}"#;
    let folder = folder(&[("model.safetensors", &safetensors(json, &[0; 12]))]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(
        checkpoint_problem(checkpoint.matrix("a", [1, 1])),
        "model.safetensors: tensor `a` has dtype I64, expected one of F32, F16, BF16"
    );
    assert_eq!(
        checkpoint_problem(checkpoint.vector("b", 4)),
        "model.safetensors: tensor `b` has dtype F8_E4M3, expected one of F32, F16, BF16: the \
         weights are quantised (fp8); load it with transformers and \
         `FineGrainedFP8Config(dequantize=True)`, and save it, or take an unquantised copy"
    );
}

#[test]
fn an_empty_file() {
    assert_eq!(problem_of(b""), "model.safetensors: the file is empty");
    assert_eq!(
        problem_of(b"abc"),
        "model.safetensors: the file has only 3 bytes, too few for a safetensors header"
    );
}

#[test]
fn a_git_lfs_pointer() {
    assert_eq!(
        problem_of(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "model.safetensors: is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    );
}

#[test]
fn a_header_length_beyond_the_file() {
    for length in [3, u64::MAX] {
        let mut file = length.to_le_bytes().to_vec();
        file.extend(b"{}");
        let problem = format!("the header of {length} bytes ends beyond the file of 10 bytes");
        assert_eq!(problem_of(&file), format!("model.safetensors: {problem}"));
    }
}

#[test]
fn broken_header_json() {
    assert_eq!(
        problem_of(&safetensors(r#"{"w": "#, b"")),
        "model.safetensors: broken JSON in the header: EOF while parsing a value at line 1 column 6"
    );
}

#[test]
fn a_truncated_file() {
    assert_eq!(
        problem_of(&safetensors(ONE_TENSOR, &[0; 15])),
        "model.safetensors: truncated: the header describes 16 bytes of tensors, the file has 15"
    );
}

#[test]
fn data_that_belong_to_no_tensor() {
    assert_eq!(
        problem_of(&safetensors(ONE_TENSOR, &[0; 17])),
        "model.safetensors: the header describes 16 bytes of tensors, the file has 17"
    );
}

#[test]
fn overlapping_offsets() {
    let json = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                   "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    assert_eq!(
        problem_of(&safetensors(json, &[0; 12])),
        "model.safetensors: tensor `b` starts at byte 4, inside `a` that ends at byte 8"
    );
}

#[test]
fn offsets_that_do_not_hold_the_shape() {
    let json = r#"{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,16]}}"#;
    assert_eq!(
        problem_of(&safetensors(json, &[0; 16])),
        "model.safetensors: tensor `w` of shape [2, 3] and dtype F32 needs 24 bytes, its offsets \
         hold 16"
    );
}

/// What opening a folder of one shard `one.safetensors` and this index says.
fn index_problem(json: &str) -> String {
    let shard = safetensors(ONE_TENSOR, &[0; 16]);
    let folder = folder(&[("one.safetensors", &shard), (INDEX, json.as_bytes())]);
    checkpoint_problem(Checkpoint::open(folder.path()))
}

#[test]
fn an_index_of_broken_json() {
    assert_eq!(
        index_problem("{\"weight_map\": {\n"),
        format!("{INDEX}: broken index: EOF while parsing an object at line 2 column 0")
    );
    assert_eq!(
        index_problem("{}"),
        format!("{INDEX}: broken index: missing field `weight_map` at line 1 column 2")
    );
}

#[test]
fn an_index_naming_a_missing_file() {
    assert_eq!(
        index_problem(r#"{"weight_map": {"w": "one.safetensors", "x": "two.safetensors"}}"#),
        format!("{INDEX}: shard `two.safetensors` does not exist")
    );
}

#[test]
fn the_index_gives_the_files_and_the_shards_give_the_tensors() {
    let one = safetensors(ONE_TENSOR, &[0; 16]);
    let two = safetensors(&ONE_TENSOR.replace("\"w\"", "\"v\""), &[1; 16]);
    let json = br#"{"metadata": {"total_size": 1},
        "weight_map": {"v": "one.safetensors", "w": "two.safetensors", "x": "one.safetensors"}}"#;
    let folder = folder(&[("one.safetensors", &one), ("two.safetensors", &two), (INDEX, json)]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["v", "w"]);
    assert_eq!(checkpoint.matrix("w", [2, 2]).unwrap().to_f32(), [0.0; 4]);
    assert!(checkpoint.warnings().is_empty());
    assert_eq!(
        checkpoint_problem(checkpoint.matrix("x", [2, 2])),
        format!(
            "{INDEX}: missing tensor `x`: the index says that `one.safetensors` has it, and no \
             shard has"
        )
    );
}

#[test]
fn of_a_tensor_in_two_shards_the_later_counts() {
    let one = safetensors(ONE_TENSOR, &[0; 16]);
    let two = safetensors(ONE_TENSOR, &[0; 15].into_iter().chain([64]).collect::<Vec<u8>>());
    let json = br#"{"weight_map": {"w": "one.safetensors", "x": "two.safetensors"}}"#;
    let folder = folder(&[("one.safetensors", &one), ("two.safetensors", &two), (INDEX, json)]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.matrix("w", [2, 2]).unwrap().to_f32(), [0.0, 0.0, 0.0, 2.0]);
    assert_eq!(
        checkpoint.warnings().iter().collect::<Vec<_>>(),
        [format!(
            "{INDEX}: tensors are in `one.safetensors` and again in `two.safetensors`, which counts"
        )]
    );
}

#[test]
fn an_index_beside_a_single_file_is_not_read() {
    let file = safetensors(ONE_TENSOR, &[0; 16]);
    let folder = folder(&[("model.safetensors", &file), (INDEX, b"{")]);
    assert!(Checkpoint::open(folder.path()).unwrap().contains("w"));
}

#[test]
fn doubles_are_converted() {
    let json = r#"{"d":{"dtype":"F64","shape":[1,2],"data_offsets":[0,16]}}"#;
    let data: Vec<u8> = [1.5_f64, -0.1].iter().flat_map(|value| value.to_le_bytes()).collect();
    let folder = folder(&[("model.safetensors", &safetensors(json, &data))]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.matrix("d", [1, 2]).unwrap().to_f32(), [1.5, -0.1]);
    assert!(checkpoint.is_f64("d") && checkpoint.is_copied("d"));
    assert_eq!(checkpoint.dtype("d"), Some(DType::F32));
}

#[test]
fn quantised_weights_are_told_by_their_names() {
    for (stored, name, method) in [
        ("a.qweight", "a.weight", "GPTQ or AWQ"),
        ("a.weight_packed", "a.weight", "compressed-tensors"),
        ("e.gate_up_proj_blocks", "e.gate_up_proj", "mxfp4"),
    ] {
        let file = safetensors(&ONE_TENSOR.replace("\"w\"", &format!("\"{stored}\"")), &[0; 16]);
        let folder = folder(&[("model.safetensors", &file)]);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let problem = checkpoint_problem(checkpoint.matrix(name, [2, 2]));
        let words = format!("missing tensor `{name}`: the weights are quantised ({method}); ");
        assert!(problem.contains(&words), "{problem}");
    }
}

#[test]
fn other_files_than_weights_are_told() {
    let weights = safetensors(ONE_TENSOR, &[0; 16]);
    for (file, words) in [
        ("model-00001-of-00002.safetensors", "is a shard without its index"),
        ("model.fp16.safetensors", "is under another name"),
        ("consolidated.safetensors", "names tensors as its publisher does"),
        ("adapter_model.safetensors", "it is a LoRA adapter"),
    ] {
        let folder = folder(&[(file, &weights)]);
        let problem = checkpoint_problem(Checkpoint::open(folder.path()));
        assert!(problem.contains(words), "{problem}");
    }
}

#[test]
fn an_index_with_a_path_that_leaves_the_folder() {
    for path in ["../one.safetensors", "/etc/passwd", "a/../../one.safetensors", ""] {
        assert_eq!(
            index_problem(&format!(r#"{{"weight_map": {{"w": "{path}"}}}}"#)),
            format!("{INDEX}: shard `{path}` is not a path inside the model's folder")
        );
    }
}

#[test]
fn errors_in_a_sharded_checkpoint_name_the_shard_or_the_index() {
    let shard = safetensors(ONE_TENSOR, &[0; 16]);
    let json = br#"{"weight_map": {"w": "one.safetensors"}}"#;
    let folder = folder(&[("one.safetensors", &shard), (INDEX, json)]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(
        checkpoint_problem(checkpoint.matrix("w", [1, 2])),
        "one.safetensors: tensor `w` has shape [2, 2], expected [1, 2]"
    );
    assert_eq!(
        checkpoint_problem(checkpoint.matrix("router", [2, 2])),
        format!("{INDEX}: missing tensor `router`")
    );
}

/// Opens what may be damaged, and if it opens, reads all of it.
fn read_everything(file: Vec<u8>) {
    let Ok(checkpoint) = Checkpoint::from_storage("f", Arc::new(Bytes(file))) else { return };
    let names: Vec<String> = checkpoint.tensors().map(|(name, ..)| name.to_owned()).collect();
    for name in names {
        let values = match *checkpoint.shape(&name).expect("a listed tensor") {
            [len] => checkpoint.vector(&name, len).map(|values| values.len()),
            [rows, cols] => checkpoint.matrix(&name, [rows, cols]).map(|m| m.elements().len()),
            [n, rows, cols] => checkpoint.stack(&name, [n, rows, cols]).map(|m| m.elements().len()),
            _ => continue,
        };
        values.expect("a tensor as it is described");
    }
}

fn valid_file() -> Vec<u8> {
    let json = r#"{"__metadata__":{"format":"pt"},
        "a":{"dtype":"BF16","shape":[2,4],"data_offsets":[0,16]},
        "b":{"dtype":"F32","shape":[2,1,2],"data_offsets":[16,32]},
        "c":{"dtype":"F16","shape":[4],"data_offsets":[32,40]}}"#;
    safetensors(json, &[0x3f; 40])
}

proptest! {

    /// Whatever an index says, opening gives an error or a checkpoint.
    #[test]
    fn any_index_opens_or_is_an_error(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            prop::collection::btree_map("[a-z./\\\\:]{0,4}", "(one|two|[a-z./]{0,4})(\\.safetensors)?", 0..4)
                .prop_map(|map| serde_json::json!({"weight_map": map}).to_string().into_bytes()),
        ],
    ) {
        let shard = safetensors(ONE_TENSOR, &[0; 16]);
        let folder = folder(&[("one.safetensors", &shard), (INDEX, &bytes)]);
        if let Ok(checkpoint) = Checkpoint::open(folder.path()) {
            prop_assert!(checkpoint.names().eq(["w"]));
        }
    }
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_everything(bytes);
    }

    #[test]
    fn random_headers_never_panic(json in "[\\[\\]{}\":,0-9a-cF_ ]{0,80}", data in 0..40_usize) {
        read_everything(safetensors(&json, &vec![0; data]));
    }

    #[test]
    fn a_corrupted_byte_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut file = valid_file();
        let at = at.index(file.len());
        file[at] = byte;
        read_everything(file);
    }

    #[test]
    fn a_truncated_file_is_always_refused(len in any::<prop::sample::Index>()) {
        let mut file = valid_file();
        file.truncate(len.index(file.len()));
        prop_assert!(Checkpoint::from_storage("f", Arc::new(Bytes(file))).is_err());
    }
}

/// Memory of the process is shared by its tests, so this one runs alone in another.
#[cfg(target_os = "linux")]
#[test]
fn weights_are_mapped_and_not_copied() {
    let name = format!("{}::measured_in_its_own_process", module_path!());
    let name = name.split_once("::").expect("a path from the crate on").1;
    let this = std::env::current_exe().expect("the test program");
    let output = std::process::Command::new(this)
        .args(["--ignored", "--exact", name, "--test-threads=1"])
        .output()
        .expect("the test program runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "run by weights_are_mapped_and_not_copied"]
fn measured_in_its_own_process() {
    const TENSORS: usize = 64;
    const TENSOR_BYTES: usize = 1 << 20;
    let folder = folder(&[]);
    let path = folder.path().join("model.safetensors");
    write_large(&path, TENSORS, TENSOR_BYTES);

    let before = anonymous_kib();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let mapping = mapped_range(&path);
    let names: Vec<String> = checkpoint.tensors().map(|(name, ..)| name.to_owned()).collect();
    assert_eq!(names.len(), TENSORS);
    for name in &names {
        let matrix = checkpoint.matrix(name, [512, 1024]).unwrap();
        assert_eq!(matrix.format(), DType::Bf16.into());
        let moexperts_core::Elements::Bf16(values) = matrix.elements() else { unreachable!() };
        let bytes = values.as_ptr_range();
        assert!(mapping.contains(&(bytes.start as usize)), "{name}");
        assert!(bytes.end as usize <= mapping.end, "{name}");
        // Touches every page.
        assert!(values.iter().all(|value| value.to_bits() == 0));
    }
    let grown = anonymous_kib().saturating_sub(before);
    assert!(grown < 2048, "{grown} KiB of memory for mapped weights");
}

/// A file of `tensors` zero matrices in bf16, [512, 1024] each for 1 MiB.
#[cfg(target_os = "linux")]
fn write_large(path: &Path, tensors: usize, tensor_bytes: usize) {
    let entries: Vec<String> = (0..tensors)
        .map(|i| {
            let (from, to) = (i * tensor_bytes, (i + 1) * tensor_bytes);
            format!(r#""t{i}":{{"dtype":"BF16","shape":[512,1024],"data_offsets":[{from},{to}]}}"#)
        })
        .collect();
    let json = format!("{{{}}}", entries.join(","));
    let json = format!("{json:0$}", json.len().next_multiple_of(8));
    fs::write(path, safetensors(&json, b"")).expect("a writable folder");
    let file = fs::File::options().write(true).open(path).expect("the file just written");
    let len = 8 + json.len() + tensors * tensor_bytes;
    file.set_len(len as u64).expect("space for the file");
}

#[cfg(target_os = "linux")]
fn anonymous_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// The addresses at which a file is mapped.
#[cfg(target_os = "linux")]
fn mapped_range(path: &Path) -> std::ops::Range<usize> {
    let maps = fs::read_to_string("/proc/self/maps").expect("proc");
    let path = path.to_str().expect("a path in UTF-8");
    let line = maps.lines().find(|line| line.ends_with(path)).expect("the file is mapped");
    let (start, rest) = line.split_once('-').expect("a range");
    let (end, _) = rest.split_once(' ').expect("a range");
    let address = |text| usize::from_str_radix(text, 16).expect("an address");
    address(start)..address(end)
}
