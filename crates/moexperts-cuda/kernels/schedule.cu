// The steps around grouped products of experts: ordering the pairs (token, expert) by expert, rounding x
// to the weights' type, and the weighted sum of a token's pairs.
//
// Pairs are numbered as in top_k_index [T, K]. Ordered, the pairs of an expert are neighbours and keep
// their order; those of no expert (ids from E on) are left out. It is a counting sort: the pairs are cut
// into segments, one for each warp. Each counts its pairs of every expert; the pairs of an expert in a
// segment begin at the sum of all counts before, ordered by expert, then by segment.

struct ScheduleParams {
    const u32* top_k_index;  // [pairs]
    u32* counts;             // [experts, segments], zeroed; unused by schedule_few
    u32* offsets;            // [experts + 1]: where an expert's positions begin
    u32* x_rows;             // [positions]: their tokens
    u32* out_rows;           // [positions]: their pairs
    u32 pairs;
    u32 top_k;
    u32 experts;
    u32 segments;
    u32 segment_pairs;       // a multiple of 32
    u32 counts_shared;       // whether a warp's counters fit shared memory
};

#define FEW_THREADS 1024
#define FEW_SEGMENTS (FEW_THREADS / WARP)
#define MANY_THREADS 256

// A pair of a warp, and the others of its expert among the warp's 32.
struct Peers {
    u32 expert;
    bool valid;
    u32 before;
    u32 count;
};

DEVICE Peers peers_of(const ScheduleParams& p, u32 pair, u32 end) {
    Peers peers;
    peers.expert = pair < end ? p.top_k_index[pair] : p.experts;
    peers.valid = peers.expert < p.experts;
    u32 alike = __match_any_sync(ALL_LANES, peers.valid ? peers.expert : p.experts);
    peers.before = __popc(alike & ((1u << threadIdx.x % WARP) - 1));
    peers.count = __popc(alike);
    return peers;
}

// Adds the pairs of a segment to its counters, one for each expert, `stride` apart; by a warp.
DEVICE void count_segment(const ScheduleParams& p, u32 segment, u32* counters, u32 stride) {
    u32 first = segment * p.segment_pairs, end = min(first + p.segment_pairs, p.pairs);
    for (u32 base = first; base < end; base += WARP) {
        Peers peers = peers_of(p, base + threadIdx.x % WARP, end);
        if (peers.valid && peers.before == 0)
            atomicAdd(counters + peers.expert * stride, peers.count);
    }
}

// Puts the pairs of a segment where its counters say, which then say where the next ones go.
DEVICE void place_segment(const ScheduleParams& p, u32 segment, u32* counters, u32 stride) {
    u32 first = segment * p.segment_pairs, end = min(first + p.segment_pairs, p.pairs);
    for (u32 base = first; base < end; base += WARP) {
        u32 pair = base + threadIdx.x % WARP;
        Peers peers = peers_of(p, pair, end);
        u32 position = 0;
        if (peers.valid) {
            position = counters[peers.expert * stride] + peers.before;
            p.x_rows[position] = pair / p.top_k;
            p.out_rows[position] = pair;
        }
        // All have read their counters; then all have been written.
        __syncwarp();
        if (peers.valid && peers.before + 1 == peers.count)
            counters[peers.expert * stride] = position + 1;
        __syncwarp();
    }
}

// Replaces each value by the sum of those before it, and returns the sum of all; by a block of
// FEW_THREADS.
DEVICE u32 sum_before(u32* values, u32 len) {
    __shared__ u32 before_warp[WARP + 1];
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    u32 each = (len + FEW_THREADS - 1) / FEW_THREADS;
    u32 first = min(threadIdx.x * each, len), end = min(first + each, len);
    u32 own = 0;
    for (u32 i = first; i < end; ++i) own += values[i];
    u32 through = own;
#pragma unroll
    for (u32 lanes = 1; lanes < WARP; lanes *= 2) {
        u32 left = __shfl_up_sync(ALL_LANES, through, lanes);
        if (lane >= lanes) through += left;
    }
    if (lane == WARP - 1) before_warp[warp + 1] = through;
    __syncthreads();
    if (warp == 0) {
        u32 sum = before_warp[lane + 1];
#pragma unroll
        for (u32 lanes = 1; lanes < WARP; lanes *= 2) {
            u32 left = __shfl_up_sync(ALL_LANES, sum, lanes);
            if (lane >= lanes) sum += left;
        }
        before_warp[lane + 1] = sum;
        if (lane == 0) before_warp[0] = 0;
    }
    __syncthreads();
    u32 before = before_warp[warp] + through - own;
    for (u32 i = first; i < end; ++i) {
        u32 value = values[i];
        values[i] = before;
        before += value;
    }
    __syncthreads();
    return before_warp[WARP];
}

DEVICE void write_offsets(const ScheduleParams& p, const u32* before, u32 segments, u32 positions) {
    for (u32 expert = threadIdx.x; expert < p.experts; expert += blockDim.x)
        p.offsets[expert] = before[expert * segments];
    if (threadIdx.x == 0) p.offsets[p.experts] = positions;
}

// All of it by one block, whose shared memory has FEW_SEGMENTS counters for each expert.
KERNEL(schedule_few, ScheduleParams, FEW_THREADS) {
    DYNAMIC_SHARED(shared);
    u32* counts = (u32*)shared;
    u32 warp = threadIdx.x / WARP;
    for (u32 i = threadIdx.x; i < p.experts * FEW_SEGMENTS; i += FEW_THREADS) counts[i] = 0;
    __syncthreads();
    count_segment(p, warp, counts + warp, FEW_SEGMENTS);
    __syncthreads();
    u32 positions = sum_before(counts, p.experts * FEW_SEGMENTS);
    write_offsets(p, counts, FEW_SEGMENTS, positions);
    __syncthreads();
    place_segment(p, warp, counts + warp, FEW_SEGMENTS);
}

// The same in three kernels; this one and the last have a warp for each segment.
KERNEL(schedule_count, ScheduleParams, MANY_THREADS) {
    u32 segment = (blockIdx.x * MANY_THREADS + threadIdx.x) / WARP;
    if (segment < p.segments) count_segment(p, segment, p.counts + segment, p.segments);
}

// By one block.
KERNEL(schedule_sum, ScheduleParams, FEW_THREADS) {
    u32 positions = sum_before(p.counts, p.experts * p.segments);
    write_offsets(p, p.counts, p.segments, positions);
}

KERNEL(schedule_place, ScheduleParams, MANY_THREADS) {
    DYNAMIC_SHARED(shared);
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    u32 segment = blockIdx.x * (MANY_THREADS / WARP) + warp;
    if (segment >= p.segments) return;
    u32* counters = p.counts + segment;
    u32 stride = p.segments;
    if (p.counts_shared) {
        u32* copied = (u32*)shared + warp * p.experts;
        for (u32 expert = lane; expert < p.experts; expert += WARP)
            copied[expert] = counters[expert * stride];
        __syncwarp();
        counters = copied;
        stride = 1;
    }
    place_segment(p, segment, counters, stride);
}

struct NarrowParams {
    const float* x;  // [rows, cols]
    void* out;       // [rows, stride], in the type of the kernel; beyond `cols` nothing is written
    u32 cols;
    u32 stride;
};

#define NARROW_THREADS 256

// A block writes a part of a row, a thread eight values of it.
template <typename T> DEVICE void narrow_row(const NarrowParams& p) {
    u32 column = (blockIdx.y * NARROW_THREADS + threadIdx.x) * 8;
    if (column >= p.cols) return;
    const float* x = p.x + (u64)blockIdx.x * p.cols + column;
    T* out = (T*)p.out + (u64)blockIdx.x * p.stride + column;
    if (p.cols % 8 == 0 && p.stride % 8 == 0) {
        float4 low = *(const float4*)x, high = *(const float4*)(x + 4);
        *(uint4*)out = make_uint4(
            narrow(low.x, T()).bits | (u32)narrow(low.y, T()).bits << 16,
            narrow(low.z, T()).bits | (u32)narrow(low.w, T()).bits << 16,
            narrow(high.x, T()).bits | (u32)narrow(high.y, T()).bits << 16,
            narrow(high.z, T()).bits | (u32)narrow(high.w, T()).bits << 16
        );
        return;
    }
    for (u32 i = 0; i < min(p.cols - column, 8u); ++i) out[i] = narrow(x[i], T());
}

KERNEL(narrow_rows_f16, NarrowParams, NARROW_THREADS) { narrow_row<f16>(p); }
KERNEL(narrow_rows_bf16, NarrowParams, NARROW_THREADS) { narrow_row<bf16>(p); }

struct CombineParams {
    const float* y;              // [T · K, H]
    const u32* top_k_index;      // [T, K]
    const float* top_k_weights;  // [T, K]
    float* out;                  // [T, H]
    u32 top_k;
    u32 experts;
    u32 hidden;
    u32 padding;
};

#define COMBINE_THREADS 256

// out[t] = Σ_k weight[t, k] · y[t, k], in the order of k, without pairs of no expert. A block
// writes a part of a row, a thread four values of it.
KERNEL(combine, CombineParams, COMBINE_THREADS) {
    u32 token = blockIdx.x;
    u32 column = (blockIdx.y * COMBINE_THREADS + threadIdx.x) * 4;
    if (column >= p.hidden) return;
    u64 pair = (u64)token * p.top_k;
    const u32* experts = p.top_k_index + pair;
    const float* weights = p.top_k_weights + pair;
    const float* y = p.y + pair * p.hidden + column;
    float* out = p.out + (u64)token * p.hidden + column;
    if (p.hidden % 4 == 0) {
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
        for (u32 k = 0; k < p.top_k; ++k) {
            if (experts[k] >= p.experts) continue;
            float weight = weights[k];
            float4 values = *(const float4*)(y + (u64)k * p.hidden);
            sum.x = fmaf(weight, values.x, sum.x);
            sum.y = fmaf(weight, values.y, sum.y);
            sum.z = fmaf(weight, values.z, sum.z);
            sum.w = fmaf(weight, values.w, sum.w);
        }
        *(float4*)out = sum;
        return;
    }
    for (u32 i = 0; i < min(p.hidden - column, 4u); ++i) {
        float sum = 0.0f;
        for (u32 k = 0; k < p.top_k; ++k)
            if (experts[k] < p.experts) sum = fmaf(weights[k], y[(u64)k * p.hidden + i], sum);
        out[i] = sum;
    }
}
