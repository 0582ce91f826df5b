// CUDA C++ for a compiler of the host: what kernels use of the language and its functions.

#pragma once

#include <math.h>
#include <stddef.h>

#include "runtime.h"

#define EMULATED 1

#define __device__
#define __host__
#define __global__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) alignas(bytes)
// A block runs on one thread of the host.
#define __shared__ static thread_local
#define __builtin_assume(condition) ((void)0)

#define DYNAMIC_SHARED(name) unsigned char* const name = ::emulator::dynamic_shared()

#define EMULATOR_KERNEL(name, text, Params, threads)                                              \
    static void name(const Params& p);                                                            \
    static const ::emulator::Kernel name##_entry(                                                 \
        text, EMULATOR_MODULE, sizeof(Params), threads,                                           \
        [](const void* params) { name(*static_cast<const Params*>(params)); });                   \
    static void name(const Params& p)
#define EMULATOR_TEXT(name) #name
#define EMULATOR_KERNEL_NAMED(name, Params, threads)                                              \
    EMULATOR_KERNEL(name, EMULATOR_TEXT(name), Params, threads)
#define KERNEL(name, Params, threads) EMULATOR_KERNEL_NAMED(name, Params, threads)

#define EMULATOR_VECTORS(type, name, a2, a4)                                                      \
    struct name##1 { type x; };                                                                   \
    struct alignas(a2) name##2 { type x, y; };                                                    \
    struct name##3 { type x, y, z; };                                                             \
    struct alignas(a4) name##4 { type x, y, z, w; };                                              \
    static inline name##1 make_##name##1(type x) { return {x}; }                                  \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                       \
    static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }            \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
EMULATOR_VECTORS(signed char, char, 2, 4)
EMULATOR_VECTORS(unsigned char, uchar, 2, 4)
EMULATOR_VECTORS(short, short, 4, 8)
EMULATOR_VECTORS(unsigned short, ushort, 4, 8)
EMULATOR_VECTORS(int, int, 8, 16)
EMULATOR_VECTORS(unsigned int, uint, 8, 16)
EMULATOR_VECTORS(long long, longlong, 16, 16)
EMULATOR_VECTORS(unsigned long long, ulonglong, 16, 16)
EMULATOR_VECTORS(float, float, 8, 16)
EMULATOR_VECTORS(double, double, 16, 16)
#undef EMULATOR_VECTORS

struct dim3 { unsigned int x, y, z; };

// Of the running thread.
extern __thread uint3 threadIdx;
extern __thread uint3 blockIdx;
extern __thread dim3 blockDim;
extern __thread dim3 gridDim;
static const int warpSize = 32;

static inline unsigned int __float_as_uint(float x) { return ::emulator::bits_of(x); }
static inline int __float_as_int(float x) { return (int)::emulator::bits_of(x); }
static inline float __uint_as_float(unsigned int x) { return ::emulator::float_of(x); }
static inline float __int_as_float(int x) { return ::emulator::float_of((unsigned int)x); }

#define EMULATOR_MIN_MAX(type)                                                                    \
    static inline type min(type a, type b) { return b < a ? b : a; }                              \
    static inline type max(type a, type b) { return a < b ? b : a; }
EMULATOR_MIN_MAX(int)
EMULATOR_MIN_MAX(unsigned int)
EMULATOR_MIN_MAX(long long)
EMULATOR_MIN_MAX(unsigned long long)
EMULATOR_MIN_MAX(long)
EMULATOR_MIN_MAX(unsigned long)
#undef EMULATOR_MIN_MAX
static inline unsigned int min(int a, unsigned int b) { return min((unsigned int)a, b); }
static inline unsigned int min(unsigned int a, int b) { return min(a, (unsigned int)b); }
static inline unsigned int max(int a, unsigned int b) { return max((unsigned int)a, b); }
static inline unsigned int max(unsigned int a, int b) { return max(a, (unsigned int)b); }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fdividef(float a, float b) {
    float large = fabsf(b);
    return large > 0x1p126f && large < INFINITY ? a * 0.0f : a / b;
}
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
static inline float emulator_exp(float x) { return expf(x); }
static inline float emulator_log(float x) { return logf(x); }
static inline float emulator_log2(float x) { return log2f(x); }
static inline float emulator_exp10(float x) { return powf(10.0f, x); }
static inline float emulator_sin(float x) { return sinf(x); }
static inline float emulator_cos(float x) { return cosf(x); }
static inline float emulator_pow(float x, float y) { return powf(x, y); }
// The C library may have its own functions of these names.
#define __expf emulator_exp
#define __logf emulator_log
#define __log2f emulator_log2
#define __exp10f emulator_exp10
#define __sinf emulator_sin
#define __cosf emulator_cos
#define __powf emulator_pow
// To nearest, ties to even; the ends of the range beyond it, 0 for NaN.
static inline int __float2int_rn(float x) {
    return x != x ? 0 : x >= 0x1p31f ? 0x7fffffff : x < -0x1p31f ? (int)0x80000000 : (int)rintf(x);
}
static inline int __float2int_rd(float x) { return __float2int_rn(floorf(x)); }
static inline int __float2int_ru(float x) { return __float2int_rn(ceilf(x)); }
static inline int __float2int_rz(float x) { return __float2int_rn(truncf(x)); }
static inline unsigned int __float2uint_rn(float x) {
    return !(x > 0.0f) ? 0 : x >= 0x1p32f ? 0xffffffffu : (unsigned int)rintf(x);
}
static inline unsigned int __float2uint_rd(float x) { return __float2uint_rn(floorf(x)); }
static inline unsigned int __float2uint_ru(float x) { return __float2uint_rn(ceilf(x)); }
static inline unsigned int __float2uint_rz(float x) { return __float2uint_rn(truncf(x)); }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned int x) { return (float)x; }

static inline int __popc(unsigned int x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned int)x) : 32; }
static inline int __clzll(long long x) {
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}
static inline unsigned int __brev(unsigned int x) {
    unsigned int out = 0;
    for (int bit = 0; bit < 32; ++bit) out |= (x >> bit & 1) << (31 - bit);
    return out;
}
static inline unsigned int __umulhi(unsigned int a, unsigned int b) {
    return (unsigned int)((unsigned long long)a * b >> 32);
}
static inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline unsigned int __byte_perm(unsigned int x, unsigned int y, unsigned int selector) {
    unsigned long long both = (unsigned long long)y << 32 | x;
    unsigned int out = 0;
    for (int byte = 0; byte < 4; ++byte) {
        unsigned int chosen = selector >> 4 * byte & 0xf;
        unsigned int value = (unsigned int)(both >> 8 * (chosen & 7)) & 0xff;
        if (chosen & 8) value = value & 0x80 ? 0xff : 0;
        out |= value << 8 * byte;
    }
    return out;
}
static inline unsigned int __funnelshift_l(unsigned int low, unsigned int high, unsigned int by) {
    return (unsigned int)((((unsigned long long)high << 32 | low) << (by & 31)) >> 32);
}
static inline unsigned int __funnelshift_r(unsigned int low, unsigned int high, unsigned int by) {
    return (unsigned int)(((unsigned long long)high << 32 | low) >> (by & 31));
}

template <class T> static inline T __ldg(const T* at) { return *at; }
template <class T> static inline T __ldcs(const T* at) { return *at; }
template <class T> static inline T __ldcg(const T* at) { return *at; }
template <class T> static inline T __ldca(const T* at) { return *at; }
template <class T> static inline T __ldcv(const T* at) { return *(const volatile T*)at; }
template <class T> static inline void __stcs(T* at, T value) { *at = value; }
template <class T> static inline void __stcg(T* at, T value) { *at = value; }
template <class T> static inline void __stwt(T* at, T value) { *at = value; }

// Blocks run on several threads of the host.
#define EMULATOR_ATOMICS(type)                                                                    \
    static inline type atomicAdd(type* at, type x) {                                              \
        return __atomic_fetch_add(at, x, __ATOMIC_RELAXED);                                       \
    }                                                                                             \
    static inline type atomicSub(type* at, type x) {                                              \
        return __atomic_fetch_sub(at, x, __ATOMIC_RELAXED);                                       \
    }                                                                                             \
    static inline type atomicAnd(type* at, type x) {                                              \
        return __atomic_fetch_and(at, x, __ATOMIC_RELAXED);                                       \
    }                                                                                             \
    static inline type atomicOr(type* at, type x) {                                               \
        return __atomic_fetch_or(at, x, __ATOMIC_RELAXED);                                        \
    }                                                                                             \
    static inline type atomicXor(type* at, type x) {                                              \
        return __atomic_fetch_xor(at, x, __ATOMIC_RELAXED);                                       \
    }                                                                                             \
    static inline type atomicExch(type* at, type x) {                                             \
        return __atomic_exchange_n(at, x, __ATOMIC_RELAXED);                                      \
    }                                                                                             \
    static inline type atomicCAS(type* at, type expected, type x) {                               \
        __atomic_compare_exchange_n(at, &expected, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED); \
        return expected;                                                                          \
    }                                                                                             \
    static inline type atomicMax(type* at, type x) {                                              \
        type old = __atomic_load_n(at, __ATOMIC_RELAXED);                                         \
        while (old < x && !__atomic_compare_exchange_n(at, &old, x, false, __ATOMIC_RELAXED,      \
                                                       __ATOMIC_RELAXED)) {                       \
        }                                                                                         \
        return old;                                                                               \
    }                                                                                             \
    static inline type atomicMin(type* at, type x) {                                              \
        type old = __atomic_load_n(at, __ATOMIC_RELAXED);                                         \
        while (x < old && !__atomic_compare_exchange_n(at, &old, x, false, __ATOMIC_RELAXED,      \
                                                       __ATOMIC_RELAXED)) {                       \
        }                                                                                         \
        return old;                                                                               \
    }
EMULATOR_ATOMICS(int)
EMULATOR_ATOMICS(unsigned int)
EMULATOR_ATOMICS(unsigned long long)
#undef EMULATOR_ATOMICS
static inline float atomicAdd(float* at, float x) {
    unsigned int* bits = reinterpret_cast<unsigned int*>(at);
    unsigned int old = __atomic_load_n(bits, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(bits, &old, __float_as_uint(__uint_as_float(old) + x), false,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return __uint_as_float(old);
}

static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_block() { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __nanosleep(unsigned int) { ::emulator::pass(); }
[[noreturn]] static inline void __trap() { ::emulator::fail("__trap was called"); }

static inline void __syncthreads(::emulator::Site site = EMULATOR_SITE) {
    ::emulator::meet_block("__syncthreads", false, site);
}
static inline int __syncthreads_count(int predicate, ::emulator::Site site = EMULATOR_SITE) {
    return (int)::emulator::meet_block("__syncthreads_count", predicate != 0, site);
}
static inline int __syncthreads_or(int predicate, ::emulator::Site site = EMULATOR_SITE) {
    return ::emulator::meet_block("__syncthreads_or", predicate != 0, site) != 0;
}
static inline int __syncthreads_and(int predicate, ::emulator::Site site = EMULATOR_SITE) {
    return ::emulator::meet_block("__syncthreads_and", predicate == 0, site) == 0;
}

namespace emulator {

static inline void complete_nothing(void* const*, uint32_t) {}
inline const WarpOp sync_op{"__syncwarp", false, complete_nothing};

enum class Shuffle { Index, Up, Down, Xor };

template <class T> struct ShuffleArgs {
    T value;
    T result;
    uint32_t by;
    uint32_t width;
};

template <class T, Shuffle kind> void complete_shuffle(void* const* lanes, uint32_t mask) {
    for (uint32_t i = 0; i < 32; ++i) {
        if (!(mask >> i & 1)) continue;
        auto* args = static_cast<ShuffleArgs<T>*>(lanes[i]);
        uint32_t width = args->width, first = i & ~(width - 1), by = args->by, from = i;
        switch (kind) {
            case Shuffle::Index: from = first + (by & (width - 1)); break;
            case Shuffle::Up: from = i >= first + by ? i - by : i; break;
            case Shuffle::Down: from = by < first + width - i ? i + by : i; break;
            case Shuffle::Xor: from = (i ^ by) < first + width ? i ^ by : i; break;
        }
        if (from >= 32 || !(mask >> from & 1)) {
            fail("a shuffle reads lane %u, which is not in its mask %08x", from, mask);
        }
        args->result = static_cast<ShuffleArgs<T>*>(lanes[from])->value;
    }
}

template <class T, Shuffle kind>
inline const WarpOp shuffle_op{
    kind == Shuffle::Index  ? "__shfl_sync"
    : kind == Shuffle::Up   ? "__shfl_up_sync"
    : kind == Shuffle::Down ? "__shfl_down_sync"
                            : "__shfl_xor_sync",
    false, complete_shuffle<T, kind>};

template <class T, Shuffle kind>
static inline T shuffle(uint32_t mask, T value, uint32_t by, int width, Site site) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "what a shuffle takes");
    if (width < 1 || width > 32 || (width & (width - 1))) fail("a shuffle of width %d", width);
    ShuffleArgs<T> args{value, value, by, (uint32_t)width};
    meet_warp(shuffle_op<T, kind>, mask, &args, site);
    return args.result;
}

struct VoteArgs {
    uint32_t value;
    uint32_t result;
};

enum class Vote { Ballot, Match, Add, Min, Max, And, Or, Xor, MinSigned, MaxSigned };

template <Vote kind> void complete_vote(void* const* lanes, uint32_t mask) {
    auto at = [&](uint32_t i) -> VoteArgs& { return *static_cast<VoteArgs*>(lanes[i]); };
    uint32_t result = 0;
    bool first = true;
    for (uint32_t i = 0; i < 32; ++i) {
        if (!(mask >> i & 1)) continue;
        uint32_t x = at(i).value;
        switch (kind) {
            case Vote::Ballot: result |= (uint32_t)(x != 0) << i; break;
            case Vote::Match: break;
            case Vote::Add: result += x; break;
            case Vote::Min: result = first || x < result ? x : result; break;
            case Vote::Max: result = first || x > result ? x : result; break;
            case Vote::And: result = first ? x : result & x; break;
            case Vote::Or: result |= x; break;
            case Vote::Xor: result ^= x; break;
            case Vote::MinSigned:
                result = first || (int32_t)x < (int32_t)result ? x : result;
                break;
            case Vote::MaxSigned:
                result = first || (int32_t)x > (int32_t)result ? x : result;
                break;
        }
        first = false;
    }
    for (uint32_t i = 0; i < 32; ++i) {
        if (!(mask >> i & 1)) continue;
        at(i).result = result;
        if (kind != Vote::Match) continue;
        for (uint32_t j = 0; j < 32; ++j) {
            if ((mask >> j & 1) && at(j).value == at(i).value) at(i).result |= 1u << j;
        }
    }
}

template <Vote kind>
inline const WarpOp vote_op{
    kind == Vote::Ballot ? "a vote" : kind == Vote::Match ? "__match_any_sync" : "a reduction", false,
    complete_vote<kind>};

template <Vote kind> static inline uint32_t vote(uint32_t mask, uint32_t value, Site site) {
    VoteArgs args{value, 0};
    meet_warp(vote_op<kind>, mask, &args, site);
    return args.result;
}

}  // namespace emulator

static inline void __syncwarp(unsigned int mask = 0xffffffffu,
                              ::emulator::Site site = EMULATOR_SITE) {
    ::emulator::meet_warp(::emulator::sync_op, mask, nullptr, site);
}

#define EMULATOR_SHUFFLE(name, kind, By)                                                          \
    template <class T>                                                                            \
    static inline T name(unsigned int mask, T value, By by, int width = 32,                       \
                         ::emulator::Site site = EMULATOR_SITE) {                                 \
        return ::emulator::shuffle<T, ::emulator::Shuffle::kind>(mask, value, (unsigned int)by,   \
                                                                 width, site);                    \
    }
EMULATOR_SHUFFLE(__shfl_sync, Index, int)
EMULATOR_SHUFFLE(__shfl_up_sync, Up, unsigned int)
EMULATOR_SHUFFLE(__shfl_down_sync, Down, unsigned int)
EMULATOR_SHUFFLE(__shfl_xor_sync, Xor, int)
#undef EMULATOR_SHUFFLE

static inline unsigned int __ballot_sync(unsigned int mask, int predicate,
                                         ::emulator::Site site = EMULATOR_SITE) {
    return ::emulator::vote<::emulator::Vote::Ballot>(mask, predicate != 0, site);
}
static inline int __any_sync(unsigned int mask, int predicate,
                             ::emulator::Site site = EMULATOR_SITE) {
    return __ballot_sync(mask, predicate, site) != 0;
}
static inline int __all_sync(unsigned int mask, int predicate,
                             ::emulator::Site site = EMULATOR_SITE) {
    return __ballot_sync(mask, predicate, site) == mask;
}
static inline unsigned int __match_any_sync(unsigned int mask, unsigned int value,
                                            ::emulator::Site site = EMULATOR_SITE) {
    return ::emulator::vote<::emulator::Vote::Match>(mask, value, site);
}

#define EMULATOR_REDUCE(name, type, kind)                                                         \
    static inline type name(unsigned int mask, type value,                                        \
                            ::emulator::Site site = EMULATOR_SITE) {                              \
        return (type)::emulator::vote<::emulator::Vote::kind>(mask, (unsigned int)value, site);   \
    }
EMULATOR_REDUCE(__reduce_add_sync, unsigned int, Add)
EMULATOR_REDUCE(__reduce_min_sync, unsigned int, Min)
EMULATOR_REDUCE(__reduce_max_sync, unsigned int, Max)
EMULATOR_REDUCE(__reduce_and_sync, unsigned int, And)
EMULATOR_REDUCE(__reduce_or_sync, unsigned int, Or)
EMULATOR_REDUCE(__reduce_xor_sync, unsigned int, Xor)
EMULATOR_REDUCE(__reduce_add_sync, int, Add)
EMULATOR_REDUCE(__reduce_min_sync, int, MinSigned)
EMULATOR_REDUCE(__reduce_max_sync, int, MaxSigned)
#undef EMULATOR_REDUCE
