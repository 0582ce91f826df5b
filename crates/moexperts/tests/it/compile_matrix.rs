//! What can be compiled how: backend x mode x dtype x fullgraph x device, and the table of it in
//! `docs/compile.md`.
//!
//! `MOEXPERTS_WRITE_DOCS=1 cargo test -p moexperts --test it compile_matrix` writes the table anew.

#[cfg(feature = "cuda")]
use std::{env, fs, path::PathBuf};

#[cfg(feature = "cuda")]
use moexperts::{CompileMode, Cpu, Cuda, core::Execution as _};
use moexperts::{DType, LoadOptions};

use crate::{checks, common::load};
#[cfg(feature = "cuda")]
use crate::{
    checks::{Expected, expected},
    common::BACKENDS,
};

#[test]
fn every_cell_compiles_and_agrees_or_says_why_not() {
    for dtype in DType::ALL {
        let model = load("mixtral", LoadOptions::new().dtype(dtype));
        checks::compile_matrix("mixtral", dtype, &model);
    }
}

/// The table, from what is expected.
#[cfg(feature = "cuda")]
fn table() -> String {
    let dtypes = DType::ALL.map(DType::name).join(", ");
    let mut lines = vec!["| device | backend | dtype | fullgraph |".to_owned()];
    let mut rule = "|---|---|---|---|".to_owned();
    for mode in CompileMode::ALL {
        lines[0].push_str(&format!(" `{mode}` |"));
        rule.push_str("---|");
    }
    lines.push(rule);
    for (device, captures) in
        [(Cpu::NAME, Cpu::CAPTURES_GRAPHS), (Cuda::NAME, Cuda::CAPTURES_GRAPHS)]
    {
        for backend in BACKENDS {
            for fullgraph in [false, true] {
                let mut line = format!("| {device} | `{backend}` | {dtypes} | {fullgraph} |");
                for mode in CompileMode::ALL {
                    line.push_str(match expected(backend, fullgraph) {
                        Expected::Whole if captures && mode.captures_graph() => {
                            " one piece, decoding as a CUDA graph |"
                        }
                        Expected::Whole => " one piece |",
                        Expected::Pieces => " breaks in every experts layer |",
                        Expected::Refused(_) => " error |",
                    });
                }
                lines.push(line);
            }
        }
    }
    lines.join("\n")
}

#[cfg(feature = "cuda")]
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
