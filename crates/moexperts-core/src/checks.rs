//! Whether the arguments of the operations of a [`Device`](crate::Device) agree with each other:
//! said once, so that every device refuses the same calls in the same words.
//!
//! Each check stands beside the description and the formula of its operation; here they have the
//! names of the operations. [`reference`](crate::reference) has the formulas.

pub use crate::{
    device::support::{activation, backend, format},
    experts::check::call as experts,
    operations::{
        attention::{check as attention, check_full as full_attention},
        elementwise::check_gate as gate,
        linear::check as linear,
        norm::{check_layer_norm as layer_norm, check_rms_norm as rms_norm},
        rope::check as rope,
        route::{check as route, check_router as router},
        rows::{check_bags as bags, check_reshape as reshape, check_rows_of as rows_of},
    },
    positions::{check_position as position, check_spans as spans},
    shapes::{count, indices, length, shape, tensor_data},
    state::check as states,
};
