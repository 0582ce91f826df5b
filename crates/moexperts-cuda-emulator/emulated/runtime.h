// The functions that emulated instructions call: meeting other threads, memory, asynchronous copies, and
// failing.

#pragma once

#include <math.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace emulator {

// Where in a kernel's source something is called.
struct Site {
    const char* file;
    int line;

    // Where this is called; as a default argument, where that function is.
    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return Site{file, line};
    }
};
#define EMULATOR_SITE ::emulator::Site::here()

// The place of the running thread in its warp.
extern __thread uint32_t lane;

// What the lanes of a warp do together: `complete` is called once all of them are there, with what
// each of them brought. An `aligned` one has to be the same line of the source for all lanes.
struct WarpOp {
    const char* name;
    bool aligned;
    void (*complete)(void* const* lanes, uint32_t mask);
};
void meet_warp(const WarpOp& op, uint32_t mask, void* brought, Site site);

// Waits for the block's threads; returns for how many of them `predicate` holds.
uint32_t meet_block(const char* name, bool predicate, Site site);
void meet_named(uint32_t id, uint32_t threads, Site site);

// Lets others run.
void pass();

// Ends the launch with an error that names the kernel, the block and the thread.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// The dynamic shared memory of the block.
uint8_t* dynamic_shared();
uint32_t shared_address(const void* at);
// Memory at an address in shared memory, checked and aligned as asked.
uint8_t* shared_memory(uint32_t address, uint32_t bytes, uint32_t alignment, const char* what);
// Fails if these bytes of global memory are not all of one allocation.
void check_global(const void* at, size_t bytes, size_t alignment, const char* what);

// 16 bytes, of which the first `bytes` come from global memory and the others are 0.
void copy_async(uint32_t to, const void* from, uint32_t bytes);
void commit_copies();
void wait_for_copies(uint32_t groups_left);

void mbarrier_init(uint32_t barrier, uint32_t arrivals);
void mbarrier_init_fence();
void mbarrier_arrive(uint32_t barrier, uint32_t expected_bytes);
void mbarrier_arrive_after_copies(uint32_t barrier);
void mbarrier_wait(uint32_t barrier, uint32_t parity, Site site);

void tensor_map_acquire(const void* map);
void tensor_load(uint32_t to, const void* map, int32_t x, int32_t y, uint32_t barrier);
void fence_proxy_async();

// `d` of each lane is its part of the tile, as PTX lays it out.
void ldmatrix_x4(uint32_t* out, uint32_t row, bool transposed, Site site);
void mma_16x8x16(float* d, const uint32_t* a, const uint32_t* b, bool bf16, Site site);

void wgmma_fence(Site site);
void wgmma_commit(Site site);
void wgmma_wait(uint32_t groups_left, Site site);
// d[64 x columns] += a[64 x 16] · b[columns x 16]ᵀ, by four warps.
void wgmma(float* d, uint32_t columns, uint64_t a, uint64_t b, bool bf16, bool accumulate, Site site);

static inline float float_of(uint32_t bits) {
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}
static inline uint32_t bits_of(float x) {
    uint32_t out;
    memcpy(&out, &x, sizeof out);
    return out;
}
// A subnormal number is 0.
static inline float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x; }
static inline float widen_bf16(uint16_t bits) { return float_of((uint32_t)bits << 16); }
static inline float widen_f16(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, rest = bits & 0x7fff;
    // An exponent 112 larger; beyond the largest it is infinity or NaN, below the least the
    // difference to a number with a leading one is exact.
    if (rest >= 0x7c00) return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    if (rest >= 0x400) return float_of(sign | ((rest << 13) + (112u << 23)));
    return float_of(sign | bits_of((float)rest * 0x1p-24f));
}
// To nearest, ties to even; NaN as PTX has it.
static inline uint16_t narrow_bf16(float x) {
    uint32_t bits = bits_of(x);
    return x != x ? 0x7fff : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
static inline uint16_t narrow_f16(float x) {
    uint32_t bits = bits_of(x), rest = bits & 0x7fffffff;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (rest > 0x7f800000) return 0x7fff;
    // Halfway between the largest number and the one that would follow.
    if (rest >= 0x477ff000) return sign | 0x7c00;
    // Below the least normal number: the sum's last bit is worth 2⁻²⁴, and adding rounds.
    if (rest < 0x38800000) return sign | (uint16_t)bits_of(float_of(rest) + 0.5f);
    rest -= 112u << 23;
    return sign | (uint16_t)((rest + 0xfff + (rest >> 13 & 1)) >> 13);
}

// A kernel, as KERNEL makes it known.
struct Kernel {
    const char* name;
    const char* module;
    uint32_t params_bytes;
    uint32_t threads;
    void (*run)(const void* params);
    const Kernel* next;

    Kernel(const char* name, const char* module, uint32_t params_bytes, uint32_t threads,
           void (*run)(const void*));
};

}  // namespace emulator
