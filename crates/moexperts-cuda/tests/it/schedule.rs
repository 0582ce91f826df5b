//! The order of pairs against a sort on the host.

use crate::common::devices;
use moexperts_core::{Memory, Routing};
use moexperts_cuda::{Cuda, CudaBuffer, Schedule};

/// How a routing's experts are drawn.
#[derive(Debug, Clone, Copy)]
enum Draw {
    Even,
    /// Half of all pairs go to one expert.
    Skewed,
    OneExpert,
    /// One pair of four has a sentinel, on average.
    Sentinels,
    AllSentinels,
}

const DRAWS: [Draw; 5] =
    [Draw::Even, Draw::Skewed, Draw::OneExpert, Draw::Sentinels, Draw::AllSentinels];

fn ids(pairs: usize, experts: usize, draw: Draw) -> Vec<u32> {
    let mut state = pairs as u64;
    let mut below = |limit: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    let sentinels = [experts as u32, experts as u32 + 5, u32::MAX];
    let id = |_| match draw {
        Draw::Skewed if below(2) == 0 => (experts - 1) as u32,
        Draw::OneExpert => (experts / 2) as u32,
        Draw::Sentinels if below(4) == 0 => sentinels[below(3)],
        Draw::AllSentinels => sentinels[below(3)],
        _ => below(experts) as u32,
    };
    (0..pairs).map(id).collect()
}

fn read(cuda: &Cuda, from: &CudaBuffer, len: usize) -> Vec<u32> {
    let mut out = vec![0_u32; len];
    from.read(cuda, &mut out).unwrap();
    out
}

fn check(name: &str, cuda: &Cuda, [tokens, top_k, experts]: [usize; 3], draw: Draw) {
    let what = format!("{name}: T={tokens} K={top_k} E={experts} {draw:?}");
    let ids = ids(tokens * top_k, experts, draw);
    let routing = Routing::new(top_k, ids.clone(), vec![0.0; ids.len()]).unwrap();
    let routing = cuda.load_routing(routing).unwrap();
    let mut schedule = Schedule::default();
    for _ in 0..2 {
        schedule.order(cuda, &routing, experts).unwrap();
    }

    let mut pairs: Vec<u32> = (0..ids.len() as u32).collect();
    pairs.retain(|&pair| (ids[pair as usize] as usize) < experts);
    pairs.sort_by_key(|&pair| ids[pair as usize]);
    let before = |expert: usize| pairs.partition_point(|&pair| ids[pair as usize] < expert as u32);
    let offsets: Vec<u32> = (0..=experts).map(|expert| before(expert) as u32).collect();
    let tokens: Vec<u32> = pairs.iter().map(|&pair| pair / top_k as u32).collect();
    assert_eq!(read(cuda, schedule.offsets(), experts + 1), offsets, "{what}");
    assert_eq!(read(cuda, schedule.pairs(), pairs.len()), pairs, "{what}");
    assert_eq!(read(cuda, schedule.tokens(), pairs.len()), tokens, "{what}");
}

#[test]
fn pairs_are_in_the_order_of_their_experts() {
    for (name, cuda) in devices() {
        // Few enough pairs for one block, then more.
        for shape in [[0, 2, 3], [1, 1, 1], [5, 3, 4], [33, 4, 40], [512, 8, 128], [600, 8, 60]] {
            for draw in DRAWS {
                check(&name, &cuda, shape, draw);
            }
        }
        check(&name, &cuda, [4096, 8, 128], Draw::Even);
        check(&name, &cuda, [9000, 8, 17], Draw::Skewed);
        // More experts than there are counters for in the shared memory of a block.
        check(&name, &cuda, [700, 8, 2500], Draw::Skewed);
        check(&name, &cuda, [100, 8, 9000], Draw::Sentinels);
    }
}
