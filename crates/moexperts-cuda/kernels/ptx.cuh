// Instructions that C++ has no syntax for. No other file has inline assembly.
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

// 2^x and 1 / x as the hardware computes them: the last bits may be wrong, and subnormal numbers are 0.
DEVICE float fast_exp2(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}
DEVICE float fast_reciprocal(float x) {
    float out;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
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

// 16 bytes of weights that are read once: they do not stay in the first-level cache.
DEVICE uint4 load_stream(const void* at) {
    uint4 out;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
                 : "l"(at));
    return out;
}

DEVICE u32 shared_address(const void* at) { return (u32)__cvta_generic_to_shared(at); }

// Copies the first `bytes` (0 to 16) of 16 to shared memory asynchronously, and zeros in place of the
// others, which are not read. Both addresses are multiples of 16.
DEVICE void cp_async_16_part(u32 to, const void* from, u32 bytes) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                 :: "r"(to), "l"(from), "r"(bytes) : "memory");
}
// Copies 16 bytes to shared memory asynchronously; zeros if not `valid`, and `from` is not read then.
DEVICE void cp_async_16(u32 to, const void* from, bool valid) {
    cp_async_16_part(to, from, valid ? 16 : 0);
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
// columns c and c + 1; a[1] row g + 8; a[2] row g, columns c + 8 and c + 9; a[3] row g + 8 of
// those. b[0] holds rows c and c + 1 of column g, b[1] rows c + 8 and c + 9. d[0], d[1] are row g,
// columns c and c + 1; d[2], d[3] row g + 8.
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
// After the inits, before a thread uses the barriers.
DEVICE void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void mbarrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(barrier) : "memory");
}
// Arrives, and lets the phase wait for `bytes` bytes of `tma_load`.
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
        "@done bra ready;\n"
        "bra waiting;\n"
        "ready:\n"
        "}\n" :: "r"(barrier), "r"(parity) : "memory");
}
// A tensor map as the driver wrote it.
struct alignas(64) TensorMap { u8 bytes[128]; };
// Before a thread block uses a map in global memory for the first time, by the thread that uses it.
// `sys`, since the host wrote the map.
DEVICE void tensor_map_acquire(const TensorMap* map) {
    asm volatile("fence.proxy.tensormap::generic.acquire.sys [%0], 128;" :: "l"(map) : "memory");
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

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
// Products by a warpgroup, which is four warps, the first of them a multiple of four. All its
// threads run the same of these functions at the same time. References are to the PTX ISA,
// "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions".

// Describes to wgmma a matrix in shared memory whose rows are 64 16-bit elements along the summed
// dimension: row r begins at `address` + 128·r, and its 16-byte piece c, which holds columns 8·c to
// 8·c + 7, stands where piece c ^ (r % 8) would. `address` is a multiple of 1024. `tma_load` leaves
// a box so. Of its columns a product takes 16: the first with this descriptor, those from 16·i on
// with this + 2·i.
//
// "Matrix Descriptor Format": bits 0-13 hold the address / 16; 16-29 the leading dimension's
// offset, which this layout does not use; 32-45 the bytes from eight rows to the next eight / 16;
// 49-51 are 0, as the pattern begins at a multiple of 1024; 62-63 are 1, the swizzle of 128 bytes.
// "Shared Memory Matrix Layout": this is K-major, and the bits 4-6 of an address are exchanged by
// its bits 7-9, so that columns further on are the same pattern from a further address.
DEVICE u64 wgmma_descriptor(u32 address) {
    return (u64)((address & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

// What the thread did to its accumulators is done before the products after this.
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// The products since the last commit become a group.
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most `N` of the groups are under way: the others have read their matrices, and
// their sums stand in the accumulators.
template <int N> DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory");
}
// The compiler moves nothing that touches `d` across this: it stands between other uses of
// accumulators and `wgmma_fence`, and between the last `wgmma_wait` and other uses.
DEVICE void wgmma_pin(float (&d)[128]) {
#pragma unroll
    for (int i = 0; i < 128; i++) asm volatile("" : "+f"(d[i]) :: "memory");
}

// d[64x256] += a[64x16] · b[256x16]ᵀ, or = where not `add`, by a warpgroup, some time until
// `wgmma_wait`; no thread touches `d` or the matrices until then. `a` and `b` are descriptors. Row
// 16·w + g of d, with w the warp of the warpgroup and g = lane / 4, has its columns 8·j + 2·(lane %
// 4) and the next in d[4·j] and d[4·j + 1], for j below 32; row 16·w + g + 8 has them in d[4·j + 2]
// and d[4·j + 3].
//
// "Matrix Fragments for wgmma.mma_async.m64nNk16", accumulator D. After the descriptors: whether d
// is added to; neither matrix is negated; both are K-major.
#define WGMMA_8(i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
    "+f"(d[i + 6]), "+f"(d[i + 7])
#define WGMMA_32(i) WGMMA_8(i), WGMMA_8(i + 8), WGMMA_8(i + 16), WGMMA_8(i + 24)
#define WGMMA_M64N256K16(type) \
    asm volatile( \
        "{\n" \
        ".reg .pred add;\n" \
        "setp.ne.b32 add, %130, 0;\n" \
        "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {" \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
        "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, " \
        "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, " \
        "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, " \
        "%70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, " \
        "%87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, " \
        "%103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, " \
        "%117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, " \
        "%128, %129, add, 1, 1, 0, 0;\n" \
        "}" \
        : WGMMA_32(0), WGMMA_32(32), WGMMA_32(64), WGMMA_32(96) \
        : "l"(a), "l"(b), "r"((u32)add) \
        : "memory")
DEVICE void wgmma_m64n256k16(float (&d)[128], u64 a, u64 b, bool add, bf16) {
    WGMMA_M64N256K16("bf16");
}
DEVICE void wgmma_m64n256k16(float (&d)[128], u64 a, u64 b, bool add, f16) {
    WGMMA_M64N256K16("f16");
}
#undef WGMMA_8
#undef WGMMA_32
#undef WGMMA_M64N256K16

// The threads of a warpgroup give registers back, down to `N` each, or take some that others gave
// back, up to `N` each; a multiple of 8. By all warps of it, once.
template <int N> DEVICE void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(N));
}
template <int N> DEVICE void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(N));
}
#endif

// Waits for `threads` threads of the block that use the same `id` (1 to 15).
DEVICE void named_barrier(u32 id, u32 threads) {
    asm volatile("bar.sync %0, %1;" :: "r"(id), "r"(threads) : "memory");
}
