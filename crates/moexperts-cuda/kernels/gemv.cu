// Products of weights with few rows of x, whose time is that of reading the weights: the two
// halves of `batched_mm`, and dense layers.
//
// A warp has a few weight rows and reads them in pieces of 16 bytes per lane, several pieces of all its
// rows before it uses the first, so that enough reads are under way to hide the latency of memory. The
// rows of x are in f32 and come from the first-level cache, which weights bypass. The order in which the
// terms of a sum are added does not depend on how many rows of x or of weights a warp has: a row has the
// same result alone as among others.

#define GEMV_THREADS 128
#define GEMV_WARPS (GEMV_THREADS / WARP)

// Elements in 16 bytes of weights.
template <typename T> constexpr u32 piece_len = 16 / sizeof(T);

// Four elements of a piece, the first being a multiple of four.
DEVICE float4 widen_quad(const uint4& piece, u32, f32) {
    return make_float4(
        __uint_as_float(piece.x), __uint_as_float(piece.y), __uint_as_float(piece.z),
        __uint_as_float(piece.w)
    );
}
template <typename T> DEVICE float4 widen_quad(const uint4& piece, u32 first, T) {
    u32 low = first ? piece.z : piece.x, high = first ? piece.w : piece.y;
    T x, y, z, w;
    x.bits = (u16)low;
    y.bits = (u16)(low >> 16);
    z.bits = (u16)high;
    w.bits = (u16)(high >> 16);
    return make_float4(widen(x), widen(y), widen(z), widen(w));
}

// The index of the sum of weight row `row` and row `x` of x among those of a warp. The sums of weight
// rows 2 · i and 2 · i + 1, a gate's and an up's, are neighbours, so that one exchange between lanes
// brings them together.
template <int XS> DEVICE constexpr int sum_index(int row, int x) {
    return (row / 2 * XS + x) * 2 + row % 2;
}

// The values of a row of x beside a piece.
template <typename T> struct Values { float4 quads[piece_len<T> / 4]; };

template <typename T> DEVICE Values<T> load_values(const float* at) {
    Values<T> values;
#pragma unroll
    for (u32 i = 0; i < piece_len<T> / 4; ++i) values.quads[i] = *(const float4*)(at + 4 * i);
    return values;
}

// Adds the terms of four columns of some weight rows and a row of x.
template <int ROWS, int XS>
DEVICE void add_quads(
    float (&sums)[ROWS * XS], const float4 (&weights)[ROWS], const float4& values, int x
) {
#pragma unroll
    for (int row = 0; row < ROWS; ++row) {
        float& sum = sums[sum_index<XS>(row, x)];
        sum = fmaf(weights[row].x, values.x, sum);
        sum = fmaf(weights[row].y, values.y, sum);
        sum = fmaf(weights[row].z, values.z, sum);
        sum = fmaf(weights[row].w, values.w, sum);
    }
}

// Adds the terms of the lane's pieces of some weight rows and the values beside them: `first` of
// the first row of x, and of the others up to `count` those at `column`.
template <typename T, int ROWS, int XS>
DEVICE void add_pieces(
    float (&sums)[ROWS * XS], const uint4 (&pieces)[ROWS], const Values<T>& first,
    const float* const (&xs)[XS], u32 count, u64 column
) {
#pragma unroll
    for (u32 i = 0; i < piece_len<T> / 4; ++i) {
        float4 weights[ROWS];
#pragma unroll
        for (int row = 0; row < ROWS; ++row) weights[row] = widen_quad(pieces[row], 4 * i, T());
        add_quads<ROWS, XS>(sums, weights, first.quads[i], 0);
#pragma unroll
        for (int x = 1; x < XS; ++x) {
            if (x >= count) break;
            add_quads<ROWS, XS>(sums, weights, *(const float4*)(xs[x] + column + 4 * i), x);
        }
    }
}

// Adds the lane's terms of the products of ROWS weight rows with the first `count` rows of x. With
// `vector`, all of them begin at multiples of 16 bytes. AHEAD pieces of each row of weights, and
// the values of the first row of x beside them, are read at once.
template <typename T, int ROWS, int XS, int AHEAD>
DEVICE void add_products(
    float (&sums)[ROWS * XS], const T* const (&rows)[ROWS], const float* const (&xs)[XS], u32 count,
    u32 depth, bool vector
) {
    // Columns that the warp reads at once, and how many times they fit a row.
    constexpr u32 STEP = WARP * piece_len<T>;
    u32 lane = threadIdx.x % WARP;
    u32 steps = vector ? depth / STEP : 0;
    u64 column = lane * piece_len<T>;
#pragma unroll 1
    for (u32 step = 0; step < steps; step += AHEAD) {
        uint4 pieces[AHEAD][ROWS];
        Values<T> values[AHEAD];
#pragma unroll
        for (u32 ahead = 0; ahead < AHEAD; ++ahead) {
            if (step + ahead >= steps) break;
#pragma unroll
            for (int row = 0; row < ROWS; ++row)
                pieces[ahead][row] = load_stream(rows[row] + column + ahead * STEP);
            values[ahead] = load_values<T>(xs[0] + column + ahead * STEP);
        }
#pragma unroll
        for (u32 ahead = 0; ahead < AHEAD; ++ahead) {
            if (step + ahead >= steps) break;
            add_pieces<T>(sums, pieces[ahead], values[ahead], xs, count, column + ahead * STEP);
        }
        column += AHEAD * STEP;
    }
    // The remaining pieces, too few for all lanes.
    u32 done = steps * STEP;
    if (vector && done + (lane + 1) * piece_len<T> <= depth) {
        column = done + lane * piece_len<T>;
        uint4 pieces[ROWS];
#pragma unroll
        for (int row = 0; row < ROWS; ++row) pieces[row] = load_stream(rows[row] + column);
        add_pieces<T>(sums, pieces, load_values<T>(xs[0] + column), xs, count, column);
    }
    // The remaining columns of a row, or all of a row that is not aligned.
    if (vector) done = depth / piece_len<T> * piece_len<T>;
#pragma unroll 1
    for (column = done + lane; column < depth; column += WARP) {
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            float weight = widen(rows[row][column]);
#pragma unroll
            for (int x = 0; x < XS; ++x) {
                if (x >= count) break;
                float& sum = sums[sum_index<XS>(row, x)];
                sum = fmaf(weight, xs[x][column], sum);
            }
        }
    }
}

// Adds each of COUNT (1, 2, 4 … 32) values over the lanes; the lane's result is that of value
// lane · COUNT / 32. A value's lanes are added in the same order for every COUNT.
template <int COUNT> DEVICE float sum_of_lanes(float (&values)[COUNT]) {
    u32 lane = threadIdx.x % WARP;
    int left = COUNT;
#pragma unroll
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        if (left > 1) {
            left /= 2;
            bool upper = lane & lanes;
#pragma unroll
            for (int i = 0; i < COUNT / 2; ++i) {
                if (i >= left) break;
                float given = upper ? values[i] : values[i + left];
                float kept = upper ? values[i + left] : values[i];
                values[i] = kept + __shfl_xor_sync(ALL_LANES, given, lanes);
            }
        } else {
            values[0] += __shfl_xor_sync(ALL_LANES, values[0], lanes);
        }
    }
    return values[0];
}

// The products of ROWS weight rows with the first `count` rows of x, one in each lane: that of
// `sum_index` lane · ROWS · XS / 32.
template <typename T, int ROWS, int XS, int AHEAD>
DEVICE float products(
    const T* const (&rows)[ROWS], const float* const (&xs)[XS], u32 count, u32 depth, bool vector
) {
    float sums[ROWS * XS];
#pragma unroll
    for (int i = 0; i < ROWS * XS; ++i) sums[i] = 0.0f;
    add_products<T, ROWS, XS, AHEAD>(sums, rows, xs, count, depth, vector);
    return sum_of_lanes(sums);
}

// Pairs of one expert that are multiplied with its weights at once.
#define MOST_TOGETHER 4
struct Pairs {
    u32 pair[MOST_TOGETHER];
    u32 count;
};

// Takes the first pairs out of a set; missing ones are replaced by the first.
DEVICE Pairs take_pairs(u64& set) {
    Pairs pairs;
    pairs.count = 0;
#pragma unroll
    for (u32 i = 0; i < MOST_TOGETHER; ++i) {
        pairs.pair[i] = set ? (u32)__ffsll(set) - 1 : pairs.pair[0];
        if (set) pairs.count = i + 1;
        set &= set - 1;
    }
    return pairs;
}

// Pairs that are searched for those of one expert, at most: two of each lane, one bit each of a u64.
#define MOST_SHARED_PAIRS 64

// The expert ids of up to 64 pairs, two per lane; those beyond the last are ALL_LANES.
struct Ids {
    u32 low;
    u32 high;
};

DEVICE Ids load_ids(const u32* top_k_index, u32 pairs) {
    u32 lane = threadIdx.x % WARP;
    Ids ids;
    ids.low = lane < pairs ? top_k_index[lane] : ALL_LANES;
    ids.high = lane + WARP < pairs ? top_k_index[lane + WARP] : ALL_LANES;
    return ids;
}

DEVICE u32 id_of(const Ids& ids, u32 pair) {
    return __shfl_sync(ALL_LANES, pair < WARP ? ids.low : ids.high, pair % WARP);
}

// The pairs for which a condition on their ids holds.
DEVICE u64 pairs_where(bool low, bool high) {
    u32 lower = __ballot_sync(ALL_LANES, low);
    return lower | (u64)__ballot_sync(ALL_LANES, high) << 32;
}

struct InnerParams {
    const float* x;               // [T, H]
    const u32* top_k_index;       // [T, K]
    const GroupWeights* weights;  // [E]
    float* inner;                 // [T · K, I]
    u32 pairs;
    u32 top_k;
    u32 experts;
    u32 hidden;
    u32 intermediate;
    u32 vector;
    Activation activation;
};

// The warp's weight rows: with a gate, rows of gate and up alternate. Rows beyond the last are replaced
// by the last.
template <typename T, int ROWS>
DEVICE void inner_rows(
    const InnerParams& p, const GroupWeights& weights, u32 first, const T* (&rows)[ROWS]
) {
    u32 last = p.intermediate - 1;
#pragma unroll
    for (u32 row = 0; row < ROWS; ++row) {
        bool second = p.activation.gated && row % 2;
        u32 out = min(first + (p.activation.gated ? row / 2 : row), last);
        rows[row] = second ? (const T*)weights.second + out * weights.second_stride
                           : (const T*)weights.first + out * weights.first_stride;
    }
}

// Activates the products of the warp's rows with XS pairs' tokens and stores those of the first
// `count` pairs.
template <typename T, int ROWS, int XS, int AHEAD>
DEVICE void inner_of(
    const InnerParams& p, const GroupWeights& weights, u32 first, const Pairs& pairs,
    const T* const (&rows)[ROWS]
) {
    constexpr u32 LANES = WARP / (ROWS * XS);
    const float* xs[XS];
#pragma unroll
    for (int i = 0; i < XS; ++i) xs[i] = p.x + (u64)(pairs.pair[i] / p.top_k) * p.hidden;
    u32 count = XS == 1 ? 1 : pairs.count;
    float product = products<T, ROWS, XS, AHEAD>(rows, xs, count, p.hidden, p.vector);
    // The result of the other row of the two.
    float other = __shfl_xor_sync(ALL_LANES, product, LANES);
    u32 lane = threadIdx.x % WARP;
    u32 index = lane / LANES;
    u32 member = index / 2 % XS, row = index / 2 / XS * 2 + index % 2;
    bool gated = p.activation.gated;
    u32 out = first + (gated ? row / 2 : row);
    if (lane % LANES || member >= count || out >= p.intermediate || (gated && row % 2)) return;
    if (weights.first_bias) product += weights.first_bias[out];
    if (gated && weights.second_bias) other += weights.second_bias[out];
    u32 pair = pairs.pair[0];
#pragma unroll
    for (u32 i = 1; i < XS; ++i)
        if (member == i) pair = pairs.pair[i];
    float inner = activate(p.activation, product, gated ? other : product);
    p.inner[(u64)pair * p.intermediate + out] = inner;
}

#define ALONE_ROWS 2
#define SHARED_ROWS 4

// inner[pair] = activation(gate · x, up · x), a pair for each block of the grid's first axis.
template <typename T> DEVICE void inner_alone(const InnerParams& p) {
    Pairs pairs;
    pairs.pair[0] = blockIdx.x;
    pairs.count = 1;
    u32 expert = p.top_k_index[blockIdx.x];
    u32 outs = p.activation.gated ? ALONE_ROWS / 2 : ALONE_ROWS;
    u32 first = (blockIdx.y * GEMV_WARPS + threadIdx.x / WARP) * outs;
    if (expert >= p.experts || first >= p.intermediate) return;
    GroupWeights weights = p.weights[expert];
    const T* rows[ALONE_ROWS];
    inner_rows<T>(p, weights, first, rows);
    inner_of<T, ALONE_ROWS, 1, 4>(p, weights, first, pairs, rows);
}

// The same for at most MOST_SHARED_PAIRS pairs: the block of the first pair of an expert computes all of
// its pairs.
template <typename T> DEVICE void inner_shared(const InnerParams& p) {
    Ids ids = load_ids(p.top_k_index, p.pairs);
    u32 expert = id_of(ids, blockIdx.x);
    u64 members = pairs_where(ids.low == expert, ids.high == expert);
    u32 outs = p.activation.gated ? SHARED_ROWS / 2 : SHARED_ROWS;
    u32 first = (blockIdx.y * GEMV_WARPS + threadIdx.x / WARP) * outs;
    if (expert >= p.experts || first >= p.intermediate) return;
    if ((u32)__ffsll(members) - 1 != blockIdx.x) return;
    GroupWeights weights = p.weights[expert];
    const T* rows[SHARED_ROWS];
    inner_rows<T>(p, weights, first, rows);
#pragma unroll 1
    while (members) {
        Pairs pairs = take_pairs(members);
        inner_of<T, SHARED_ROWS, MOST_TOGETHER, 2>(p, weights, first, pairs, rows);
    }
}

#define INNER(suffix, type)                                                        \
    KERNEL_BLOCKS(gemv_inner_alone_##suffix, InnerParams, GEMV_THREADS, 5) {       \
        inner_alone<type>(p);                                                      \
    }                                                                              \
    KERNEL_BLOCKS(gemv_inner_shared_##suffix, InnerParams, GEMV_THREADS, 3) {      \
        inner_shared<type>(p);                                                     \
    }
FOR_EACH_WEIGHT(INNER)

struct OutputParams {
    const float* inner;           // [T · K, I]
    const u32* top_k_index;       // [T, K]
    const float* top_k_weights;   // [T, K]
    const GroupWeights* weights;  // [E]: the down projections
    float* out;                   // [T, H]
    u32 tokens;
    u32 top_k;
    u32 experts;
    u32 hidden;
    u32 intermediate;
    u32 vector;
    u32 bundles;                  // of OUTPUT_ROWS outputs, of a block; divides its warps
    u32 padding;
};

#define OUTPUT_THREADS 256
#define OUTPUT_ROWS 4

// y[pair, row] = down · inner + bias for the warp's rows and XS pairs, of which `count` are stored.
template <typename T, int XS, int AHEAD>
DEVICE void outputs_of(
    const OutputParams& p, u32 expert, u32 first, const Pairs& pairs, const Pairs& places, float* y,
    u32 y_stride
) {
    constexpr u32 LANES = WARP / (OUTPUT_ROWS * XS);
    GroupWeights weights = p.weights[expert];
    const T* rows[OUTPUT_ROWS];
#pragma unroll
    for (u32 row = 0; row < OUTPUT_ROWS; ++row)
        rows[row] = (const T*)weights.first + min(first + row, p.hidden - 1) * weights.first_stride;
    const float* xs[XS];
#pragma unroll
    for (int i = 0; i < XS; ++i) xs[i] = p.inner + (u64)pairs.pair[i] * p.intermediate;
    u32 count = XS == 1 ? 1 : pairs.count;
    float product = products<T, OUTPUT_ROWS, XS, AHEAD>(rows, xs, count, p.intermediate, p.vector);
    u32 lane = threadIdx.x % WARP;
    u32 index = lane / LANES;
    u32 member = index / 2 % XS, row = index / 2 / XS * 2 + index % 2;
    if (lane % LANES || member >= count || first + row >= p.hidden) return;
    if (weights.first_bias) product += weights.first_bias[first + row];
    u32 place = places.pair[0];
#pragma unroll
    for (u32 i = 1; i < XS; ++i)
        if (member == i) place = places.pair[i];
    y[place * y_stride + row] = product;
}

// out[token] = Σ_k weight[token, k] · y[k], in the order of k, without pairs of no expert. `y`
// holds `rows` outputs from `first` on of each of the token's pairs, `row` being one of them.
DEVICE void store_sum(
    const OutputParams& p, u32 token, u32 first, u32 row, u32 rows, const float* y
) {
    if (first + row >= p.hidden) return;
    const u32* experts = p.top_k_index + (u64)token * p.top_k;
    const float* weights = p.top_k_weights + (u64)token * p.top_k;
    float sum = 0.0f;
    for (u32 k = 0; k < p.top_k; ++k)
        if (experts[k] < p.experts) sum = fmaf(weights[k], y[k * rows + row], sum);
    p.out[(u64)token * p.hidden + first + row] = sum;
}

// A warp has one bundle of a block's outputs, and shares it with every p.bundles-th warp.
struct Bundle {
    u32 row;      // the first of its outputs among the block's
    u32 sharer;   // the index of the warp among those that share the bundle
    u32 sharers;
};

DEVICE Bundle bundle_of_warp(const OutputParams& p) {
    u32 warp = threadIdx.x / WARP;
    return {warp % p.bundles * OUTPUT_ROWS, warp / p.bundles, blockDim.x / WARP / p.bundles};
}

// A token for each block of the grid's first axis. The warps that have the same outputs divide its
// pairs among them; shared memory has a value for each output and pair.
template <typename T> DEVICE void output_alone(const OutputParams& p, float* y) {
    u32 token = blockIdx.x, rows = p.bundles * OUTPUT_ROWS, first = blockIdx.y * rows;
    Bundle bundle = bundle_of_warp(p);
    if (first + bundle.row < p.hidden) {
#pragma unroll 1
        for (u32 k = bundle.sharer; k < p.top_k; k += bundle.sharers) {
            Pairs pairs, places;
            pairs.pair[0] = token * p.top_k + k;
            pairs.count = 1;
            places.pair[0] = k;
            u32 expert = p.top_k_index[pairs.pair[0]];
            if (expert >= p.experts) continue;
            outputs_of<T, 1, 3>(p, expert, first + bundle.row, pairs, places, y + bundle.row, rows);
        }
    }
    __syncthreads();
    if (threadIdx.x < rows) store_sum(p, token, first, threadIdx.x, rows, y);
}

// All tokens by each block, at most MOST_SHARED_PAIRS pairs. The warps that have the same outputs
// divide the experts among them.
template <typename T> DEVICE void output_shared(const OutputParams& p, float* y) {
    u32 rows = p.bundles * OUTPUT_ROWS, first = blockIdx.y * rows;
    Bundle bundle = bundle_of_warp(p);
    Ids ids = load_ids(p.top_k_index, p.tokens * p.top_k);
    u64 left = pairs_where(ids.low < p.experts, ids.high < p.experts);
    if (first + bundle.row >= p.hidden) left = 0;
#pragma unroll 1
    for (u32 turn = 0; left; ++turn) {
        u32 expert = id_of(ids, (u32)__ffsll(left) - 1);
        u64 members = pairs_where(ids.low == expert, ids.high == expert);
        left &= ~members;
        if (turn % bundle.sharers != bundle.sharer) continue;
#pragma unroll 1
        while (members) {
            Pairs pairs = take_pairs(members);
            outputs_of<T, MOST_TOGETHER, 2>(
                p, expert, first + bundle.row, pairs, pairs, y + bundle.row, rows
            );
        }
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < p.tokens * rows; i += blockDim.x) {
        u32 token = i / rows;
        store_sum(p, token, first, i % rows, rows, y + token * p.top_k * rows);
    }
}

#define OUTPUT(suffix, type)                                                       \
    KERNEL_BLOCKS(gemv_output_alone_##suffix, OutputParams, OUTPUT_THREADS, 2) {   \
        DYNAMIC_SHARED(shared);                                                    \
        output_alone<type>(p, (float*)shared);                                     \
    }                                                                              \
    KERNEL_BLOCKS(gemv_output_shared_##suffix, OutputParams, GEMV_THREADS, 3) {    \
        DYNAMIC_SHARED(shared);                                                    \
        output_shared<type>(p, (float*)shared);                                    \
    }
FOR_EACH_WEIGHT(OUTPUT)

// A dense layer.
struct LinearPart {
    const void* weight;  // [outs, depth]
    const float* bias;   // [outs]; may be null
    float* out;          // [rows, outs]
    u64 stride;
    u32 outs;
    u32 first_warp;      // the first of its warps
};

#define MOST_PARTS 4

struct LinearParams {
    const float* x;      // [rows, depth]
    LinearPart parts[MOST_PARTS];
    u32 part_count;
    u32 rows;            // at most XS
    u32 depth;
    u32 vector;
};

// Each warp computes ROWS outputs.
template <typename T, int ROWS, int XS, int AHEAD> DEVICE void linear(const LinearParams& p) {
    constexpr u32 LANES = WARP / (ROWS * XS);
    u32 warp = blockIdx.x * GEMV_WARPS + threadIdx.x / WARP;
    LinearPart part = p.parts[0];
#pragma unroll
    for (u32 i = 1; i < MOST_PARTS; ++i)
        if (i < p.part_count && warp >= p.parts[i].first_warp) part = p.parts[i];
    u32 first = (warp - part.first_warp) * ROWS;
    if (first >= part.outs) return;
    const T* rows[ROWS];
#pragma unroll
    for (u32 row = 0; row < ROWS; ++row)
        rows[row] = (const T*)part.weight + min(first + row, part.outs - 1) * part.stride;
    const float* xs[XS];
#pragma unroll
    for (u32 i = 0; i < XS; ++i) xs[i] = p.x + (u64)min(i, p.rows - 1) * p.depth;
    float product = products<T, ROWS, XS, AHEAD>(rows, xs, XS, p.depth, p.vector);
    u32 lane = threadIdx.x % WARP;
    u32 index = lane / LANES;
    u32 x = index / 2 % XS, out = first + index / 2 / XS * 2 + index % 2;
    if (lane % LANES || x >= p.rows || out >= part.outs) return;
    if (part.bias) product += part.bias[out];
    part.out[(u64)x * part.outs + out] = product;
}

// The list in linear.rs has the same numbers.
#define LINEAR_ROWS(suffix, type, rows, xs, ahead, blocks)                               \
    KERNEL_BLOCKS(gemv_linear_##xs##_##suffix, LinearParams, GEMV_THREADS, blocks) {     \
        linear<type, rows, xs, ahead>(p);                                                \
    }
#define LINEAR(suffix, type)                                                             \
    LINEAR_ROWS(suffix, type, 2, 1, 4, 4)                                                \
    LINEAR_ROWS(suffix, type, 2, 2, 4, 4)                                                \
    LINEAR_ROWS(suffix, type, 4, 4, 2, 3)                                                \
    LINEAR_ROWS(suffix, type, 4, 8, 2, 2)
FOR_EACH_WEIGHT(LINEAR)
