// Instructions that C++ has no words for. Nothing else holds inline assembly.
//
// Addresses in shared memory are 32 bits wide and come from `shared_address` of dynamic shared
// memory.

DEVICE float widen(f16 x) {
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x.bits));
    return out;
}

DEVICE f16 narrow(float x, f16) {
    f16 out;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
    return out;
}

// Two values as neighbours, `low` first in memory.
DEVICE u32 narrow_pair(float low, float high, bf16) {
    u32 out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}
DEVICE u32 narrow_pair(float low, float high, f16) {
    u32 out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

// 16 bytes of weights that are read once: not kept near.
DEVICE uint4 load_stream(const void* at) {
    uint4 out;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
                 : "l"(at));
    return out;
}

DEVICE u32 shared_address(const void* at) { return (u32)__cvta_generic_to_shared(at); }

// Copies 16 bytes to shared memory behind the thread's back; zeros if not `valid`, and `from` is not
// read then.
DEVICE void cp_async_16(u32 to, const void* from, bool valid) {
    u32 bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                 :: "r"(to), "l"(from), "r"(bytes) : "memory");
}
// The thread's copies since the last commit become a group.
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `N` of the thread's groups are under way.
template <int N> DEVICE void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

// Four 8x8 matrices of 16-bit elements; lane i gives the address of a row of 16 bytes: lanes 0-7
// those of the first, and so on. `out[m]` holds elements 2·(lane % 4) and the next of row lane / 4.
DEVICE void ldmatrix_x4(u32 (&out)[4], u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(row) : "memory");
}

// d[16x8] += a[16x16] · b[16x8], by a warp. With g = lane / 4, c = 2·(lane % 4): a[0] holds row g,
// columns c and c + 1; a[1] row g + 8; a[2] row g, columns c + 8 and c + 9; a[3] row g + 8 of those.
// b[0] holds rows c and c + 1 of column g, b[1] rows c + 8 and c + 9. d[0], d[1] are row g, columns
// c and c + 1; d[2], d[3] row g + 8.
DEVICE void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], bf16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEVICE void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], f16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
// An mbarrier of 8 bytes in shared memory: a phase ends when `arrivals` have arrived and every byte
// expected has come.
DEVICE void mbarrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(barrier), "r"(arrivals) : "memory");
}
// After the inits, before anyone uses the barriers.
DEVICE void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void mbarrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(barrier) : "memory");
}
// Arrives, and lets the phase wait for so many bytes of `tma_load`.
DEVICE void mbarrier_arrive_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(barrier), "r"(bytes) : "memory");
}
// Arrives when the thread's copies so far have come; the barrier's arrivals count it.
DEVICE void mbarrier_arrive_after_cp_async(u32 barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" :: "r"(barrier) : "memory");
}
// Waits for the end of the phase of this parity (0 for the first).
DEVICE void mbarrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "waiting:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra.uni ready;\n"
        "bra.uni waiting;\n"
        "ready:\n"
        "}\n" :: "r"(barrier), "r"(parity) : "memory");
}
// A tensor map as the driver wrote it.
struct alignas(64) TensorMap { u8 bytes[128]; };
// Before a map in global memory is used for the first time.
DEVICE void tensor_map_acquire(const TensorMap* map) {
    asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" :: "l"(map) : "memory");
}
// Brings the box at column `x` and row `y` of the map to shared memory; its bytes count for the
// barrier. By one thread.
DEVICE void tma_load(u32 to, const TensorMap* map, i32 x, i32 y, u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
        "%3}], [%4];" :: "r"(to), "l"(map), "r"(x), "r"(y), "r"(barrier) : "memory");
}
// What the thread wrote to shared memory (cp.async too, once it has come) is seen by wgmma.
DEVICE void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#endif

// Waits for `threads` threads of the block that use the same `id` (1 to 15).
DEVICE void named_barrier(u32 id, u32 threads) {
    asm volatile("bar.sync %0, %1;" :: "r"(id), "r"(threads) : "memory");
}
