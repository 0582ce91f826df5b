// The functions of the kernels' ptx.cuh, in C++ and calls of the runtime.

DEVICE float widen(f16 x) { return ::emulator::widen_f16(x.bits); }
DEVICE f16 narrow(float x, f16) { return f16{::emulator::narrow_f16(x)}; }

DEVICE float fast_exp2(float x) { return ::emulator::flushed(exp2f(::emulator::flushed(x))); }
DEVICE float fast_reciprocal(float x) {
    return ::emulator::flushed(1.0f / ::emulator::flushed(x));
}

DEVICE u32 narrow_pair(float low, float high, bf16) {
    return ::emulator::narrow_bf16(low) | (u32)::emulator::narrow_bf16(high) << 16;
}
DEVICE u32 narrow_pair(float low, float high, f16) {
    return ::emulator::narrow_f16(low) | (u32)::emulator::narrow_f16(high) << 16;
}

DEVICE uint4 load_stream(const void* at) {
    ::emulator::check_global(at, 16, 16, "load_stream");
    uint4 out;
    memcpy(&out, at, 16);
    return out;
}

DEVICE u32 shared_address(const void* at) { return ::emulator::shared_address(at); }

DEVICE void cp_async_16_part(u32 to, const void* from, u32 bytes) {
    ::emulator::copy_async(to, from, bytes);
}
DEVICE void cp_async_16(u32 to, const void* from, bool valid) {
    ::emulator::copy_async(to, from, valid ? 16 : 0);
}
DEVICE void cp_async_commit() { ::emulator::commit_copies(); }
template <int N> DEVICE void cp_async_wait() { ::emulator::wait_for_copies(N); }

DEVICE void ldmatrix_x4(u32 (&out)[4], u32 row, ::emulator::Site site = EMULATOR_SITE) {
    ::emulator::ldmatrix_x4(out, row, false, site);
}

DEVICE void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], bf16,
                ::emulator::Site site = EMULATOR_SITE) {
    ::emulator::mma_16x8x16(d, a, b, true, site);
}
DEVICE void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], f16,
                ::emulator::Site site = EMULATOR_SITE) {
    ::emulator::mma_16x8x16(d, a, b, false, site);
}

DEVICE void mbarrier_init(u32 barrier, u32 arrivals) {
    ::emulator::mbarrier_init(barrier, arrivals);
}
DEVICE void mbarrier_init_fence() { ::emulator::mbarrier_init_fence(); }
DEVICE void mbarrier_arrive(u32 barrier) { ::emulator::mbarrier_arrive(barrier, 0); }
DEVICE void mbarrier_arrive_expect(u32 barrier, u32 bytes) {
    ::emulator::mbarrier_arrive(barrier, bytes);
}
DEVICE void mbarrier_arrive_after_cp_async(u32 barrier) {
    ::emulator::mbarrier_arrive_after_copies(barrier);
}
DEVICE void mbarrier_wait(u32 barrier, u32 parity, ::emulator::Site site = EMULATOR_SITE) {
    ::emulator::mbarrier_wait(barrier, parity, site);
}

struct alignas(64) TensorMap { u8 bytes[128]; };
DEVICE void tensor_map_acquire(const TensorMap* map) { ::emulator::tensor_map_acquire(map); }
DEVICE void tma_load(u32 to, const TensorMap* map, i32 x, i32 y, u32 barrier) {
    ::emulator::tensor_load(to, map, x, y, barrier);
}
DEVICE void fence_proxy_async() { ::emulator::fence_proxy_async(); }

DEVICE u64 wgmma_descriptor(u32 address) {
    return (u64)((address & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}
DEVICE void wgmma_fence(::emulator::Site site = EMULATOR_SITE) { ::emulator::wgmma_fence(site); }
DEVICE void wgmma_commit(::emulator::Site site = EMULATOR_SITE) { ::emulator::wgmma_commit(site); }
template <int N> DEVICE void wgmma_wait(::emulator::Site site = EMULATOR_SITE) {
    ::emulator::wgmma_wait(N, site);
}
DEVICE void wgmma_pin(float (&)[128]) {}
DEVICE void wgmma_m64n256k16(float (&d)[128], u64 a, u64 b, bool add, bf16,
                             ::emulator::Site site = EMULATOR_SITE) {
    ::emulator::wgmma(d, 256, a, b, true, add, site);
}
DEVICE void wgmma_m64n256k16(float (&d)[128], u64 a, u64 b, bool add, f16,
                             ::emulator::Site site = EMULATOR_SITE) {
    ::emulator::wgmma(d, 256, a, b, false, add, site);
}

template <int N> DEVICE void give_registers() {
    static_assert(N >= 24 && N <= 256 && N % 8 == 0, "registers of a thread");
}
template <int N> DEVICE void take_registers() {
    static_assert(N >= 24 && N <= 256 && N % 8 == 0, "registers of a thread");
}

DEVICE void named_barrier(u32 id, u32 threads, ::emulator::Site site = EMULATOR_SITE) {
    ::emulator::meet_named(id, threads, site);
}
