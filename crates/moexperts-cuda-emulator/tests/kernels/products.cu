// Products of small matrices, by each of the ways that tensor cores have.

struct ProductParams {
    const void* a;  // [rows, depth]
    const void* b;  // [columns, depth]
    float* d;       // [rows, columns]
    const void* maps;
    u32 depth;
    u32 mistake;
};

// d[16x8] by one warp; depth is 16.
template <class T> DEVICE void by_mma(const ProductParams& p) {
    DYNAMIC_SHARED(shared);
    u32 lane = threadIdx.x;
    const uint4* a = (const uint4*)p.a;
    ((uint4*)shared)[lane] = a[lane];
    __syncwarp();
    u32 of_a[4], of_b[2];
    // The four 8x8 parts: rows, then columns.
    u32 row = lane % 16, piece = lane / 16;
    ldmatrix_x4(of_a, shared_address(shared + row * 32 + piece * 16));
    const u32* b = (const u32*)p.b;
    of_b[0] = b[lane / 4 * 8 + lane % 4];
    of_b[1] = b[lane / 4 * 8 + lane % 4 + 4];
    float d[4] = {};
    mma(d, of_a, of_b, T());
    float* to = p.d + lane / 4 * 8 + lane % 4 * 2;
    to[0] = d[0];
    to[1] = d[1];
    to[64] = d[2];
    to[65] = d[3];
}

KERNEL(mma_f16, ProductParams, 32) { by_mma<f16>(p); }
KERNEL(mma_bf16, ProductParams, 32) { by_mma<bf16>(p); }

// What `mistake` leaves out.
#define NO_WAIT 1
#define NO_ARRIVAL 2
#define NO_FENCE 3

// d[64x256] by one warpgroup, with boxes of 64 columns, b in two of them; a by the accelerator, or by
// cp.async where there is one map alone.
template <class T> DEVICE void by_wgmma(const ProductParams& p, bool copied) {
    DYNAMIC_SHARED(shared);
    const TensorMap* maps = (const TensorMap*)p.maps;
    u32 a = shared_address(shared), b = a + 64 * 128, full = b + 256 * 128, empty = full + 8;
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        mbarrier_init(empty, 128);
        mbarrier_init_fence();
        tensor_map_acquire(maps);
        tensor_map_acquire(maps + 1);
    }
    __syncthreads();
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float d[128];
    for (u32 step = 0; step * 64 < p.depth; ++step) {
        if (threadIdx.x == 0 && p.mistake != NO_ARRIVAL) {
            if (step) mbarrier_wait(empty, step - 1 & 1);
            mbarrier_arrive_expect(full, 256 * 128 + (copied ? 0 : 64 * 128));
            if (!copied) tma_load(a, maps, step * 64, 0, full);
            tma_load(b, maps + 1, step * 64, 0, full);
            tma_load(b + 128 * 128, maps + 1, step * 64, 128, full);
        }
        if (copied) {
            for (u32 i = threadIdx.x; i < 64 * 8; i += 128) {
                u32 row = i / 8, piece = i % 8, column = step * 64 + piece * 8;
                const T* from = (const T*)p.a + row * p.depth + column;
                cp_async_16(a + row * 128 + (piece ^ row % 8) * 16, from, column < p.depth);
            }
            cp_async_commit();
            cp_async_wait<0>();
            if (p.mistake != NO_FENCE) fence_proxy_async();
            __syncthreads();
        }
        if (p.mistake != NO_WAIT) mbarrier_wait(full, step & 1);
        wgmma_fence();
        for (u32 i = 0; i < 4; ++i)
            wgmma_m64n256k16(
                d, wgmma_descriptor(a) + 2 * i, wgmma_descriptor(b) + 2 * i, step + i > 0, T()
            );
        wgmma_commit();
        wgmma_wait<0>();
        mbarrier_arrive(empty);
        if (copied) __syncthreads();
    }
    for (u32 i = 0; i < 128; ++i) {
        u32 row = 16 * warp + lane / 4 + (i % 4 < 2 ? 0 : 8);
        p.d[row * 256 + i / 4 * 8 + 2 * (lane % 4) + i % 2] = d[i];
    }
}

KERNEL(wgmma_f16, ProductParams, 128) { by_wgmma<f16>(p, false); }
KERNEL(wgmma_bf16, ProductParams, 128) { by_wgmma<bf16>(p, false); }
KERNEL(wgmma_copied_f16, ProductParams, 128) { by_wgmma<f16>(p, true); }
