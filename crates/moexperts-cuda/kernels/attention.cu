// Attention: appending keys and values to a state, and attending to it.
//
// The query heads that share a key/value head attend to its keys together: the rows of a tile are
// (token, query head) pairs of one key/value head, the heads of a token next to each other. The
// softmax is computed along the keys, in f32: a row has its largest score so far, and its sums are
// those of weights 2^(scale · (score - largest)).
//
// Where a layer has a window, its keys and values are a ring: position `p` is in slot `p & mask`, and
// the ring is so large that no token of a launch sees a position whose slot holds another.

// Tokens of one sequence, in the batch and among the keys.
struct Span {
    float* keys;       // of slot 0 in layer 0, [slots, kv_heads, key_stride]
    float* values;     // likewise, [slots, kv_heads, value_stride]
    u64 layer_stride;  // values from a layer to the next
    u32 start;         // position of the first token
    u32 tokens;
    u32 row;           // of the first token in the batch
    u32 before;        // tokens of the spans before
};

// Rows of a span, from `row` on.
struct Tile { u32 span; u32 row; };

struct AppendParams {
    const float* keys;    // [tokens, kv_heads, head_dim]
    const float* values;  // [tokens, kv_heads, value_dim]
    const Span* spans;
    u32 spans_len;
    u32 layer;
    u32 kv_heads;
    u32 head_dim;
    u32 value_dim;
    u32 key_stride;
    u32 value_stride;
    u32 mask;
};

// A column of a slot: a value of one of the heads, or a zero after them.
DEVICE float column_of(const float* from, u32 col, u32 dim, u32 stride) {
    u32 head = col / stride, at = col % stride;
    return at < dim ? from[head * dim + at] : 0.0f;
}

// Appends the keys and values of a layer, with zeros after each head; a token of the spans for each block
// of the grid's first axis.
KERNEL(append, AppendParams, 256) {
    // The last span that does not begin after the token.
    u32 low = 0, high = p.spans_len;
    while (high - low > 1) {
        u32 middle = (low + high) / 2;
        if (p.spans[middle].before <= blockIdx.x) low = middle; else high = middle;
    }
    const Span& span = p.spans[low];
    u32 token = blockIdx.x - span.before;
    u64 row = span.row + token, slot = (span.start + token) & p.mask;
    u64 layer = p.layer * span.layer_stride;
    u32 key_width = p.kv_heads * p.key_stride, value_width = p.kv_heads * p.value_stride;
    const float* key = p.keys + row * p.kv_heads * p.head_dim;
    const float* value = p.values + row * p.kv_heads * p.value_dim;
    for (u32 col = blockIdx.y * blockDim.x + threadIdx.x; col < max(key_width, value_width);
         col += gridDim.y * blockDim.x) {
        if (col < key_width)
            span.keys[layer + slot * key_width + col] = column_of(key, col, p.head_dim, p.key_stride);
        if (col < value_width)
            span.values[layer + slot * value_width + col] =
                column_of(value, col, p.value_dim, p.value_stride);
    }
}

struct AttentionParams {
    const float* queries;  // [tokens, kv_heads, group, head_dim]
    const Span* spans;
    const Tile* tiles;
    const float* sinks;    // [kv_heads, group], or null
    float* out;            // [tokens, kv_heads, group, value_dim]
    float* parts;          // [tiles, kv_heads, splits, tile rows, value_dim in fours + 4]
    u32 layer;
    u32 kv_heads;
    u32 group;             // query heads of a key/value head
    u32 head_dim;
    u32 value_dim;
    u32 key_stride;        // values from a head of a key to the next
    u32 value_stride;      // values from a head of a value to the next
    u32 mask;              // slot of a position
    u32 window;            // tokens that a token sees, itself among them
    u32 causal;            // else a token sees all of its span, and nothing before
    u32 splits;            // parts of the keys at most
    u32 tile_rows;
    float scale;           // on the scores, as exponents of 2
    u32 padding;
};

#define NOTHING (__uint_as_float(0xff800000u))  // the largest of no scores: -infinity

struct Positions { u32 from; u32 to; };

// The positions that a row of a span sees.
DEVICE Positions seen_by(const AttentionParams& p, const Span& span, u32 row) {
    if (!p.causal) return {0, span.tokens};
    u32 to = span.start + row / p.group + 1;
    return {to > p.window ? to - p.window : 0, to};
}

// Keys or values of one key/value head.
struct Side {
    const float* slots;
    u32 stride;       // values from a slot to the next
    u32 dim;          // width of a head
    u32 head_stride;  // values from a head to the next
    u32 depth;        // dim, in fours
};

DEVICE u32 in_fours(u32 dim) { return (dim + 3) & ~3u; }

DEVICE Side side_of(const AttentionParams& p, const Span& span, const float* slots, u32 kv_head,
                    u32 dim, u32 head_stride) {
    u64 first = p.layer * span.layer_stride + kv_head * head_stride;
    return {slots + first, p.kv_heads * head_stride, dim, head_stride, in_fours(dim)};
}

// A tile, resolved for one key/value head.
struct Work {
    Span span;
    u32 row;         // the first
    u32 rows;
    Positions seen;  // by any of the rows
    Side keys;
    Side values;
};

DEVICE Work work_of(const AttentionParams& p, u32 tile, u32 kv_head, u32 most_rows) {
    Work work;
    work.span = p.spans[p.tiles[tile].span];
    work.row = p.tiles[tile].row;
    work.rows = min(most_rows, work.span.tokens * p.group - work.row);
    work.seen.from = seen_by(p, work.span, work.row).from;
    work.seen.to = seen_by(p, work.span, work.row + work.rows - 1).to;
    work.keys = side_of(p, work.span, work.span.keys, kv_head, p.head_dim, p.key_stride);
    work.values = side_of(p, work.span, work.span.values, kv_head, p.value_dim, p.value_stride);
    return work;
}

// The index of a row of the tile among all heads of all tokens.
DEVICE u64 place_of(const AttentionParams& p, const Work& work, u32 kv_head, u32 row) {
    u32 token = (work.row + row) / p.group, head = (work.row + row) % p.group;
    return ((u64)(work.span.row + token) * p.kv_heads + kv_head) * p.group + head;
}

// Copies the tile's queries to shared memory, with zeros after each row and for missing rows.
DEVICE void load_queries(float* to, u32 pitch, u32 rows, const AttentionParams& p, const Work& work,
                         u32 kv_head) {
    for (u32 row = threadIdx.x / WARP; row < rows; row += blockDim.x / WARP) {
        u64 from = place_of(p, work, kv_head, row) * p.head_dim;
        for (u32 at = threadIdx.x % WARP; at < work.keys.depth; at += WARP) {
            bool there = row < work.rows && at < p.head_dim;
            to[row * pitch + at] = there ? p.queries[from + at] : 0.0f;
        }
    }
}

// Copies positions from `first` on to shared memory, warps taking rows in turn, and zeros from position
// `end` on. Asynchronous where heads are multiples of four.
DEVICE void load_positions(float* to, u32 pitch, u32 rows, const Side& side, u32 mask, u32 first,
                           u32 end, u32 warp, u32 warps) {
    u32 lane = threadIdx.x % WARP;
    for (u32 row = warp; row < rows; row += warps) {
        const float* source = side.slots + (u64)((first + row) & mask) * side.stride;
        bool there = first + row < end;
        if (side.head_stride % 4 == 0) {
            for (u32 at = 4 * lane; at < side.depth; at += 4 * WARP)
                cp_async_16(shared_address(to + row * pitch + at), source + at, there);
        } else {
            for (u32 at = lane; at < side.depth; at += WARP)
                to[row * pitch + at] = there && at < side.dim ? source[at] : 0.0f;
        }
    }
}

DEVICE float4 load_4(const float* at) { return *(const float4*)at; }

DEVICE float dot_4(float sum, float4 a, float4 b) {
    return sum + a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}

DEVICE void add_4(float (&sums)[4], float weight, float4 values) {
    sums[0] += weight * values.x;
    sums[1] += weight * values.y;
    sums[2] += weight * values.z;
    sums[3] += weight * values.w;
}

// The score that weighs 1 beside scores up to `largest`.
DEVICE float base_of(float largest) { return largest == NOTHING ? 0.0f : largest; }

// The factor on the sums over a row's keys and on the sum of their weights, and the weight of the sink,
// which is added to the latter: a head's sink is one more logit, without a value.
struct Sink { float factor; float weight; };

DEVICE Sink sink_of(const AttentionParams& p, const Work& work, u32 kv_head, u32 row, float largest) {
    if (!p.sinks) return {1.0f, 0.0f};
    const float log2_e = 1.44269504f;
    float sink = p.sinks[kv_head * p.group + (work.row + row) % p.group] * log2_e;
    float most = largest * p.scale, base = fmaxf(most, sink);
    return {exp2f(most - base), exp2f(sink - base)};
}

// Many rows: a block takes ROWS of them, KEYS keys at a time. Sixteen neighbouring threads have four
// rows; each of them has every sixteenth key's scores, then every sixteenth four of the columns,
// COLS fours. While a tile of keys is weighed, the next one is copied, and likewise the values.
template <int ROWS, int KEYS, int COLS> DEVICE void attend_tile(const AttentionParams& p) {
    const u32 weights_pitch = KEYS + 4, warps = ROWS / 8;
    DYNAMIC_SHARED(shared);
    u32 kv_head = blockIdx.y;
    Work work = work_of(p, blockIdx.x, kv_head, ROWS);
    // Rows of threads that read at once begin in different banks.
    u32 depth = work.keys.depth, pitch = depth + 4;
    float* queries = (float*)shared;
    float* keys = queries + ROWS * pitch;
    float* values = keys + KEYS * pitch;
    float* weights = values + KEYS * 64 * COLS;
    u32 column = threadIdx.x % 16, first_row = threadIdx.x / 16 * 4, warp = threadIdx.x / WARP;

    float sums[4][COLS][4] = {};
    float largest[4], total[4];
    Positions seen[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        largest[i] = NOTHING;
        total[i] = 0.0f;
        seen[i] = seen_by(p, work.span, work.row + first_row + i);
    }
    u32 end = work.seen.to;
    load_queries(queries, pitch, ROWS, p, work, kv_head);
    load_positions(keys, pitch, KEYS, work.keys, p.mask, work.seen.from, end, warp, warps);
    cp_async_commit();
    load_positions(values, 64 * COLS, KEYS, work.values, p.mask, work.seen.from, end, warp, warps);
    cp_async_commit();
    for (u32 first = work.seen.from; first < end; first += KEYS) {
        cp_async_wait<1>();
        __syncthreads();
        float scores[4][KEYS / 16] = {};
        for (u32 at = 0; at < depth; at += 4) {
            float4 key[KEYS / 16];
#pragma unroll
            for (int j = 0; j < KEYS / 16; ++j)
                key[j] = load_4(keys + (column + 16 * j) * pitch + at);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float4 query = load_4(queries + (first_row + i) * pitch + at);
#pragma unroll
                for (int j = 0; j < KEYS / 16; ++j)
                    scores[i][j] = dot_4(scores[i][j], query, key[j]);
            }
        }
        __syncthreads();
        load_positions(keys, pitch, KEYS, work.keys, p.mask, first + KEYS, end, warp, warps);
        cp_async_commit();

#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float most = largest[i];
#pragma unroll
            for (int j = 0; j < KEYS / 16; ++j) {
                u32 position = first + column + 16 * j;
                if (position < seen[i].from || position >= seen[i].to) scores[i][j] = NOTHING;
                most = fmaxf(most, scores[i][j]);
            }
#pragma unroll
            for (int lanes = 8; lanes > 0; lanes /= 2)
                most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, lanes));
            float base = base_of(most), shrink = exp2f((largest[i] - base) * p.scale);
            largest[i] = most;
            total[i] *= shrink;
#pragma unroll
            for (int j = 0; j < KEYS / 16; ++j) {
                float weight = exp2f((scores[i][j] - base) * p.scale);
                total[i] += weight;
                weights[(first_row + i) * weights_pitch + column + 16 * j] = weight;
            }
#pragma unroll
            for (int c = 0; c < COLS; ++c) {
#pragma unroll
                for (int x = 0; x < 4; ++x) sums[i][c][x] *= shrink;
            }
        }
        cp_async_wait<1>();
        __syncthreads();
#pragma unroll 4
        for (u32 key = 0; key < KEYS; key += 4) {
            float4 weight[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                weight[i] = load_4(weights + (first_row + i) * weights_pitch + key);
#pragma unroll
            for (int c = 0; c < COLS; ++c) {
                const float* from = values + key * 64 * COLS + (column + 16 * c) * 4;
                float4 value[4];
#pragma unroll
                for (int k = 0; k < 4; ++k) value[k] = load_4(from + k * 64 * COLS);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    add_4(sums[i][c], weight[i].x, value[0]);
                    add_4(sums[i][c], weight[i].y, value[1]);
                    add_4(sums[i][c], weight[i].z, value[2]);
                    add_4(sums[i][c], weight[i].w, value[3]);
                }
            }
        }
        __syncthreads();
        load_positions(values, 64 * COLS, KEYS, work.values, p.mask, first + KEYS, end, warp, warps);
        cp_async_commit();
    }
    cp_async_wait<0>();

#pragma unroll
    for (int i = 0; i < 4; ++i) {
        float sum = total[i];
#pragma unroll
        for (int lanes = 8; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
        if (first_row + i >= work.rows) continue;
        Sink sink = sink_of(p, work, kv_head, first_row + i, largest[i]);
        sum = sum * sink.factor + sink.weight;
        float* out = p.out + place_of(p, work, kv_head, first_row + i) * p.value_dim;
#pragma unroll
        for (int c = 0; c < COLS; ++c) {
#pragma unroll
            for (int x = 0; x < 4; ++x) {
                u32 at = (column + 16 * c) * 4 + x;
                if (at < p.value_dim) out[at] = sums[i][c][x] * sink.factor / sum;
            }
        }
    }
}

#define ATTEND_TILE(rows, keys, cols) \
    KERNEL(attend_##rows##_##cols, AttentionParams, rows * 4) { attend_tile<rows, keys, cols>(p); }
ATTEND_TILE(64, 64, 1)
ATTEND_TILE(64, 64, 2)
ATTEND_TILE(64, 64, 3)
ATTEND_TILE(64, 64, 4)
// Kernels for GPUs with less shared memory per block.
ATTEND_TILE(32, 32, 1)
ATTEND_TILE(32, 32, 2)
ATTEND_TILE(32, 32, 3)
ATTEND_TILE(32, 16, 4)

// The keys of a tile in parts, so that several blocks share them: how many keys a part has, which
// follows from how many there are alone; a whole number of times what a warp takes.
#define MIN_PART 64
#define MOST_PARTS 64
DEVICE u32 part_of(u32 keys) {
    u32 part = MIN_PART;
    while ((u64)part * MOST_PARTS < keys) part *= 2;
    return part;
}

#define FEW_WARPS 4
#define WARP_KEYS 8

// The results of a tile's rows over one part, and of the rows over one warp's keys: sums [depth of
// the values], then the largest score and the sum of the weights.
DEVICE float* part_rows(const AttentionParams& p, u32 depth, u32 tile, u32 kv_head, u32 split) {
    u64 index = ((u64)tile * p.kv_heads + kv_head) * p.splits + split;
    return p.parts + index * p.tile_rows * (depth + 4);
}

// Few rows: a block takes up to ROWS of them over one part of their keys. Each warp has every fourth
// eight of the keys for itself, copies the next ones while it weighs these, and the warps' sums are
// merged at the end. A lane has the scores of one of eight keys for every fourth row, then four
// neighbouring columns for all rows, COLS times. Heads of keys and values are whole fours.
template <int ROWS, int COLS> DEVICE void attend_few(const AttentionParams& p) {
    const u32 weights_pitch = ROWS + 4;
    DYNAMIC_SHARED(shared);
    u32 kv_head = blockIdx.z;
    Work work = work_of(p, blockIdx.x, kv_head, ROWS);
    u32 part = part_of(work.seen.to - work.seen.from);
    u32 begin = work.seen.from + blockIdx.y * part;
    u32 end = min(work.seen.to, begin + part);
    if (begin >= end) return;

    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    u32 depth = work.keys.depth, pitch = depth + 4;
    u32 value_depth = work.values.depth, result_pitch = value_depth + 4;
    float* queries = (float*)shared;
    float* all_keys = queries + ROWS * pitch;
    float* keys = all_keys + warp * 2 * WARP_KEYS * pitch;
    float* weights = all_keys + FEW_WARPS * 2 * WARP_KEYS * pitch
        + warp * (WARP_KEYS * weights_pitch + ROWS);
    float* shrinks = weights + WARP_KEYS * weights_pitch;
    u32 own_key = lane % 8, own_row = lane / 8;

    float sums[ROWS][COLS][4] = {};
    float largest[ROWS / 4], total[ROWS / 4];
    Positions seen[ROWS / 4];
#pragma unroll
    for (int i = 0; i < ROWS / 4; ++i) {
        largest[i] = NOTHING;
        total[i] = 0.0f;
        seen[i] = seen_by(p, work.span, work.row + own_row + 4 * i);
    }
    u32 stage = 0, first = begin + warp * WARP_KEYS;
    load_positions(keys, pitch, WARP_KEYS, work.keys, p.mask, first, end, 0, 1);
    cp_async_commit();
    load_queries(queries, pitch, ROWS, p, work, kv_head);
    __syncthreads();
    for (; first < end; first += FEW_WARPS * WARP_KEYS, stage ^= 1) {
        load_positions(keys + (stage ^ 1) * WARP_KEYS * pitch, pitch, WARP_KEYS, work.keys, p.mask,
                       first + FEW_WARPS * WARP_KEYS, end, 0, 1);
        cp_async_commit();
        float4 value[WARP_KEYS][COLS];
#pragma unroll
        for (int key = 0; key < WARP_KEYS; ++key) {
#pragma unroll
            for (int c = 0; c < COLS; ++c) {
                u32 at = 4 * (lane + WARP * c);
                bool there = first + key < end && at < value_depth;
                u32 slot = (first + key) & p.mask;
                const float* from = work.values.slots + (u64)slot * work.values.stride + at;
                value[key][c] = there ? load_4(from) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            }
        }
        cp_async_wait<1>();
        __syncwarp();
        float scores[ROWS / 4] = {};
        const float* key = keys + (stage * WARP_KEYS + own_key) * pitch;
#pragma unroll 4
        for (u32 at = 0; at < depth; at += 4) {
            float4 four = load_4(key + at);
#pragma unroll
            for (int i = 0; i < ROWS / 4; ++i)
                scores[i] = dot_4(scores[i], load_4(queries + (own_row + 4 * i) * pitch + at), four);
        }
        u32 position = first + own_key;
#pragma unroll
        for (int i = 0; i < ROWS / 4; ++i) {
            bool sees = position >= seen[i].from && position < seen[i].to;
            float score = sees ? scores[i] : NOTHING, most = fmaxf(largest[i], score);
#pragma unroll
            for (int lanes = 4; lanes > 0; lanes /= 2)
                most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, lanes));
            float base = base_of(most), shrink = exp2f((largest[i] - base) * p.scale);
            float weight = exp2f((score - base) * p.scale);
            largest[i] = most;
            total[i] = total[i] * shrink + weight;
            weights[own_key * weights_pitch + own_row + 4 * i] = weight;
            if (own_key == 0) shrinks[own_row + 4 * i] = shrink;
        }
        __syncwarp();
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
#pragma unroll
            for (int c = 0; c < COLS; ++c) {
#pragma unroll
                for (int x = 0; x < 4; ++x) sums[row][c][x] *= shrinks[row];
            }
        }
#pragma unroll
        for (int key = 0; key < WARP_KEYS; ++key) {
#pragma unroll
            for (int row = 0; row < ROWS; row += 4) {
                float4 weight = load_4(weights + key * weights_pitch + row);
#pragma unroll
                for (int c = 0; c < COLS; ++c) {
                    add_4(sums[row][c], weight.x, value[key][c]);
                    add_4(sums[row + 1][c], weight.y, value[key][c]);
                    add_4(sums[row + 2][c], weight.z, value[key][c]);
                    add_4(sums[row + 3][c], weight.w, value[key][c]);
                }
            }
        }
    }
    cp_async_wait<0>();

    // No warp needs its keys any more, and no copies are under way: results replace the keys.
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ROWS / 4; ++i) {
        float sum = total[i];
#pragma unroll
        for (int lanes = 4; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
        float* result = all_keys + (warp * ROWS + own_row + 4 * i) * result_pitch + value_depth;
        if (own_key == 0) {
            result[0] = largest[i];
            result[1] = sum;
        }
    }
#pragma unroll
    for (int row = 0; row < ROWS; ++row) {
#pragma unroll
        for (int c = 0; c < COLS; ++c) {
            u32 at = 4 * (lane + WARP * c);
            if (at >= value_depth) continue;
            float4 four = make_float4(sums[row][c][0], sums[row][c][1], sums[row][c][2],
                                      sums[row][c][3]);
            *(float4*)(all_keys + (warp * ROWS + row) * result_pitch + at) = four;
        }
    }
    __syncthreads();
    const u32 warp_pitch = ROWS * result_pitch;
    float* part_out = part_rows(p, value_depth, blockIdx.x, kv_head, blockIdx.y);
    for (u32 row = warp; row < work.rows; row += FEW_WARPS) {
        const float* results = all_keys + row * result_pitch;
        float most = NOTHING, sum = 0.0f, factors[FEW_WARPS];
#pragma unroll
        for (u32 other = 0; other < FEW_WARPS; ++other)
            most = fmaxf(most, results[other * warp_pitch + value_depth]);
#pragma unroll
        for (u32 other = 0; other < FEW_WARPS; ++other) {
            const float* result = results + other * warp_pitch + value_depth;
            factors[other] = exp2f((result[0] - base_of(most)) * p.scale);
            sum += factors[other] * result[1];
        }
        Sink sink = sink_of(p, work, kv_head, row, most);
        float total = sum * sink.factor + sink.weight;
        u64 place = place_of(p, work, kv_head, row) * p.value_dim;
        for (u32 at = lane; at < value_depth; at += WARP) {
            float merged = 0.0f;
#pragma unroll
            for (u32 other = 0; other < FEW_WARPS; ++other)
                merged += factors[other] * results[other * warp_pitch + at];
            if (p.splits > 1) part_out[row * result_pitch + at] = merged;
            else if (at < p.value_dim) p.out[place + at] = merged * sink.factor / total;
        }
        if (p.splits > 1 && lane == 0) {
            part_out[row * result_pitch + value_depth] = most;
            part_out[row * result_pitch + value_depth + 1] = sum;
        }
    }
}

#define ATTEND_FEW(rows, cols)                                               \
    KERNEL(attend_few_##rows##_##cols, AttentionParams, FEW_WARPS * WARP) {  \
        attend_few<rows, cols>(p);                                           \
    }
ATTEND_FEW(4, 1)
ATTEND_FEW(8, 1)
ATTEND_FEW(16, 1)
ATTEND_FEW(4, 2)
ATTEND_FEW(8, 2)

// Merges the parts of the keys; a block for each tile, key/value head and row.
KERNEL(merge_parts, AttentionParams, 128) {
    __shared__ float largest[MOST_PARTS], totals[MOST_PARTS], factors[MOST_PARTS];
    u32 kv_head = blockIdx.y, row = blockIdx.z, thread = threadIdx.x;
    Work work = work_of(p, blockIdx.x, kv_head, p.tile_rows);
    if (row >= work.rows) return;
    u32 keys = work.seen.to - work.seen.from, part = part_of(keys);
    u32 parts = (keys + part - 1) / part, depth = work.values.depth, pitch = depth + 4;
    const float* first = part_rows(p, depth, blockIdx.x, kv_head, 0) + row * pitch;
    u64 stride = (u64)p.tile_rows * pitch;
    if (thread < parts) {
        largest[thread] = first[thread * stride + depth];
        totals[thread] = first[thread * stride + depth + 1];
    }
    __syncthreads();
    float most = NOTHING, sum = 0.0f;
    for (u32 i = 0; i < parts; ++i) most = fmaxf(most, largest[i]);
    if (thread < parts) factors[thread] = exp2f((largest[thread] - base_of(most)) * p.scale);
    __syncthreads();
    for (u32 i = 0; i < parts; ++i) sum += factors[i] * totals[i];
    Sink sink = sink_of(p, work, kv_head, row, most);
    sum = sum * sink.factor + sink.weight;
    float* out = p.out + place_of(p, work, kv_head, row) * p.value_dim;
    for (u32 at = thread; at < p.value_dim; at += blockDim.x) {
        float merged = 0.0f;
#pragma unroll 8
        for (u32 i = 0; i < parts; ++i) merged += factors[i] * first[i * stride + at];
        out[at] = merged * sink.factor / sum;
    }
}
