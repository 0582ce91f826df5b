// How tiles.cu and simt.cu cut grouped products: a block computes the products of some weight rows
// with some positions of a group, keeps the sums in shared memory, and finishes them from there.
//
// The rows a block takes come in sixteens. Where outputs are gated, every second sixteen is of the
// second weights, so that the two products of an output are in the same tile.

// Positions start .. end of a group.
struct Positions {
    u32 group;
    u32 start;
    u32 end;
};

// Groups that a lane looks at together.
#define GROUPS_PER_LANE 4

// Part `index` of the parts of at most `most` positions that the groups are cut into, in the order
// of the groups; an empty one after the last. By whole warps.
DEVICE Positions find_positions(const GroupedParams& p, u32 index, u32 most) {
    Positions found = {0, 0, 0};
    if (!p.offsets) {
        u64 start = (u64)index * most;
        found.start = (u32)min(start, (u64)p.rows);
        found.end = (u32)min(start + most, (u64)p.rows);
        return found;
    }
    u32 lane = threadIdx.x % WARP;
    u32 before = 0;
    for (u32 base = 0; base < p.groups; base += GROUPS_PER_LANE * WARP) {
        u32 first = base + GROUPS_PER_LANE * lane;
        u32 offsets[GROUPS_PER_LANE + 1];
#pragma unroll
        for (u32 i = 0; i <= GROUPS_PER_LANE; ++i) offsets[i] = p.offsets[min(first + i, p.groups)];
        u32 parts[GROUPS_PER_LANE], own = 0;
#pragma unroll
        for (u32 i = 0; i < GROUPS_PER_LANE; ++i) {
            parts[i] = (offsets[i + 1] - offsets[i] + most - 1) / most;
            own += parts[i];
        }
        u32 through = own;
#pragma unroll
        for (u32 lanes = 1; lanes < WARP; lanes *= 2) {
            u32 left = __shfl_up_sync(ALL_LANES, through, lanes);
            if (lane >= lanes) through += left;
        }
        u32 reached = __ballot_sync(ALL_LANES, index < before + through);
        if (reached) {
            // Every lane looks among its groups; that of the first lane that reaches it has it.
            u32 at = before + through - own;
#pragma unroll
            for (u32 i = 0; i < GROUPS_PER_LANE; ++i) {
                if (index >= at && index - at < parts[i]) {
                    found.group = first + i;
                    found.start = offsets[i] + (index - at) * most;
                    found.end = min(found.start + most, offsets[i + 1]);
                }
                at += parts[i];
            }
            int owner = __ffs(reached) - 1;
            found.group = __shfl_sync(ALL_LANES, found.group, owner);
            found.start = __shfl_sync(ALL_LANES, found.start, owner);
            found.end = __shfl_sync(ALL_LANES, found.end, owner);
            return found;
        }
        before += __shfl_sync(ALL_LANES, through, WARP - 1);
    }
    return found;
}

// Outputs of a tile of ROWS weight rows.
template <int ROWS> DEVICE u32 tile_outs(const GroupedParams& p) {
    return is_gated(p) ? ROWS / 2 : ROWS;
}

// What a block computes.
struct Tile {
    GroupWeights weights;
    Positions positions;
    u32 first_out;
};

// The block's tile; without positions where there is none. Neighbouring blocks share their positions, so
// that rows of x are read from memory once.
template <int ROWS, int POSITIONS> DEVICE Tile find_tile(const GroupedParams& p) {
    u32 outs = tile_outs<ROWS>(p);
    u32 row_tiles = (p.outs + outs - 1) / outs;
    Tile tile;
    tile.positions = find_positions(p, blockIdx.x / row_tiles, POSITIONS);
    tile.weights = group_weights(p, tile.positions.group);
    tile.first_out = blockIdx.x % row_tiles * outs;
    return tile;
}

// Weight row `row` of a tile; beyond the last output, the row of the last: its products are not stored.
template <typename T>
DEVICE const T* weight_row(const GroupedParams& p, const Tile& tile, bool gated, u32 row) {
    bool second = gated && row / 16 % 2;
    u32 out = min(tile.first_out + (gated ? row / 32 * 16 + row % 16 : row), p.outs - 1);
    return second ? (const T*)tile.weights.second + out * tile.weights.second_stride
                  : (const T*)tile.weights.first + out * tile.weights.first_stride;
}

// The row of x of position `row` of a tile; beyond the last position, the row of the last.
template <typename T>
DEVICE const T* x_row(const GroupedParams& p, const Tile& tile, u32 row) {
    u32 position = min(tile.positions.start + row, tile.positions.end - 1);
    u64 at = p.x_rows ? p.x_rows[position] : position;
    return (const T*)p.x + at * p.x_stride;
}

// Floats from a position's sums to the next's: those of neighbours begin four banks apart.
template <int ROWS> constexpr int sums_stride = ROWS + 4;

// Makes outputs of a tile's sums and stores them. The sums of each position [PARTS, POSITIONS,
// ROWS] are those of all parts, added in their order.
template <typename T, int ROWS, int POSITIONS, int PARTS, bool GATED>
DEVICE void finish(const GroupedParams& p, const Tile& tile, const float* sums) {
    constexpr u32 OUTS = GATED ? ROWS / 2 : ROWS;
    constexpr u32 PART = POSITIONS * sums_stride<ROWS>;
    const GroupWeights& weights = tile.weights;
    u32 positions = tile.positions.end - tile.positions.start;
    for (u32 i = threadIdx.x; i < positions * OUTS; i += blockDim.x) {
        u32 position = i / OUTS, out = i % OUTS, at = tile.first_out + out;
        if (at >= p.outs) continue;
        u32 row = GATED ? out / 16 * 32 + out % 16 : out;
        const float* first = sums + position * sums_stride<ROWS> + row;
        float value = first[0];
#pragma unroll
        for (u32 part = 1; part < PARTS; ++part) value += first[part * PART];
        if (weights.first_bias) value += weights.first_bias[at];
        if (GATED) {
            const float* second = first + 16;
            float up = second[0];
#pragma unroll
            for (u32 part = 1; part < PARTS; ++part) up += second[part * PART];
            if (weights.second_bias) up += weights.second_bias[at];
            value = activate(p.activation, value, up);
        } else if (p.activated) {
            value = activate(p.activation, value, value);
        }
        u32 out_row = tile.positions.start + position;
        if (p.out_rows) out_row = p.out_rows[out_row];
        u64 to = out_row * p.out_stride + at;
        if (p.out_f32) ((float*)p.out)[to] = value;
        else ((T*)p.out)[to] = narrow(value, T());
    }
}

template <typename T, int ROWS, int POSITIONS, int PARTS>
DEVICE void finish(const GroupedParams& p, const Tile& tile, const float* sums) {
    if (is_gated(p)) finish<T, ROWS, POSITIONS, PARTS, true>(p, tile, sums);
    else finish<T, ROWS, POSITIONS, PARTS, false>(p, tile, sums);
}
