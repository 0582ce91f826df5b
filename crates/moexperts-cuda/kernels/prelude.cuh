// Types and small functions of all kernels.
//
// A kernel takes one argument, a struct that a `#[repr(C)]` struct in Rust mirrors, and is written
// with KERNEL. Instructions that C++ has no syntax for are in ptx.cuh alone, so that the same kernels
// run on a host with another ptx.cuh. Includes nothing: NVRTC has no headers.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;

#ifndef EMULATED
// A kernel `name` with an argument `p`, in blocks of `threads` threads.
#define KERNEL(name, Params, threads) \
    extern "C" __global__ void __launch_bounds__(threads, 1) name(const __grid_constant__ Params p)
// The dynamic shared memory of the block as `name`, aligned to 1024 bytes.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) u8 name[]
// The same, with so few registers that `blocks` blocks fit a multiprocessor at a time.
#define KERNEL_BLOCKS(name, Params, threads, blocks)                    \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name( \
        const __grid_constant__ Params p)
#else
#define KERNEL_BLOCKS(name, Params, threads, blocks) KERNEL(name, Params, threads)
#endif

#define WARP 32
#define ALL_LANES 0xffffffffu
#define DEVICE static __device__ __forceinline__

// Weights are stored in these.
struct f16 { u16 bits; };
struct bf16 { u16 bits; };
typedef float f32;

// Writes `body(suffix, type)` for each element type of weights.
#define FOR_EACH_WEIGHT(body) body(f32, f32) body(f16, f16) body(bf16, bf16)

DEVICE u32 bits_of(float x) { return __float_as_uint(x); }

DEVICE float widen(f32 x) { return x; }
DEVICE float widen(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
DEVICE float widen(f16 x);

// To nearest, ties to even, in the type of the second argument: narrow(x, bf16()).
DEVICE f32 narrow(float x, f32) { return x; }
DEVICE bf16 narrow(float x, bf16) {
    u32 bits = bits_of(x);
    bf16 out;
    out.bits = x != x ? 0x7fc0 : (u16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    return out;
}
DEVICE f16 narrow(float x, f16);

DEVICE int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The sum over the lanes of a warp, in each of them; always in the same order.
DEVICE float warp_sum(float x) {
#pragma unroll
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(ALL_LANES, x, lanes);
    return x;
}

DEVICE float warp_max(float x) {
#pragma unroll
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, lanes));
    return x;
}

// By the fast division, which has no branch and is off by two units in the last place at most.
DEVICE float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }

// Not fminf and fmaxf, which would lose a NaN.
DEVICE float at_most(float x, float limit) { return x > limit ? limit : x; }
DEVICE float at_least(float x, float limit) { return x < limit ? limit : x; }

// The activation between an expert's first products and its last; the numbers are those of
// `Activation` in Rust (activation.rs).
enum ActivationKind {
    SILU = 0,
    GELU = 1,
    GELU_TANH = 2,
    CLAMPED_SWIGLU = 3,
    RELU2 = 4,
    CLAMPED_SILU = 5,
};

struct Activation {
    u32 kind;
    u32 gated;
    float alpha;  // slope of the sigmoid of those that clamp
    float limit;
};

DEVICE bool is_clamped(u32 kind) { return kind == CLAMPED_SWIGLU || kind == CLAMPED_SILU; }

// What a clamping activation adds to its up.
DEVICE float up_offset(u32 kind) { return kind == CLAMPED_SWIGLU ? 1.0f : 0.0f; }

DEVICE float activate_one(u32 kind, float x) {
    switch (kind) {
        case SILU: return x * sigmoid(x);
        case GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
        case GELU_TANH: {
            float inner = 0.79788456080286536f * (x + 0.044715f * x * x * x);
            return 0.5f * x * (1.0f + tanhf(inner));
        }
        default: {
            float positive = at_least(x, 0.0f);
            return positive * positive;
        }
    }
}

// `activation(gate, up)`, or of `up` alone where there is no gate.
DEVICE float activate(const Activation& activation, float gate, float up) {
    if (!is_clamped(activation.kind)) {
        if (!activation.gated) return activate_one(activation.kind, up);
        return activate_one(activation.kind, gate) * up;
    }
    float limit = activation.limit, g = at_most(activation.gated ? gate : up, limit);
    g *= sigmoid(activation.alpha * g);
    if (!activation.gated) return g;
    return (at_least(at_most(up, limit), -limit) + up_offset(activation.kind)) * g;
}
