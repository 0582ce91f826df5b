//! What can be compiled how: backend x mode x dtype x fullgraph x device, and the table of it in
//! `docs/compile.md`.
//!
//! `MOEXPERTS_WRITE_DOCS=1 cargo test -p moexperts --test it compile_matrix` writes the table anew.

use std::{env, fs, path::PathBuf};

use moexperts::{
    DType, Device, Error, LanguageModel, LoadOptions,
    compile::{CompileMode, CompileOptions},
};

use crate::common::{BACKENDS, Golden, assert_close, load};

/// What compiling gives.
#[derive(Debug, Clone, PartialEq)]
enum Expected {
    /// One piece.
    Whole,
    /// A break in every experts layer.
    Pieces,
    /// An error.
    Refused(String),
}

fn expected(backend: &str, fullgraph: bool) -> Expected {
    match (backend, fullgraph) {
        ("eager", true) => Expected::Refused(
            "fullgraph: experts implementation `eager` breaks the graph at experts: it reads on \
             the host which experts were hit"
                .to_owned(),
        ),
        ("eager", false) => Expected::Pieces,
        _ => Expected::Whole,
    }
}

/// Compiles and runs.
fn outcome<D: Device>(model: &LanguageModel<D>, options: CompileOptions) -> Expected {
    let layers = model.spec().moe_layers().count();
    match model.compile(options) {
        Err(error @ Error::GraphBreak { .. }) => Expected::Refused(error.to_string()),
        Err(error) => panic!("{error}"),
        Ok(report) if report.pieces == 1 => Expected::Whole,
        Ok(report) => {
            assert_eq!(report.pieces, layers + 1);
            Expected::Pieces
        }
    }
}

#[test]
fn every_cell_compiles_and_agrees_or_says_why_not() {
    const CASE: &str = "mixtral";
    let folder = tempfile::tempdir().unwrap();
    let golden = Golden::open(CASE);
    let ids = golden.ids("input_ids");
    let mut cells = 0;
    for dtype in DType::ALL {
        let model = load(CASE, LoadOptions::new().dtype(dtype));
        for backend in BACKENDS {
            model.set_experts_implementation(backend).unwrap();
            let plain = model.logits(ids.clone()).unwrap();
            let plain: Vec<f64> = plain.into_iter().map(f64::from).collect();
            for mode in CompileMode::ALL {
                for fullgraph in [false, true] {
                    let what = format!("{backend} {mode} {dtype} fullgraph={fullgraph} CPU");
                    let options = CompileOptions {
                        mode,
                        fullgraph,
                        cache_dir: Some(folder.path().to_owned()),
                        ..CompileOptions::default()
                    };
                    let expected = expected(backend, fullgraph);
                    assert_eq!(outcome(&model, options), expected, "{what}");
                    let is_compiled = !matches!(expected, Expected::Refused(_));
                    assert_eq!(model.explain().is_some(), is_compiled, "{what}");
                    let logits = model.logits(ids.clone()).unwrap();
                    let tolerance = if dtype == DType::F32 { 1e-4 } else { 4.0 * dtype.epsilon() };
                    assert_close(&what, &logits, &plain, tolerance);
                    model.reset_compile();
                    cells += 1;
                }
            }
        }
    }
    assert_eq!(cells, DType::ALL.len() * BACKENDS.len() * CompileMode::ALL.len() * 2);
}

/// The table, from what is expected.
fn table() -> String {
    let cell = |backend: &str, fullgraph: bool| match expected(backend, fullgraph) {
        Expected::Whole => "one piece",
        Expected::Pieces => "breaks in every experts layer",
        Expected::Refused(_) => "error",
    };
    let dtypes = DType::ALL.map(DType::name).join(", ");
    let mut lines = vec!["| device | backend | dtype | fullgraph |".to_owned()];
    let mut rule = "|---|---|---|---|".to_owned();
    for mode in CompileMode::ALL {
        lines[0].push_str(&format!(" `{mode}` |"));
        rule.push_str("---|");
    }
    lines.push(rule);
    for backend in BACKENDS {
        for fullgraph in [false, true] {
            let mut line = format!("| CPU | `{backend}` | {dtypes} | {fullgraph} |");
            for _ in CompileMode::ALL {
                line.push_str(&format!(" {} |", cell(backend, fullgraph)));
            }
            lines.push(line);
        }
    }
    lines.join("\n")
}

#[test]
fn the_table_in_the_documentation_is_the_matrix() {
    const MARKS: [&str; 2] = ["<!-- matrix -->\n", "\n<!-- end of matrix -->"];
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/compile.md");
    let text = fs::read_to_string(&path).unwrap();
    let start = text.find(MARKS[0]).unwrap() + MARKS[0].len();
    let end = text.find(MARKS[1]).unwrap();
    if env::var_os("MOEXPERTS_WRITE_DOCS").is_some() {
        fs::write(&path, format!("{}{}{}", &text[..start], table(), &text[end..])).unwrap();
        return;
    }
    assert_eq!(&text[start..end], table(), "MOEXPERTS_WRITE_DOCS=1 writes the table anew");
}
