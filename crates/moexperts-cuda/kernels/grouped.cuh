// Products of the rows of several groups, each with weights of its own: what tiles.cu and hopper.cu
// compute.

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
// out[out_rows[position]] = activation(first · x[x_rows[position]] + first_bias, second · …), or the
// first product alone where nothing is activated.
struct GroupedParams {
    const void* x;                // [.., depth], in the weights' type
    const u32* offsets;           // [groups + 1]
    const u32* x_rows;            // [positions]; null: the position itself
    const u32* out_rows;          // [positions]; null: the position itself
    const GroupWeights* weights;  // [groups]
    void* out;                    // [.., outs], in f32 or the weights' type
    u64 x_stride;                 // elements from a row to the next
    u64 out_stride;
    u32 groups;
    u32 depth;
    u32 outs;
    u32 out_f32;                  // whether out is in f32
    u32 activated;                // whether `activation` is applied
    Activation activation;        // gated: gate is the first, up the second; else up is the first
    u32 padding;
};
