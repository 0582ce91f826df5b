//! `--shape`: experts layers by the name of a model or by numbers.

use std::{fmt, str::FromStr};

use moexperts::{Activation, DType, ExpertsSpec, core::WeightFormat};

/// The largest number of a shape: bytes of all experts can be counted.
const MAX: usize = 1 << 20;

/// An experts layer to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerShape {
    /// The model's name, or the numbers as given.
    pub(crate) name: String,
    /// K: experts a token goes to.
    pub(crate) top_k: usize,
    /// Everything else, whatever its format.
    base: ExpertsSpec,
}

impl LayerShape {
    /// With weights of a dtype.
    pub(crate) fn spec(&self, dtype: DType) -> ExpertsSpec {
        self.base.with_format(dtype.into())
    }

    /// Whether it was given as numbers.
    pub(crate) fn is_numbered(&self) -> bool {
        self.name.contains(',')
    }

    fn numbered([hidden, intermediate, experts, top_k]: [usize; 4]) -> Self {
        let name = format!("{hidden},{intermediate},{experts},{top_k}");
        Self { name, top_k, base: silu(hidden, intermediate, experts) }
    }
}

const fn silu(hidden: usize, intermediate: usize, experts: usize) -> ExpertsSpec {
    ExpertsSpec::gated_silu(hidden, intermediate, experts, WeightFormat::BF16)
}

/// Name, K and the rest, from the models' `config.json`.
const NAMED: [(&str, usize, ExpertsSpec); 6] = [
    ("qwen1.5-moe", 4, silu(2048, 1408, 60)),
    ("olmoe", 8, silu(2048, 1024, 64)),
    ("qwen3-30b", 8, silu(2048, 768, 128)),
    ("mixtral", 2, silu(4096, 14336, 8)),
    (
        "gpt-oss-20b",
        4,
        silu(2880, 2880, 32).with_activation(Activation::CLAMPED_SWIGLU).with_bias(),
    ),
    ("deepseek-v3", 8, silu(7168, 2048, 256)),
];

/// Shapes in a row: `olmoe,mixtral`, `2048,1024,64,8`, `olmoe,64,32,8,2`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shapes(pub(crate) Vec<LayerShape>);

impl FromStr for Shapes {
    type Err = ShapeError;

    fn from_str(text: &str) -> Result<Self, ShapeError> {
        let mut shapes = Vec::new();
        let mut words = text.split(',').map(str::trim);
        while let Some(word) = words.next() {
            if let Some(&(name, top_k, base)) = NAMED.iter().find(|(name, ..)| *name == word) {
                shapes.push(LayerShape { name: name.to_owned(), top_k, base });
            } else if word.starts_with(|c: char| c.is_ascii_digit()) {
                let rest = ["I", "E", "K"].map(|letter| (letter, words.next()));
                shapes.push(LayerShape::numbered(numbers(word, rest)?));
            } else {
                return Err(ShapeError::Unknown(word.to_owned()));
            }
        }
        Ok(Self(shapes))
    }
}

fn numbers(h: &str, rest: [(&'static str, Option<&str>); 3]) -> Result<[usize; 4], ShapeError> {
    let number = |letter, word: Option<&str>| {
        let got = word.unwrap_or("missing");
        match got.parse() {
            Ok(number @ 1..=MAX) => Ok(number),
            _ => Err(ShapeError::Number { letter, got: got.to_owned() }),
        }
    };
    let [i, e, k] = rest;
    let shape = [number("H", Some(h))?, number(i.0, i.1)?, number(e.0, e.1)?, number(k.0, k.1)?];
    let [_, _, experts, top_k] = shape;
    if top_k <= experts { Ok(shape) } else { Err(ShapeError::TopK { experts, top_k }) }
}

/// Words that are no shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ShapeError {
    #[error("shape `{0}` is not known, expected {Known}")]
    Unknown(String),
    #[error("{letter} is {got}, expected a number from 1 to {MAX}; a shape is H,I,E,K")]
    Number { letter: &'static str, got: String },
    #[error("K is {top_k}, expected at most E, which is {experts}")]
    TopK { experts: usize, top_k: usize },
}

/// What may be written.
struct Known;

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = NAMED.iter().map(|(name, ..)| format!("`{name}`")).collect();
        write!(f, "one of {} or four numbers H,I,E,K", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.parse::<Shapes>().unwrap().0.into_iter().map(|shape| shape.name).collect()
    }

    #[test]
    fn names_and_numbers_stand_in_one_list() {
        assert_eq!(names("olmoe"), ["olmoe"]);
        assert_eq!(names("olmoe, 64,32,8,2,mixtral"), ["olmoe", "64,32,8,2", "mixtral"]);
        assert_eq!(names("64,32,8,2,1,1,1,1"), ["64,32,8,2", "1,1,1,1"]);
    }

    #[test]
    fn numbers_are_in_the_order_of_the_letters() {
        let Shapes(shapes) = "64,32,8,2".parse().unwrap();
        let spec = shapes[0].spec(DType::F16);
        assert_eq!(spec, ExpertsSpec::gated_silu(64, 32, 8, WeightFormat::F16));
        assert_eq!(shapes[0].top_k, 2);
    }

    #[test]
    fn gpt_oss_has_its_activation_and_biases() {
        let Shapes(shapes) = "gpt-oss-20b".parse().unwrap();
        let spec = shapes[0].spec(DType::Bf16);
        assert!(spec.bias && spec.gated);
        assert_eq!(spec.activation.name(), "clamped swiglu");
    }

    #[test]
    fn what_is_no_shape_says_what_is() {
        let error = |text: &str| text.parse::<Shapes>().unwrap_err().to_string();
        assert_eq!(
            error("olmo"),
            "shape `olmo` is not known, expected one of `qwen1.5-moe`, `olmoe`, `qwen3-30b`, \
             `mixtral`, `gpt-oss-20b`, `deepseek-v3` or four numbers H,I,E,K"
        );
        let expected = "expected a number from 1 to 1048576; a shape is H,I,E,K";
        assert_eq!(error("64,32,8"), format!("K is missing, {expected}"));
        assert_eq!(error("64,0,8,2"), format!("I is 0, {expected}"));
        assert_eq!(error("64,32,8,olmoe"), format!("K is olmoe, {expected}"));
        assert_eq!(error("64,32,8,9"), "K is 9, expected at most E, which is 8");
    }
}
