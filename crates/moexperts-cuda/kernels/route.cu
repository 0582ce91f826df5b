// From router logits to the experts of each token.

// How a logit becomes a score; the numbers are those of `score_number` in Rust (routing.rs).
enum ScoreKind {
    SOFTMAX = 0,
    SIGMOID = 1,
    SQRT_SOFTPLUS = 2,
};

struct RouteParams {
    const float* logits;            // [tokens, experts]
    const float* pick_bias;         // [experts]; null: none
    const float* per_expert_scale;  // [experts]; null: none
    const float* gate;              // [tokens]: the slices weigh its sigmoid; null: they weigh 1
    u32* top_k_index;               // [tokens, top_k + slices]
    float* top_k_weights;           // [tokens, top_k + slices]
    u32 tokens;
    u32 experts;
    u32 top_k;             // at most `experts`
    u32 slices;            // of a shared expert: experts from `experts` on, chosen by every token
    u32 score;             // a ScoreKind
    u32 picks_on_logits;
    u32 normalise;
    float eps;             // added to the sum that is normalised by
    float scale;           // factor on the weights
    u32 groups;            // 0: none; divides `experts`
    u32 keep;              // groups that are kept
    u32 best;              // 1 or 2: values of a group whose sum is its score
    float masked;          // what experts of other groups are picked on
    u32 tokens_per_block;  // at most the warps of a block
};

// Larger for a larger value, and for the lower id of equals; never 0. NaN comes last.
DEVICE u64 rank_of(float value, u32 id) {
    // -0 + 0 is 0.
    u32 bits = bits_of(value + 0.0f);
    u32 order = value != value ? 0 : bits >> 31 ? ~bits : bits | 0x80000000u;
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

// The largest rank of `count` values that is less than `last`, in each lane of a warp.
DEVICE u64 next_rank(const float* __restrict__ values, u32 count, u32 lane, u64 last) {
    u64 best = 0;
#pragma unroll 4
    for (u32 id = lane; id < count; id += WARP) {
        u64 rank = rank_of(values[id], id);
        if (rank < last && rank > best) best = rank;
    }
    return warp_max_rank(best);
}

// The score of a softmax is relative to that of `max`.
DEVICE float score_of(u32 kind, float logit, float max) {
    switch (kind) {
        case SOFTMAX: return expf(logit - max);
        case SIGMOID: return 1.0f / (1.0f + expf(-logit));
        // ln(1 + e^x) that does not overflow.
        default: return sqrtf(fmaxf(logit, 0.0f) + log1pf(expf(-fabsf(logit))));
    }
}

// The sum over all experts of the scores of a softmax.
DEVICE float softmax_sum(const float* __restrict__ logits, u32 count, u32 lane, float max) {
    float sum = 0.0f;
#pragma unroll 4
    for (u32 id = lane; id < count; id += WARP) sum += expf(logits[id] - max);
    return warp_sum(sum);
}

// The divisor of the scores of the `top_k`; `sum` is their sum, or 0 where they are not normalised.
DEVICE float divisor(const RouteParams& p, const float* logits, u32 lane, float max, float sum) {
    float whole = p.normalise ? p.eps : 1.0f;
    // An epsilon of 0 stays 0 where the sum is infinite.
    if (p.score == SOFTMAX && whole != 0.0f) whole *= softmax_sum(logits, p.experts, lane, max);
    return sum + whole;
}

// Turns scores into weights, each lane those that it wrote, and adds the slices.
DEVICE void weigh(const RouteParams& p, u32 token, u32 lane, u32* index, float* weights, float total) {
    for (u32 k = lane; k < p.top_k; k += WARP) {
        float weight = weights[k] / total * p.scale;
        if (p.per_expert_scale) weight *= p.per_expert_scale[index[k]];
        weights[k] = weight;
    }
    for (u32 slice = lane; slice < p.slices; slice += WARP) {
        index[p.top_k + slice] = p.experts + slice;
        weights[p.top_k + slice] = p.gate ? sigmoid(p.gate[token]) : 1.0f;
    }
}

// 0, or NaN if a lane has met a value that is not finite.
DEVICE float poison(bool finite) {
    return __ballot_sync(ALL_LANES, !finite) ? __uint_as_float(0x7fc00000u) : 0.0f;
}

// The experts with the `top_k` largest logits, in descending order, then the slices; one warp for each token.
// A larger logit has a larger score.
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
    float sum = poison(finite);

    float max = 0.0f;
    u64 last = ~0ull;
    for (u32 k = 0; k < p.top_k; ++k) {
        last = next_rank(logits, p.experts, lane, last);
        u32 id = ~(u32)last;
        float logit = logits[id];
        if (k == 0) max = logit;
        float weight = score_of(p.score, logit, max);
        if (p.normalise) sum += weight;
        if (lane == k % WARP) {
            index[k] = id;
            weights[k] = weight;
        }
    }
    weigh(p, token, lane, index, weights, divisor(p, logits, lane, max, sum));
}

// Gives the experts of all groups but the best `keep` another value.
DEVICE void mask_groups(const RouteParams& p, u32 lane, float* picked_on, float* scores) {
    const float none = __uint_as_float(0xff800000u);
    u32 size = p.experts / p.groups;
    for (u32 group = lane; group < p.groups; group += WARP) {
        float first = none, second = none;
        for (u32 i = 0; i < size; ++i) {
            float value = picked_on[group * size + i];
            second = fmaxf(second, fminf(first, value));
            first = fmaxf(first, value);
        }
        scores[group] = p.best == 2 ? first + second : first;
    }
    __syncwarp();
    for (u32 group = lane; group < p.groups; group += WARP) {
        u64 rank = rank_of(scores[group], group);
        u32 better = 0;
        for (u32 other = 0; other < p.groups; ++other) better += rank_of(scores[other], other) > rank;
        if (better < p.keep) continue;
        for (u32 i = 0; i < size; ++i) picked_on[group * size + i] = p.masked;
    }
    __syncwarp();
}

// As `route`, for a router with a pick bias or groups: experts are picked on separate values, which a
// warp keeps in shared memory, `experts + groups` for each token of the block.
//
// Where a value is not finite, ids are those of experts still, and all `top_k` weights NaN.
KERNEL(route_picked, RouteParams, 128) {
    DYNAMIC_SHARED(shared);
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    u32 token = blockIdx.x * p.tokens_per_block + warp;
    if (warp >= p.tokens_per_block || token >= p.tokens) return;
    const float* __restrict__ logits = p.logits + (u64)token * p.experts;
    u32* index = p.top_k_index + (u64)token * (p.top_k + p.slices);
    float* weights = p.top_k_weights + (u64)token * (p.top_k + p.slices);
    float* picked_on = (float*)shared + (u64)warp * (p.experts + p.groups);

    float max = 0.0f, whole = 1.0f;
    if (p.score == SOFTMAX && !p.picks_on_logits) {
        max = __uint_as_float(0xff800000u);
        for (u32 id = lane; id < p.experts; id += WARP) max = fmaxf(max, logits[id]);
        max = warp_max(max);
        whole = softmax_sum(logits, p.experts, lane, max);
    }
    bool finite = true;
#pragma unroll 4
    for (u32 id = lane; id < p.experts; id += WARP) {
        float logit = logits[id];
        float value = p.picks_on_logits ? logit : score_of(p.score, logit, max) / whole;
        if (p.pick_bias) value += p.pick_bias[id];
        finite &= logit - logit == 0.0f && value - value == 0.0f;
        picked_on[id] = value;
    }
    __syncwarp();
    float sum = poison(finite);
    if (p.groups) mask_groups(p, lane, picked_on, picked_on + p.experts);

    u64 last = ~0ull;
    for (u32 k = 0; k < p.top_k; ++k) {
        last = next_rank(picked_on, p.experts, lane, last);
        if (lane == k % WARP) index[k] = ~(u32)last;
    }
    // Relative to the largest logit that was chosen, so that not all scores of a softmax vanish.
    max = __uint_as_float(0xff800000u);
    for (u32 k = lane; k < p.top_k; k += WARP) max = fmaxf(max, logits[index[k]]);
    max = warp_max(max);
    float scores = 0.0f;
    for (u32 k = lane; k < p.top_k; k += WARP) {
        weights[k] = score_of(p.score, logits[index[k]], max);
        scores += weights[k];
    }
    scores = warp_sum(scores);
    if (p.normalise) sum += scores;
    weigh(p, token, lane, index, weights, divisor(p, logits, lane, max, sum));
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
