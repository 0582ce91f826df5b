// Grouped products by plain multiplications and additions: f32 weights, and 16-bit weights on GPUs
// whose tensor cores `mma` cannot use.

#define SIMT_THREADS 256
#define STAGE_COLUMNS 32
// Floats from a row of a stage to the next: the same columns of eight rows lie in different banks.
#define ROW_FLOATS (STAGE_COLUMNS + 4)

DEVICE float4 widen_quad(const float* at) { return *(const float4*)at; }
template <typename T> DEVICE float4 widen_quad(const T* at) {
    uint2 bits = *(const uint2*)at;
    T x, y, z, w;
    x.bits = (u16)bits.x;
    y.bits = (u16)(bits.x >> 16);
    z.bits = (u16)bits.y;
    w.bits = (u16)(bits.y >> 16);
    return make_float4(widen(x), widen(y), widen(z), widen(w));
}

// Four columns of a row; zeros beyond the depth.
template <typename T> DEVICE float4 load_quad(const T* row, u32 column, const GroupedParams& p) {
    u32 left = p.depth - min(p.depth, column);
    if (p.vector && left >= 4) return widen_quad(row + column);
    float4 quad = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (left > 0) quad.x = widen(row[column]);
    if (left > 1) quad.y = widen(row[column + 1]);
    if (left > 2) quad.z = widen(row[column + 2]);
    if (left > 3) quad.w = widen(row[column + 3]);
    return quad;
}

// A thread has every sixteenth weight row and every sixteenth position of the tile. The next stage
// is read into registers while the sums of one are computed.
template <typename T, int ROWS, int POSITIONS>
DEVICE void multiply(const GroupedParams& p, u8* shared) {
    constexpr int M = ROWS / 16, N = POSITIONS / 16;
    // A thread copies a quad of every 32nd row.
    constexpr int WEIGHT_QUADS = ROWS / 32, X_QUADS = (POSITIONS + 31) / 32;

    Tile tile = find_tile<ROWS, POSITIONS>(p);
    if (tile.positions.start >= tile.positions.end) return;

    float* weights = (float*)shared;
    float* x = weights + ROWS * ROW_FLOATS;
    bool gated = is_gated(p);
    u32 copied_row = threadIdx.x / 8, copied_column = threadIdx.x % 8 * 4;
    const T *weight_rows[WEIGHT_QUADS], *x_rows[X_QUADS];
#pragma unroll
    for (int i = 0; i < WEIGHT_QUADS; ++i)
        weight_rows[i] = weight_row<T>(p, tile, gated, copied_row + 32 * i);
#pragma unroll
    for (int i = 0; i < X_QUADS; ++i) x_rows[i] = x_row<T>(p, tile, copied_row + 32 * i);
    float4 weight_quads[WEIGHT_QUADS], x_quads[X_QUADS];
    auto load_stage = [&](u32 stage) {
        u32 column = stage * STAGE_COLUMNS + copied_column;
#pragma unroll
        for (int i = 0; i < WEIGHT_QUADS; ++i)
            weight_quads[i] = load_quad(weight_rows[i], column, p);
#pragma unroll
        for (int i = 0; i < X_QUADS; ++i) x_quads[i] = load_quad(x_rows[i], column, p);
    };

    u32 own_row = threadIdx.x / 16, own_position = threadIdx.x % 16;
    float sums[M][N];
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n) sums[m][n] = 0.0f;

    u32 stages = (p.depth + STAGE_COLUMNS - 1) / STAGE_COLUMNS;
    if (stages > 0) load_stage(0);
#pragma unroll 1
    for (u32 stage = 0; stage < stages; ++stage) {
        float* to = weights + copied_row * ROW_FLOATS + copied_column;
#pragma unroll
        for (int i = 0; i < WEIGHT_QUADS; ++i)
            *(float4*)(to + 32 * i * ROW_FLOATS) = weight_quads[i];
        to = x + copied_row * ROW_FLOATS + copied_column;
#pragma unroll
        for (int i = 0; i < X_QUADS; ++i)
            if (copied_row + 32 * i < POSITIONS) *(float4*)(to + 32 * i * ROW_FLOATS) = x_quads[i];
        __syncthreads();
        if (stage + 1 < stages) load_stage(stage + 1);
#pragma unroll(M * N > 16 ? 1 : 4)
        for (int column = 0; column < STAGE_COLUMNS; column += 4) {
            float4 b[N];
#pragma unroll
            for (int n = 0; n < N; ++n)
                b[n] = *(const float4*)(x + (own_position + 16 * n) * ROW_FLOATS + column);
#pragma unroll
            for (int m = 0; m < M; ++m) {
                float4 a = *(const float4*)(weights + (own_row + 16 * m) * ROW_FLOATS + column);
#pragma unroll
                for (int n = 0; n < N; ++n) {
                    float sum = fmaf(a.x, b[n].x, sums[m][n]);
                    sum = fmaf(a.y, b[n].y, sum);
                    sum = fmaf(a.z, b[n].z, sum);
                    sums[m][n] = fmaf(a.w, b[n].w, sum);
                }
            }
        }
        __syncthreads();
    }

    float* stored = (float*)shared;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n)
            stored[(own_position + 16 * n) * sums_stride<ROWS> + own_row + 16 * m] = sums[m][n];
    __syncthreads();
    finish<T, ROWS, POSITIONS, 1>(p, tile, stored);
}

// The list in grouped.rs has the same numbers.
#define SIMT_TILE(type, rows, positions)                                                  \
    KERNEL(simt_##rows##x##positions##_##type, GroupedParams, SIMT_THREADS) {             \
        DYNAMIC_SHARED(shared);                                                           \
        multiply<type, rows, positions>(p, shared);                                       \
    }
#define SIMT_TILES(suffix, type) \
    SIMT_TILE(type, 32, 16)      \
    SIMT_TILE(type, 64, 16)      \
    SIMT_TILE(type, 128, 64)
FOR_EACH_WEIGHT(SIMT_TILES)
