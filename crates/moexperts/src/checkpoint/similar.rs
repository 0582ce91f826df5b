//! Names that are like one that does not exist.

use std::cmp::Reverse;

/// The most names that a message lists.
const MOST: usize = 3;

/// The names that begin and end most like `wanted`, best first.
///
/// Names of tensors are paths, and what differs between dialects is a part in the middle. A name
/// counts if it shares two thirds of the characters.
pub(crate) fn similar_names<'a>(
    wanted: &str,
    names: impl Iterator<Item = &'a str>,
) -> Vec<&'a str> {
    let mut scored: Vec<(usize, &str)> = names
        .map(|name| (shared_bytes(wanted, name), name))
        .filter(|(shared, _)| shared * 3 >= wanted.len() * 2)
        .collect();
    scored.sort_by_key(|&(shared, name)| (Reverse(shared), name.len(), name));
    scored.into_iter().take(MOST).map(|(_, name)| name).collect()
}

/// Bytes of the common beginning and, after it, the common end.
fn shared_bytes(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let same = |(a, b): &(&u8, &u8)| a == b;
    let start = a.iter().zip(b).take_while(same).count();
    start + a[start..].iter().rev().zip(b[start..].iter().rev()).take_while(same).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_name_of_another_dialect() {
        let names = [
            "lm_head.weight",
            "model.layers.0.block_sparse_moe.gate.weight",
            "model.layers.0.input_layernorm.weight",
            "model.layers.1.block_sparse_moe.gate.weight",
        ];
        let similar = similar_names("model.layers.0.mlp.gate.weight", names.into_iter());
        assert_eq!(similar[0], "model.layers.0.block_sparse_moe.gate.weight");
        assert!(!similar.contains(&"lm_head.weight"));
    }

    #[test]
    fn gives_at_most_three_names_and_none_that_are_unlike() {
        let names = ["weight.0", "weight.1", "weight.2", "weight.3", "bias"];
        let similar = similar_names("weight.9", names.into_iter());
        assert_eq!(similar, ["weight.0", "weight.1", "weight.2"]);
        assert!(similar_names("router", names.into_iter()).is_empty());
    }
}
