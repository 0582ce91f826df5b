// Grouped products by tensor cores, for 16-bit weights on compute capability 8.0 and later.
//
// Weight rows are the rows of `mma`, positions its columns, so that a group of few positions wastes
// little. Weights and rows of x pass through shared memory in stages of 64 columns, several under
// way at once. A row of a stage is 128 bytes, and its 16-byte pieces are exchanged so that
// ldmatrix, which reads the same piece of eight neighbouring rows, finds them in different banks.

#define TILE_THREADS 128
#define STAGE_COLUMNS 64

// Where a 16-byte piece of a row of a stage lies.
DEVICE u32 piece_offset(u32 row, u32 piece) { return row * 128 + ((piece ^ (row % 8)) * 16); }

// Brings eight columns of a row that may begin anywhere to shared memory.
template <typename T> DEVICE void copy_elements(u8* to, const T* row, u32 column, u32 depth) {
    u32 words[4];
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
        u32 at = column + 2 * i;
        u32 low = at < depth ? row[at].bits : 0;
        u32 high = at + 1 < depth ? row[at + 1].bits : 0;
        words[i] = low | high << 16;
    }
    *(uint4*)to = make_uint4(words[0], words[1], words[2], words[3]);
}

// The sums of ROWS weight rows with POSITIONS positions, by ROW_WARPS · POSITION_WARPS warps, each
// of which has its own part of them; where these are fewer than four, the others sum other columns.
template <typename T, int ROWS, int POSITIONS, int ROW_WARPS, int POSITION_WARPS, int STAGES>
DEVICE void multiply(const GroupedParams& p, u8* shared) {
    constexpr int PARTS = TILE_THREADS / WARP / (ROW_WARPS * POSITION_WARPS);
    constexpr int M = ROWS / ROW_WARPS / 16;
    constexpr int N = POSITIONS / POSITION_WARPS / 8;
    constexpr int STEPS = STAGE_COLUMNS / 16 / PARTS;
    constexpr u32 STAGE_BYTES = (ROWS + POSITIONS) * 128;
    static_assert(M >= 1 && N >= 2 && N % 2 == 0 && STEPS >= 1, "a part of a warp");

    Tile tile = find_tile<ROWS, POSITIONS>(p);
    if (tile.positions.start >= tile.positions.end) return;

    // A thread copies one piece of every sixteenth row.
    u32 copied_row = threadIdx.x / 8, piece = threadIdx.x % 8;
    bool gated = is_gated(p);
    const T *weight_rows[ROWS / 16], *x_rows[POSITIONS / 16];
#pragma unroll
    for (int i = 0; i < ROWS / 16; ++i)
        weight_rows[i] = weight_row<T>(p, tile, gated, copied_row + 16 * i);
#pragma unroll
    for (int i = 0; i < POSITIONS / 16; ++i) x_rows[i] = x_row<T>(p, tile, copied_row + 16 * i);
    // Brings a stage's columns, zeros beyond the depth.
    auto copy_stage = [&](u32 stage) {
        u8* to = shared + stage % STAGES * STAGE_BYTES + piece_offset(copied_row, piece);
        u32 column = stage * STAGE_COLUMNS + piece * 8;
        if (p.vector) {
            u32 bytes = 2 * min(p.depth - min(p.depth, column), 8u);
            u32 address = shared_address(to);
#pragma unroll
            for (int i = 0; i < ROWS / 16; ++i)
                cp_async_16_part(address + i * 2048, weight_rows[i] + column, bytes);
#pragma unroll
            for (int i = 0; i < POSITIONS / 16; ++i)
                cp_async_16_part(address + (ROWS + 16 * i) * 128, x_rows[i] + column, bytes);
        } else {
#pragma unroll 1
            for (int i = 0; i < (ROWS + POSITIONS) / 16; ++i) {
                u32 row = copied_row + 16 * i;
                const T* from = row < ROWS ? weight_row<T>(p, tile, gated, row)
                                           : x_row<T>(p, tile, row - ROWS);
                copy_elements(to + i * 2048, from, column, p.depth);
            }
        }
    };

    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    u32 part = warp / (ROW_WARPS * POSITION_WARPS);
    u32 first_row = warp % ROW_WARPS * (M * 16);
    u32 first_position = warp / ROW_WARPS % POSITION_WARPS * (N * 8);
    // Which row and piece of a 16x16 part of the weights, and of x, the lane gives ldmatrix.
    u32 a_row = first_row + lane % 16, a_piece = lane / 16;
    u32 b_row = first_position + lane / 16 * 8 + lane % 8, b_piece = lane / 8 % 2;

    float sums[M][N][4];
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[m][n][i] = 0.0f;

    u32 stages = (p.depth + STAGE_COLUMNS - 1) / STAGE_COLUMNS;
#pragma unroll 1
    for (u32 stage = 0; stage < STAGES - 1; ++stage) {
        if (stage < stages) copy_stage(stage);
        cp_async_commit();
    }
#pragma unroll 1
    for (u32 stage = 0; stage < stages; ++stage) {
        cp_async_wait<STAGES - 2>();
        // The stage has come for all threads, and all have read the one that the next copy
        // replaces.
        __syncthreads();
        if (stage + STAGES - 1 < stages) copy_stage(stage + STAGES - 1);
        cp_async_commit();
        u32 weights = shared_address(shared + stage % STAGES * STAGE_BYTES);
        u32 x = weights + ROWS * 128;
#pragma unroll
        for (u32 step = 0; step < STEPS; ++step) {
            u32 at = 2 * (part * STEPS + step);
            u32 a[M][4], b[N][2];
#pragma unroll
            for (int m = 0; m < M; ++m)
                ldmatrix_x4(a[m], weights + piece_offset(a_row + 16 * m, at + a_piece));
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                u32 both[4];
                ldmatrix_x4(both, x + piece_offset(b_row + 8 * n, at + b_piece));
                b[n][0] = both[0];
                b[n][1] = both[1];
                b[n + 1][0] = both[2];
                b[n + 1][1] = both[3];
            }
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int n = 0; n < N; ++n) mma(sums[m][n], a[m], b[n], T());
        }
    }
    cp_async_wait<0>();
    __syncthreads();

    float* stored = (float*)shared;
    float* own = stored + part * (POSITIONS * sums_stride<ROWS>);
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n) {
            u32 row = first_row + 16 * m + lane / 4;
            u32 position = first_position + 8 * n + 2 * (lane % 4);
            float* to = own + position * sums_stride<ROWS> + row;
            to[0] = sums[m][n][0];
            to[sums_stride<ROWS>] = sums[m][n][1];
            to[8] = sums[m][n][2];
            to[sums_stride<ROWS> + 8] = sums[m][n][3];
        }
    __syncthreads();
    finish<T, ROWS, POSITIONS, PARTS>(p, tile, stored);
}

// The list in grouped.rs has the same numbers.
#define MMA_TILE(rows, positions, row_warps, position_warps, stages)                        \
    KERNEL(mma_##rows##x##positions##_f16, GroupedParams, TILE_THREADS) {                   \
        DYNAMIC_SHARED(shared);                                                             \
        multiply<f16, rows, positions, row_warps, position_warps, stages>(p, shared);       \
    }                                                                                       \
    KERNEL(mma_##rows##x##positions##_bf16, GroupedParams, TILE_THREADS) {                  \
        DYNAMIC_SHARED(shared);                                                             \
        multiply<bf16, rows, positions, row_warps, position_warps, stages>(p, shared);      \
    }
MMA_TILE(32, 16, 1, 1, 8)
MMA_TILE(32, 32, 1, 1, 6)
MMA_TILE(32, 64, 1, 1, 4)
MMA_TILE(128, 16, 4, 1, 4)
MMA_TILE(128, 32, 4, 1, 4)
MMA_TILE(128, 64, 4, 1, 3)
MMA_TILE(128, 128, 2, 2, 3)
