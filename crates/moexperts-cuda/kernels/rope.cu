// Rotary positions.

struct RopeParams {
    float* x;          // [tokens, heads, head_dim]
    const float* cos;  // [tokens, half]
    const float* sin;  // [tokens, half]
    u32 heads;
    u32 head_dim;
    u32 half;
    u32 stride;        // from the first value of a pair to the second
};

// The first 2 · half values of each head turn in pairs: value i with value i + half where the stride
// is half, value 2i with value 2i + 1 where it is 1. A token for each block of the grid's first axis.
KERNEL(rope, RopeParams, 256) {
    u32 pair = blockIdx.y * blockDim.x + threadIdx.x;
    if (pair >= p.heads * p.half) return;
    u32 head = pair / p.half, i = pair % p.half;
    float* x = p.x + ((u64)blockIdx.x * p.heads + head) * p.head_dim
        + (p.stride == 1 ? 2 * i : i);
    float cos = p.cos[(u64)blockIdx.x * p.half + i], sin = p.sin[(u64)blockIdx.x * p.half + i];
    float a = x[0], b = x[p.stride];
    x[0] = a * cos - b * sin;
    x[p.stride] = b * cos + a * sin;
}
