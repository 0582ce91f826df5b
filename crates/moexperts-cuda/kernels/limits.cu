// What the memory can do at most.

struct ReadParams {
    const uint4* from;
    u32* out;
    u64 len;
};

// Reads `len` values of 16 bytes once. Each thread writes the exclusive or of what it read: without
// that the compiler would leave the reads out.
KERNEL(read_bandwidth, ReadParams, 256) {
    u64 thread = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    u64 threads = (u64)gridDim.x * blockDim.x;
    u32 sum = 0;
    // Four at once, so that enough reads are under way.
    u64 i = thread;
    for (; i + 3 * threads < p.len; i += 4 * threads) {
        uint4 values[4];
#pragma unroll
        for (int at = 0; at < 4; at++) values[at] = load_stream(p.from + i + at * threads);
#pragma unroll
        for (int at = 0; at < 4; at++)
            sum ^= values[at].x ^ values[at].y ^ values[at].z ^ values[at].w;
    }
    for (; i < p.len; i += threads) {
        uint4 value = load_stream(p.from + i);
        sum ^= value.x ^ value.y ^ value.z ^ value.w;
    }
    p.out[thread] = sum;
}
