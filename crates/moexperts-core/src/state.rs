//! What layers keep of sequences between forwards.

use crate::{error::Result, shapes::value_is};

/// What one layer keeps of each sequence between forwards.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StateSpec {
    /// Keys and values of attention.
    Kv {
        /// Key/value heads.
        kv_heads: usize,
        /// Width of a head of a query and of a key.
        head_dim: usize,
        /// Width of a head of a value.
        value_dim: usize,
        /// If set, a token sees at most itself and the `window - 1` before it, and what no later
        /// token sees may be dropped.
        window: Option<usize>,
    },
    /// Nothing.
    None,
}

/// Whether layers can keep such states: a window holds at least one token.
///
/// # Errors
/// [`Error::Value`](crate::Error::Value) that names the layer.
pub fn check(layers: &[StateSpec]) -> Result<()> {
    for (layer, state) in layers.iter().enumerate() {
        if let StateSpec::Kv { window: Some(0), .. } = *state {
            let what = format!("window of the state of layer {layer}");
            value_is(false, what, || ["at least 1".to_owned(), "0".to_owned()])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_no_token_is_refused() {
        let kv = |window| StateSpec::Kv { kv_heads: 1, head_dim: 8, value_dim: 6, window };
        assert_eq!(check(&[kv(None), StateSpec::None, kv(Some(1))]), Ok(()));
        assert_eq!(
            check(&[kv(None), kv(Some(0))]).unwrap_err().to_string(),
            "window of the state of layer 1 is 0, expected at least 1"
        );
    }
}
