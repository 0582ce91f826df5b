// From router logits to the experts of each token.

struct RouteParams {
    const float* logits;   // [tokens, experts]
    const float* gate;     // [tokens]: the slices weigh its sigmoid; null: they weigh 1
    u32* top_k_index;      // [tokens, top_k + slices]
    float* top_k_weights;  // [tokens, top_k + slices]
    u32 tokens;
    u32 experts;
    u32 top_k;             // at most `experts`
    u32 slices;            // of a shared expert: experts from `experts` on, chosen by every token
    u32 norm_topk_prob;
    u32 padding;
};

// Larger for a larger logit, and for the lower id of equals; never 0. What is no number comes last.
DEVICE u64 rank_of(float logit, u32 id) {
    // -0 + 0 is 0.
    u32 bits = bits_of(logit + 0.0f);
    u32 order = logit != logit ? 0 : bits >> 31 ? ~bits : bits | 0x80000000u;
    return (u64)order << 32 | (u32)~id;
}

DEVICE u64 warp_max_rank(u64 rank) {
#pragma unroll
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        u64 other = __shfl_xor_sync(ALL_LANES, rank, lanes);
        rank = other > rank ? other : rank;
    }
    return rank;
}

// The `top_k` largest of softmax(logits), in descending order, then the slices; a warp a token.
//
// Where a logit is not finite, ids are those of experts still, and all `top_k` weights NaN.
KERNEL(route, RouteParams, 128) {
    u32 lane = threadIdx.x % WARP;
    u32 token = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (token >= p.tokens) return;
    const float* __restrict__ logits = p.logits + (u64)token * p.experts;
    u32* index = p.top_k_index + (u64)token * (p.top_k + p.slices);
    float* weights = p.top_k_weights + (u64)token * (p.top_k + p.slices);

    bool finite = true;
#pragma unroll 4
    for (u32 id = lane; id < p.experts; id += WARP) finite &= logits[id] - logits[id] == 0.0f;
    float total = __ballot_sync(ALL_LANES, !finite) ? __uint_as_float(0x7fc00000u) : 0.0f;

    float max = 0.0f;
    u64 last = ~0ull;
    for (u32 k = 0; k < p.top_k; ++k) {
        u64 best = 0;
#pragma unroll 4
        for (u32 id = lane; id < p.experts; id += WARP) {
            u64 rank = rank_of(logits[id], id);
            if (rank < last && rank > best) best = rank;
        }
        last = warp_max_rank(best);
        u32 id = ~(u32)last;
        float logit = logits[id];
        if (k == 0) max = logit;
        float weight = expf(logit - max);
        if (p.norm_topk_prob) total += weight;
        if (lane == k % WARP) {
            index[k] = id;
            weights[k] = weight;
        }
    }
    if (!p.norm_topk_prob) {
        float sum = 0.0f;
#pragma unroll 4
        for (u32 id = lane; id < p.experts; id += WARP) sum += expf(logits[id] - max);
        total += warp_sum(sum);
    }
    // Each lane divides what it wrote.
    for (u32 k = lane; k < p.top_k; k += WARP) weights[k] /= total;
    for (u32 slice = lane; slice < p.slices; slice += WARP) {
        index[p.top_k + slice] = p.experts + slice;
        weights[p.top_k + slice] = p.gate ? sigmoid(p.gate[token]) : 1.0f;
    }
}

struct RouteAllParams {
    u32* top_k_index;
    float* top_k_weights;
    u64 tokens;
};

// Expert 0 with weight 1 for each token.
KERNEL(route_all, RouteAllParams, 256) {
    u64 token = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (token >= p.tokens) return;
    p.top_k_index[token] = 0;
    p.top_k_weights[token] = 1.0f;
}
