//! The environment variables that this library and its devices read.

use moexperts_core::Variable;

/// Lists them, in the order of the crates and modules that read them, each once.
pub fn environment() -> Vec<Variable> {
    let mut all = moexperts_cpu::VARIABLES.to_vec();
    #[cfg(feature = "cuda")]
    all.extend(moexperts_cuda::VARIABLES);
    #[cfg(feature = "hub")]
    all.extend(crate::hub::VARIABLES);
    all.extend(crate::compile::VARIABLES);
    let mut listed: Vec<Variable> = Vec::new();
    for variable in all {
        if listed.iter().all(|other| other.name != variable.name) {
            listed.push(variable);
        }
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_of_several_crates_is_listed_once() {
        let variables = environment();
        for name in ["MOEXPERTS_ISA", "XDG_CACHE_HOME", "HOME"] {
            let listed = variables.iter().filter(|variable| variable.name == name).count();
            assert_eq!(listed, 1, "{name}");
        }
    }

    #[cfg(feature = "hub")]
    #[test]
    fn the_token_is_a_secret() {
        let variables = environment();
        assert!(variables.iter().find(|variable| variable.name == "HF_TOKEN").unwrap().is_secret);
    }
}
