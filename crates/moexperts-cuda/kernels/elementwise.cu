// Operations that take each value on its own.

struct AddParams {
    float* x;
    const float* y;
    u64 len;
};

// x += y
KERNEL(add, AddParams, 256) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.len) p.x[i] += p.y[i];
}
