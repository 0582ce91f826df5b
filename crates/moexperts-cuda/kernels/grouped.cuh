// Products of the rows of several groups, each with separate weights: what tiles.cu, simt.cu and
// hopper.cu compute.

// The weights of a group, [outs, depth], rows `stride` elements apart; the biases may be null.
struct GroupWeights {
    const void* first;
    const void* second;
    const float* first_bias;
    const float* second_bias;
    u64 first_stride;
    u64 second_stride;
};

// For each position of group g, that is, from offsets[g] up to offsets[g + 1]:
// out[out_rows[position]] = activation(first · x[x_rows[position]] + first_bias, second · …), or
// the first product alone where nothing is activated.
struct GroupedParams {
    const void* x;                // [.., depth], in the weights' type
    const u32* offsets;           // [groups + 1]; null: one group of `rows` positions
    const u32* x_rows;            // [positions]; null: the position itself
    const u32* out_rows;          // [positions]; null: the position itself
    const GroupWeights* weights;  // [groups]; null: `only`
    void* out;                    // [.., outs], in f32 or the weights' type
    u64 x_stride;                 // elements from a row to the next
    u64 out_stride;
    GroupWeights only;
    u32 groups;
    u32 rows;
    u32 depth;
    u32 outs;
    u32 vector;                   // whether rows of x and weights begin at multiples of 16 bytes
    u32 out_f32;                  // whether out is in f32
    u32 activated;                // whether `activation` is applied
    u32 padding;
    Activation activation;        // gated: gate is the first, up the second; else up is the first
};

// The position at which a group begins, or the last ends.
DEVICE u32 group_offset(const GroupedParams& p, u32 group) {
    if (p.offsets) return p.offsets[group];
    return group ? p.rows : 0;
}

DEVICE GroupWeights group_weights(const GroupedParams& p, u32 group) {
    return p.weights ? p.weights[group] : p.only;
}

// Whether an output is made of two products.
DEVICE bool is_gated(const GroupedParams& p) { return p.activated && p.activation.gated; }
