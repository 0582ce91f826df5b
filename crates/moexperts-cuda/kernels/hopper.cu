// The products of grouped.cuh for groups of many positions, by the tensor cores and the tensor
// memory accelerator of Hopper (sm_90a). Weights are in 16 bits.
//
// A tile is 128 positions of a group times 256 rows of weights: 256 neighbouring outputs, or, where
// a gate is applied, 128 outputs with their rows of both weights, so that the thread that holds a
// gate holds its up as well. Blocks are persistent: block b of n takes every n-th tile. Its first
// warpgroup produces: it copies x and weights, 64 columns at a time, into a ring of stages in shared memory,
// and runs ahead into the next tile. The other two consume, each 64 positions; one that stores its
// sums leaves the tensor cores to the other, which can be as far behind as the ring has stages.
//
// Per stage there are two barriers. `full`: the weights and x have come. `empty`: all consumers
// have read them.
//
// x comes by cp.async, which, unlike the accelerator, can gather rows. Its writes are ordinary
// ones, while wgmma reads through the asynchronous proxy; so a producer waits for its own copies,
// makes them visible there (fence_proxy_async) and only then arrives at `full`. It does so for a
// stage after it has begun the next: LAG stages of x are under way while it waits. The last stages
// of a tile are published when the first of the next have begun. This cannot lock up as long as LAG
// + 2 does not exceed STAGES: to begin stage i, i - STAGES has to be read; consumers have read all
// before the last published but one, as they release a stage when the next one's products have been
// issued; and all up to i - 1 - LAG are published.

constexpr u32 PRODUCERS = 128;
constexpr u32 CONSUMERS = 256;
constexpr u32 STAGES = 4;
constexpr u32 LAG = 1;
// Positions of a tile, and of a consuming warpgroup.
constexpr u32 POSITIONS = 128;
constexpr u32 SHARE = 64;
// Rows of weights of a tile; in two boxes of the accelerator.
constexpr u32 ROWS = 256;
constexpr u32 BOX_ROWS = 128;
// Columns of a stage: 128 bytes, as wgmma_descriptor describes them.
constexpr u32 COLUMNS = 64;
constexpr u32 X_BYTES = POSITIONS * COLUMNS * 2;
constexpr u32 BOX_BYTES = BOX_ROWS * COLUMNS * 2;
constexpr u32 STAGE_BYTES = X_BYTES + 2 * BOX_BYTES;
// Steps by which the first consumer goes ahead of the second from the beginning on, so that they do
// not store at the same time.
constexpr u32 LEAD = 2;
static_assert(LAG + 2 <= STAGES && LAG + LEAD <= STAGES, "or producer and consumers would lock up");
// Tiles of positions that are taken before those of the next outputs, so that the blocks at work at
// a time share rows of x and of weights in the second-level cache.
constexpr u32 BAND = 16;
// A warp arrives at `full` for its copies of x, and one thread for the accelerator's.
constexpr u32 FULL_ARRIVALS = PRODUCERS / WARP + 1;
constexpr u32 EMPTY_ARRIVALS = CONSUMERS / WARP;

struct HopperParams {
    GroupedParams grouped;
    const TensorMap* maps;  // [groups, 2], of the first and the second weights; null: `map`
    u64 padding[3];
    TensorMap map;          // of the only weights
};

struct Tile {
    u32 group;
    u32 position;   // the first
    u32 positions;  // at most POSITIONS
    u32 out;        // the first
};

// The block's tiles, one after the other. `first_tile` [groups + 1] counts the tiles before a
// group.
struct Tiles {
    const u32* first_tile;
    u32 out_tiles;
    u32 outs_per_tile;
    u32 group;
    u32 next;
};

DEVICE u32 outs_per_tile(const GroupedParams& p) {
    return is_gated(p) ? ROWS / 2 : ROWS;
}

DEVICE Tiles tiles_of(const GroupedParams& p, const u32* first_tile) {
    Tiles tiles;
    tiles.first_tile = first_tile;
    tiles.outs_per_tile = outs_per_tile(p);
    tiles.out_tiles = ceil_div(p.outs, tiles.outs_per_tile);
    tiles.group = 0;
    tiles.next = blockIdx.x;
    return tiles;
}

// Whether there is another tile.
DEVICE bool next_tile(const GroupedParams& p, Tiles& tiles, Tile& tile) {
    if (tiles.next >= tiles.first_tile[p.groups]) return false;
    while (tiles.first_tile[tiles.group + 1] <= tiles.next) tiles.group++;
    u32 begin = group_offset(p, tiles.group);
    u32 positions = group_offset(p, tiles.group + 1) - begin;
    u32 index = tiles.next - tiles.first_tile[tiles.group];
    u32 band = index / (BAND * tiles.out_tiles);
    u32 in_band = index - band * BAND * tiles.out_tiles;
    u32 wide = min((u32)ceil_div(positions, POSITIONS) - band * BAND, BAND);
    u32 first = (band * BAND + in_band % wide) * POSITIONS;
    tile.group = tiles.group;
    tile.position = begin + first;
    tile.positions = min(positions - first, POSITIONS);
    tile.out = in_band / wide * tiles.outs_per_tile;
    tiles.next += gridDim.x;
    return true;
}

// Writes the tiles before each group, by a warp.
DEVICE void count_tiles(const GroupedParams& p, u32* first_tile, u32 lane) {
    u32 out_tiles = ceil_div(p.outs, outs_per_tile(p));
    u32 before = 0;
    for (u32 base = 0; base < p.groups; base += WARP) {
        u32 group = base + lane;
        u32 tiles = 0;
        if (group < p.groups) {
            u32 positions = group_offset(p, group + 1) - group_offset(p, group);
            tiles = ceil_div(positions, POSITIONS) * out_tiles;
        }
        u32 sum = tiles;
#pragma unroll
        for (int lanes = 1; lanes < WARP; lanes *= 2) {
            u32 left = __shfl_up_sync(ALL_LANES, sum, lanes);
            if (lane >= (u32)lanes) sum += left;
        }
        if (group < p.groups) first_tile[group] = before + sum - tiles;
        before += __shfl_sync(ALL_LANES, sum, WARP - 1);
    }
    if (lane == 0) first_tile[p.groups] = before;
}

// The addresses of the ring.
struct Ring {
    u32 stages;
    u32 full;   // barriers, 8 bytes each
    u32 empty;
};

// A producer's copies for a step have come, but for those of LAG later ones.
template <int PENDING> DEVICE void publish_x(const Ring& ring, u32 step, u32 lane) {
    cp_async_wait<PENDING>();
    fence_proxy_async();
    __syncwarp();
    if (lane == 0) mbarrier_arrive(ring.full + step % STAGES * 8);
}

DEVICE void produce(const HopperParams& params, const Ring& ring, const u32* first_tile) {
    const GroupedParams& p = params.grouped;
    u32 thread = threadIdx.x, lane = thread % WARP;
    // A thread copies one 16-byte piece of a row, and the same piece of rows at a fixed distance.
    const u32 stride = PRODUCERS / 8;
    u32 piece = thread % 8, row = thread / 8;
    u32 to = row * 128 + ((piece ^ (row % 8)) * 16);
    bool gated = is_gated(p);

    Tiles tiles = tiles_of(p, first_tile);
    Tile tile;
    u32 mapped = ALL_LANES;
    u32 step = 0;
    while (next_tile(p, tiles, tile)) {
        // In 16-byte pieces from the first element of x; rows beyond the group's end are left zero.
        u32 from[POSITIONS / stride];
        u32 rows = 0;
#pragma unroll
        for (int i = 0; i < POSITIONS / stride; i++) {
            u32 position = tile.position + row + stride * i;
            bool valid = row + stride * i < tile.positions;
            u32 x_row = valid ? p.x_rows ? p.x_rows[position] : position : 0;
            from[i] = x_row * (u32)(p.x_stride / 8) + piece;
            rows |= (u32)valid << i;
        }
        const TensorMap* first = params.maps ? params.maps + 2 * tile.group : &params.map;
        const TensorMap* second = gated ? first + 1 : first;
        u32 second_out = gated ? tile.out : tile.out + BOX_ROWS;
        if (thread == 0 && params.maps && mapped != tile.group) {
            tensor_map_acquire(first);
            if (gated) tensor_map_acquire(second);
            mapped = tile.group;
        }
#pragma unroll 1
        for (u32 column = 0; column < p.depth; column += COLUMNS) {
            u32 stage = step % STAGES;
            u32 at = ring.stages + stage * STAGE_BYTES;
            u32 full = ring.full + stage * 8;
            if (step >= STAGES) mbarrier_wait(ring.empty + stage * 8, (step / STAGES - 1) & 1);
            if (thread == 0) {
                mbarrier_arrive_expect(full, 2 * BOX_BYTES);
                tma_load(at + X_BYTES, first, column, tile.out, full);
                tma_load(at + X_BYTES + BOX_BYTES, second, column, second_out, full);
            }
            __syncwarp();
            // Bytes of the piece that are in the row.
            u32 left = p.depth - min(p.depth, column + piece * 8);
            u32 bytes = 2 * min(left, 8u);
            const uint4* x = (const uint4*)p.x + column / 8;
#pragma unroll
            for (int i = 0; i < POSITIONS / stride; i++) {
                u32 copied = rows >> i & 1 ? bytes : 0;
                cp_async_16_part(at + to + stride * i * 128, x + from[i], copied);
            }
            cp_async_commit();
            if (step >= LAG) publish_x<LAG>(ring, step - LAG, lane);
            step++;
        }
    }
    cp_async_wait<0>();
    for (u32 late = step - min(step, LAG); late < step; late++) publish_x<0>(ring, late, lane);
}

// Adds the biases of outputs from `out` on to COUNT columns of `d` from 8·FROM on.
template <int FROM, int COUNT>
DEVICE void add_bias(float (&d)[128], const float* bias, u32 out, u32 outs, u32 lane) {
    if (!bias) return;
#pragma unroll
    for (int j = 0; j < COUNT / 8; j++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            u32 column = out + 8 * j + 2 * (lane % 4) + e;
            float value = column < outs ? bias[column] : 0.0f;
            d[4 * (FROM / 8 + j) + e] += value;
            d[4 * (FROM / 8 + j) + e + 2] += value;
        }
    }
}

// As `sigmoid`, but to about what 16 bits hold.
DEVICE float fast_sigmoid(float x) {
    return fast_reciprocal(1.0f + fast_exp2(-1.4426950408889634f * x));
}

// Activates all columns; where there is a gate, the first 128 are gates, the others their ups, and
// the results stand in the place of the gates.
DEVICE void activate_all(float (&d)[128], const Activation& activation) {
    if (activation.gated && activation.kind == SILU) {
#pragma unroll
        for (int i = 0; i < 64; i++) d[i] = d[i] * fast_sigmoid(d[i]) * d[64 + i];
    } else if (activation.gated && is_clamped(activation.kind)) {
        float limit = activation.limit, offset = up_offset(activation.kind);
#pragma unroll
        for (int i = 0; i < 64; i++) {
            // As in `activate`.
            float gate = at_most(d[i], limit);
            float up = at_least(at_most(d[64 + i], limit), -limit);
            d[i] = (up + offset) * gate * fast_sigmoid(activation.alpha * gate);
        }
    } else {
        // The other activations are rarely used: eight values at a time, so that their code is here once.
#pragma unroll 1
        for (int turn = 0; turn < 8; turn++) {
            float done[16];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                done[i] = activate(activation, d[i], activation.gated ? d[64 + i] : d[i]);
                done[8 + i] = activation.gated ? d[64 + i] : activate(activation, 0.0f, d[64 + i]);
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
#pragma unroll
                for (int i = 0; i < 56; i++) d[64 * half + i] = d[64 * half + i + 8];
#pragma unroll
                for (int i = 0; i < 8; i++) d[64 * half + 56 + i] = done[8 * half + i];
            }
        }
    }
}

// Where a thread's two rows of a tile go; a row that is not stored has no values.
struct Target {
    u64 element[2];
    bool stored[2];
};

DEVICE Target target_of(const GroupedParams& p, const Tile& tile, u32 row) {
    Target target;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        u32 position = tile.position + row + 8 * half;
        target.stored[half] = row + 8 * half < tile.positions;
        u32 out_row = 0;
        if (target.stored[half]) out_row = p.out_rows ? p.out_rows[position] : position;
        target.element[half] = out_row * p.out_stride + tile.out;
    }
    return target;
}

// Stores the first COUNT columns of a tile in f32.
template <int COUNT>
DEVICE void store_f32(
    const float (&d)[128], const GroupedParams& p, const Tile& tile, const Target& target, u32 lane
) {
    // Whether pairs are aligned.
    bool pairs = ((u64)p.out % 8 | p.out_stride % 2) == 0;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (!target.stored[half]) continue;
        float* out = (float*)p.out + target.element[half];
#pragma unroll
        for (int j = 0; j < COUNT / 8; j++) {
            u32 column = 8 * j + 2 * (lane % 4);
            u32 left = p.outs - min(p.outs, tile.out + column);
            float2 pair = {d[4 * j + 2 * half], d[4 * j + 2 * half + 1]};
            if (pairs && left >= 2) {
                *(float2*)(out + column) = pair;
            } else {
                if (left >= 1) out[column] = pair.x;
                if (left >= 2) out[column + 1] = pair.y;
            }
        }
    }
}

// Stores the first COUNT columns of a tile in 16 bits. The four lanes that share a row exchange
// their pairs so that each holds eight neighbouring columns, which are 16 bytes.
template <int COUNT, class T>
DEVICE void store_narrow(
    const float (&d)[128], const GroupedParams& p, const Tile& tile, const Target& target, u32 lane
) {
    bool whole = ((u64)p.out % 16 | p.out_stride % 8) == 0;
    bool odd = lane & 1, high = lane & 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        T* out = (T*)p.out + target.element[half];
#pragma unroll
        for (int j = 0; j < COUNT / 8; j += 4) {
            // Lane c holds columns 2·c and 2·c + 1 of four times eight: a matrix of 4 x 4 pairs,
            // one column a lane. It is transposed: first 2 x 2 within, then 2 x 2 of those.
            u32 v[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                v[i] = narrow_pair(d[4 * (j + i) + 2 * half], d[4 * (j + i) + 2 * half + 1], T());
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                u32 other = __shfl_xor_sync(ALL_LANES, odd ? v[i] : v[i + 1], 1);
                if (odd) v[i] = other;
                else v[i + 1] = other;
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                u32 other = __shfl_xor_sync(ALL_LANES, high ? v[i] : v[i + 2], 2);
                if (high) v[i] = other;
                else v[i + 2] = other;
            }
            u32 column = 8 * (j + lane % 4);
            u32 left = p.outs - min(p.outs, tile.out + column);
            if (!target.stored[half]) continue;
            if (whole && left >= 8) {
                *(uint4*)(out + column) = make_uint4(v[0], v[1], v[2], v[3]);
            } else {
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    T value;
                    value.bits = (u16)(v[i / 2] >> 16 * (i % 2));
                    if (i < left) out[column + i] = value;
                }
            }
        }
    }
}

template <int COUNT, class T>
DEVICE void store(
    const float (&d)[128], const GroupedParams& p, const Tile& tile, const Target& target, u32 lane
) {
    if (p.out_f32) store_f32<COUNT>(d, p, tile, target, lane);
    else store_narrow<COUNT, T>(d, p, tile, target, lane);
}

// The consumer's warp has read the stage of a step.
DEVICE void release(const Ring& ring, u32 step, u32 lane) {
    __syncwarp();
    if (lane == 0) mbarrier_arrive(ring.empty + step % STAGES * 8);
}

template <class T>
DEVICE void consume(const GroupedParams& p, const Ring& ring, const u32* first_tile, u32 share) {
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP % 4;
    u32 steps = ceil_div(p.depth, COLUMNS);
    bool gated = is_gated(p);

    Tiles tiles = tiles_of(p, first_tile);
    Tile tile;
    u32 step = 0;  // of all tiles; a tile has one at least
    while (next_tile(p, tiles, tile)) {
        if (share == 1 && step == 0) named_barrier(1, CONSUMERS);
        if (share * SHARE >= tile.positions) {
            // A consumer without positions only releases stages: a phase of `empty` needs all consumers.
#pragma unroll 1
            for (u32 end = step + steps; step < end; step++) {
                mbarrier_wait(ring.full + step % STAGES * 8, step / STAGES & 1);
                release(ring, step, lane);
            }
            continue;
        }
        Target target = target_of(p, tile, share * SHARE + 16 * warp + lane / 4);
        float d[128];
        wgmma_pin(d);
#pragma unroll 1
        for (u32 first = step, end = step + steps; step < end; step++) {
            u32 stage = step % STAGES;
            mbarrier_wait(ring.full + stage * 8, step / STAGES & 1);
            u32 at = ring.stages + stage * STAGE_BYTES;
            u64 x = wgmma_descriptor(at + share * (SHARE * COLUMNS * 2));
            u64 weights = wgmma_descriptor(at + X_BYTES);
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < COLUMNS / 16; i++)
                wgmma_m64n256k16(d, x + 2 * i, weights + 2 * i, step > first || i > 0, T());
            wgmma_commit();
            // The tensor cores continue with this stage while the one before is released.
            wgmma_wait<1>();
            if (step > first) release(ring, step - 1, lane);
            if (share == 0 && step == LEAD - 1) named_barrier(1, CONSUMERS);
        }
        wgmma_wait<0>();
        wgmma_pin(d);
        release(ring, step - 1, lane);

        GroupWeights weights = group_weights(p, tile.group);
        if (gated) {
            add_bias<0, 128>(d, weights.first_bias, tile.out, p.outs, lane);
            add_bias<128, 128>(d, weights.second_bias, tile.out, p.outs, lane);
        } else {
            add_bias<0, 256>(d, weights.first_bias, tile.out, p.outs, lane);
        }
        if (p.activated) activate_all(d, p.activation);
        if (gated) store<128, T>(d, p, tile, target, lane);
        else store<256, T>(d, p, tile, target, lane);
    }
    // The second consumer waits for this also where there are so few steps.
    if (share == 0 && 0 < step && step < LEAD) named_barrier(1, CONSUMERS);
}

template <class T> DEVICE void grouped(const HopperParams& params, u8* shared) {
    Ring ring;
    ring.stages = shared_address(shared);
    ring.full = ring.stages + STAGES * STAGE_BYTES;
    ring.empty = ring.full + STAGES * 8;
    u32* first_tile = (u32*)(shared + STAGES * (STAGE_BYTES + 16));
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < STAGES; i++) {
            mbarrier_init(ring.full + i * 8, FULL_ARRIVALS);
            mbarrier_init(ring.empty + i * 8, EMPTY_ARRIVALS);
        }
        mbarrier_init_fence();
        fence_proxy_async();
    }
    if (threadIdx.x / WARP == 1) count_tiles(params.grouped, first_tile, threadIdx.x % WARP);
    __syncthreads();
    // The same in all lanes, so that the compiler knows.
    u32 warpgroup = __shfl_sync(ALL_LANES, threadIdx.x / 128, 0);
    if (warpgroup == 0) {
        give_registers<40>();
        produce(params, ring, first_tile);
    } else {
        take_registers<232>();
        consume<T>(params.grouped, ring, first_tile, warpgroup - 1);
    }
}

KERNEL(grouped_hopper_f16, HopperParams, PRODUCERS + CONSUMERS) {
    DYNAMIC_SHARED(shared);
    grouped<f16>(p, shared);
}

KERNEL(grouped_hopper_bf16, HopperParams, PRODUCERS + CONSUMERS) {
    DYNAMIC_SHARED(shared);
    grouped<bf16>(p, shared);
}
