// Rotary positions.

struct RopeParams {
    float* x;          // [tokens, heads, head_dim]
    const float* cos;  // [tokens, half]
    const float* sin;  // [tokens, half]
    u32 heads;
    u32 head_dim;
    u32 half;
    u32 padding;
};

// Value i of the first 2 · half of each head turns with value i + half; a token for each block of
// the grid's first axis.
KERNEL(rope, RopeParams, 256) {
    u32 pair = blockIdx.y * blockDim.x + threadIdx.x;
    if (pair >= p.heads * p.half) return;
    u32 head = pair / p.half, i = pair % p.half;
    float* x = p.x + ((u64)blockIdx.x * p.heads + head) * p.head_dim + i;
    float cos = p.cos[(u64)blockIdx.x * p.half + i], sin = p.sin[(u64)blockIdx.x * p.half + i];
    float a = x[0], b = x[p.half];
    x[0] = a * cos - b * sin;
    x[p.half] = b * cos + a * sin;
}
