// Norms over rows. Narrow rows belong to a warp each, wide ones to a block.

#define ROW_WARPS 16

struct NormParams {
    float* x;             // [rows, width]
    const float* added;   // [rows, width], which x is increased by; or null
    const float* weight;  // [width]
    const float* bias;    // [width], of a layer norm
    float* out;           // [rows, width]
    u64 rows;
    u32 width;
    float eps;
    float scale;          // factor on `added`
    u32 padding;
};

// The sum over the threads of WARPS warps, in each of them; always in the same order.
template <int WARPS> DEVICE float sum_of(float x) {
    x = warp_sum(x);
    if (WARPS == 1) return x;
    __shared__ float sums[WARPS];
    // All threads have read the sums of the last call.
    __syncthreads();
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = x;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) sum += sums[warp];
    return sum;
}

// x += scale · added; out = x / sqrt(mean(x²) + eps) · weight
template <int WARPS> DEVICE void rms_norm(const NormParams& p) {
    const u32 threads = WARPS * WARP;
    u32 thread = threadIdx.x % threads;
    u64 row = (u64)blockIdx.x * (blockDim.x / threads) + threadIdx.x / threads;
    if (row >= p.rows) return;
    float* __restrict__ x = p.x + row * p.width;
    float* __restrict__ out = p.out + row * p.width;
    float squares = 0.0f;
    if (p.added) {
        const float* __restrict__ added = p.added + row * p.width;
#pragma unroll 4
        for (u32 i = thread; i < p.width; i += threads) {
            float value = x[i] + p.scale * added[i];
            x[i] = value;
            squares += value * value;
        }
    } else {
#pragma unroll 4
        for (u32 i = thread; i < p.width; i += threads) squares += x[i] * x[i];
    }
    float scale = 1.0f / sqrtf(sum_of<WARPS>(squares) / p.width + p.eps);
#pragma unroll 4
    for (u32 i = thread; i < p.width; i += threads) out[i] = x[i] * scale * p.weight[i];
}

KERNEL(rms_norm_narrow, NormParams, 256) { rms_norm<1>(p); }
KERNEL(rms_norm_wide, NormParams, ROW_WARPS * WARP) { rms_norm<ROW_WARPS>(p); }

// out = (x - mean(x)) / sqrt(variance(x) + eps) · weight + bias, a row for each block
KERNEL(layer_norm, NormParams, ROW_WARPS * WARP) {
    const float* __restrict__ x = p.x + (u64)blockIdx.x * p.width;
    float* __restrict__ out = p.out + (u64)blockIdx.x * p.width;
    float sum = 0.0f;
#pragma unroll 4
    for (u32 i = threadIdx.x; i < p.width; i += blockDim.x) sum += x[i];
    float mean = sum_of<ROW_WARPS>(sum) / p.width;
    float squares = 0.0f;
#pragma unroll 4
    for (u32 i = threadIdx.x; i < p.width; i += blockDim.x) {
        float off = x[i] - mean;
        squares += off * off;
    }
    float scale = 1.0f / sqrtf(sum_of<ROW_WARPS>(squares) / p.width + p.eps);
#pragma unroll 4
    for (u32 i = threadIdx.x; i < p.width; i += blockDim.x)
        out[i] = (x[i] - mean) * scale * p.weight[i] + p.bias[i];
}
