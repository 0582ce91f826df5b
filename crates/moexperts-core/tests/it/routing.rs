//! Routings of any shape.

use moexperts_core::Routing;
use proptest::prelude::*;

/// A shape [T, K].
fn shape() -> impl Strategy<Value = (usize, usize)> {
    (0_usize..20, 0_usize..9)
}

proptest! {
    #[test]
    fn reset_gives_the_requested_shape_and_reuses_memory(
        shapes in prop::collection::vec(shape(), 1..8),
    ) {
        let most = shapes.iter().map(|(tokens, top_k)| tokens * top_k).max().unwrap_or(0);
        let mut routing = Routing::with_capacity(most);
        let memory = routing.top_k_index().as_ptr();
        for (tokens, top_k) in shapes {
            let (ids, weights) = routing.reset(tokens, top_k);
            prop_assert_eq!((ids.len(), weights.len()), (tokens * top_k, tokens * top_k));
            ids.iter_mut().enumerate().for_each(|(at, id)| *id = at as u32);
            weights.iter_mut().enumerate().for_each(|(at, weight)| *weight = at as f32);
            prop_assert_eq!(routing.top_k(), top_k);
            // Without experts per token, no pair tells the number of tokens.
            prop_assert_eq!(routing.tokens(), if top_k == 0 { 0 } else { tokens });
            for token in 0..routing.tokens() {
                let pair = |at: usize| (at as u32, at as f32);
                let expected = (token * top_k..(token + 1) * top_k).map(pair);
                prop_assert!(routing.pairs(token).eq(expected));
            }
            if most > 0 {
                prop_assert_eq!(routing.top_k_index().as_ptr(), memory);
            }
        }
    }

    #[test]
    fn a_routing_is_whole_rows_of_ids_and_weights(
        top_k in 0_usize..6,
        ids in prop::collection::vec(any::<u32>(), 0..30),
        more_weights in -1_isize..2,
    ) {
        let weights = vec![0.5; ids.len().saturating_add_signed(more_weights)];
        let whole = if top_k == 0 { ids.is_empty() } else { ids.len() % top_k == 0 };
        let fits = whole && weights.len() == ids.len();
        let routing = Routing::new(top_k, ids.clone(), weights);
        prop_assert_eq!(routing.is_ok(), fits);
        if let Ok(routing) = routing {
            prop_assert_eq!(routing.top_k_index(), &ids[..]);
            prop_assert_eq!(routing.tokens() * top_k, ids.len());
        }
    }
}
