//! The sections of the checkpoint: what is stored, and what loading it takes.

use moexperts::{DType, Error, families, files::ModelFiles, model::Fit, units::counted};
use moexperts_bench::output::text::bytes;

use super::table;

/// Names of tensors that are shown.
const SHOWN: usize = 4;

/// What the files hold, whether the model can be loaded or not.
pub(super) fn stored(files: &ModelFiles) -> String {
    let types = files.checkpoint.element_types();
    let tensors: usize = types.values().sum();
    let types = types.iter().map(|(name, count)| format!("{name} {count}"));
    let types = types.collect::<Vec<_>>().join(", ");
    let size = bytes(files.checkpoint.size_bytes());
    let mut rows = vec![
        ("origin", files.origin.clone()),
        ("stored", format!("{}, {size}: {types}", counted(tensors, "tensor"))),
    ];
    let method =
        |key| files.config.sub(key).ok().flatten()?.optional::<String>("quant_method").ok()?;
    let method = ["quantization_config", "compression_config"].into_iter().find_map(method);
    rows.push(("quantised", method.unwrap_or_else(|| "no".to_owned())));
    table(rows)
}

/// What loading takes: memory, and tensors that are missing or too much.
pub(super) fn needed(files: &ModelFiles, dtype: Option<DType>) -> Result<String, Error> {
    let fit = families::describe(&files.config)?.fit(&files.checkpoint)?;
    let needs = fit.weight_bytes(dtype);
    let [in_place, converted] = [needs.in_place, needs.converted].map(bytes);
    let Fit { missing, superfluous, .. } = &fit;
    Ok(table([
        ("needs", format!("{in_place} in place, {converted} converted")),
        ("missing", names(missing)),
        ("superfluous", names(superfluous)),
    ]))
}

/// `none`, or how many and the first of them.
fn names(list: &[String]) -> String {
    let shown = list.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match list.len() {
        0 => "none".to_owned(),
        count if count > SHOWN => format!("{count}: {shown}, …"),
        count => format!("{count}: {shown}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut() {
        let list = |count: usize| (0..count).map(|n| format!("t{n}")).collect::<Vec<_>>();
        assert_eq!(names(&list(0)), "none");
        assert_eq!(names(&list(2)), "2: t0, t1");
        assert_eq!(names(&list(4)), "4: t0, t1, t2, t3");
        assert_eq!(names(&list(9)), "9: t0, t1, t2, t3, …");
    }
}
