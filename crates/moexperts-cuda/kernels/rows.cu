// Rows that are gathered and put. A row belongs to the blocks of one place on the grid's first axis,
// which share its columns.

#define FOR_EACH_COLUMN(col, cols)                                              \
    _Pragma("unroll 4")                                                         \
    for (u32 col = blockIdx.y * blockDim.x + threadIdx.x; col < (cols);         \
         col += gridDim.y * blockDim.x)

struct EmbedParams {
    const void* table;     // [.., cols], rows `stride` elements apart
    const u32* ids;        // [rows, taps]
    const float* weights;  // [rows, taps]; null: one tap, which weighs 1
    float* out;            // [rows, cols]
    u64 stride;
    u32 cols;
    u32 taps;
};

// out[row] = Σ_tap weights[row, tap] · table[ids[row, tap]]
template <typename T> DEVICE void embed_rows(const EmbedParams& p) {
    const T* __restrict__ table = (const T*)p.table;
    float* __restrict__ out = p.out + (u64)blockIdx.x * p.cols;
    const u32* ids = p.ids + (u64)blockIdx.x * p.taps;
    FOR_EACH_COLUMN(col, p.cols) {
        float sum = 0.0f;
        if (!p.weights) {
            sum = widen(table[ids[0] * p.stride + col]);
        } else {
            const float* weights = p.weights + (u64)blockIdx.x * p.taps;
            for (u32 tap = 0; tap < p.taps; ++tap)
                sum += weights[tap] * widen(table[ids[tap] * p.stride + col]);
        }
        out[col] = sum;
    }
}

#define EMBED(suffix, type) \
    KERNEL(embed_##suffix, EmbedParams, 256) { embed_rows<type>(p); }
FOR_EACH_WEIGHT(EMBED)

struct RowsParams {
    float* x;         // [.., cols]
    const float* y;   // [.., cols]
    const u32* rows;  // a row for each place on the grid's first axis
    u32 cols;
    u32 padding;
};

// x[i] = y[rows[i]]
KERNEL(select_rows, RowsParams, 256) {
    float* __restrict__ x = p.x + (u64)blockIdx.x * p.cols;
    const float* __restrict__ y = p.y + (u64)p.rows[blockIdx.x] * p.cols;
    FOR_EACH_COLUMN(col, p.cols) x[col] = y[col];
}

// x[rows[i]] = y[i]
KERNEL(put_rows, RowsParams, 256) {
    float* __restrict__ x = p.x + (u64)p.rows[blockIdx.x] * p.cols;
    const float* __restrict__ y = p.y + (u64)blockIdx.x * p.cols;
    FOR_EACH_COLUMN(col, p.cols) x[col] = y[col];
}

// x[rows[i]] += y[i]
KERNEL(add_rows, RowsParams, 256) {
    float* __restrict__ x = p.x + (u64)p.rows[blockIdx.x] * p.cols;
    const float* __restrict__ y = p.y + (u64)blockIdx.x * p.cols;
    FOR_EACH_COLUMN(col, p.cols) x[col] += y[col];
}
