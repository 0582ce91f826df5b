//! Random experts, more of them than caches hold.
//!
//! All weights are views of one pool of random values. Where the experts of a shape do not fill it,
//! it holds several sets of them, used in turn; where they do not fit, they overlap. A device with
//! separate memory has as many sets there, each a copy of one.

use std::sync::Arc;

use moexperts::{
    DType, Device, Error, ExpertsSpec,
    core::{self, Expert, Experts, Linear, Matrix, MatrixLayout, Storage},
};

use crate::{
    error::BenchError,
    free_memory::FreeMemory,
    hardware::Hardware,
    output::text::{bytes, cached},
    pool::{ALIGNMENT, Pool, SCALE, Uniform, filling_threads},
    random::Random,
};

/// Sets of experts fill this, unless memory is short: more than the caches of most machines hold.
const POOL_BYTES: usize = 1 << 30;

/// Experts that overlap fill this: no cache holds it either, and it is soon filled.
const OVERLAP_BYTES: usize = 4 << 30;

/// The most sets of experts.
const MAX_SETS: usize = 1 << 10;

/// Sets of experts of one description.
#[derive(Debug)]
pub(crate) struct Weights<D: Device> {
    pub(crate) sets: Vec<Experts<D>>,
    /// What a reader of the results has to know.
    pub(crate) note: Option<String>,
}

impl<D: Hardware + Device<Experts = D>> Weights<D> {
    /// Random ones, in at most half of the free memory.
    pub(crate) fn random(
        device: &D,
        spec: ExpertsSpec,
        seed: u64,
        free: FreeMemory,
    ) -> Result<Self, BenchError> {
        let plan = PoolLayout::new(&spec, free.machine_budget(), free.own_budget())?;
        let mut pool = Pool::zeros(plan.pool_bytes);
        let dtype = dense(&spec).map_err(Error::from)?;
        let values = Uniform { dtype, limit: SCALE, seed, purpose: 0 };
        pool.fill(0..plan.pool_bytes, values, filling_threads(device));
        let pool: Arc<dyn Storage> = Arc::new(pool);
        let mut random = Random::new(seed, &[1]);
        let mut set = |set: usize| {
            let first = if plan.copied { 0 } else { set * spec.experts };
            let place = |index| plan.place(first + index);
            let expert = |index| expert(&pool, place(index), &spec, &mut random);
            let experts = (0..spec.experts).map(expert).collect::<core::Result<_>>()?;
            Experts::load(device, spec, experts)
        };
        let sets = (0..plan.sets).map(&mut set).collect::<core::Result<_>>();
        Ok(Self { sets: sets.map_err(Error::from)?, note: plan.note(&spec) })
    }
}

/// Where experts lie in a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PoolLayout {
    pool_bytes: usize,
    /// From one expert to the next.
    stride_bytes: usize,
    expert_bytes: usize,
    sets: usize,
    /// Whether every set is a copy of the pool's one.
    copied: bool,
}

impl PoolLayout {
    /// - `budget`: bytes that the pool may take
    /// - `copies`: bytes that copies may take, if sets are copies
    fn new(spec: &ExpertsSpec, budget: usize, copies: Option<usize>) -> Result<Self, BenchError> {
        let expert_bytes = spec.bytes_per_expert();
        let stride_bytes = expert_bytes.next_multiple_of(ALIGNMENT);
        if stride_bytes > budget {
            return Err(BenchError::Memory {
                what: format!("an expert takes {}", bytes(stride_bytes as u64)),
                limit: bytes(budget as u64),
                hint: "take a shape with a smaller H or I",
            });
        }
        let set_bytes = stride_bytes * spec.experts;
        let available = copies.unwrap_or(budget);
        let sets = POOL_BYTES.div_ceil(set_bytes).min(MAX_SETS).min(available / set_bytes).max(1);
        let in_pool = if copies.is_some() { 1 } else { sets };
        let overlap = OVERLAP_BYTES.max(stride_bytes).min(budget);
        let pool_bytes = if set_bytes > budget { overlap } else { in_pool * set_bytes };
        Ok(Self { pool_bytes, stride_bytes, expert_bytes, sets, copied: copies.is_some() })
    }

    /// The first byte of an expert, counted over all sets.
    fn place(&self, index: usize) -> usize {
        let wanted = index * self.stride_bytes;
        if wanted + self.expert_bytes <= self.pool_bytes {
            return wanted;
        }
        // No multiple of the stride, so that later experts lie across the borders of earlier ones.
        let span = self.pool_bytes - self.expert_bytes;
        wanted.checked_rem(span).unwrap_or(0) / ALIGNMENT * ALIGNMENT
    }

    fn note(&self, spec: &ExpertsSpec) -> Option<String> {
        let all_bytes = self.sets * self.stride_bytes * spec.experts;
        if all_bytes <= self.pool_bytes || self.copied {
            return cached(all_bytes);
        }
        let [all, pool] = [all_bytes, self.pool_bytes].map(|count| bytes(count as u64));
        let experts = spec.experts;
        Some(format!("{experts} experts, {all}, overlap in {pool}: half the memory is not enough"))
    }
}

/// The element type of weights that are stored one by one, as random ones are made.
fn dense(spec: &ExpertsSpec) -> core::Result<DType> {
    spec.format.dense().ok_or_else(|| core::Error::Unknown {
        what: "format of random weights",
        got: spec.format.name().to_owned(),
        known: DType::ALL.map(|dtype| format!("`{dtype}`")).join(", "),
    })
}

/// The expert that begins at a byte of the pool: gate, up, down, one after another.
fn expert(
    pool: &Arc<dyn Storage>,
    start: usize,
    spec: &ExpertsSpec,
    random: &mut Random,
) -> core::Result<Expert<Matrix, Vec<f32>>> {
    let dtype = dense(spec)?;
    let projection_bytes = spec.format.size_bytes(spec.intermediate, spec.hidden);
    let mut projection = |index: usize, rows: usize, cols: usize| {
        let offset_bytes = start + index * projection_bytes;
        let layout = MatrixLayout::row_major(offset_bytes, dtype, rows, cols);
        let bias = spec.bias.then(|| (0..rows).map(|_| random.within(SCALE)).collect());
        Ok(Linear { weight: Matrix::new(Arc::clone(pool), layout)?, bias })
    };
    Ok(Expert {
        gate_proj: Some(projection(0, spec.intermediate, spec.hidden)?),
        up_proj: projection(1, spec.intermediate, spec.hidden)?,
        down_proj: projection(2, spec.hidden, spec.intermediate)?,
    })
}

#[cfg(test)]
mod tests {
    use moexperts::{Cpu, CpuOptions, DType};

    use super::*;

    const SMALL: ExpertsSpec = ExpertsSpec::gated_silu(24, 5, 3, core::WeightFormat::BF16);

    #[test]
    fn experts_that_fit_lie_one_after_another() {
        let spec = ExpertsSpec::gated_silu(2048, 1408, 60, DType::Bf16.into());
        let plan = PoolLayout::new(&spec, 16 << 30, None).unwrap();
        assert_eq!((plan.sets, plan.pool_bytes), (2, 2 * 60 * spec.bytes_per_expert()));
        assert_eq!(plan.place(61), 61 * spec.bytes_per_expert());
        assert_eq!(plan.note(&spec), None);
    }

    #[test]
    fn experts_that_do_not_fit_overlap_inside_the_pool() {
        let spec = ExpertsSpec::gated_silu(7168, 2048, 256, DType::Bf16.into());
        let plan = PoolLayout::new(&spec, 8 << 30, None).unwrap();
        assert_eq!((plan.sets, plan.pool_bytes), (1, OVERLAP_BYTES));
        let mut places: Vec<usize> = (0..256).map(|index| plan.place(index)).collect();
        let inside = |place: &usize| place + plan.expert_bytes <= plan.pool_bytes;
        assert!(places.iter().all(|place| inside(place) && place.is_multiple_of(ALIGNMENT)));
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 256);
        assert_eq!(
            plan.note(&spec).unwrap(),
            "256 experts, 22.5 GB, overlap in 4.29 GB: half the memory is not enough"
        );
    }

    #[test]
    fn a_device_with_separate_memory_has_copies_of_one_set() {
        let spec = ExpertsSpec::gated_silu(2048, 1408, 60, DType::Bf16.into());
        let set_bytes = 60 * spec.bytes_per_expert();
        let plan = PoolLayout::new(&spec, 16 << 30, Some(32 << 30)).unwrap();
        assert_eq!((plan.sets, plan.pool_bytes, plan.copied), (2, set_bytes, true));
        assert_eq!(plan.note(&spec), None);
        let short = PoolLayout::new(&spec, 1 << 29, Some(2 * set_bytes - 1)).unwrap();
        assert_eq!((short.sets, short.pool_bytes), (1, 1 << 29));
        assert_eq!(short.note(&spec), None);
    }

    #[test]
    fn small_experts_come_in_many_sets() {
        let plan = PoolLayout::new(&SMALL, 1 << 30, None).unwrap();
        assert_eq!((plan.sets, plan.stride_bytes), (MAX_SETS, 768));
        assert_eq!(
            plan.note(&SMALL).unwrap(),
            "all weights are 2.36 MB: caches may hold a part of them"
        );
        assert_eq!(PoolLayout::new(&SMALL, 768, None).unwrap().place(2), 0);
    }

    #[test]
    fn memory_for_one_expert_there_has_to_be() {
        let error = PoolLayout::new(&SMALL, 767, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "an expert takes 768 B, expected at most 767 B, half the available memory"
        );
    }

    #[test]
    fn weights_repeat_with_the_seed_and_are_small_and_spread() {
        for dtype in DType::ALL {
            let spec = SMALL.with_format(dtype.into()).with_bias();
            let weights = |threads: usize, seed| {
                let options = CpuOptions { threads: threads.try_into().ok(), isa: None };
                let cpu = Cpu::new(options).unwrap();
                let free = FreeMemory { machine: Some(2 << 20), own: None };
                Weights::random(&cpu, spec, seed, free).unwrap()
            };
            let values =
                |weights: &Weights<Cpu>| weights.sets[1].expert(2).down_proj.weight.to_f32();
            let first = weights(1, 7);
            let got = values(&first);
            assert_eq!(got.len(), 24 * 5);
            assert_eq!(got, values(&weights(3, 7)));
            assert_ne!(got, values(&weights(1, 8)));
            assert!(got.iter().all(|value| value.abs() <= SCALE * 1.01), "{dtype}");
            let mean = got.iter().sum::<f32>() / got.len() as f32;
            assert!(mean.abs() < SCALE / 3.0, "{dtype}: {mean}");
            let bias = first.sets[0].expert(0).up_proj.bias.as_ref().unwrap();
            assert!(bias.len() == 5 && bias.iter().all(|value| value.abs() <= SCALE));
        }
    }
}
