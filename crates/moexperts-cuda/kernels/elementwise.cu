// Operations that take each value on its own.

// The values i below `len` of a thread: at every step, a block's are next to each other.
#define FOR_EACH_VALUE(i, len)                                                  \
    _Pragma("unroll 4")                                                         \
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (len);         \
         i += (u64)gridDim.x * blockDim.x)

struct AddParams {
    float* x;
    const float* y;
    u64 len;
    float scale;
    u32 padding;
};

// x += scale · y
KERNEL(add, AddParams, 256) {
    float* __restrict__ x = p.x;
    const float* __restrict__ y = p.y;
    FOR_EACH_VALUE(i, p.len) x[i] += p.scale * y[i];
}

struct ScaleParams {
    float* x;
    u64 len;
    float factor;
    u32 padding;
};

// x *= factor
KERNEL(scale, ScaleParams, 256) {
    FOR_EACH_VALUE(i, p.len) p.x[i] *= p.factor;
}

struct GateParams {
    float* x;           // [rows, cols]
    const float* gate;  // [rows, cols / width]
    u64 len;            // of x
    u32 width;          // neighbouring values that share a factor
    u32 softplus;       // else the factor is a sigmoid
};

// x[row, col] *= function(gate[row, col / width]); rows of x are whole widths
KERNEL(gate, GateParams, 256) {
    FOR_EACH_VALUE(i, p.len) {
        float z = p.gate[i / p.width];
        float softplus = fmaxf(z, 0.0f) + log1pf(expf(-fabsf(z)));
        p.x[i] *= p.softplus ? softplus : sigmoid(z);
    }
}

struct AddGatedParams {
    float* x;           // [rows, cols]
    const float* y;     // [rows, cols]
    const float* gate;  // [rows]
    u32 cols;
    u32 padding;
};

// x[row] += sigmoid(gate[row]) · y[row], a row for each block of the grid's first axis
KERNEL(add_gated, AddGatedParams, 256) {
    float* __restrict__ x = p.x + (u64)blockIdx.x * p.cols;
    const float* __restrict__ y = p.y + (u64)blockIdx.x * p.cols;
    float factor = sigmoid(p.gate[blockIdx.x]);
#pragma unroll 4
    for (u32 col = blockIdx.y * blockDim.x + threadIdx.x; col < p.cols;
         col += gridDim.y * blockDim.x)
        x[col] += factor * y[col];
}

struct ClampParams {
    float* x;
    u64 len;
    float limit;
    u32 padding;
};

// x = x limited to -limit .. limit; NaN stays
KERNEL(clamp, ClampParams, 256) {
    FOR_EACH_VALUE(i, p.len) {
        p.x[i] = at_least(at_most(p.x[i], p.limit), -p.limit);
    }
}

struct ActivateParams {
    const float* gate;  // null where the activation is not gated
    float* up;
    u64 len;
    Activation activation;
};

// up = activation(gate, up)
KERNEL(activate_values, ActivateParams, 256) {
    const float* __restrict__ gates = p.gate;
    float* __restrict__ ups = p.up;
    FOR_EACH_VALUE(i, p.len) {
        float gate = p.activation.gated ? gates[i] : 0.0f;
        ups[i] = activate(p.activation, gate, ups[i]);
    }
}
